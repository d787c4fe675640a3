"""Correlation Congruence for Knowledge Distillation (Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang, ICCV 2019).

Not only the embeddings but their correlations between samples agree; as the authors gave the method to the field's
benchmark, through the product of neighbouring samples' differences.

    d = |E_s(embedding_s) - E_t(embedding_t)|,  L = CE(z_s, y) + weight mean_{i < B} d_i . d_{i + 1}

CIFAR-100: weight 0.02, E linear to 128, both trained. ImageNet: no value known.

Deviations: none from that code; the paper's kernel is not in it. One sample alone has no neighbour and gives zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, register
from kdbench.losses import wide


@register(
    "cc",
    family="relations",
    paper=Paper(
        title="Correlation Congruence for Knowledge Distillation",
        authors="Peng et al.",
        year=2019,
        venue="ICCV",
        arxiv="1904.01802",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="official-code",
)
class CC(Method):
    def __init__(self, weight: float = 0.02, width: int = 128) -> None:
        super().__init__()
        self.weight, self.width = weight, width

    def build(self, student: Network, teacher: Network) -> None:
        self.embed_student = nn.Linear(student.shapes.embedding, self.width)
        self.embed_teacher = nn.Linear(teacher.shapes.embedding, self.width)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = self.embed_student(student.embedding), self.embed_teacher(teacher.embedding)
        difference = (wide(ours) - wide(theirs)).abs()
        products = (difference[:-1] * difference[1:]).sum()
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "congruence": self.weight * products / max(len(batch) - 1, 1),
        }
