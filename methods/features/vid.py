"""Variational Information Distillation for Knowledge Transfer (Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019).

The mutual information of the two networks' maps is raised through a Gaussian whose mean is regressed from the student
and whose variance is learned for each channel.

    L = CE(z_s, y) + weight sum_stages mean 1/2 [(mu(F_s) - F_t)^2 / v_c + log v_c],  v = softplus(a) + 1e-5
    mu = three 1x1 convolutions without bias, ReLU between

CIFAR-100: weight 1, initial variance 5; the larger of two maps is pooled to the smaller. ImageNet: no value known.

Deviations: none from the author's code in RepDistiller, which trains the variances; another toolbox leaves them out of
the optimizer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Method, Network, Output, Paper, register
from kdbench.connectors import stage_pairs
from kdbench.losses import wide

EPS = 1e-5


class Gaussian(nn.Module):
    """Negative log-likelihood (without its constant) of a teacher's map given the student's."""

    def __init__(self, c_in: int, c_out: int, variance: float) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(c_in, c_out, 1, bias=False), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 1, bias=False), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 1, bias=False),
        )  # fmt: skip
        self.log_scale = nn.Parameter(torch.full((c_out,), variance - EPS).expm1().log())

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (F.softplus(self.log_scale) + EPS)[:, None, None]
        errors = (wide(self.regressor(student)) - wide(teacher)).pow(2)
        return 0.5 * (errors / variance + variance.log()).mean()


@register(
    "vid",
    family="features",
    paper=Paper(
        title="Variational Information Distillation for Knowledge Transfer",
        authors="Ahn et al.",
        year=2019,
        venue="CVPR",
        arxiv="1904.05835",
        code="ssahn0215/variational-information-distillation",
    ),
    fidelity="official-code",
)
class VID(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 1.0, initial_variance: float = 5.0) -> None:
        super().__init__()
        if initial_variance <= EPS:
            raise KDBenchError(f"vid's initial_variance is {initial_variance}: give a value above {EPS}")
        self.weight, self.initial_variance = weight, initial_variance

    def build(self, student: Network, teacher: Network) -> None:
        shapes = zip(student.shapes.features, teacher.shapes.features, strict=False)
        self.stages = nn.ModuleList(Gaussian(s[0], t[0], self.initial_variance) for s, t in shapes)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        pairs = stage_pairs(student.features, teacher.features)
        costs = [stage(*pair) for stage, pair in zip(self.stages, pairs, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "information": self.weight * torch.stack(costs).sum(),
        }
