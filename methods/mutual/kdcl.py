"""Online Knowledge Distillation via Collaborative Learning (Guo, Wang, Wu, Yu, Liang, Hu, Luo, CVPR 2020).

Networks that train together learn from one soft target, made of all their predictions so that it is better than each of
them. Every network sees its own distortion of the image, so that they agree on what does not depend on it.

    L = sum_i [ce_weight CE(z_i, y) + kd_weight KL_T(sg z || z_i)], with z, for each sample, one of
    naive      the z_i with the lowest cross-entropy
    linear     sum_i a_i z_i, a on the simplex and of the lowest cross-entropy
    minlogit   z_c = min_i (z_i,c - z_i,y)
    general    sum_i w_i z_i, w = C^-1 1 / (1' C^-1 1), C_ij = mean of (p_i - y)(p_j - y)

ce_weight 1, kd_weight 1, T 4, minlogit. The paper finds linear and minlogit best on ImageNet, general on CIFAR-100. It
trains networks of different capacity together, as `peer="teacher"` does with the pair's two architectures.

Deviations: the paper's text and code were not at hand.
- The four targets are as others describe them; T and the equal weights are those of a public reimplementation.
- Images are distorted anew for each network in the paper; here the first network sees the recipe's view and every
  second one a view with RandAugment on top (`views="same"`: all see the first).
- The paper measures C on held-out images after each epoch; here on the batches of the epoch before, as they came, and
  the first epoch takes the mean.
- `linear` is exact for two networks and a few steps of Frank and Wolfe for more.
- The first network is deployed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, KDBenchError, MutualMethod, Network, Output, Paper, Step, register
from kdbench.losses import kl

BISECTIONS = 24


def best(logits: Tensor, scores: Tensor) -> Tensor:
    """For each sample the network with the lowest score: `[N, B, K]` and `[N, B]` to `[B, K]`."""
    return logits[scores.argmin(0), torch.arange(logits.shape[1], device=logits.device)]


def naive(logits: Tensor, targets: Tensor) -> Tensor:
    return best(logits, torch.stack([F.cross_entropy(each, targets, reduction="none") for each in logits]))


def linear(logits: Tensor, targets: Tensor) -> Tensor:
    """The convex combination with the lowest cross-entropy, for each sample: towards one network at a time."""
    labels = F.one_hot(targets, logits.shape[2]).to(logits.dtype)
    z = naive(logits, targets)
    for _ in range(1 if len(logits) == 2 else 4 * len(logits)):
        way = best(logits, (logits * (z.softmax(1) - labels)).sum(2)) - z  # [B, K]
        low, high = z.new_zeros(len(z), 1), z.new_ones(len(z), 1)
        for _ in range(BISECTIONS):  # the cross-entropy is convex along the way
            middle = (low + high) / 2
            falls = (((z + middle * way).softmax(1) - labels) * way).sum(1, keepdim=True) < 0
            low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
        z = z + (low + high) / 2 * way
    return z


def minlogit(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - logits.gather(2, targets.expand(len(logits), -1)[..., None])).amin(0)


TARGETS = {"naive": naive, "linear": linear, "minlogit": minlogit}


@register(
    "kdcl",
    family="mutual",
    paper=Paper(
        title="Online Knowledge Distillation via Collaborative Learning", authors="Guo et al.", year=2020, venue="CVPR"
    ),
    fidelity="reconstructed",
)
class KDCL(MutualMethod):
    needs = frozenset({"strong_view"})
    errors: Tensor
    weights: Tensor

    def __init__(
        self,
        target: str = "minlogit",
        n_students: int = 2,
        peer: str = "student",
        views: str = "second",
        temperature: float = 4.0,
        ce_weight: float = 1.0,
        kd_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if target not in (*TARGETS, "general") or peer not in ("student", "teacher") or views not in ("second", "same"):
            raise KDBenchError(
                "kdcl needs target 'naive', 'linear', 'minlogit' or 'general', peer 'student' or 'teacher' and views "
                f"'second' or 'same', not {target!r}, {peer!r}, {views!r}"
            )
        if n_students < 2:
            raise KDBenchError(f"kdcl needs n_students >= 2, not {n_students}")
        self.target, self.n_students, self.peer, self.views = target, n_students, peer, views
        self.temperature, self.ce_weight, self.kd_weight = temperature, ce_weight, kd_weight
        if views == "same":
            self.needs = frozenset()  # type: ignore[misc]  # of this object

    def members(self) -> tuple[str, ...]:
        return ("student",) + (self.peer,) * (self.n_students - 1)

    def build(self, student: Sequence[Network], teacher: None) -> None:  # type: ignore[override]
        if self.target == "general":
            self.register_buffer("errors", torch.zeros(self.n_students, self.n_students))  # of the current epoch
            self.register_buffer("weights", torch.full((self.n_students,), 1 / self.n_students))
            self.counted = 0  # the epoch of `errors`, where this object counted it

    def step(self, step: Step) -> Mapping[str, Tensor]:
        views = [step.batch.inputs, step.batch.strong if self.views == "second" else step.batch.inputs]
        outputs = [step.forward(i, views[i % 2]) for i in range(self.n_students)]
        terms = self.loss(step.batch, outputs, None)
        step.update(terms)
        return terms

    def loss(self, batch: Batch, student: Sequence[Output], teacher: None) -> dict[str, Tensor]:
        logits = torch.stack([output.logits.detach() for output in student])  # [N, B, K]
        make = self._general if self.target == "general" else TARGETS[self.target]
        target, terms = make(logits, batch.targets), {}
        for i, output in enumerate(student):
            terms[f"ce_{i}"] = self.ce_weight * F.cross_entropy(output.logits, batch.targets)
            terms[f"kd_{i}"] = self.kd_weight * kl(output.logits, target, self.temperature)
        return terms

    def _general(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.epoch != self.counted:
            if self.epoch > 1:
                self.weights.copy_(self._best_weights())
            self.errors.zero_()
            self.counted = self.epoch
        wrong = (logits.softmax(2) - F.one_hot(targets, logits.shape[2])).flatten(1)  # [N, B K]
        self.errors += wrong @ wrong.T
        return torch.einsum("n,nbk->bk", self.weights, logits)

    def _best_weights(self) -> Tensor:
        """C^-1 1, summing to 1; networks that err alike would make C singular."""
        ridge = 1e-4 * self.errors.diagonal().mean() * torch.eye(self.n_students, device=self.errors.device)
        weights = torch.linalg.solve_ex(self.errors + ridge, torch.ones_like(self.weights)).result
        return weights / weights.sum()
