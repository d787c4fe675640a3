"""ALP-KD: Attention-Based Layer Projection for Knowledge Distillation (Passban, Wu, Rezagholizadeh, Liu, AAAI 2021).

No layer of the teacher is skipped: each student layer imitates a mixture of teacher layers, weighed by attention.

    a_ji = softmax over i in bucket(j) of phi(h_s^j) . h_t^i / scale,   C^j = sum_i a_ji h_t^i
    L = ce_weight CE(z_s, y) + kd_weight T^2 KL(z_t || z_s) + weight * mean_j mean((phi(h_s^j) - C^j)^2)

h is a layer's [CLS] vector, the embedding layer is none of them. The paper's weights are tuned for each task.

Deviations: the authors gave no code.
- The score is divided by sqrt(d), as in the one public reimplementation; `scale="none"` is the plain product, which on
  a fine-tuned MiniLM is nearly one-hot. Gradients go through the weights a, as there; `detach_weights=True` stops them.
- The distance is a mean over layers, samples and width, as there; the paper sums. `weight` is small (0.1), since the
  last layer would else be drawn away from its own task to a mixture of all layers.
- `tokens="all"` lets every real token attend over the teacher's layers by itself (an extension of the
  reimplementation's authors). `buckets="none"` is ALP-KD, all layers for each; `"disjoint"` is ALP-NO, consecutive
  groups.
- phi is the identity where the widths agree, else one linear layer for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kdbench import Around, Batch, Choice, KDBenchError, Method, NotApplicable, Paper, Space, register
from kdbench.connectors import fitted, require_same_tokens, width_of
from kdbench.losses import answer_kl, token_mean, wide


def projected(
    student: Tensor, teacher: Tensor, buckets: Sequence[Sequence[int]], scaled: bool = True, detach: bool = False
) -> tuple[Tensor, Tensor]:
    """What each student layer is to imitate, and the weights of the teacher's layers.

    Args:
        student: `[..., m, D]`, in the teacher's width.
        teacher: `[..., n, D]`.
        buckets: for each of the m layers the places of those it attends over.

    Returns:
        C `[..., m, D]` and a `[..., m, n]`, zero outside of the bucket.
    """
    student, teacher = wide(student), wide(teacher)
    with torch.autocast(student.device.type, enabled=False):
        scores = student @ teacher.transpose(-1, -2) / (teacher.shape[-1] ** 0.5 if scaled else 1.0)
        outside = torch.ones(len(buckets), teacher.shape[-2], dtype=torch.bool, device=scores.device)
        for place, bucket in enumerate(buckets):
            outside[place, list(bucket)] = False
        weights = scores.masked_fill(outside, -torch.inf).softmax(-1)
        weights = weights.detach() if detach else weights
        return weights @ teacher, weights


def disjoint(layers: int, teachers: int) -> list[list[int]]:
    """Consecutive groups of the teacher's layers, as equal as they can be: one for each student layer."""
    ends = [k * teachers // layers for k in range(layers + 1)]
    return [list(range(start, end)) for start, end in pairwise(ends)]


@register(
    "alp_kd",
    family="text",
    paper=Paper(
        title="ALP-KD: Attention-Based Layer Projection for Knowledge Distillation",
        authors="Passban et al.",
        year=2021,
        venue="AAAI",
        arxiv="2012.14022",
    ),
    fidelity="reconstructed",
)
class ALPKD(Method):
    needs = frozenset({"tokens"})
    reads_logits = False
    search_space = Space(weight=Around(), kd_weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 10.0, 20.0))

    def __init__(
        self,
        weight: float = 0.1,
        ce_weight: float = 0.5,
        kd_weight: float = 0.5,
        temperature: float = 4.0,
        scale: str = "sqrt_d",
        buckets: str = "none",
        tokens: str = "cls",
        detach_weights: bool = False,
    ) -> None:
        super().__init__()
        for key, value, known in (
            ("scale", scale, ("sqrt_d", "none")),
            ("buckets", buckets, ("none", "disjoint")),
            ("tokens", tokens, ("cls", "all")),
        ):
            if value not in known:
                raise KDBenchError(f"alp_kd's {key} is {value!r}: give {' or '.join(map(repr, known))}")
        self.weight, self.ce_weight, self.kd_weight, self.temperature = weight, ce_weight, kd_weight, temperature
        self.scale, self.buckets, self.tokens, self.detach_weights = scale, buckets, tokens, detach_weights

    def build(self, student: Any, teacher: Any) -> None:
        ours, theirs = (len(network.shapes.features) for network in (student, teacher))
        if self.tokens == "all":
            require_same_tokens("alp_kd(tokens=all)", student, teacher)
        if self.buckets == "disjoint" and ours > theirs:
            raise NotApplicable(
                f"alp_kd has {theirs} teacher layers for the {ours} of {student.name!r}, which leaves buckets empty"
            )
        self.groups = disjoint(ours, theirs) if self.buckets == "disjoint" else [list(range(theirs))] * ours
        self.phi = fitted(width_of(student), width_of(teacher))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        everywhere = self.tokens == "all"
        ours, theirs = (
            torch.stack([h if everywhere else h[:, 0] for h in side.hidden[1:]], -2) for side in (student, teacher)
        )
        ours = wide(self.phi(ours))
        target, _ = projected(ours, theirs, self.groups, self.scale == "sqrt_d", self.detach_weights)
        distance = (ours - target).square().mean((-1, -2))  # [B] or [B, L]
        imitation = answer_kl(student.logits, teacher.logits, self.temperature)
        return {
            **{name: self.ce_weight * term for name, term in student.supervised(batch).items()},
            "kd": self.kd_weight * imitation,
            "layers": self.weight * (token_mean(distance, student.mask) if everywhere else distance.mean()),
        }
