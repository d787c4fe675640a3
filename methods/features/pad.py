"""Prime-Aware Adaptive Distillation (Zhang, Lan, Dai, Zeng, Bai, Chang, Wei, ECCV 2020): PAD-L2.

Not every sample can be imitated: the student learns with its embedding how uncertain it is of each of the teacher's
values, and what it is uncertain of counts less.

    first third of the training: L = CE(z_s, y) + l2_weight mean (e_t - e_s)^2
    then:                        L = CE(z_s, y) + weight mean [(e_t - e_s)^2 / (1e-6 + exp u) + u],  u = BN(linear(e_s))

u is a log-variance, one for each of the teacher's values; its gradient reaches the student. ImageNet: l2_weight 15 for
90 epochs, then weight 1 for 30 more at a small constant rate. CIFAR-100: no value known; ImageNet's are the defaults.

Deviations:
- This is torchdistill's port, whose author had the authors' code; that code is not public.
- The two trainings are one here, at the recipe's rates (`warmup_share`), so that all methods train equally long.
- Where the widths differ, a linear layer brings e_s to the teacher's first; the port has equal widths only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, register
from kdbench.connectors import norm

EPS = 1e-6


@register(
    "pad",
    family="features",
    paper=Paper(
        title="Prime-Aware Adaptive Distillation",
        authors="Zhang et al.",
        year=2020,
        venue="ECCV",
        arxiv="2008.01458",
        code="yoshitomo-matsubara/torchdistill",
    ),
    fidelity="field-code",
)
class PAD(Method):
    def __init__(
        self, weight: float = 1.0, l2_weight: float = 15.0, ce_weight: float = 1.0, warmup_share: float = 1 / 3
    ) -> None:
        super().__init__()
        self.weight, self.l2_weight, self.ce_weight = weight, l2_weight, ce_weight
        self.warmup_share = warmup_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.embedding, teacher.shapes.embedding
        self.embed: nn.Module = nn.Identity() if ours == theirs else nn.Linear(ours, theirs)
        self.log_variance = nn.Sequential(nn.Linear(theirs, theirs), norm(theirs, 0))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        with torch.autocast(student.embedding.device.type, enabled=False):
            embedding = self.embed(student.embedding)
            term = self.term(embedding, (teacher.embedding - embedding).pow(2))
        return {"ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets), **term}

    def term(self, embedding: Tensor, errors: Tensor) -> dict[str, Tensor]:
        """The term of this epoch, of the student's embedding and its squared errors, both `[B, D_t]`."""
        if self.epoch <= self.warmup_share * self.epochs:
            return {"l2": self.l2_weight * errors.mean()}
        u = self.log_variance(embedding)
        return {"adaptive": self.weight * (errors / (EPS + u.exp()) + u).mean()}
