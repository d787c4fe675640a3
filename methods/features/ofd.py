"""A Comprehensive Overhaul of Feature Distillation (Heo, Kim, Yun, Park, Kwak, Choi, ICCV 2019).

Maps are matched before their ReLU; the teacher's negative values count only as "negative enough".

    L = CE(z_s, y) + weight / B sum_i 2^(i - n) sum d(BN(conv1x1(F_s^i)), max(F_t^i, m^i))
    d(s, t) = 0 where s <= t <= 0, else (s - t)^2;  m = each channel's expected negative response

CIFAR-100: weight 1e-3. ImageNet: 1e-4 (resnet152 -> 50, resnet50 -> mobilenetv1).

m is taken from the scale and shift of the BatchNorm that the teacher's map comes out of, as of a normal variable. Where
it does not come out of one (the sum of a residual block), m is the mean of the negative responses on the training set.

Deviations:
- For a sum the official code takes the last BatchNorm of the residual branch and leaves the shortcut out.
- The teacher is in eval mode as everywhere here; the official code leaves it in train mode, so that its running
  statistics drift.
- Stages are matched from the deepest on where their numbers differ, and the larger map is pooled to the smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Dataset, Method, Network, Output, Paper, register
from kdbench.connectors import norm, stage_pairs
from kdbench.losses import wide


def expected_negative(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[x | x < 0] of normal variables `[C]`; -3 deviations where one in a thousand or fewer is negative."""
    scale = deviation.abs().clamp(min=1e-12)
    ratio = mean / scale
    negative = torch.special.ndtr(-ratio)  # the probability
    expected = mean - scale * (-(ratio**2) / 2).exp() / (math.sqrt(2 * math.pi) * negative)
    return torch.where(negative > 0.001, expected, -3 * scale)


def norms_before_relu(network: Network, inputs: Tensor) -> list[nn.BatchNorm2d | None]:
    """For each pre-activation map the BatchNorm that it is the output of, if it is one's."""
    seen: list[tuple[nn.BatchNorm2d, Tensor]] = []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.affine]
    hooks = [module.register_forward_hook(lambda module, _, out: seen.append((module, out))) for module in norms]
    try:
        maps = network(inputs).preactivations
    finally:
        for hook in hooks:
            hook.remove()
    return [next((module for module, out in seen if out is before), None) for before in maps]


def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Sum of the partial squared distance of maps `[B, C, H, W]` before their ReLU; margins `[C]` are negative."""
    ours, theirs = wide(student), wide(teacher)
    theirs = torch.maximum(theirs, margin.to(theirs)[:, None, None])
    return ((ours - theirs).pow(2) * ((ours > theirs) | (theirs > 0))).sum()


@register(
    "ofd",
    family="features",
    paper=Paper(
        title="A Comprehensive Overhaul of Feature Distillation",
        authors="Heo et al.",
        year=2019,
        venue="ICCV",
        arxiv="1904.01866",
        code="clovaai/overhaul-distillation",
    ),
    fidelity="official-code",
)
class OFD(Method):
    needs = frozenset({"preactivations"})

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        self.weight = weight

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.preactivations, teacher.shapes.preactivations
        self.levels = min(len(ours), len(theirs))
        self.connectors = nn.ModuleList()  # 1x1 convolution and BatchNorm
        for i, (s, t) in enumerate(zip(ours[-self.levels :], theirs[-self.levels :], strict=True)):
            conv = nn.Conv2d(s[0], t[0], 1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")  # as the authors' code does
            self.connectors.append(nn.Sequential(conv, norm(t[0], 2)))
            self.register_buffer(f"margin_{i}", torch.zeros(t[0]))

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        norms = norms_before_relu(teachers[0], next(iter(data.batches())).inputs)[-self.levels :]
        margins = self._measure(data, teachers[0]) if None in norms else [torch.empty(0)] * self.levels
        for i, (module, margin) in enumerate(zip(norms, margins, strict=True)):
            if module is not None:
                margin = expected_negative(module.bias.double(), module.weight.double())
            getattr(self, f"margin_{i}").copy_(margin)

    def _measure(self, data: Dataset, teacher: Network) -> list[Tensor]:
        """Each channel's mean negative response on the training set, for every map."""
        sums = [torch.zeros(2, len(getattr(self, f"margin_{i}")), dtype=torch.float64) for i in range(self.levels)]
        for batch in data.batches():
            for i, before in enumerate(teacher(batch.inputs).preactivations[-self.levels :]):
                negative = wide(before).clamp(max=0)
                both = torch.stack([negative.double().sum((0, 2, 3)), (negative < 0).double().sum((0, 2, 3))])
                sums[i] = sums[i].to(both) + both
        return [total / count.clamp(min=1) for total, count in sums]

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        maps = stage_pairs(student.preactivations[-self.levels :], teacher.preactivations[-self.levels :])
        costs = []
        for i, (connector, (ours, theirs)) in enumerate(zip(self.connectors, maps, strict=True)):
            cost = partial_l2(connector(ours), theirs, getattr(self, f"margin_{i}"))
            costs.append(cost * 2.0 ** (i - len(maps) + 1))
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "feature": self.weight / len(batch) * torch.stack(costs).sum(),
        }
