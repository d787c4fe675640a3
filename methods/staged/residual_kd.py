"""Residual Knowledge Distillation (Gao, Shen, Li, Loy, 2020).

A student that imitates the teacher's maps misses some of them; an assistant learns what is missing, and both are used
together. They are the given student made narrower, twice, so that together they cost no more than it.

    R_k = psi_k(F_A^k),   S_k = phi_k(F_S^k),   e_S = pool(S_K),   e = sg(e_S) + pool(R_K)
    L = CE(h(e_S), y) + weight sum_k mean((S_k - F_T^k)^2)
        + CE(h(e), y) + weight sum_k mean((R_k - sg(F_T^k - S_k))^2)

Deployed is h(e). Student 0.9 and assistant 0.25 times as wide, weight 100. phi, psi: 1x1 convolution and BN to the
teacher's channels; the larger map is pooled to the smaller one's size.

Deviations: only the abstract was at hand.
- Inferred are the equations, the adapters, one classifier h on the teacher's channels for both predictions, training
  both networks at once, the widths and the weight (FitNets').
- Stages are paired from the deepest on where their numbers differ.
- The squares of the widths add up to 0.87, not 1, because a stem's cost does not fall with the square of the width: so
  the tables' multiplications stay below the plain student's from CIFAR networks to ResNet-18 on ImageNet.
- At another width no network can start from the plain student's weights; the first starts from the same random numbers.
- The last stage's map is the one that the head pools.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, MutualMethod, Network, Output, Paper, register
from kdbench.connectors import Shape, global_pool, norm, pointwise, pool_match, pool_to, stages_to_pool
from kdbench.losses import wide


def adapters(network: Network, teacher: Sequence[Shape]) -> nn.ModuleList:
    """A 1x1 convolution with BatchNorm for each of the deepest stages, to the teacher's channels."""
    shapes = stages_to_pool(network.shapes)[-len(teacher) :]
    return nn.ModuleList(
        nn.Sequential(pointwise(s[0], t[0], len(s) - 1, bias=False), norm(t[0], len(s) - 1))
        for s, t in zip(shapes, teacher, strict=True)
    )


class Fused(nn.Module):
    """Student and assistant: inputs to logits `[B, K]`. Adapters act on pooled maps, which is the same but cheaper."""

    def __init__(self, networks: Sequence[Network], method: ResidualKD) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.adapters = nn.ModuleList([method.phi[-1], method.psi[-1]])
        self.head = method.head

    def forward(self, inputs: Tensor) -> Tensor:
        parts = []
        for network, adapter in zip(self.networks, self.adapters, strict=True):
            feature = network(inputs).unpooled
            parts.append(global_pool(adapter(pool_to(feature, (1,) * (feature.dim() - 2)))))
        return self.head(parts[0] + parts[1])


@register(
    "residual_kd",
    family="staged",
    paper=Paper(title="Residual Knowledge Distillation", authors="Gao et al.", year=2020, arxiv="2002.09168"),
    fidelity="reconstructed",
)
class ResidualKD(MutualMethod):
    needs = frozenset({"features", "unpooled"})
    uses_teacher = True

    def __init__(self, weight: float = 100.0, student_width: float = 0.9, assistant_width: float = 0.25) -> None:
        super().__init__()
        widths = (student_width, assistant_width)
        if min(widths) <= 0 or student_width**2 + assistant_width**2 > 1:
            raise KDBenchError(
                f"residual_kd's widths are {student_width:g} and {assistant_width:g}: give positive ones whose squares "
                "add up to less than 1, or both together cost more than the student"
            )
        self.weight, self.widths = weight, widths

    def members(self) -> tuple[str, ...]:
        return tuple(f"student*{width:g}" for width in self.widths)

    def build(self, student: Sequence[Network], teacher: Network) -> None:  # type: ignore[override]
        stages = min(len(student[0].shapes.features), len(teacher.shapes.features))
        shapes = stages_to_pool(teacher.shapes)[-stages:]
        self.phi, self.psi = (adapters(network, shapes) for network in student)
        self.head = nn.Linear(shapes[-1][0], teacher.shapes.num_classes)

    def reads(self, stages: int) -> range:
        return range(1, stages)

    def loss(self, batch: Batch, student: Sequence[Output], teacher: Output) -> dict[str, Tensor]:
        feature, residual = [], []
        stages = len(self.phi)
        maps = (stages_to_pool(output)[-stages:] for output in (*student, teacher))
        for phi, psi, ours, assistants, theirs in zip(self.phi, self.psi, *maps, strict=True):
            imitation, rest = phi(ours), psi(assistants)
            near, far = pool_match(imitation, theirs)
            feature.append(F.mse_loss(near, far))
            missing = wide(far) - wide(near.detach())
            residual.append(F.mse_loss(pool_to(rest, missing.shape[2:]), missing))
        alone, extra = global_pool(imitation), global_pool(rest)  # of the last stage
        return {
            "ce": F.cross_entropy(wide(self.head(alone)), batch.targets),
            "feature": self.weight * torch.stack(feature).sum(),
            "fused": F.cross_entropy(wide(self.head(alone.detach() + extra)), batch.targets),
            "residual": self.weight * torch.stack(residual).sum(),
        }

    def deploy(self, student: Sequence[Network]) -> nn.Module:
        return Fused(student, self)
