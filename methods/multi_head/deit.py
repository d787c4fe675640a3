"""Training data-efficient image transformers & distillation through attention (Touvron, Cord, Douze, Massa,
Sablayrolles, Jegou, ICML 2021).

A second head of the student learns what the teacher says while the first learns the labels, and both are deployed: the
teacher's errors and the labels' do not meet in one layer.

    L = (1 - alpha) CE(z_s, y) + alpha D(z_d),  z_d = linear(e_s), the second head's logits
    D = CE(z_d, argmax_c z_t)  ("hard")  or  tau^2 KL(softmax(z_t / tau) || softmax(z_d / tau)) / K  ("soft")
    deployed: (z_s + z_d) / 2

ImageNet: hard, alpha 0.5; the paper's soft run has alpha 0.1 and tau 3. CIFAR-100: no value known; ImageNet's are the
defaults. `heads=1` is the paper's baseline, hard-label distillation of the one head that the student has.

Deviations:
- The paper's second head reads a token of its own, from the first layer on. Networks here have one head, whatever their
  kind, so that the second is a linear layer on the same embedding; only the heads stay apart.
- The authors' code divides the soft divergence by the classes, which the paper does not (`official_mean=False`).
- Of the recipe, only the loss: mixed images, their targets and repeated augmentation are the recipe's own affair.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Method, Network, Output, Paper, Space, Uniform, register
from kdbench.losses import kl, wide


def second_head(student: Network) -> nn.Linear:
    """A linear layer from the student's embedding to logits, with the initial weights of the authors' heads."""
    head = nn.Linear(student.shapes.embedding, student.shapes.num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


class Averaged(nn.Module):
    """A student and its second head deployed together: inputs to the mean of both heads' logits `[B, K]`."""

    def __init__(self, student: Network, head: nn.Module) -> None:
        super().__init__()
        self.student, self.head = student, head

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.student(inputs)
        return (output.logits + wide(self.head(output.embedding))) / 2


@register(
    "deit",
    family="multi_head",
    paper=Paper(
        title="Training data-efficient image transformers & distillation through attention",
        authors="Touvron et al.",
        year=2021,
        venue="ICML",
        arxiv="2012.12877",
        code="facebookresearch/deit",
    ),
    fidelity="official-code",
)
class DeiT(Method):
    search_space = Space(alpha=Uniform(0.1, 0.9))

    def __init__(
        self,
        kind: str = "hard",
        alpha: float = 0.5,
        temperature: float = 1.0,
        heads: int = 2,
        official_mean: bool = True,
    ) -> None:
        super().__init__()
        if kind not in ("hard", "soft") or heads not in (1, 2):
            raise KDBenchError(f"deit needs kind 'hard' or 'soft' and heads 1 or 2, not {kind!r} and {heads}")
        self.kind, self.alpha, self.temperature = kind, alpha, temperature
        self.heads, self.official_mean = heads, official_mean

    def build(self, student: Network, teacher: Network) -> None:
        if self.heads == 2:
            self.head = second_head(student)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        second = wide(self.head(student.embedding)) if self.heads == 2 else student.logits
        return {
            "ce": (1 - self.alpha) * F.cross_entropy(student.logits, batch.targets),
            "distillation": self.alpha * self.imitation(second, teacher.logits),
        }

    def imitation(self, second: Tensor, teacher: Tensor) -> Tensor:
        """D of the second head's logits `[B, K]`."""
        if self.kind == "hard":
            return F.cross_entropy(second, teacher.argmax(1))
        divergence = kl(second, teacher, self.temperature)
        return divergence / second.shape[1] if self.official_mean else divergence

    def deploy(self, student: Network) -> nn.Module:
        return Averaged(student, self.head) if self.heads == 2 else student
