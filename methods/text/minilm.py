"""MiniLM: Deep Self-Attention Distillation (Wang et al., NeurIPS 2020), and MiniLMv2 (Findings of ACL 2021).

One layer's self-attention is imitated, whatever the widths are.

    version 1:  L = kl(softmax(Q K^T / sqrt(d))) + kl(softmax(V V^T / sqrt(d))), of each of the network's heads
    version 2:  L = mean of kl(softmax(X X^T / sqrt(d_r))) for X = Q, K, V, cut into `relation_heads` heads
    L_total = relation_weight * L + ce_weight CE(z_s, y)

kl: KL(teacher || student) of each row, mean over heads and over each sentence's real tokens. The student's last layer
meets the teacher's last one, as for base teachers in version 1 and 2 (`teacher_layer=21` of 24 for large ones).

Deviations:
- The papers distil before any task is known. Here the relations and the task's labels train together; `ce_weight=0` in
  a composition leaves the task to the other part.
- Version 2's 48 heads of base teachers are 12 here, that a width of 384 and of fewer divides into slices of the papers'
  size (32); the relations of a student of another width are of slices of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdbench import Around, Batch, KDBenchError, Method, NotApplicable, Paper, Space, register
from kdbench.connectors import require_same_heads, require_same_tokens, width_of
from kdbench.losses import attention_kl, relation_scores, sentence_mean


def relation_loss(student: Tensor, teacher: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """KL of the relations of two sets of states `[B, L, D]` (either D), cut into `heads`, over real tokens."""
    scores = (relation_scores(states, heads) for states in (student, teacher))
    return sentence_mean(attention_kl(*scores, mask), mask)


@register(
    "minilm",
    family="text",
    paper=Paper(
        title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
        authors="Wang et al.",
        year=2020,
        venue="NeurIPS",
        arxiv="2002.10957",
        code="microsoft/unilm",
    ),
    fidelity="paper",
)
class MiniLM(Method):
    """`teacher_layer` counts from 1; 0 is the last."""

    needs = frozenset({"tokens", "attentions"})
    reads_logits = False
    search_space = Space(relation_weight=Around())

    def __init__(
        self,
        version: int = 2,
        relation_weight: float = 1.0,
        ce_weight: float = 1.0,
        relation_heads: int = 12,
        teacher_layer: int = 0,
    ) -> None:
        super().__init__()
        if version not in (1, 2):
            raise KDBenchError(f"minilm's version is {version!r}: give 1 or 2")
        self.version, self.relation_weight, self.ce_weight = version, relation_weight, ce_weight
        self.relation_heads, self.teacher_layer = relation_heads, teacher_layer

    def build(self, student: Any, teacher: Any) -> None:
        require_same_tokens("minilm", student, teacher)
        if self.version == 1:
            require_same_heads("minilm(version=1)", student, teacher)
        for network in (student, teacher):
            width = width_of(network)
            if self.version == 2 and (self.relation_heads < 1 or width % self.relation_heads):
                raise NotApplicable(
                    f"minilm's relation_heads are {self.relation_heads}, which do not divide the width {width} of "
                    f"network {network.name!r}"
                )
        count = len(teacher.shapes.features)
        if not 0 <= self.teacher_layer <= count:
            raise NotApplicable(f"minilm's teacher_layer is {self.teacher_layer}, but {teacher.name!r} has {count}")
        self.met = self.teacher_layer or count

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        last, met, mask = len(student.hidden) - 1, self.met, student.mask
        if self.version == 1:
            scores = attention_kl(student.scores(last), teacher.scores(met), mask)
            values = (side.merged("values", layer) for side, layer in ((student, last), (teacher, met)))
            heads = student.values[last - 1].shape[1]
            relations = sentence_mean(scores, mask) + relation_loss(*values, heads, mask)
        else:
            relations = (
                sum(
                    relation_loss(student.merged(name, last), teacher.merged(name, met), self.relation_heads, mask)
                    for name in ("queries", "keys", "values")
                )
                / 3
            )
        return {
            **{name: self.ce_weight * term for name, term in student.supervised(batch).items()},
            "relations": self.relation_weight * relations,
        }
