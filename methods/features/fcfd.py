"""Function-Consistent Feature Distillation (Liu, Kan, Shan, Chen, ICLR 2023).

Features agree if the layers that follow read the same from them: the student's features go through the rest of the
teacher, the teacher's through the rest of the student, and what comes out shall be what the teacher says.

    L = CE(z_s, y) + KL_T(z_t || z_s) + path_weight sum_p KL_T(z_t || z_p)
        + weight min(epoch / 20, 1) sum_k [D_k(B_k(F_s^k)) + sum_p D_k(F_p^k)]
    p: two paths drawn anew for each batch out of "student up to stage k, bridge, teacher from k + 1 on" and its
        reverse, k = 1..K - 1; in the last sum those that are in the teacher at stage k
    D_k(F) = mean (F - F_t^k)^2; at the last stage also the same of the pooled ReLU(F)
    bridge B = 3x3 convolution (stride 2, or transposed 4x4, where the sizes differ twofold), BatchNorm, and LeakyReLU
        of 0.1 where the maps that it imitates have no negative values

A KL to the teacher is part of the recipe. CIFAR-100: T 4, weight 5 (resnet56 -> 20: 0.02; resnet32x4 -> shufflenetv2:
T 8; wrn_40_2 -> 16_2: path_weight 0.2). ImageNet: T 1, weight 0.02 (resnet34 -> 18), 5 (resnet50 -> mobilenetv1), a
warm-up of 5 of 100 epochs (`warmup_share` 0.05).

On a mixed path BatchNorm goes by the batch and leaves its running statistics alone. The official code keeps other
ones for each path ("ghost"), but nothing reads them: mixed paths are never evaluated.

Deviations:
- The warm-up of 20 of 240 epochs is kept as a share.
- Maps are those that the networks here give, of the last stage what the head pools, after its ReLU; the official code
  has them before it for some networks (VGG, MobileNetV2, Wide ResNets' last).
- The official code's teacher runs in train mode throughout; here only on mixed paths.
- Where the numbers of stages differ, the deepest ones are matched.
- As in the official code, maps whose sizes differ by another factor are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench import Batch, Dataset, KDBenchError, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import evaluating, global_pool, norm, stages_to_pool
from kdbench.losses import kl, wide

SLOPE = 0.1


@contextmanager
def by_the_batch(module: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch and neither reads nor changes its running statistics."""
    before = [(m, m.training, m.track_running_stats) for m in module.modules() if isinstance(m, _BatchNorm)]
    for layer, _, _ in before:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, training, tracks in before:
            layer.training, layer.track_running_stats = training, tracks


