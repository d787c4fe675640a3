"""UHKD: A Unified Framework for Heterogeneous Knowledge Distillation via Frequency-Domain Representations (Yu, Pan,
Zhang, Guan, Jiang, 2025).

Networks of different kinds are compared by what their maps hold in low frequencies: the teacher's compact spectrum
(Feature Transformation Module) against that of the student's projected map (Feature Alignment Module).

    FTM(F) = standardise(lowpass_k(rfft2(pool(F))));  FAM(F) = FTM(conv1x1(BN(dw3x3(GELU(BN(conv1x1(F)))))))
    L = CE(z_s, y) + kd_weight T^2 KL(z_t || z_s) + weight mean_stages |FAM(F_s) - FTM(F_t)|^2

The KL is part of the paper's recipe. All weights 1, T 1, k 7, maps pooled to the teacher's size, at most 14 x 14.

The squared modulus is averaged over all bins of the spectrum, the half that the transform of a real map leaves out
included. So with every frequency (k as large as the map) and without standardisation the term is, by Parseval,
the squared distance of the maps themselves: the method is what it discards. `domain="space"` is that distance with the
same projector, a FitNet to be shown beside it: `methods = ["uhkd", { name = "uhkd", domain = "space" }]`.

Deviations: the abstract is all that was at hand. It fixes the two modules, several levels, the squared distance
and the KL. Inferred are the block of k x (k // 2 + 1) bins, complex values rather than `representation="amplitude"`
(log(1 + |X|)), each sample's entries brought to mean 0 and mean square 1, the projector, the stages (all; matched
from the shallowest on where their numbers differ), and every weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Method, Network, NotApplicable, Output, Paper, register
from kdbench.connectors import norm, pool_to
from kdbench.losses import kl, wide

LARGEST = 14  # side of the maps that are transformed
EPS = 1e-6


def spectrum(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k x k lowest frequencies of real maps `[B, C, H, W]`, without the mirrored half: `[B, C, k, k // 2 + 1]`.

    The second result `[k // 2 + 1]` says for how many bins of the whole spectrum a column stands. Maps smaller than
    k keep all their frequencies.
    """
    height, width, half = *x.shape[2:], k // 2
    bins = torch.fft.rfft2(x, norm="ortho")  # rows hold frequencies 0 1 2 ... -2 -1
    if height > k:
        bins = torch.cat([bins[:, :, : half + 1], bins[:, :, height - half :]], 2)
    bins = bins[..., : half + 1]
    columns = torch.arange(bins.shape[3], device=x.device)
    own_mirror = (columns == 0) | (2 * columns == width)  # and so is the highest frequency of an even width
    return bins, (2 - own_mirror.to(x.dtype))


def square(x: Tensor) -> Tensor:
    """Squared modulus of real or complex numbers."""
    return (x * x.conj()).real


def standardise(x: Tensor, weights: Tensor) -> Tensor:
    """Each sample of `[B, C, H, W]`, real or complex, to mean 0 and mean square modulus 1."""

    def mean(values: Tensor) -> Tensor:
        return (values * weights).sum((2, 3), keepdim=True).mean(1, keepdim=True)

    x = x - mean(x.real)  # a spectrum's mean is real, since imaginary parts cancel against those of the mirrored half
    return x * (mean(square(x)) + EPS).rsqrt()


class Projector(nn.Sequential):
    """The learnable part of the alignment module: a student's map `[B, C_s, H, W]` to `[B, C_t, H, W]`."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 1, bias=False), norm(c_out, 2), nn.GELU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out, bias=False), norm(c_out, 2),
            nn.Conv2d(c_out, c_out, 1),
        )  # fmt: skip


@register(
    "uhkd",
    family="features",
    paper=Paper(
        title="UHKD: A Unified Framework for Heterogeneous Knowledge Distillation via Frequency-Domain Representations",
        authors="Yu et al.",
        year=2025,
        arxiv="2510.24116",
    ),
    fidelity="reconstructed",
)
class UHKD(Method):
    """`stages` count from 1; None takes all."""

    needs = frozenset({"maps"})

    def __init__(
        self,
        weight: float = 1.0,
        kd_weight: float = 1.0,
        temperature: float = 1.0,
        stages: Sequence[int] | None = None,
        k: int = 7,
        representation: str = "complex",
        standardise: bool = True,
        domain: str = "frequency",
    ) -> None:
        super().__init__()
        if representation not in ("complex", "amplitude") or domain not in ("frequency", "space"):
            raise KDBenchError(
                f"uhkd's representation is {representation!r} and its domain {domain!r}: give 'complex' or "
                "'amplitude', and 'frequency' or 'space'"
            )
        if k < 1 or k % 2 == 0:
            raise KDBenchError(f"uhkd's k is {k}, but a block around frequency 0 has an odd side: give 1, 3, 5 or 7")
        self.weight, self.kd_weight, self.temperature, self.stages = weight, kd_weight, temperature, stages
        self.k, self.representation, self.standardise, self.domain = k, representation, standardise, domain

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.features, teacher.shapes.features
        count = min(len(ours), len(theirs))
        chosen = range(1, count + 1) if self.stages is None else self.stages
        if not chosen or min(chosen) < 1 or max(chosen) > count:
            raise NotApplicable(
                f"uhkd's stages are {list(chosen)}, but {student.name!r} and {teacher.name!r} share {count} stages"
            )
        self.indices = [stage - 1 for stage in chosen]
        self.projectors = nn.ModuleList(Projector(ours[i][0], theirs[i][0]) for i in self.indices)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        costs = []
        for projector, i in zip(self.projectors, self.indices, strict=True):
            ours, theirs = projector(student.features[i]), teacher.features[i]
            grid = [min(side, LARGEST) for side in theirs.shape[2:]]
            costs.append(self.distance(pool_to(ours, grid), pool_to(theirs, grid)))
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
            "feature": self.weight * torch.stack(costs).mean(),
        }

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared modulus of the difference of what two maps `[B, C, H, W]` are turned into."""
        with torch.autocast(student.device.type, enabled=False):  # there is no transform in half precision
            (ours, weights), (theirs, _) = self.transform(student), self.transform(teacher)
            return (square(ours - theirs) * weights).sum((2, 3)).mean()

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map `[B, C, H, W]` as `[B, C, rows, columns]`, and the entries' weights, which sum to 1."""
        values = wide(x)
        weights = values.new_ones(values.shape[2:])
        if self.domain == "frequency":
            values, counts = spectrum(values, self.k)
            values = values if self.representation == "complex" else values.abs().log1p()
            weights = counts.expand(values.shape[2:])
        weights = weights / weights.sum()
        return (standardise(values, weights) if self.standardise else values), weights
