"""Knowledge Distillation via Instance Relationship Graph (Liu, Cao, Li, Yuan, Hu, Li, Duan, CVPR 2019).

A graph of the batch's samples agrees: its vertices (embeddings), its edges (distances), and how the edges change from
one stage to the next.

    L = CE(z_s, y) + weight [MSE(D_s, D_t) + MSE(e_s, e_t)]
        + transform_weight sum (MSE(D_s^k, D_s^l) - MSE(D_t^k, D_t^l))^2
    D = |f_i - f_j|^2 / max, e the embeddings, only where both widths agree;  (k, l) = stages (1, 2), (3, 4), ...

CIFAR-100: both weights 1, the loss's own; the toolbox multiplies it by 0.005 and adds KL with weight 1 and T 4.
ImageNet: no value known.

Deviations: the code of the SemCKD toolbox. There the stages are given by hand, none by default; here all are used.
Where two successive stages of both networks have maps of one shape, their vertices' change is matched too, as there.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, Paper, register
from kdbench.losses import squared_distances, wide


def edges(feature: Tensor) -> Tensor:
    """Squared distances of the samples of `[B, ...]` over the largest: `[B, B]`."""
    squares = squared_distances(wide(feature).flatten(1))
    return squares / (squares.max() + 1e-12)


def change(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """How differently the graphs of student and teacher change between two stages."""
    ours, theirs = (F.mse_loss(edges(a), edges(b)) for a, b in zip(first, second, strict=True))
    total = F.mse_loss(ours, theirs)
    if all(a.shape == b.shape for a, b in zip(first, second, strict=True)):
        ours, theirs = (F.mse_loss(wide(a), wide(b)) for a, b in zip(first, second, strict=True))
        total = total + F.mse_loss(ours, theirs)
    return total


@register(
    "irg",
    family="relations",
    paper=Paper(
        title="Knowledge Distillation via Instance Relationship Graph",
        authors="Liu et al.",
        year=2019,
        venue="CVPR",
        arxiv="",
        code="DefangChen/SemCKD",
    ),
    fidelity="field-code",
)
class IRG(Method):
    needs = frozenset({"features"})

    def __init__(self, weight: float = 1.0, transform_weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.transform_weight = weight, transform_weight

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        graph = F.mse_loss(edges(student.embedding), edges(teacher.embedding))
        if student.embedding.shape == teacher.embedding.shape:
            graph = graph + F.mse_loss(student.embedding, teacher.embedding)
        stages = list(zip(student.features, teacher.features, strict=False))
        changes = [change(*pair) for pair in list(pairwise(stages))[::2]]
        terms = {"ce": F.cross_entropy(student.logits, batch.targets), "graph": self.weight * graph}
        return {**terms, "transform": self.transform_weight * torch.stack(changes).sum()} if changes else terms