class Bridge(nn.Module):
    """From one network's map `[B, C, H, W]` to the other's at the same stage.

    Attributes:
        slope: of the leaky ReLU; `prepare` sets it where the other network's map has no negative values.
    """

    slope: Tensor

    def __init__(self, source: Sequence[int], target: Sequence[int]) -> None:
        super().__init__()
        (c_in, *ours), (c_out, *theirs) = source, target
        if ours == theirs:
            self.conv: nn.Module = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        elif ours == [2 * side for side in theirs]:
            self.conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        else:
            self.conv = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1)
        if isinstance(self.conv, nn.Conv2d):
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = norm(c_out, 2)
        self.register_buffer("slope", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return torch.maximum(x, x * self.slope.to(x.dtype))


@register(
    "fcfd",
    family="features",
    paper=Paper(
        title="Function-Consistent Feature Distillation",
        authors="Liu et al.",
        year=2023,
        venue="ICLR",
        arxiv="2304.11832",
        code="LiuDongyang6/FCFD",
    ),
    fidelity="official-code",
)
class FCFD(Method):
    needs = frozenset({"maps", "unpooled"})

    def __init__(
        self,
        weight: float = 5.0,
        path_weight: float = 1.0,
        temperature: float = 4.0,
        paths: int = 2,
        warmup_share: float = 20 / 240,
    ) -> None:
        super().__init__()
        if paths < 0:
            raise KDBenchError(f"fcfd's paths is {paths}: give how many mixed paths a batch takes, 0 for none")
        self.weight, self.path_weight, self.temperature = weight, path_weight, temperature
        self.paths, self.warmup_share = paths, warmup_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = stages_to_pool(student.shapes), stages_to_pool(teacher.shapes)
        self.stages = min(len(ours), len(theirs))
        pairs = list(zip(ours[-self.stages :], theirs[-self.stages :], strict=True))
        for s, t in pairs:
            if not any(s[1:] == tuple(side * k // 2 for side in t[1:]) for k in (1, 2, 4)):
                raise NotApplicable(
                    f"fcfd needs maps that are equal or differ twofold, but {student.name!r} has {s[1:]} where "
                    f"{teacher.name!r} has {t[1:]}"
                )
        self.to_teacher = nn.ModuleList(Bridge(s, t) for s, t in pairs)
        self.to_student = nn.ModuleList(Bridge(t, s) for s, t in pairs[:-1])
        switches = range(1, self.stages)
        # copied in one go, so that layers which several tails share stay shared
        tails = nn.ModuleList(teacher.tail(len(theirs) - self.stages + k) for k in switches)
        self.teacher_tails = copy.deepcopy(tails).requires_grad_(False)
        # in a tuple, so that they are no modules of this one: the layers are the student's own
        self._student = (student, *(student.tail(len(ours) - self.stages + k) for k in switches))

    def reads(self, stages: int) -> range:
        return range(1, stages)

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        inputs = next(iter(data.batches())).inputs
        student = self._student[0]
        with evaluating(student):
            outputs = student(inputs), teachers[0](inputs)
        for bridges, output in zip((self.to_student, self.to_teacher), outputs, strict=True):
            for bridge, feature in zip(bridges, stages_to_pool(output)[-self.stages :], strict=False):
                assert isinstance(bridge, Bridge)
                bridge.slope.fill_(SLOPE if feature.min() >= 0 else 1.0)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours, theirs = (stages_to_pool(output)[-self.stages :] for output in (student, teacher))
        bridged = [bridge(feature) for bridge, feature in zip(self.to_teacher, ours, strict=True)]
        imitations = [[feature] for feature in bridged]  # of the teacher's map at each stage
        logits = []
        for choice in torch.randperm(2 * (self.stages - 1))[: self.paths].tolist():
            k, to_student = choice // 2, choice % 2 == 1  # the path changes sides after stage k + 1
            if to_student:
                output = self._run(self._student[k + 1], self.to_student[k](theirs[k]))
            else:
                output = self._run(self.teacher_tails[k], bridged[k])
                for stage, feature in enumerate(stages_to_pool(output), start=k + 1):
                    imitations[stage].append(feature)
            logits.append(output.logits)
        costs = [self._appearance(stage, theirs[stage], imitations[stage]) for stage in range(self.stages)]
        paths = [kl(z, teacher.logits, self.temperature) for z in logits]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": kl(student.logits, teacher.logits, self.temperature),
            "paths": self.path_weight * (torch.stack(paths).sum() if paths else student.logits.new_zeros(())),
            "appearance": self.warmup(self.warmup_share) * self.weight * torch.stack(costs).sum(),
        }

    @staticmethod
    def _run(tail: nn.Module, feature: Tensor) -> Output:
        with by_the_batch(tail):
            return tail(feature)

    def _appearance(self, stage: int, target: Tensor, features: Sequence[Tensor]) -> Tensor:
        """sum of D over the features `[B, C, H, W]` that imitate the teacher's at this stage."""
        pairs = [(wide(feature), wide(target)) for feature in features]
        if stage == self.stages - 1:
            pairs += [(global_pool(torch.relu(a)), global_pool(torch.relu(b))) for a, b in pairs]
        return torch.stack([F.mse_loss(*pair) for pair in pairs]).sum()
