"""Prediction mimicking: the student's own predictions imitate the teacher's, beside the labels.

The control of CrossKD (Wang et al., CVPR 2024): its two losses on p_s in place of p^, so that labels and teacher pull
at the same predictions.

    L = L_det(p_s, y) + cls_weight L_cls(p_s, p_t) + box_weight L_box(p_s, p_t), both as in cross_kd

Weights (cls, box), CrossKD's: GFL 1, 4; RetinaNet 1, 1; FCOS 0.4, 0.75.

Deviations: as in cross_kd; the paper's comparison gives no weights of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdbench import Batch, Method, Network, NotApplicable, Output, Paper, register
from kdbench.methods.detection.cross_kd import imitation, require_levels


@register(
    "pred_mimic",
    family="detection",
    paper=Paper(
        title="CrossKD: Cross-Head Knowledge Distillation for Object Detection",
        authors="Wang et al.",
        year=2024,
        venue="CVPR",
        arxiv="2306.11369",
        code="jbwang1997/CrossKD",
    ),
    fidelity="paper",
)
class PredictionMimicking(Method):
    needs = frozenset({"detector"})
    reads_logits = False

    def __init__(self, cls_weight: float = 1.0, box_weight: float = 4.0, beta: float = 1.0) -> None:
        super().__init__()
        self.cls_weight, self.box_weight, self.beta = cls_weight, box_weight, beta

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("pred_mimic", student, teacher)
        require_one_code("pred_mimic", student, teacher)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours: Any = student
        cls, box = imitation(ours.head, batch, list(ours.classes), list(ours.boxes), teacher, self.beta)
        return {
            **student.supervised(batch),
            "mimic_cls": self.cls_weight * cls,
            "mimic_box": self.box_weight * box,
        }


def require_one_code(method: str, student: Any, teacher: Any) -> None:
    """Refuse a pair whose predictions mean different things.

    Raises:
        NotApplicable: naming both.
    """
    ours, theirs = ((network.head.form, network.head.code) for network in (student, teacher))
    if ours != theirs:
        raise NotApplicable(
            f"{method} compares boxes number by number, but {student.name!r} codes them as {ours[0]} with {ours[1]} "
            f"numbers and {teacher.name!r} as {theirs[0]} with {theirs[1]}: take heads of one form"
        )
