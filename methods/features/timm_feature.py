"""timm's `FeatureDistillationTask` (Wightman, PyTorch Image Models, 2019; the task is of 2025).

The student's embedding, brought to the teacher's width where the two differ, becomes the teacher's.

    L = task_weight CE(z_s, y) + distill_weight mean (P e_s - e_t)^2,  P linear with bias, or nothing for equal widths

The weights follow the rule of `timm_logit`: both 1 unless given. ImageNet, CIFAR-100: timm names no values beside these
defaults.

Deviations: timm runs the head twice, for the logits and for the embedding, with two draws of its dropout; here once.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Choice, Method, Network, Output, Paper, Space, register
from kdbench.losses import wide
from kdbench.methods.logits.timm_logit import task_weights


@register(
    "timm_feature",
    family="features",
    paper=Paper(
        title="PyTorch Image Models",
        authors="Wightman",
        year=2019,
        code="huggingface/pytorch-image-models",
    ),
    fidelity="official-code",
)
class TimmFeature(Method):
    search_space = Space(distill_weight=Choice(None, 0.1, 0.3, 3.0, 10.0))

    def __init__(self, task_weight: float | None = None, distill_weight: float | None = None) -> None:
        super().__init__()
        self.task_weight, self.distill_weight = task_weights(task_weight, distill_weight)

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.embedding, teacher.shapes.embedding
        self.projection: nn.Module = nn.Identity() if ours == theirs else nn.Linear(ours, theirs)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        projected = wide(self.projection(student.embedding))
        return {
            "ce": self.task_weight * F.cross_entropy(student.logits, batch.targets),
            "feature": self.distill_weight * F.mse_loss(projected, wide(teacher.embedding)),
        }
