"""Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation (Zhang et al.,
ICCV 2019).

Every stage but the last gets a classifier behind a bottleneck that brings its map to the shape of what the head pools.
The shallow classifiers learn from the labels and from the deepest one, which learns from labels alone. No pretrained
teacher.

    L = CE(z, y) + sum_k [(1 - alpha) CE(z_k, y) + alpha KL_T(sg z || z_k) + hint_weight |f_k - sg f|^2]
    f_k = pool(bottleneck_k(F_k)), f = pool(F) of the head, z_k = W_k f_k
    bottleneck = 1x1 to a quarter of the last channels, r x r with stride r (the ratio of the sizes), 1x1 to the last
    channels, each with BN and ReLU

alpha 0.1, T 3, hint_weight 1.28e-4. The classifiers are dropped at test time.

Deviations:
- The three losses, and that the deepest classifier has only the first, are the paper's; its values were not at hand.
- alpha, T, the T^2 factor and the hint are those of a public reimplementation
  (luanyunteng/pytorch-be-your-own-teacher: 1e-6 times a sum over batches of 128, which is 1.28e-4 times the mean over
  samples; it compares pooled features, the paper speaks of maps, and it weighs the deepest classifier 1 - alpha).
- The authors' later code for the journal version (ArchipLab-LinfengZhang/pytorch-self-distillation-final) has alpha 0.3
  without T^2, T 3, a linear layer in front of the hint and weight 0.03 on its root, and attention on the stages.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, Method, Network, NotApplicable, Output, Paper, Space, Uniform, register
from kdbench.connectors import Shape, global_pool, norm, stages_to_pool
from kdbench.losses import kl, wide


def branch(shape: Shape, last: Shape) -> nn.Sequential:
    """From a stage's map to one of the last stage's shape, both (C, H, W)."""
    (c_in, *ours), (c_out, *theirs) = shape, last
    middle = max(c_out // 4, 1)
    ratio: Any = tuple(max(a // b, 1) for a, b in zip(ours, theirs, strict=True))
    return nn.Sequential(
        nn.Conv2d(c_in, middle, 1), norm(middle, 2), nn.ReLU(),
        nn.Conv2d(middle, middle, ratio, stride=ratio), norm(middle, 2), nn.ReLU(),
        nn.Conv2d(middle, c_out, 1), norm(c_out, 2), nn.ReLU(),
    )  # fmt: skip


@register(
    "byot",
    family="multi_head",
    paper=Paper(
        title="Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
        authors="Zhang et al.",
        year=2019,
        venue="ICCV",
        arxiv="1905.08094",
        code="ArchipLab-LinfengZhang/pytorch-self-distillation-final",
    ),
    fidelity="field-code",
)
class BYOT(Method):
    needs = frozenset({"maps", "unpooled"})
    uses_teacher = False
    search_space = Space(alpha=Uniform(0.05, 0.9), temperature=Choice(1.0, 2.0, 3.0, 4.0), hint_weight=Around())

    def __init__(self, alpha: float = 0.1, temperature: float = 3.0, hint_weight: float = 1.28e-4) -> None:
        super().__init__()
        self.alpha, self.temperature, self.hint_weight = alpha, temperature, hint_weight

    def build(self, student: Network, teacher: None) -> None:
        *shapes, last = stages_to_pool(student.shapes)
        if not shapes:
            raise NotApplicable(f"byot needs several stages, but {student.name!r} has one")
        self.bottlenecks = nn.ModuleList(branch(shape, last) for shape in shapes)
        self.classifiers = nn.ModuleList(nn.Linear(last[0], student.shapes.num_classes) for _ in shapes)

    def reads(self, stages: int) -> range:
        return range(1, stages)

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        *shallow, last = stages_to_pool(student)
        deepest = wide(global_pool(last.detach()))
        heads, kd, hints = [], [], []
        for feature, bottleneck, classifier in zip(shallow, self.bottlenecks, self.classifiers, strict=True):
            pooled = global_pool(bottleneck(feature))  # [B, C]
            logits = wide(classifier(pooled))
            heads.append(F.cross_entropy(logits, batch.targets))
            kd.append(kl(logits, student.logits.detach(), self.temperature))
            hints.append((wide(pooled) - deepest).pow(2).sum(1).mean())
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "heads": (1 - self.alpha) * torch.stack(heads).sum(),
            "kd": self.alpha * torch.stack(kd).sum(),
            "hint": self.hint_weight * torch.stack(hints).sum(),
        }
