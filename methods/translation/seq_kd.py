"""Sequence-Level Knowledge Distillation (Kim and Rush 2016).

The student is trained on the teacher's translations of the training sources in place of the references: the mode of the
teacher's distribution over sentences, as beam search finds it, is simpler than what people write.

    L = NLL(z_s, y'),   y' = argmax_y p_t(y | x) by beam search

Paper: beam 5; IWSLT, WMT.

Deviations:
- One vocabulary for teacher and student, trained on the references.
- Label smoothing 0.1 as for `mhd` and `word_kd`, where the paper has none.
"""

from __future__ import annotations

from torch import Tensor

from kdbench import Batch, Choice, Corpus, Integer, Method, Output, Paper, Space, register


@register(
    "seq_kd",
    family="translation",
    paper=Paper(title="Sequence-Level Knowledge Distillation", authors="Kim and Rush", year=2016, arxiv="1606.07947"),
    fidelity="paper",
)
class SeqKD(Method):
    needs = frozenset({"sequences"})
    uses_teacher = False
    reads_logits = False
    search_space = Space(beams=Integer(1, 10), label_smoothing=Choice(0.0, 0.05, 0.1, 0.2))

    def __init__(self, beams: int = 5, length_penalty: float = 1.0, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.beams, self.length_penalty, self.label_smoothing = beams, length_penalty, label_smoothing

    def corpus(self) -> Corpus:
        return Corpus("beam", self.beams, {"length_penalty": self.length_penalty})

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        return student.supervised(batch, self.label_smoothing)
