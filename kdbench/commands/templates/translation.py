"""Paper title (Authors, year). One or two lines: the idea.

    L = -log p_s(y' | x),   y' ~ p_t(y | x)

Weights: of the paper, for each data set.

Deviations: what you do otherwise, and what the paper does not say.
"""

from __future__ import annotations

from torch import Tensor

from kdbench import Batch, Choice, Corpus, Integer, Method, Output, Paper, Space, register


@register("my_method", family="translation", paper=Paper(title="Title", authors="Authors", year=2026))
class MyMethod(Method):
    needs = frozenset({"sequences"})
    uses_teacher = False  # beside writing the corpus; True: `loss` gets the teacher's output on the same tokens
    reads_logits = False  # the teacher's need not be of the student's vocabulary
    search_space = Space(hypotheses=Integer(1, 5), label_smoothing=Choice(0.0, 0.1, 0.2))

    def __init__(self, hypotheses: int = 2, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.hypotheses, self.label_smoothing = hypotheses, label_smoothing

    def corpus(self) -> Corpus:
        """What the teacher writes in place of the references: by which rule, how many, and how many are taken."""
        return Corpus("nucleus", drawn=self.hypotheses, options={"top_p": 0.7}, taken=self.hypotheses)

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        # student.logits are [N, V], a row for each of the batch's real target tokens, batch.targets [N]
        return student.supervised(batch, self.label_smoothing)
