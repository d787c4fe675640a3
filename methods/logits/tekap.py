"""Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge Distillation (Hossain,
Akhter, Hong, Huh, ICLR 2025).

One teacher is made several by noise on what it says, and the student learns from all of them.

    L = ce_weight CE(z_s, y) + weight L_logit + feature_weight L_feature,  n normal noise, drawn anew in each step
    L_logit = T^2 KL(z_t || z_s) + aug_weight sum_k T^2 KL((1 - mix) z_t + mix n_k || z_s)
    L_feature = NCE(e_s, bank_t) + NCE(e_t, bank_s), which is CRD's, then the banks move, and
        + NCE(e_s, bank_t) as before + NCE(e_t', bank_s),  e_t' = (1 - mix) e_t + mix feature_noise n

CIFAR-100: TeKAP-L (the default) ce_weight 0.1, weight 0.9; TeKAP-F 1, 0 and feature_weight 0.8; both 1, 1 and 0.8; T 4,
aug_weight 0.8, 3 copies, mix 0.1. ImageNet: no value known.

With these values the noise is small beside the logits, and the copies are the teacher at temperature T / 0.9: a fair
comparison is `kd` with kd_weight 0.9 (1 + 3 x 0.8) = 3.06.

Deviations:
- As in the authors' code, the second contrast counts the first one's term of the student's embedding again
  (`official_anchor=False`: its own, against the banks that have moved).
- Negatives are drawn as in `crd`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import (
    Around,
    Batch,
    Choice,
    Dataset,
    KDBenchError,
    Method,
    Network,
    Output,
    Paper,
    Space,
    Uniform,
    register,
)
from kdbench.losses import kl
from kdbench.methods.relations.crd import CRD, nce


class Contrast(CRD):
    """CRD whose two terms can be read apart."""

    def halves(self, student: Tensor, teacher: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The term of the student's embedding and that of the teacher's, `[B, D]`; then the banks move.

        Args:
            chosen: places in the banks, `[B, 1 + K]`, each sample's own first.
        """
        with torch.autocast(student.device.type, enabled=False):
            ours, theirs = F.normalize(self.embed_student(student)), F.normalize(self.embed_teacher(teacher))
            of_student = nce(self._scores(ours, self.bank_teacher, self.z_student, chosen), len(self.labels))
            of_teacher = nce(self._scores(theirs, self.bank_student, self.z_teacher, chosen), len(self.labels))
        self._remember(self.bank_student, chosen[:, 0], ours)
        self._remember(self.bank_teacher, chosen[:, 0], theirs)
        return of_student, of_teacher


@register(
    "tekap",
    family="logits",
    paper=Paper(
        title="Single Teacher, Multiple Perspectives: Teacher Knowledge Augmentation for Enhanced Knowledge"
        " Distillation",
        authors="Hossain et al.",
        year=2025,
        venue="ICLR",
        code="mdimtiazh/TeKAP",
    ),
    fidelity="official-code",
)
class TeKAP(Method):
    search_space = Space(
        weight=Around(), aug_weight=Around(), mix=Uniform(0.05, 0.5), temperature=Choice(1.0, 2.0, 4.0, 8.0)
    )

    def __init__(
        self,
        ce_weight: float = 0.1,
        weight: float = 0.9,
        feature_weight: float = 0.0,
        temperature: float = 4.0,
        aug_weight: float = 0.8,
        copies: int = 3,
        mix: float = 0.1,
        noise: float = 1.0,
        feature_noise: float = 0.1,
        negatives: int = 16384,
        width: int = 128,
        official_anchor: bool = True,
    ) -> None:
        super().__init__()
        if copies < 0:
            raise KDBenchError(f"tekap's copies are {copies}: give 0 or more noisy teachers")
        self.ce_weight, self.weight, self.feature_weight = ce_weight, weight, feature_weight
        self.temperature, self.aug_weight, self.copies = temperature, aug_weight, copies
        self.mix, self.noise, self.feature_noise, self.official_anchor = mix, noise, feature_noise, official_anchor
        self.crd = Contrast(negatives=negatives, width=width) if feature_weight else None

    def build(self, student: Network, teacher: Network) -> None:
        if self.crd is not None:
            self.crd.build(student, teacher)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        if self.crd is not None:
            self.crd.prepare(data, teachers)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.weight * kl(student.logits, teacher.logits, self.temperature),
            "augmented": self.weight * self.aug_weight * self.augmented(student.logits, teacher.logits),
        }
        if self.crd is not None:
            chosen = self.crd.draw(batch)
            terms["contrast"] = self.feature_weight * self.contrast(student.embedding, teacher.embedding, chosen)
        return terms

    def augmented(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The sum of the divergences from all noisy teachers."""
        noisy = [self.mixed(teacher, self.noise) for _ in range(self.copies)]
        return torch.stack([student.new_zeros(()), *(kl(student, z, self.temperature) for z in noisy)]).sum()

    def contrast(self, student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
        """L_feature of embeddings `[B, D]`."""
        assert self.crd is not None
        clean = self.crd.halves(student, teacher, chosen)
        noisy = self.crd.halves(student, self.mixed(teacher, self.feature_noise), chosen)
        return clean[0] + clean[1] + (clean if self.official_anchor else noisy)[0] + noisy[1]

    def mixed(self, teacher: Tensor, deviation: float) -> Tensor:
        """What a noisy teacher says."""
        return (1 - self.mix) * teacher + self.mix * deviation * torch.randn_like(teacher)
