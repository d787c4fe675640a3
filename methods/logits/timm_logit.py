"""timm's `LogitDistillationTask` (Wightman, PyTorch Image Models, 2019; the task is of 2025).

Plain knowledge distillation as the library that most image models are trained with has it.

    L = task_weight CE(z_s, y) + distill_weight T^2 KL(softmax(z_t / T) || softmax(z_s / T))

The weights are timm's for its three tasks: with `distill_weight` the two are independent, and task_weight is 1 unless
given; with `task_weight` w alone distill_weight is 1 - w; with neither both are 1. T 1. ImageNet, CIFAR-100: timm names
no values beside these defaults.

Deviations: none in the loss. timm's own normalisation of the teacher's inputs is the engine's here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import kl


def task_weights(task: float | None, distill: float | None) -> tuple[float, float]:
    """Weights of the labels' loss and of the distillation's, by timm's rule for those that are not given."""
    if distill is None:
        return (1.0, 1.0) if task is None else (task, 1 - task)
    return (1.0 if task is None else task), distill


@register(
    "timm_logit",
    family="logits",
    paper=Paper(
        title="PyTorch Image Models",
        authors="Wightman",
        year=2019,
        code="huggingface/pytorch-image-models",
    ),
    fidelity="official-code",
)
class TimmLogit(Method):
    search_space = Space(distill_weight=Choice(None, 0.5, 2.0, 4.0, 8.0), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self, task_weight: float | None = None, distill_weight: float | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.task_weight, self.distill_weight = task_weights(task_weight, distill_weight)
        self.temperature = temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": self.task_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.distill_weight * kl(student.logits, teacher.logits, self.temperature),
        }
