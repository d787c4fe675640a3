"""Multi-Aspect Knowledge Distillation for Language Model with Low-rank Factorization (Liu et al. 2026).

The student is the teacher itself with every weight matrix of its layers cut to rank r; it has all the teacher's layers,
heads and widths, so that each of its parts imitates the same part of the teacher without any projection.

    student:  W ~ U V, U = U_r S_r^(1/2), V = S_r^(1/2) V_r^T of the teacher's singular value decomposition
    phase match:  L = attention_weight * mean_l KL(A_t || A_s) + hidden_weight * mean_l MSE(h_s, h_t)
                      + matrix_weight * mean_l mean_m MSE(y_s^m, y_t^m) / var(y_t^m),  m of Q, K, V, O, FFN1, FFN2
    phase task:   L = CE(z_s, y) + kd_weight T^2 KL(z_t || z_s)

A: attention probabilities; h: a layer's output; y^m: the output of one linear layer (FFN1 before its activation). All
means are over real tokens.

Deviations: neither the paper's body nor code was at hand, only what two summaries say: factorisation, KL of attention
and MSE of hidden states layer by layer, matching of matrices' outputs in attention and feed-forward parts, a
hierarchical objective.
- Inferred are the six matrices, weights of 1, matching before the task in equal shares, and T.
- Matrices' distances are divided by the variance of the teacher's output over real tokens, without which a few outlier
  channels of FFN1 decide; `normalise=False` leaves that out.
- The network is the task's: a pair names `minilm_l6(rank=64)`, so that its rank and size are in every record.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdbench import Around, Batch, Choice, KDBenchError, Method, NotApplicable, Paper, Phase, Space, Uniform, register
from kdbench.connectors import require_same_heads, require_same_tokens
from kdbench.losses import answer_kl, attention_kl, token_mean, token_mse, wide


def matrix_mse(student: Tensor, teacher: Tensor, mask: Tensor, normalise: bool = True) -> Tensor:
    """Mean squared difference of a linear layer's outputs `[B, L, D]` over real tokens; `normalise` divides it by the
    variance of the teacher's over real tokens and D.
    """
    distance = token_mse(student, teacher, mask)
    if not normalise:
        return distance
    theirs = wide(teacher)
    mean = token_mean(theirs.mean(2), mask)
    return distance / token_mean((theirs - mean).square().mean(2), mask).clamp(min=torch.finfo(theirs.dtype).eps)


@register(
    "makd",
    family="text",
    paper=Paper(
        title="Multi-Aspect Knowledge Distillation for Language Model with Low-rank Factorization",
        authors="Liu et al.",
        year=2026,
        arxiv="2604.03110",
    ),
    fidelity="reconstructed",
)
class MaKD(Method):
    needs = frozenset({"tokens", "attentions"})
    reads_logits = False
    search_space = Space(
        attention_weight=Around(),
        hidden_weight=Around(),
        matrix_weight=Around(),
        match_share=Uniform(0.2, 0.8),
        temperature=Choice(1.0, 2.0, 4.0, 8.0),
    )

    def __init__(
        self,
        attention_weight: float = 1.0,
        hidden_weight: float = 1.0,
        matrix_weight: float = 1.0,
        kd_weight: float = 1.0,
        temperature: float = 2.0,
        match_share: float = 0.5,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < match_share < 1:
            raise KDBenchError(f"makd's match_share is {match_share}: give a share of the training between 0 and 1")
        self.attention_weight, self.hidden_weight, self.matrix_weight = attention_weight, hidden_weight, matrix_weight
        self.kd_weight, self.temperature = kd_weight, temperature
        self.match_share, self.normalise = match_share, normalise

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("makd", student, teacher)
        require_same_heads("makd", student, teacher)
        if student.shapes.features != teacher.shapes.features or student.inner != teacher.inner:
            raise NotApplicable(
                f"makd's student has its teacher's layers and widths, but {student.name!r} has others than "
                f"{teacher.name!r}: give the pair the teacher's own network with the option `rank=64`"
            )
        if not (student.rank and student.start == "teacher"):
            raise NotApplicable(
                f"makd's student is its teacher's factorisation, but {student.name!r} is none: give the pair the "
                "teacher's own network with the option `rank=64`"
            )

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("match", self.match_share), Phase("task", 1 - self.match_share))

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        if self.phase == "task":
            imitation = answer_kl(student.logits, teacher.logits, self.temperature)
            return {**student.supervised(batch), "kd": self.kd_weight * imitation}
        layers, mask = range(1, len(student.hidden)), student.mask
        attention, hidden, matrices = [], [], []
        for layer in layers:
            divergence = attention_kl(student.scores(layer), teacher.scores(layer), mask)
            attention.append(token_mean(divergence, mask))
            hidden.append(token_mse(student.hidden[layer], teacher.hidden[layer], mask))
            pairs = zip(student.matrices(layer), teacher.matrices(layer), strict=True)
            matrices += [matrix_mse(ours, theirs, mask, self.normalise) for ours, theirs in pairs]
        return {
            "attention": self.attention_weight * torch.stack(attention).mean(),
            "hidden": self.hidden_weight * torch.stack(hidden).mean(),
            "matrices": self.matrix_weight * torch.stack(matrices).mean(),
        }
