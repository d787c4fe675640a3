"""No distillation: the student alone, trained with cross-entropy. The baseline that every method is compared with.

    L = CE(z_s, y)

or the supervised loss of another task: a detector's losses, a regression's squared error.

Deviations: none.
"""

from __future__ import annotations

from torch import Tensor

from kdbench import Batch, Choice, Method, Output, Space, register


@register("student", family="baseline", fidelity="paper")
class Student(Method):
    uses_teacher = False
    reads_logits = False
    search_space = Space(label_smoothing=Choice(0.0, 0.05, 0.1, 0.2))

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def loss(self, batch: Batch, student: Output, teacher: None) -> dict[str, Tensor]:
        return student.supervised(batch, self.label_smoothing)
