"""NORM: Knowledge Distillation via N-to-One Representation Matching (Liu, Li, Li, Yao, ICLR 2023).

Two linear layers behind the map that the student's head pools expand it to N times the teacher's channels and contract
it again; each of the N segments learns the teacher's whole map. After training they are merged into the classifier.

    E = BN(W_1 F_s), N C_t channels;  G = F_s + BN(W_2 E);  z_s = classifier(GAP G)
    L = ce_weight CE(scale LN(z_s), y) + weight factor(epoch) sum_n mean (E_n - F_t)^2
    factor = 0.1, 0.5, 1, 0.5, 0.1 up to epochs 10, 20, 180, 210, 240;  LN = (z - mean) / deviation over the classes

CIFAR-100: N 8, weight 1, ce_weight 0.1 (resnet32x4 -> 8x4; the authors' script tries 0.0625 to 0.5 for other pairs),
scale 2.5. ImageNet: N 8, weight 1, ce_weight 1 (resnet34 -> 18) or 0.125 (resnet50 -> mobilenetv1), factor 0.9 instead
of 1 and steps at 5, 15, 60, 80 of 100 epochs. The logits are normalised in training and in evaluation; `scale=0` leaves
them as they are, and so do two classes, which have nothing but a sign after it. No KL is in the recipe; `norm+kd` and
`norm+crd` add theirs to what the transformed student says, as the paper does.

Deployed are the student's body and one linear layer: W_cls (I + A_2 A_1) and its bias, where A are the layers with
their BatchNorm's running statistics; the tables count these parameters, as many as the student's own.

Deviations:
- The factor's epochs are kept as shares.
- In a Wide ResNet the layers stand behind the last norm and ReLU (in the official code before them, where they cannot
  be merged), and in MobileNetV2 and ShuffleNetV2 behind the last ReLU too (there that ReLU is left out).
- Of two maps the larger is max-pooled to the other's size.
- With `norm+kd` only the student's logits are normalised, in the official code both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import (
    Around,
    Batch,
    Dataset,
    KDBenchError,
    LogUniform,
    Method,
    Network,
    NotApplicable,
    Output,
    Paper,
    Space,
    register,
)
from kdbench.connectors import check_pooled_student, evaluating, global_pool, norm
from kdbench.losses import wide

# up to which share of the training the matching term has which factor
FACTORS = ((10 / 240, 0.1), (20 / 240, 0.5), (180 / 240, 1.0), (210 / 240, 0.5), (1.0, 0.1))


class Transform(nn.Module):
    """The two layers: a map `[B, C, H, W]` to the expanded one, `[B, N C_t, H, W]`, and to one of its own shape."""

    def __init__(self, channels: int, expanded: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(channels, expanded, 1, bias=False), nn.Conv2d(expanded, channels, 1, bias=False)
        for conv in (first, second):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.expand, self.contract = nn.Sequential(first, norm(expanded, 2)), nn.Sequential(second, norm(channels, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        expanded = self.expand(x)
        return expanded, x + self.contract(expanded)


class Deployed(nn.Module):
    """Student's body and merged classifier: inputs to logits `[B, K]`."""

    def __init__(self, student: Network, method: NORM) -> None:
        super().__init__()
        self.student, self.scale = student, method.scale
        width, classes = student.shapes.embedding, student.shapes.num_classes
        # an affine map is known by what it makes of zero and of the unit vectors
        probe = torch.cat([torch.zeros(1, width), torch.eye(width)]).to(next(method.parameters()))
        self.classifier = nn.utils.skip_init(nn.Linear, width, classes, device=probe.device, dtype=probe.dtype)
        with torch.no_grad(), torch.autocast(probe.device.type, enabled=False), evaluating(method.transform):
            logits = student.classifier(method.transform(probe[:, :, None, None])[1].flatten(1))  # [1 + D, K]
            self.classifier.weight.copy_((logits[1:] - logits[0]).T)
            self.classifier.bias.copy_(logits[0])

    def forward(self, inputs: Tensor) -> Tensor:
        return standardise(wide(self.classifier(self.student(inputs).embedding)), self.scale)


