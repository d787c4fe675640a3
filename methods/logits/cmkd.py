"""Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation Matching (Niu, Wang, Cai,
Hou, 2024).

The student keeps the teacher's relations between classes: their values by Pearson's correlation and their order by
Spearman's, weighed sample by sample by how hard the sample is.

    L = CE(z_s, y) + weight T^2 mean_b [(1 - d_b) (1 - r(p_s, p_t)) + d_b (1 - r(R(z_s), R(z_t)))]
    p = softmax(z / T), r = Pearson's correlation, R(z_t) = ranks,
        R(z_s)_c = 1/2 + sum_j sigmoid((z_c - z_j) / softness)
    d_b = H(p_t) / log K, the teacher's normalised entropy

Deviations: only the abstract was at hand; it fixes the two correlations, the weighting by difficulty and a
differentiable sort. Inferred are the measure of difficulty, that ranks serve hard samples (`rank_for="easy"` turns it
round), the soft ranks, their softness 0.1, weight 2 and T (CIFAR 4, ImageNet 1; those of DIST).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, Method, Output, Paper, register
from kdbench.losses import pearson

CHUNK = 2**24  # entries of the table of differences that are held at once


def soft_ranks(logits: Tensor, softness: float) -> Tensor:
    """Differentiable ranks of each row of `[B, K]`, from 1 (smallest) to K; exact as `softness` goes to 0."""
    rows = max(CHUNK // logits.shape[1] ** 2, 1)
    tables = (torch.sigmoid((part[:, :, None] - part[:, None, :]) / softness) for part in logits.split(rows))
    return torch.cat([table.sum(2) for table in tables]) + 0.5  # a class beats itself by one half


@register(
    "cmkd",
    family="logits",
    paper=Paper(
        title="Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation Matching",
        authors="Niu et al.",
        year=2024,
        arxiv="2410.06561",
    ),
    fidelity="reconstructed",
)
class CMKD(Method):
    def __init__(
        self, weight: float = 2.0, temperature: float = 4.0, softness: float = 0.1, rank_for: str = "hard"
    ) -> None:
        super().__init__()
        if rank_for not in ("hard", "easy"):
            raise KDBenchError(f"cmkd's rank_for is {rank_for!r}: give 'hard' or 'easy'")
        if softness <= 0:
            raise KDBenchError(f"cmkd's softness is {softness}: give a value above 0")
        self.weight, self.temperature, self.softness, self.rank_for = weight, temperature, softness, rank_for

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (F.softmax(output.logits / self.temperature, dim=1) for output in (student, teacher))
        difficulty = torch.special.entr(theirs).sum(1) / math.log(theirs.shape[1])
        if self.rank_for == "easy":
            difficulty = 1 - difficulty
        ranks = teacher.logits.argsort(1).argsort(1).to(theirs.dtype) + 1
        values = 1 - pearson(ours, theirs)
        order = 1 - pearson(soft_ranks(student.logits, self.softness), ranks)
        scale = self.weight * self.temperature**2
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "pearson": scale * ((1 - difficulty) * values).mean(),
            "spearman": scale * (difficulty * order).mean(),
        }
