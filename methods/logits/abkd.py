"""ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via alpha-beta-Divergence
(Wang, Yang, Wang, Wang, Xu, Huang, ICML 2025).

Forward KL spreads the student's mass too evenly and reverse KL gathers it on one class; the alpha-beta divergence lies
between them: alpha weighs where the student errs much, beta where it is confident.

    L = CE(z_s, y) + weight D(p || q),  p, q = softmax(z_t / T), softmax(z_s / T), no T^2
    D = -1 / (a b) sum_c [p^a q^b - a / (a + b) p^(a + b) - b / (a + b) q^(a + b)], mean over the batch

(1, 0) is the forward KL, (0, 1) the reverse one, (0.5, 0.5) Hellinger's distance, (1, 1) half the squared l2 one.
CIFAR-100: alpha 0.8, beta 0.3, weight 32, T 4 as published for resnet56 -> resnet20 (a comment in the script has 64);
both are searched in steps of 0.1 for other pairs. ImageNet: no value known.

Deviations:
- Where a, b or a + b is 0 this is the limit of D; the authors' code misses a factor there, 1 / a or for a = 0 1 / b
  (`official_limits=True` is the code as run; both agree for the two KLs).
- All powers are taken of log-probabilities, equal but finite for confident networks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, Uniform, register

NEAR = 1e-6  # a sum of exponents that is nearer to 0 than this is 0


def divergence(teacher: Tensor, student: Tensor, alpha: float, beta: float) -> Tensor:
    """The alpha-beta divergence of log-probabilities `[B, K]`, mean over the batch."""
    a, b = ((0.0 if abs(value) < NEAR else value) for value in (alpha, beta))
    gap, both = teacher - student, 0.0 if abs(a + b) < NEAR else a + b
    if not a and not b:
        terms = gap.pow(2) / 2
    elif not b:
        terms = ((a * teacher).exp() * (a * gap - 1) + (a * student).exp()) / a**2
    elif not a:
        terms = ((b * student).exp() * (-b * gap - 1) + (b * teacher).exp()) / b**2
    elif not both:
        terms = ((a * gap).exp() - a * gap - 1) / a**2
    else:
        ends = a / both * (both * teacher).exp() + b / both * (both * student).exp()
        terms = (ends - (a * teacher + b * student).exp()) / (a * b)
    return terms.sum(1).mean()


def missing_factor(alpha: float, beta: float) -> float:
    """What the authors' code multiplies the limits of the divergence by; 1 elsewhere."""
    if abs(alpha) < NEAR:
        return 1.0 if abs(beta) < NEAR else beta
    return alpha if abs(beta) < NEAR or abs(alpha + beta) < NEAR else 1.0


@register(
    "abkd",
    family="logits",
    paper=Paper(
        title="ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via"
        " alpha-beta-Divergence",
        authors="Wang et al.",
        year=2025,
        venue="ICML",
        arxiv="2505.04560",
        code="ghwang-s/abkd",
    ),
    fidelity="official-code",
)
class ABKD(Method):
    search_space = Space(
        alpha=Uniform(0.0, 1.0), beta=Uniform(0.0, 1.0), weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0)
    )

    def __init__(
        self,
        alpha: float = 0.8,
        beta: float = 0.3,
        weight: float = 32.0,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
        official_limits: bool = False,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.ce_weight = ce_weight
        self.weight = weight * (missing_factor(alpha, beta) if official_limits else 1.0)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (F.log_softmax(output.logits / self.temperature, dim=1) for output in (student, teacher))
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "divergence": self.weight * divergence(theirs, ours, self.alpha, self.beta),
        }
