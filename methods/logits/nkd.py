"""From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and Customized
Soft Labels (Yang, Zeng, Li, Zhang, Yuan, Li, ICCV 2023): normalised KD.

The target class is taught by its probability, the others by their distribution, normalised to sum to one.

    L = CE(z_s, y) - mean_b p_t[y] log p_s[y] - gamma T^2 mean_b sum_{i != y} q_t[i] log q_s[i]
    p = softmax(z), q = softmax of the other classes' z / T

The code's defaults, and ImageNet: gamma 1.5, T 1. The authors' CIFAR-100 configuration (resnet34 -> 18): 3.5 and 3.

Deviations: none. With two classes the last term is zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, Method, Output, Paper, Space, register
from kdbench.losses import soft_cross_entropy, without


@register(
    "nkd",
    family="logits",
    paper=Paper(
        title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and"
        " Customized Soft Labels",
        authors="Yang et al.",
        year=2023,
        venue="ICCV",
        arxiv="2303.13005",
        code="yzd-v/cls_KD",
    ),
    fidelity="official-code",
)
class NKD(Method):
    search_space = Space(gamma=Around(), temperature=Choice(1.0, 2.0, 3.0, 4.0))

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma, self.temperature = gamma, temperature

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs, label = student.logits, teacher.logits, batch.targets[:, None]
        rest = [without(z, label) for z in (ours, theirs)]  # [B, K - 1]
        target = -(theirs.softmax(1).gather(1, label) * ours.log_softmax(1).gather(1, label)).mean()
        return {
            "ce": F.cross_entropy(ours, batch.targets),
            "target": target,
            "others": self.gamma * self.temperature**2 * soft_cross_entropy(rest[0], rest[1], self.temperature).mean(),
        }
