"""Knowledge Distillation by On-the-Fly Native Ensemble (Lan, Zhu, Gong, NeurIPS 2018).

The student's last stage grows branches of the same kind on the shared lower stages. A gate mixes their logits into an
ensemble, a teacher made on the fly, from which each branch learns. No pretrained teacher.

    L = sum_i CE(z_i, y) + CE(z, y) + ramp sum_i KL_T(sg z || z_i),   z = sum_i g_i(F) z_i,
    g = softmax(ReLU(BN(W pool(F)))), F what enters the last stage,   ramp = exp(-5 (1 - min(t / t_0, 1))^2), t from 0

CIFAR: three branches, T 3, t_0 80 of 300 epochs. The authors' code has no ImageNet.

Deviations: none from the official code but that t_0 is a share of the training.
- As there, 1e-7 is added to the ensemble's softened probabilities without making them sum to 1 again.
- The first branch is the student itself and is deployed, since it costs what the other methods' student costs;
  `deployment="ensemble"` deploys the gated ensemble (the paper's ONE-E).
- The other branches start from the first one's initial values in a random order, which is another draw from the same
  initialisation, but throws pretrained weights away.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Choice, KDBenchError, Method, Network, NotApplicable, Output, Paper, Space, register
from kdbench.connectors import global_pool, norm
from kdbench.losses import log_kl, wide


def shuffled(module: nn.Module) -> nn.Module:
    """A deep copy, each of whose parameters has its values in another order."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel()).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return twin


def ensemble_kl(branch: Tensor, ensemble: Tensor, temperature: float, floor: float = 1e-7) -> Tensor:
    """T² · KL of a branch from the ensemble, whose probabilities are raised by `floor`."""
    target = (F.softmax(ensemble / temperature, dim=1) + floor).log()
    return log_kl(F.log_softmax(branch / temperature, dim=1), target).mean() * temperature**2


class Branches(nn.Module):
    """The student's own logits, those of the other branches, and the gated ensemble's."""

    def __init__(self, student: Network, number: int) -> None:
        super().__init__()
        tail = student.tail(len(student.shapes.features) - 1)
        self.others = nn.ModuleList(shuffled(tail) for _ in range(number - 1))
        channels = student.shapes.features[-2][0]
        self.gate = nn.Sequential(nn.Linear(channels, number), norm(number, 0), nn.ReLU())

    def forward(self, student: Output) -> tuple[list[Tensor], Tensor]:
        entering = student.features[-2]
        logits = [student.logits, *(branch(entering).logits for branch in self.others)]
        gate = wide(self.gate(global_pool(entering))).softmax(1)  # [B, N]
        return logits, torch.einsum("bn,nbk->bk", gate, torch.stack(logits))


class Gated(nn.Module):
    """Student and branches deployed together: inputs to the ensemble's logits `[B, K]`."""

    def __init__(self, student: Network, branches: Branches) -> None:
        super().__init__()
        self.student, self.branches = student, branches

    def forward(self, inputs: Tensor) -> Tensor:
        return self.branches(self.student(inputs))[1]


@register(
    "one",
    family="multi_head",
    paper=Paper(
        title="Knowledge Distillation by On-the-Fly Native Ensemble",
        authors="Lan et al.",
        year=2018,
        venue="NeurIPS",
        arxiv="1806.04606",
        code="Lan1991Xu/ONE_NeurIPS2018",
    ),
    fidelity="official-code",
)
class ONE(Method):
    needs = frozenset({"features"})
    uses_teacher = False
    search_space = Space(temperature=Choice(1.0, 2.0, 3.0, 4.0, 6.0))

    def __init__(
        self,
        n_branches: int = 3,
        temperature: float = 3.0,
        ramp_share: float = 80 / 300,
        deployment: str = "student",
    ) -> None:
        super().__init__()
        if n_branches < 2 or deployment not in ("student", "ensemble"):
            raise KDBenchError(
                f"one needs n_branches >= 2 and deployment 'student' or 'ensemble', not {n_branches}, {deployment!r}"
            )
        self.n_branches, self.temperature, self.ramp_share = n_branches, temperature, ramp_share
        self.deployment = deployment

    def build(self, student: Network, teacher: None) -> None:
        if len(student.shapes.features) < 2:
            raise NotApplicable(f"one branches before the last of several stages, but {student.name!r} has one")
        self.branches = Branches(student, self.n_branches)

    def ramp(self) -> float:
        length = self.ramp_share * self.epochs
        left = 1 - min((self.epoch - 1) / length, 1.0) if length else 0.0
        return math.exp(-5 * left**2)

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        logits, ensemble = self.branches(student)
        ce = torch.stack([F.cross_entropy(each, batch.targets) for each in logits])
        kd = torch.stack([ensemble_kl(each, ensemble.detach(), self.temperature) for each in logits])
        return {
            "ce": ce.sum(),
            "ensemble": F.cross_entropy(ensemble, batch.targets),
            "kd": self.ramp() * kd.sum(),
        }

    def deploy(self, student: Network) -> nn.Module:
        return student if self.deployment == "student" else Gated(student, self.branches)
