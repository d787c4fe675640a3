"""Harmonizing Knowledge Transfer in Neural Network with Unified Distillation (Huang et al., ECCV 2024).

Intermediate maps are turned into distributions over the classes, so that features and logits speak one language.

    F = fusion of the student's maps (ABF without BN) at the first stage; F_t = the teacher's first map before its ReLU
    z' = mu + exp(log variance / 2) eps,  mu and log variance linear in GAP(F), for student and teacher each
    L = CE(z_s, y) + ramp (alpha TCKD + beta NCKD) + weight [KL(z_t' || z_s') + KL(z_s || z_s') + KL(z_t || z_t')],
        the last three at T 1, z the logits

CIFAR-100: alpha 1, beta 8 (2, 6 by pair), T 4, ramp over 20 epochs, all other weights 1 (`weight`). ImageNet: beta 0.5,
T 1. `fdp="gaussian_kl"` replaces the sampled KL(z_t' || z_s') by the closed form of the two Gaussians, as the paper
describes it; `fuse_teacher=True` fuses the teacher's maps too, which the paper does and the code does not.

Deviations:
- The equations are those of the repository that is very likely the authors' (FabienCode/mdistiller); the paper's text
  was not at hand.
- As in that repository, the teacher's side is not fused by default and the target z_s is not detached.
- The ramp is kept as a share.
- Stages are matched from the deepest on where their numbers differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, KDBenchError, LogUniform, Method, Network, Output, Paper, Space, register
from kdbench.connectors import Fusion, global_pool
from kdbench.losses import decoupled_kl, kl, wide


class ClassGaussian(nn.Module):
    """A map's distribution over the classes: mean and log variance, `[B, K]` each."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc_mu, self.fc_var = nn.Linear(width, num_classes), nn.Linear(width, num_classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        pooled = global_pool(feature)
        return wide(self.fc_mu(pooled)), wide(self.fc_var(pooled))


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A draw of the Gaussian, through which the gradient flows."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def gaussian_kl(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """KL(first || second) of diagonal Gaussians, summed over classes, mean over the batch."""
    (mean, log_var), (other, other_var) = first, second
    spread = (log_var - other_var).exp() + (mean - other).pow(2) * (-other_var).exp()
    return 0.5 * (spread - 1 + other_var - log_var).sum(1).mean()


@register(
    "unikd",
    family="features",
    paper=Paper(
        title="Harmonizing Knowledge Transfer in Neural Network with Unified Distillation",
        authors="Huang et al.",
        year=2024,
        venue="ECCV",
        arxiv="2409.18565",
        code="FabienCode/mdistiller",
    ),
    fidelity="official-code",
)
class UniKD(Method):
    needs = frozenset({"maps"})
    search_space = Space(beta=LogUniform(0.25, 16.0), weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        weight: float = 1.0,
        fdp: str = "sample",
        fuse_teacher: bool = False,
        warmup_share: float = 20 / 240,
    ) -> None:
        super().__init__()
        if fdp not in ("sample", "gaussian_kl"):
            raise KDBenchError(f"unikd's fdp is {fdp!r}: give 'sample' or 'gaussian_kl'")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.weight, self.fdp, self.warmup_share = weight, fdp, warmup_share
        self.fuse_teacher = fuse_teacher

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features, teacher.shapes.preactivations or teacher.shapes.features
        self.levels = min(len(ours), len(theirs))
        levels = [*theirs[-self.levels :], (teacher.shapes.embedding,)]
        self.fusion = Fusion([*ours[-self.levels :], (student.shapes.embedding,)], levels, relu=True)
        if self.fuse_teacher:
            self.fusion_teacher = Fusion(levels, levels, relu=True)
        width, classes = theirs[-self.levels][0], student.shapes.num_classes
        self.predict_student, self.predict_teacher = (ClassGaussian(width, classes) for _ in range(2))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        fused = self.fusion(student.features[-self.levels :], student.embedding)[0]
        maps = (teacher.preactivations or teacher.features)[-self.levels :]
        first = self.fusion_teacher(maps, teacher.embedding)[0] if self.fuse_teacher else maps[0]
        ours, theirs = self.predict_student(fused), self.predict_teacher(first)
        z_s, z_t = sample(*ours), sample(*theirs)
        feature = kl(z_s, z_t) if self.fdp == "sample" else gaussian_kl(theirs, ours)
        target, rest = decoupled_kl(student.logits, teacher.logits, batch.targets, self.temperature)
        ramp = self.warmup(self.warmup_share)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "logits": ramp * (self.alpha * target + self.beta * rest),
            "feature": self.weight * feature,
            "unify": self.weight * (kl(z_s, student.logits) + kl(z_t, teacher.logits)),
        }
