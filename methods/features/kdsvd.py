"""Self-supervised Knowledge Distillation Using Singular Value Decomposition (Lee, Kim, Song, ECCV 2018).

A map is summed up by the direction in channel space along which its positions vary most; how that direction changes
from one stage to the next is the knowledge.

    L = CE(z_s, y) + weight sum_i |R_i(s) - R_i(t)|^2, mean over the batch,  R_i = exp(-(v_i[a] - v_{i-1}[b])^2 / 8)
    v_i(t): first right-singular vector of stage i's map as `[H W, C]`
    v_i(s): the one of the student's first four that is closest to v_i(t) by |cos|, turned so that cos is positive

CIFAR-100: weight 1. ImageNet: no value known. The eigenvectors of the smaller Gram matrix are computed for each map and
step, in float64; on a GPU the CPU waits for them.

Deviations:
- This is RepDistiller's port; the authors' TensorFlow code was not seen.
- A singular vector's sign is arbitrary and the loss depends on it: the teacher's are turned so that the sum of the
  entries is not negative.
- The gradient of a singular vector is 1 over gaps between squared singular values, which are at least 1e-4 of the
  largest here, so that it is finite; the port's is NaN where two agree.
- The port takes square maps only. mdistiller's version is another function (its vectors lie along the image's width).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Network, NotApplicable, Output, Paper, register
from kdbench.losses import wide

CANDIDATES = 4  # of the student's vectors, among which the teacher's first finds its like
GAP, TINY = 1e-4, 1e-12


def eigenvectors(gram: Tensor, count: int) -> Tensor:
    """The first `count` eigenvectors of symmetric matrices `[B, N, N]`, with their gradient: `[B, N, count]`.

    They are constants that one step of perturbation theory, which moves them by zero, gives their derivative.
    """
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(gram)  # ascending
        chosen, top = vectors[..., -count:].flip(2), values[:, None, -count:].flip(2)
        gaps = top - values[:, :, None]  # [B, N, count]
        floor = (GAP * values[:, -1:, None]).clamp(min=TINY)
        inverse = torch.where(gaps.abs() < floor, gaps.sign() / floor, 1 / gaps)
    turned = vectors.mT @ (gram @ chosen)
    return chosen + vectors @ (inverse * (turned - turned.detach()))


def right_vectors(feature: Tensor, count: int) -> Tensor:
    """The first `count` right-singular vectors, or all, of each sample's map `[B, C, H, W]`: `[B, C, count]`."""
    rows = feature.flatten(2).double()  # [B, C, M]; a small gap magnifies the rounding of products
    if rows.shape[1] <= rows.shape[2]:
        vectors = eigenvectors(rows @ rows.mT, count)
    else:
        vectors = F.normalize(rows @ eigenvectors(rows.mT @ rows, count), dim=1, eps=1e-6)
    return vectors.to(wide(feature).dtype)


def oriented(vectors: Tensor) -> Tensor:
    """Vectors `[B, C]`, turned so that the sum of the entries is not negative."""
    return torch.where(vectors.sum(1, keepdim=True) < 0, -vectors, vectors)


def closest(candidates: Tensor, vector: Tensor) -> Tensor:
    """Of each sample's `[B, C, count]` the one that is most nearly parallel to `[B, C]`, pointing the same way."""
    cosines = (candidates.detach() * vector[:, :, None]).sum(1)  # [B, count]
    best = cosines.abs().argmax(1, keepdim=True)
    chosen = candidates.gather(2, best[:, None].expand(-1, candidates.shape[1], 1)).squeeze(2)
    return torch.where(cosines.gather(1, best) < 0, -chosen, chosen)


def relation(below: Tensor, above: Tensor) -> Tensor:
    """R of two stages' vectors `[B, C_{i-1}]` and `[B, C_i]`: `[B, C_i, C_{i-1}]`."""
    return torch.exp(-(above[:, :, None] - below[:, None]).pow(2) / 8)


@register(
    "kdsvd",
    family="features",
    paper=Paper(
        title="Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        authors="Lee et al.",
        year=2018,
        venue="ECCV",
        arxiv="1807.06819",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="field-code",
)
class KDSVD(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 1.0, ce_weight: float = 1.0) -> None:
        super().__init__()
        self.weight, self.ce_weight = weight, ce_weight

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = ([shape[0] for shape in network.shapes.features] for network in (student, teacher))
        if ours != theirs or len(ours) < 2:
            raise NotApplicable(
                f"kdsvd needs two stages or more of the same channels, but {student.name!r} has {ours} and "
                f"{teacher.name!r} has {theirs}"
            )

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        theirs = [oriented(right_vectors(feature, 1).squeeze(2)) for feature in teacher.features]
        found = zip(student.features, theirs, strict=True)
        ours = [closest(right_vectors(feature, CANDIDATES), vector) for feature, vector in found]
        changes = zip(pairwise(ours), pairwise(theirs), strict=True)
        distances = [(relation(*s) - relation(*t)).pow(2).sum() / len(batch) for s, t in changes]
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "change": self.weight * torch.stack(distances).sum(),
        }
