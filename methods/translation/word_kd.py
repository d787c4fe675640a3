"""Sequence-Level Knowledge Distillation (Kim and Rush 2016), its word level.

At each place of the reference the student learns the reference's token, label-smoothed, and the teacher's distribution
over all tokens; both networks have read the reference's tokens before it.

    L = (1 - kd_weight) * NLL(z_s, y) + kd_weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

Both terms are means over the real target tokens, ends of sentences included and padding left out.

CKD (Wu et al. 2020), whose code this was held against: weight 0.5, T 1; label smoothing 0.1.

Deviations:
- The paper's KD term is a cross-entropy; the divergence has the same gradient, and is zero where student is teacher.
- The authors' field code sums over tokens; here the sum is divided by their number.
"""

from __future__ import annotations

from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import kl


@register(
    "word_kd",
    family="translation",
    paper=Paper(title="Sequence-Level Knowledge Distillation", authors="Kim and Rush", year=2016, arxiv="1606.07947"),
    fidelity="field-code",
)
class WordKD(Method):
    needs = frozenset({"sequences"})
    search_space = Space(
        kd_weight=Choice(0.1, 0.3, 0.5, 0.7, 0.9), temperature=Choice(1.0, 2.0, 4.0), label_smoothing=Around()
    )

    def __init__(self, kd_weight: float = 0.5, temperature: float = 1.0, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.kd_weight, self.temperature, self.label_smoothing = kd_weight, temperature, label_smoothing

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        labels = student.supervised(batch, self.label_smoothing)
        divergence = kl(student.logits, teacher.logits, self.temperature)
        return {
            **{name: (1 - self.kd_weight) * term for name, term in labels.items()},
            "kd": self.kd_weight * divergence,
        }
