"""Understanding the Role of the Projector in Knowledge Distillation (Miles, Mikolajczyk, AAAI 2024): SRD.

A linear projector, one normalisation for both embeddings and a soft maximum of their difference are enough; by its
logarithm the loss has a gradient of the same size for every batch and width.

    L = CE(z_s, y) + weight L_rep + kd_weight T^2 KL(softmax(z_t / T) || softmax(z_s / T))
    L_rep = log sum_{b, c} |s - t|^exponent,  s = BN(W e_s + b), t = BN(e_t), BN by the batch's statistics, no affine

`form` "correlation" is the authors' DeiT recipe: L_rep = log(sum_c |mean_b s t - 1|^exponent + 1e-5), weight 1.
ImageNet: weight 2, exponent 4, kd_weight 1, T 1. CIFAR-100: the authors' values are not public; ImageNet's are the
defaults.

Deviations:
- The sum is at least 1e-12: at a perfect fit its logarithm has no bound, and there is no gradient then.
- The teacher's norm takes the batch's statistics, as the authors' code does (torchdistill's port would not).
- The DeiT recipe's BatchNorm has no epsilon, which torch refuses: 1e-10 here.
- The embeddings are what the classifiers read: for CNNs the mean of the last map, as in the paper.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, KDBenchError, Method, Network, Output, Paper, Space, register
from kdbench.losses import kl

FORMS = {"logsum": 1e-4, "correlation": 1e-10}  # and the epsilon of its norm
SMALLEST = 1e-12


def standardised(x: Tensor, eps: float) -> Tensor:
    """BatchNorm of `[B, D]` by the batch's own statistics, without affine; a batch of one becomes zero."""
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    return (x - mean) / (variance + eps).sqrt()


@register(
    "srd",
    family="features",
    paper=Paper(
        title="Understanding the Role of the Projector in Knowledge Distillation",
        authors="Miles & Mikolajczyk",
        year=2024,
        venue="AAAI",
        arxiv="2303.11098",
        code="roymiles/Simple-Recipe-Distillation",
    ),
    fidelity="official-code",
)
class SRD(Method):
    search_space = Space(weight=Around(), kd_weight=Around(), temperature=Choice(1.0, 2.0, 4.0))

    def __init__(
        self,
        weight: float = 2.0,
        kd_weight: float = 1.0,
        temperature: float = 1.0,
        exponent: float = 4.0,
        ce_weight: float = 1.0,
        form: str = "logsum",
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise KDBenchError(f"srd's form is {form!r}: give logsum or correlation")
        self.weight, self.kd_weight, self.ce_weight = weight, kd_weight, ce_weight
        self.temperature, self.exponent, self.form = temperature, exponent, form

    def build(self, student: Network, teacher: Network) -> None:
        self.embed = nn.Linear(student.shapes.embedding, teacher.shapes.embedding)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "representation": self.weight * self.representation(student.embedding, teacher.embedding),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
        }

    def representation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """L_rep of embeddings `[B, D]`."""
        with torch.autocast(student.device.type, enabled=False):
            ours = standardised(self.embed(student), FORMS[self.form])
            theirs = standardised(teacher, FORMS[self.form])
        if self.form == "logsum":
            return (ours - theirs).abs().pow(self.exponent).sum().clamp(min=SMALLEST).log()
        correlation = (ours * theirs).mean(0)  # [D]
        return ((correlation - 1).abs().pow(self.exponent).sum() + 1e-5).log()
