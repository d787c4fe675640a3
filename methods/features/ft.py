"""Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim, Park, Kwak, NeurIPS 2018).

An auto-encoder rewrites the teacher's last map as factors that a student can understand; the student's translator
learns the same factors.

    first 30 of 240 epochs: L = CE(z_s, y) + mean (decoder(encoder(F_t)) - F_t)^2
    then:                   L = CE(z_s, y) + weight mean |A(translator(F_s)) - A(encoder(F_t))|, paraphraser frozen
    A(x) = l2norm(flatten(x))                ("whole")
    A(x) = l2norm(flatten(mean_c x^2))       ("attention")

Both factors have `rate` times the teacher's channels; the larger is pooled to the smaller. "whole" is the form of the
paper and of its authors' code: weight 500. "attention" is RepDistiller's (fidelity field-code), with which CRD's and
later tables were made: weight 200, and BatchNorm in the translator. CIFAR-10 and CIFAR-100: rate 0.5. ImageNet: no
value known.

A pair whose factors are compared in a single number, which is of size 1 whatever the networks say, is refused:
"attention" on maps of one position.

Deviations:
- The paraphraser trains before the student does, for 30 epochs in RepDistiller (rate 0.01) and 6 in the authors' code
  (rate 0.1). Here its epochs are part of the training, as a share, at the recipe's rate, and the student, which stands
  still there, learns from labels.
- The authors' code compares the paraphraser's map by absolute differences, RepDistiller by squares, as here.
- The authors' code has no maps of unlike sizes; pooling the factors is RepDistiller's.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Choice, KDBenchError, Method, Network, NotApplicable, Output, Paper, Phase, Space, register
from kdbench.connectors import init_phases, pool_match
from kdbench.losses import attention_map, wide

FORMS = {"whole": 500.0, "attention": 200.0}  # and the weight of each


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
        code="Jangho-Kim/Factor-Transfer-pytorch",
    ),
    fidelity="official-code",
)
class FT(Method):
    needs = frozenset({"maps"})
    search_space = Space(weight=Choice(None, 50.0, 150.0, 1500.0, 5000.0), rate=Choice(0.25, 0.5, 0.75))

    def __init__(
        self, weight: float | None = None, factor: str = "whole", rate: float = 0.5, init_share: float = 30 / 240
    ) -> None:
        """`weight` None: 500 for the whole factor, 200 for its attention."""
        super().__init__()
        if factor not in FORMS:
            raise KDBenchError(f"ft's factor is {factor!r}: give one of {', '.join(FORMS)}")
        self.weight = FORMS[factor] if weight is None else weight
        self.factor, self.rate, self.init_share = factor, rate, init_share

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = (network.shapes.features[-1] for network in (student, teacher))
        factors = max(int(theirs[0] * self.rate), 1)
        positions = math.prod(theirs[1:] if ours[1] >= theirs[1] else ours[1:])  # after pooling
        if positions * (1 if self.factor == "attention" else factors) == 1:
            raise NotApplicable(
                f"ft(factor={self.factor}) would compare single numbers, which are of size 1 once normalised: the last "
                f"maps of {student.name!r} and {teacher.name!r} meet at 1 position, with {factors} factor channels; "
                f"{'factor=whole compares the channels' if factors > 1 else 'give a larger rate'}"
            )
        self.encoder = convolutions(nn.Conv2d, (theirs[0], theirs[0], factors, factors))
        self.decoder = convolutions(nn.ConvTranspose2d, (factors, factors, theirs[0], theirs[0]))
        widths = (ours[0], ours[0], factors, factors)
        self.translator = convolutions(nn.Conv2d, widths, batch_norm=self.factor == "attention")

    def phases(self) -> tuple[Phase, ...]:
        init, train = init_phases(self.epochs, self.init_share)
        paraphraser = dataclasses.replace(init, modules=("encoder.", "decoder."))
        return paraphraser, dataclasses.replace(train, modules=("translator.",))

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages,)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {"ce": F.cross_entropy(student.logits, batch.targets)}
        theirs = self.encoder(teacher.features[-1])
        if self.phase == "init":
            return {**terms, "paraphrase": F.mse_loss(wide(self.decoder(theirs)), wide(teacher.features[-1]))}
        factors = pool_match(self.translator(student.features[-1]), theirs)
        ours, theirs = (self.normalised(factor) for factor in factors)
        return {**terms, "factor": self.weight * (ours - theirs).abs().mean()}

    def normalised(self, factor: Tensor) -> Tensor:
        """A factor `[B, C, H, W]` as what is compared, `[B, C H W]` or `[B, H W]`, of length 1."""
        return attention_map(factor) if self.factor == "attention" else F.normalize(wide(factor).flatten(1), dim=1)
