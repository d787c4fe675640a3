"""Sequence-Level Knowledge Distillation (Kim and Rush 2016), its sequence-level interpolation.

Of the teacher's K best translations of a source the student is trained on the one that is most like the reference. It
begins as `seq_kd`, on the best translation, and is fine-tuned on these.

    L = NLL(z_s, y'),   y' = argmax_{y in K-best(x)} BLEU(y, reference), BLEU of a sentence, smoothed

Paper: K 35 (as it is cited; its text was not at hand), fine-tuned from a finished Seq-KD student at a smaller rate.

Deviations:
- Fine-tuning is the last part of the same training (`fine_tuning` of it), with the recipe's schedule begun anew: all
  methods of a suite train equally long.
- BLEU is smoothed by adding 1 to the counts of n-grams longer than a word (Lin and Och 2004), over the orders that a
  sentence has; equally good translations stay in the teacher's order. The paper names its smoothing no closer than by
  its source.
- One vocabulary for teacher and student, trained on the references; label smoothing 0.1 as for `seq_kd`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from kdbench import Batch, Choice, Corpus, KDBenchError, Method, Output, Paper, Phase, Space, register


@register(
    "seq_inter",
    family="translation",
    paper=Paper(title="Sequence-Level Knowledge Distillation", authors="Kim and Rush", year=2016, arxiv="1606.07947"),
    fidelity="paper",
)
class SeqInter(Method):
    needs = frozenset({"sequences"})
    uses_teacher = False
    reads_logits = False
    search_space = Space(fine_tuning=Choice(0.1, 0.25, 0.5, 0.75), label_smoothing=Choice(0.0, 0.05, 0.1, 0.2))

    def __init__(
        self,
        hypotheses: int = 35,
        fine_tuning: float = 0.25,
        length_penalty: float = 1.0,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 < fine_tuning <= 1:
            raise KDBenchError(
                f"seq_inter's fine_tuning is {fine_tuning}: give a share of the training above 0, up to 1"
            )
        self.hypotheses, self.fine_tuning = hypotheses, fine_tuning
        self.length_penalty, self.label_smoothing = length_penalty, label_smoothing

    def corpus(self) -> Corpus:
        return Corpus("beam", self.hypotheses, {"length_penalty": self.length_penalty}, choice="reference")

    def phases(self) -> tuple[Phase, ...]:
        tuning = Phase("interpolation", self.fine_tuning)
        return (tuning,) if self.fine_tuning == 1 else (Phase("sequences", 1 - self.fine_tuning), tuning)

    def step(self, step: Any) -> Mapping[str, Tensor]:
        batch = step.batch
        if self.phase == "sequences":
            inputs, targets = batch.first
            batch = replace(batch, inputs=inputs, targets=targets)
        terms = self.loss(batch, step.forward(inputs=batch.inputs), None)
        step.update(terms)
        return terms

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        return student.supervised(batch, self.label_smoothing)
