"""Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim, Park, Kwak, NeurIPS 2018).

An auto-encoder rewrites the teacher's last map as factors that a student can understand; the student's translator
learns the same factors.

    first 30 of 240 epochs: L = CE(z_s, y) + mean (decoder(encoder(F_t)) - F_t)^2
    then:                   L = CE(z_s, y) + weight mean |A(translator(F_s)) - A(encoder(F_t))|, paraphraser frozen
    A(x) = l2norm(flatten(mean_c x^2)); both have `rate` times the teacher's channels

CIFAR-100: weight 200, rate 0.5. ImageNet: no value known.

Deviations:
- RepDistiller trains the paraphraser for 30 epochs before its 240, at a learning rate of 0.01; here they are part of
  the training, as a share, at the recipe's rate, and the student, which stands still there, learns from labels.
- The larger of the two last maps is pooled to the smaller.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, Paper, Phase, register
from kdbench.connectors import init_phases, pool_match
from kdbench.losses import attention_map, wide


def convolutions(layer: type[nn.Module], widths: tuple[int, ...], batch_norm: bool = False) -> nn.Sequential:
    """Three 3x3 (transposed) convolutions with LeakyReLU(0.1)."""
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(widths):
        between = nn.BatchNorm2d(c_out) if batch_norm else nn.Identity()
        layers += [layer(c_in, c_out, 3, padding=1), between, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


@register(
    "ft",
    family="features",
    paper=Paper(
        title="Paraphrasing Complex Network: Network Compression via Factor Transfer",
        authors="Kim et al.",
        year=2018,
        venue="NeurIPS",
        arxiv="1802.04977",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="official-code",
)
class FT(Method):
    needs = frozenset({"maps"})

    def __init__(self, weight: float = 200.0, rate: float = 0.5, init_share: float = 30 / 240) -> None:
        super().__init__()
        self.weight, self.rate, self.init_share = weight, rate, init_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features[-1][0], teacher.shapes.features[-1][0]
        factors = max(int(theirs * self.rate), 1)
        self.encoder = convolutions(nn.Conv2d, (theirs, theirs, factors, factors))
        self.decoder = convolutions(nn.ConvTranspose2d, (factors, factors, theirs, theirs))
        self.translator = convolutions(nn.Conv2d, (ours, ours, factors, factors), batch_norm=True)

    def phases(self) -> tuple[Phase, ...]:
        init, train = init_phases(self.epochs, self.init_share)
        paraphraser = dataclasses.replace(init, modules=("encoder.", "decoder."))
        return paraphraser, dataclasses.replace(train, modules=("translator.",))

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {"ce": F.cross_entropy(student.logits, batch.targets)}
        if self.phase == "init":
            theirs = teacher.features[-1]
            return {**terms, "paraphrase": F.mse_loss(wide(self.decoder(self.encoder(theirs))), wide(theirs))}
        ours, theirs = pool_match(student.features[-1], teacher.features[-1])
        difference = (attention_map(self.translator(ours)) - attention_map(self.encoder(theirs))).abs().mean()
        return {**terms, "factor": self.weight * difference}
