"""Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space (Du et al., NeurIPS 2020).

Teachers pull the student in different directions. Their weights are those of the smallest mixed gradient, a direction
in which no teacher's loss rises, and no teacher's weight exceeds a tolerance.

    g_k = mean over the batch of d KL_T(z_tk || z_s) / d z_s
    a = argmin |sum_k a_k g_k|^2  with sum_k a_k = 1, 0 <= a_k <= C
    L = ce_weight CE(z_s, y) + kd_weight sum_k a_k KL_T(z_tk || z_s)        (a is a constant)
    on="features": + weight sum_k b_k mean((ReLU(BN(conv_k(F_s))) - F_tk)^2) from the second epoch on, with b solved
    from the gradients in F_s, the second stage's map

C 0.6 (C = 1 / K is `aver_mkd`, C >= 1 is MGDA), T 4, ce_weight 1, kd_weight 1 and weight 100 as in the code of Zhang
et al. (CA-MKD), which has it with three teachers.

Deviations:
- The authors' own code takes kd_weight 0.9; 1 compares with the other methods of several teachers.
- The problem is solved exactly, over all sets of weights at a bound; the official code solves it as a one-class SVM, to
  about 3e-4.
- As coded, gradients are taken at their length for `on="logits"` and normalised for "features" (`normalize` sets both).
- The official code skips the last partial batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, MultiTeacherMethod, Network, NotApplicable, Output, Paper, register
from kdbench.losses import kl, wide
from kdbench.methods.multi_teacher.fitnet_mkd import fitted, hint_losses

MOST_TEACHERS = 7  # 3^7 sets of bounds are solved at once
TINY = torch.finfo(torch.float64).tiny


@torch.no_grad()
def smallest_mix(gradients: Tensor, tolerance: float, normalize: bool = False) -> Tensor:
    """Weights `[K]` of the shortest mixture of K vectors `[K, D]`, none above `tolerance`, summing to 1.

    The optimum meets the first-order conditions of the weights strictly between their bounds, given the others at 0 or
    at `tolerance`: every such choice is one linear system, and the best admissible solution wins. A ridge far below
    the other entries splits evenly between equal vectors.

    Args:
        normalize: mix directions; the weights are divided by the lengths afterwards, as the official code does.
    """
    count, vectors = len(gradients), gradients.double()
    tolerance = min(max(tolerance, 1 / count), 1.0)
    identity = torch.eye(count).to(vectors)
    lengths = vectors.norm(dim=1)
    lengths = lengths.clamp(min=1e-12 * lengths.max() + TINY)
    if normalize:
        vectors = vectors / lengths[:, None]
    gram = vectors @ vectors.T
    gram = gram / (gram.trace() + TINY) + 1e-10 * identity

    states = torch.cartesian_prod(*[torch.arange(3, device=gradients.device)] * count)  # at 0, at the tolerance, free
    states = states[(states == 2).any(1)]  # [S, K]
    free = (states == 2)[:, :, None]
    equations = vectors.new_zeros(len(states), count + 1, count + 1)
    equations[:, :count, :count] = torch.where(free, gram, identity)
    equations[:, :count, count:] = -free.double()  # the multiplier of the sum
    equations[:, count, :count] = 1.0
    values = vectors.new_zeros(len(states), count + 1, 1)
    values[:, :count, 0] = tolerance * (states == 1).double()
    values[:, count] = 1.0
    weights = torch.linalg.solve_ex(equations, values).result[:, :count, 0]  # [S, K]
    admissible = ((weights >= -1e-9) & (weights <= tolerance + 1e-9)).all(1)
    lengths_of_mixtures = ((weights @ gram) * weights).sum(1).masked_fill(~admissible, torch.inf)
    best = weights[lengths_of_mixtures.argmin()].clamp(0, tolerance)
    if normalize:
        best = best / lengths
    return (best / best.sum()).to(gradients.dtype)


@register(
    "aekd",
    family="multi_teacher",
    paper=Paper(
        title="Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space",
        authors="Du et al.",
        year=2020,
        venue="NeurIPS",
        code="AnTuo1998/AE-KD",
    ),
    fidelity="official-code",
)
class AEKD(MultiTeacherMethod):
    def __init__(
        self,
        tolerance: float = 0.6,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
        on: str = "logits",
        weight: float = 100.0,
        stage: int = 2,
        normalize: bool | None = None,
    ) -> None:
        super().__init__()
        if on not in ("logits", "features"):
            raise KDBenchError(f"aekd's on is {on!r}: give 'logits' or 'features'")
        self.tolerance, self.temperature, self.kd_weight, self.ce_weight = tolerance, temperature, kd_weight, ce_weight
        self.on, self.weight, self.stage, self.normalize = on, weight, stage, normalize

    def build(self, student: Network, teacher: Sequence[Network]) -> None:
        if len(teacher) > MOST_TEACHERS:
            raise NotApplicable(
                f"aekd solves for at most {MOST_TEACHERS} teachers, but student {student.name!r} has {len(teacher)}"
            )
        if self.on == "features":
            self.hints = fitted(student, teacher, self.stage)

    def reads(self, stages: int) -> tuple[int, ...]:
        return (self.stage,)

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        divergences = torch.stack([kl(student.logits, output.logits, self.temperature) for output in teacher])  # [K]
        ours, *theirs = (F.softmax(output.logits / self.temperature, dim=1) for output in (student, *teacher))
        pulls = torch.stack([(ours - each).mean(0) for each in theirs])  # the gradients, up to one common factor
        terms = {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * (self.mixture(pulls, False) * divergences).sum(),
        }
        if self.on == "features" and self.epoch > 1:
            distances = hint_losses(self.hints, batch, student, teacher)  # [K]
            at = student.features[self.stage - 1]
            gradients = [torch.autograd.grad(distance, at, retain_graph=True)[0] for distance in distances]
            pulls = torch.stack([wide(gradient).mean(0).flatten() for gradient in gradients])
            terms["feature"] = self.weight * (self.mixture(pulls, True) * distances).sum()
        return terms

    def mixture(self, gradients: Tensor, official: bool) -> Tensor:
        """Weights `[K]` of losses with these gradients `[K, D]`; `official`: whether the code normalises them."""
        return smallest_mix(gradients, self.tolerance, official if self.normalize is None else self.normalize)
