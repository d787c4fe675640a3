"""Multi-Level Logit Distillation (Jin, Wang, Lin, CVPR 2023).

Predictions are aligned at five temperatures for each sample, between samples (Gram matrix of the batch) and between
classes (Gram matrix of the classes), on a weak and a strong view.

    L = ce_weight (CE(weak) + CE(strong)) + kd_weight sum_{T = temperature, 3, 5, 2, 6} [m_b KL_T(weak)
        + KL_T(strong or weak) + m_c |P_s^T P_s - P_t^T P_t|^2 / K + m_b |P_s P_s^T - P_t P_t^T|^2 / B]
    P = softmax(weak / T)

CIFAR-100: ce_weight 0.1, kd_weight 0.9, temperature 4; 240, 480 or 960 epochs by pair at a learning rate of 0.025 or
0.01, RandAugment(2, 10) as the strong view. ImageNet (LSKD's configuration): both weights 0.5, temperature 1.

Deviations: none from the official code, whose quirks are kept, since its numbers were made with them:
- The masks (below the median confidence of the teacher, by sample m_b and by class m_c) multiply sums that are already
  reduced, so that they act as factors of about one half.
- The second KL is of the strong view at the first three temperatures and of the weak one again at 2 and 6.
- The strong view's Gram terms are not used.

Tables of other papers call the method MLKD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Method, Output, Paper, Space, register
from kdbench.losses import kl


def below_median(confidence: Tensor) -> Tensor:
    """The share of entries that are at most the median."""
    return (confidence <= confidence.quantile(0.5)).to(confidence.dtype).mean()


def gram_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared distance of the Gram matrices of the rows of `[N, M]`, divided by N."""
    with torch.autocast(ours.device.type, enabled=False):  # half precision rounds small differences away
        return (ours @ ours.T - theirs @ theirs.T).pow(2).sum() / len(ours)


@register(
    "mlld",
    family="logits",
    paper=Paper(
        title="Multi-Level Logit Distillation",
        authors="Jin et al.",
        year=2023,
        venue="CVPR",
        code="Jin-Ying/Multi-Level-Logit-Distillation",
    ),
    fidelity="official-code",
)
class MLLD(Method):
    needs = frozenset({"strong_view"})
    search_space = Space(kd_weight=Around())

    def __init__(self, ce_weight: float = 0.1, kd_weight: float = 0.9, temperature: float = 4.0) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight, self.temperature = ce_weight, kd_weight, temperature

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """T² KL of two networks' logits `[B, K]`."""
        return kl(student, teacher, temperature)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        assert student.strong is not None
        assert teacher.strong is not None
        weak, strong = (student.logits, teacher.logits), (student.strong.logits, teacher.strong.logits)
        confidence = teacher.logits.softmax(1)
        by_sample, by_class = below_median(confidence.amax(1)), below_median(confidence.sum(0))
        kd = weak[0].new_zeros(())
        samples, classes = kd, kd
        for t, view in [(self.temperature, strong), (3.0, strong), (5.0, strong), (2.0, weak), (6.0, weak)]:
            kd = kd + by_sample * self.divergence(*weak, t) + self.divergence(*view, t)
            ours, theirs = ((logits / t).softmax(1) for logits in weak)
            samples = samples + by_sample * gram_distance(ours, theirs)
            classes = classes + by_class * gram_distance(ours.T, theirs.T)
        label = F.cross_entropy(weak[0], batch.targets) + F.cross_entropy(strong[0], batch.targets)
        return {
            "ce": self.ce_weight * label,
            "kd": self.kd_weight * kd,
            "classes": self.kd_weight * classes,
            "batch": self.kd_weight * samples,
        }
