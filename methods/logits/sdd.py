"""Scale Decoupled Distillation (Wei, Luo, Luo, CVPR 2024).

The classifier reads not only the mean of the map that the head pools but the mean of each of its cells: local
predictions tell fine classes apart that the global one mixes. Cells that contradict the global prediction count twice.

    L = ce_weight CE(z_s, y) + ramp weight mean_{b, n} w_bn L_base(z_s[b, n], z_t[b, n])
    z[b, n] = classifier(mean of cell n of that map), cells of 1x1, 2x2 and (`finest` 4) 4x4 grids
    w = complementary if the teacher is right in the cell and wrong in the whole or the reverse, else 1

`base` is `kd` (0.1 CE, weight 0.9, no ramp), `dkd` or `nkd` (CE 1, weight 1, ramp min(epoch / 20, 1)), with T^2 inside;
`beta` is nkd's gamma too. CIFAR-100: T 4, alpha 1, complementary 2, finest 2 within a family of networks, else 4; beta
by pair: 2 (resnet56 -> resnet20, resnet110 -> resnet32), 6 (vgg13's, wrn_40_2 -> wrn_16_2, wrn_40_1 and mobilenetv2),
8 (others). ImageNet: finest by the same rule; no other value known.

Deviations:
- The paper adds the cells up, its code takes their mean; the paper warms all bases up over 30 epochs, its code two over
  20 of 240, here a share of the training (`weight`, `warmup_share`).
- The code's nkd removes no class from what it calls the other classes; that is kept, since its numbers were made so
  (`official_mask=False` removes the label's).
- A network whose classifier reads something else than the mean of a map is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Choice, Dataset, KDBenchError, Method, Network, NotApplicable, Output, Paper, Space, register
from kdbench.connectors import check_pooled_student, pool_to, require_pooled_embedding
from kdbench.losses import kl_per_sample, log_kl, soft_cross_entropy, wide, without

BASES = ("kd", "dkd", "nkd")


def cells(feature: Tensor, finest: int) -> Tensor:
    """Means of a map `[B, C, H, W]` over the whole and over the cells of each grid, the whole first: `[B, N, C]`."""
    fine = pool_to(wide(feature), (4, 4))
    grids = [pool_to(fine, (size, size)).flatten(2) for size in (1, 2, 4) if size <= finest]
    return torch.cat(grids, 2).transpose(1, 2)


def decoupled(student: Tensor, teacher: Tensor, label: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 TCKD and T^2 NCKD of each row of logits, two `[B]`."""
    pairs, rests = [], []
    for logits in (student, teacher):
        log_p = F.log_softmax(logits / temperature, dim=1)
        rest = without(log_p, label)
        pairs.append(torch.cat([log_p.gather(1, label), rest.logsumexp(1, keepdim=True)], 1))  # [B, 2]
        rests.append(F.log_softmax(rest, dim=1))
    return log_kl(*pairs) * temperature**2, log_kl(*rests) * temperature**2


@register(
    "sdd",
    family="logits",
    paper=Paper(
        title="Scale Decoupled Distillation",
        authors="Wei et al.",
        year=2024,
        venue="CVPR",
        arxiv="2403.13512",
        code="shicaiwei123/SDD-CVPR2024",
    ),
    fidelity="official-code",
)
class SDD(Method):
    needs = frozenset({"maps", "unpooled"})
    search_space = Space(
        weight=Choice(None, 0.3, 3.0, 9.0), complementary=Choice(1.0, 2.0, 4.0), temperature=Choice(1.0, 2.0, 4.0, 8.0)
    )

    def __init__(
        self,
        base: str = "kd",
        finest: int = 2,
        ce_weight: float | None = None,
        weight: float | None = None,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        complementary: float = 2.0,
        warmup_share: float | None = None,
        official_mask: bool = True,
    ) -> None:
        super().__init__()
        if base not in BASES:
            raise KDBenchError(f"sdd's base is {base!r}: give kd, dkd or nkd")
        if finest not in (1, 2, 4):
            raise KDBenchError(f"sdd's finest grid is {finest}: give 1, 2 or 4")
        of_kd = base == "kd"
        self.base, self.finest, self.temperature, self.alpha, self.beta = base, finest, temperature, alpha, beta
        self.ce_weight = (0.1 if of_kd else 1.0) if ce_weight is None else ce_weight
        self.weight = (0.9 if of_kd else 1.0) if weight is None else weight
        self.warmup_share = (0.0 if of_kd else 20 / 240) if warmup_share is None else warmup_share
        self.complementary, self.official_mask = complementary, official_mask

    def build(self, student: Network, teacher: Network) -> None:
        for network in (student, teacher):
            if network.shapes.unpooled[0] != network.shapes.embedding:
                raise NotApplicable(f"sdd needs a classifier on the last map, which {network.name!r} has not")
        self.classifier = copy.deepcopy(teacher.classifier).requires_grad_(False)
        self._student = (student,)  # in a tuple, so that it is no module of this one

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_pooled_embedding("sdd", teachers[0], data)
        check_pooled_student("sdd", self._student[0], data)

    def reads(self, stages: int) -> tuple[int, ...]:
        return ()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        with torch.autocast(batch.inputs.device.type, enabled=False):
            ours = self._student[0].classifier(cells(student.unpooled, self.finest))  # [B, N, K]
            theirs = self.classifier(cells(teacher.unpooled, self.finest))
        label = batch.targets[:, None, None].expand(-1, theirs.shape[1], 1)  # [B, N, 1]
        losses = self.divergence(ours.flatten(0, 1), theirs.flatten(0, 1), label.flatten(0, 1))
        weights = self.weights(theirs, batch.targets)
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "cells": self.warmup(self.warmup_share) * self.weight * (weights.flatten() * losses).mean(),
        }

    def weights(self, teacher: Tensor, targets: Tensor) -> Tensor:
        """What each cell counts, `[B, N]`, by the teacher's logits of them, `[B, N, K]`."""
        right = teacher.argmax(2) == targets[:, None]
        return 1 + (self.complementary - 1) * (right != right[:, :1]).to(teacher.dtype)

    def divergence(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """The base's loss for each row of logits and its label `[B, 1]`, `[B]`."""
        if self.base == "kd":
            return kl_per_sample(student, teacher, self.temperature)
        if self.base == "dkd":
            tckd, nckd = decoupled(student, teacher, label, self.temperature)
            return self.alpha * tckd + self.beta * nckd
        target = -(teacher.softmax(1).gather(1, label) * student.log_softmax(1).gather(1, label)).squeeze(1)
        rest = (student, teacher) if self.official_mask else (without(student, label), without(teacher, label))
        return target + self.beta * self.temperature**2 * soft_cross_entropy(*rest, self.temperature)
