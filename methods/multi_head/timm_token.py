"""timm's `TokenDistillationTask` (Wightman, PyTorch Image Models, 2019; the task is of 2025).

DeiT's distillation as timm has it: the first head sees the labels alone, the second the teacher alone, and both are
deployed.

    L = task_weight CE(z_s, y) + distill_weight D(z_d),  z_d = linear(e_s), the second head's logits
    D = T^2 KL(softmax(z_t / T) || softmax(z_d / T))  ("soft")  or  CE(z_d, argmax_c z_t)  ("hard")
    deployed: (z_s + z_d) / 2

The weights follow the rule of `timm_logit`: both 1 unless given. T 1. Beside `deit` the soft divergence is K times as
large. ImageNet, CIFAR-100: timm names no values beside these defaults.

Deviations: timm asks for a student with a distillation token. Networks here have one head, so that the second is a
linear layer on the same embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Choice, KDBenchError, Method, Network, Output, Paper, Space, register
from kdbench.losses import kl, wide
from kdbench.methods.logits.timm_logit import task_weights
from kdbench.methods.multi_head.deit import Averaged, second_head


@register(
    "timm_token",
    family="multi_head",
    paper=Paper(
        title="PyTorch Image Models",
        authors="Wightman",
        year=2019,
        code="huggingface/pytorch-image-models",
    ),
    fidelity="official-code",
)
class TimmToken(Method):
    search_space = Space(distill_weight=Choice(None, 0.5, 2.0, 4.0), temperature=Choice(1.0, 2.0, 4.0))

    def __init__(
        self,
        kind: str = "soft",
        task_weight: float | None = None,
        distill_weight: float | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in ("hard", "soft"):
            raise KDBenchError(f"timm_token's kind is {kind!r}: give 'hard' or 'soft'")
        self.task_weight, self.distill_weight = task_weights(task_weight, distill_weight)
        self.kind, self.temperature = kind, temperature

    def build(self, student: Network, teacher: Network) -> None:
        self.head = second_head(student)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        second, theirs = wide(self.head(student.embedding)), teacher.logits
        hard = self.kind == "hard"
        term = F.cross_entropy(second, theirs.argmax(1)) if hard else kl(second, theirs, self.temperature)
        return {
            "ce": self.task_weight * F.cross_entropy(student.logits, batch.targets),
            "distillation": self.distill_weight * term,
        }

    def deploy(self, student: Network) -> nn.Module:
        return Averaged(student, self.head)
