"""Multi-Hypothesis Distillation of Multilingual Neural Translation Models for Low-Resource Languages (Galiano-Jimenez,
Perez-Ortiz, Sanchez-Martinez, Sanchez-Cartagena 2025).

One translation shows little of what the teacher knows. The student is trained on M of its translations of each source,
which a decoding rule gives: the n best of a beam search, diverse beams, or samples.

    L = - sum_i sum_{m <= M} log p_s(y_i^(m) | x_i)

per token, label-smoothed; every hypothesis weighs 1, copies stay as often as they are drawn. M = 1 by beam search is
`seq_kd`. The first M of `drawn` hypotheses are taken, so that several M share one corpus.

Paper: n 10; M 1, 3, 5, 10; beam search with 10 beams, diverse beam search with 10 groups of a beam and penalty 0.5,
top-k with k 10, nucleus with p 0.7; label smoothing 0.1.

Deviations:
- Sampling from a nucleus draws from all tokens; the authors' code leaves transformers' default `top_k=50` on beside it.
- One vocabulary for teacher and students, trained on the references; the paper trains one on each distilled corpus.
- All corpora train for equally many updates, and the last is ranked; the paper stops early, by patience that grows with
  M.
- Of the hypotheses of diverse beams, which are taken in the order of their scores, a score is the model's own, without
  the penalty by which the groups differ.
- `ancestral` and `mbr` (the samples of a pool that agree most with it, by chrF) are named with the paper, its code has
  neither; the pool of 30 is ours.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdbench import Batch, Choice, Corpus, Integer, Method, Output, Paper, Space, register


@register(
    "mhd",
    family="translation",
    paper=Paper(
        title="Multi-Hypothesis Distillation of Multilingual Neural Translation Models for Low-Resource Languages",
        authors="Galiano-Jimenez et al.",
        year=2025,
        arxiv="2507.21568",
    ),
    fidelity="official-code",
)
class MHD(Method):
    needs = frozenset({"sequences"})
    uses_teacher = False
    reads_logits = False
    search_space = Space(hypotheses=Integer(1, 10), label_smoothing=Choice(0.0, 0.05, 0.1, 0.2))

    def __init__(
        self,
        hypotheses: int = 5,
        drawn: int = 10,
        rule: str = "beam",
        top_k: int = 10,
        top_p: float = 0.7,
        diversity: float = 0.5,
        pool: int = 30,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self.hypotheses, self.drawn, self.rule, self.label_smoothing = hypotheses, drawn, rule, label_smoothing
        self.options: dict[str, dict[str, Any]] = {
            "top_k": {"top_k": top_k},
            "nucleus": {"top_p": top_p},
            "diverse": {"diversity": diversity},
            "mbr": {"pool": pool},
        }

    def corpus(self) -> Corpus:
        return Corpus(self.rule, self.drawn, self.options.get(self.rule, {}), taken=self.hypotheses)

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        return student.supervised(batch, self.label_smoothing)
