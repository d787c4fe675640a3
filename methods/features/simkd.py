"""Knowledge Distillation with the Reused Teacher Classifier (Chen, Mei, Zhang, Wang, Feng, Chen, CVPR 2022).

The student learns only to produce the teacher's last feature map through a projector; the frozen teacher's
classifier is deployed on top of it.

    L = mean((P(F_s) - F_t)^2), P = 1x1 (C_s -> C_t / f), 3x3, 1x1 (-> C_t), each with BN and ReLU; f 2

No cross-entropy, no KL, no labels. ImageNet: the same loss, 120 epochs, batch 256, rate 0.1 (x0.1 at 30, 60, 90).

F_t is the map that the teacher's head pools, and F_s the student's; of a student with a convolution in the head
(mobilenetv2, shufflenetv2) it is the map before that, as in the official code.

Deviations: none. Deployed are the student's body, P and the teacher's classifier, and the tables count exactly
these. A teacher whose classifier does not read the mean of a map (a ViT's reads the class token) is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Choice, Dataset, Method, Network, Output, Paper, Space, register
from kdbench.connectors import bottleneck, global_pool, last_of_stages, pool_match, pool_to, require_pooled_embedding


class Deployed(nn.Module):
    """Student's body, projector, pooling, teacher's classifier: inputs to logits `[B, K]`."""

    def __init__(self, student: Network, method: SimKD) -> None:
        super().__init__()
        self.student, self.transfer, self.classifier = student, method.transfer, method.classifier
        self.space = method.space

    def forward(self, inputs: Tensor) -> Tensor:
        feature = pool_to(last_of_stages(self.student(inputs)), self.space)
        return self.classifier(global_pool(self.transfer(feature)))


@register(
    "simkd",
    family="features",
    paper=Paper(
        title="Knowledge Distillation with the Reused Teacher Classifier",
        authors="Chen et al.",
        year=2022,
        venue="CVPR",
        arxiv="2203.14001",
        code="DefangChen/SimKD",
    ),
    fidelity="official-code",
)
class SimKD(Method):
    needs = frozenset({"maps", "unpooled"})
    search_space = Space(factor=Choice(1, 2, 4))

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def build(self, student: Network, teacher: Network) -> None:
        (c_in, *ours), (c_out, *theirs) = last_of_stages(student.shapes), teacher.shapes.unpooled
        middle = c_out // self.factor
        self.transfer = nn.Sequential(*bottleneck(c_in, middle, c_out), nn.BatchNorm2d(c_out), nn.ReLU())
        self.classifier = copy.deepcopy(teacher.classifier).requires_grad_(False)
        self.space = tuple(min(pair) for pair in zip(ours, theirs, strict=True))

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_pooled_embedding("simkd", teachers[0], data)

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = pool_match(last_of_stages(student), teacher.unpooled)
        return {"feature": F.mse_loss(self.transfer(ours), theirs)}

    def deploy(self, student: Network) -> nn.Module:
        return Deployed(student, self)