def standardise(logits: Tensor, scale: float) -> Tensor:
    """Logits `[B, K]` with mean 0 and deviation `scale` in each row; unchanged for scale 0 or two classes."""
    return logits if not scale or logits.shape[1] < 3 else F.layer_norm(logits, logits.shape[1:], eps=1e-7) * scale


@dataclass(frozen=True)
class Transformed(Output):
    """What the transformed student says; `unpooled` is the contracted map.

    Attributes:
        expanded: the map between the two layers, `[B, N C_t, H, W]`.
    """

    expanded: Tensor | None = None


@register(
    "norm",
    family="features",
    paper=Paper(
        title="NORM: Knowledge Distillation via N-to-One Representation Matching",
        authors="Liu et al.",
        year=2023,
        venue="ICLR",
        arxiv="2305.13803",
        code="OSVAI/NORM",
    ),
    fidelity="official-code",
)
class NORM(Method):
    needs = frozenset({"maps", "unpooled"})
    search_space = Space(weight=Around(), ce_weight=LogUniform(0.05, 1.0))

    def __init__(self, n: int = 8, weight: float = 1.0, ce_weight: float = 0.1, scale: float = 2.5) -> None:
        super().__init__()
        if n < 1:
            raise KDBenchError(f"norm's n is {n}: give how many times the teacher's channels the student expands to")
        self.n, self.weight, self.ce_weight, self.scale = n, weight, ce_weight, scale

    def build(self, student: Network, teacher: Network) -> None:
        channels = student.shapes.unpooled[0]
        if channels != student.shapes.embedding:
            raise NotApplicable(f"norm needs a classifier on the pooled last map, which {student.name!r} has not")
        self.transform = Transform(channels, self.n * teacher.shapes.unpooled[0])
        self._student = (student,)  # in a tuple, so that it is no module of this one

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        check_pooled_student("norm", self._student[0], data)

    def respond(self, student: Output) -> Output:
        """The transformed student."""
        expanded, contracted = self.transform(student.unpooled)
        embedding = wide(global_pool(contracted))
        with torch.autocast(embedding.device.type, enabled=False):
            logits = standardise(self._student[0].classifier(embedding), self.scale)
        said = {**vars(student), "logits": logits, "embedding": embedding, "final": contracted}
        strong = None if student.strong is None else self.respond(student.strong)
        return Transformed(**{**said, "strong": strong, "expanded": expanded})

    def reads(self, stages: int) -> tuple[int, ...]:
        return ()

    def loss(self, batch: Batch, student: Transformed, teacher: Output) -> dict[str, Tensor]:
        position = (self.epoch - 1) / self.epochs
        factor = next(factor for end, factor in FACTORS if position < end)
        expanded, target = max_pool_match(wide(student.expanded), wide(teacher.unpooled))
        segments = expanded.unflatten(1, (self.n, -1))  # [B, N, C_t, H, W]
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "match": self.weight * factor * self.n * (segments - target[:, None]).pow(2).mean(),
        }

    def deploy(self, student: Network) -> nn.Module:
        return Deployed(student, self)


def max_pool_match(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool the larger of two maps `[B, C, H, W]` to the smaller one's size."""
    space = min(student.shape[2:], teacher.shape[2:])
    pooled = [x if x.shape[2:] == space else max_pool_to(x, space) for x in (student, teacher)]
    return pooled[0], pooled[1]


def max_pool_to(x: Tensor, space: Sequence[int]) -> Tensor:
    """`F.adaptive_max_pool2d`, whose gradient a GPU adds up in a random order where cells overlap.

    Columns first: then of equal values the first is taken, row by row, as torch does.
    """
    for axis in (3, 2):
        old, new = x.shape[axis], space[axis - 2]
        bounds = [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        x = torch.cat([x.narrow(axis, a, b - a).max(axis, keepdim=True).values for a, b in bounds], axis)
    return x
