"""CrossKD: Cross-Head Knowledge Distillation for Object Detection (Wang, Chen, Zheng, Li, Cheng, Hou, CVPR 2024).

Labels and teacher contradict each other where both pull at the same prediction. Here the student's map in the middle of
its head goes through the rest of the teacher's frozen head, and what comes out, p^, imitates the teacher.

    L = L_det(p_s, y) + box_weight L_box(p^, p_t)
        + cls_weight sum_r w_r BCE(z^_r, s(z_t,r)) |s(z^_r) - s(z_t,r)|^beta / n
    L_box:  GFL        sum_r m_r sum_edges KL(q_t || q^) / 4 / sum_r m_r
            RetinaNet  sum_r m_r (1 - GIoU(b^, b_t)) / n
            FCOS       sum_r m_r (-log IoU(b^, b_t)) / n

s is the sigmoid, m_r = w_r max_k s(z_t,rk), w_r 0 in padding and where an anchor is neither object nor background (1
everywhere in FCOS), n what the head's own losses are divided by. Before it enters, each channel of the map gets the
mean and deviation over the batch of the teacher's map. Weights (cls, box, convolutions): GFL 1, 4, 3; RetinaNet and
ATSS 1, 1, 3; FCOS 0.4, 0.75, 2. No gradient reaches the teacher, the student's last layers, or its convolutions behind
the map.

Deviations:
- Where the widths differ a 1x1 convolution of each branch stands before the alignment, as the author advises (issue 1).
- Boxes are coded as torchvision's heads code them; its FCOS has no scale of a level's own.
- n of FCOS, the centerness of all matched points, is at least 1: in the authors' code a batch without objects is
  divided by 1e-6.
- The alignment (`align`) is in the authors' code only. The centerness is not imitated, as in the authors' FCOS.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, Method, Network, NotApplicable, Output, Paper, Space, register
from kdbench.losses import wide

EPS = 1e-6
EPS32 = torch.finfo(torch.float32).eps  # the authors' library adds it to what it divides by


def align_scale(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map `[B, C, h, w]` with the teacher's mean and deviation of each channel, over batch and places.

    The gradient goes through the student's own mean and deviation. A map of a single number has deviation 0.
    """
    means, deviations = [], []
    for x in (student, teacher):
        correction = min(x.numel() // x.shape[1] - 1, 1)
        means.append(x.mean((0, 2, 3), keepdim=True))
        deviations.append(x.std((0, 2, 3), correction=correction, keepdim=True))
    return (student - means[0]) / (deviations[0] + EPS) * deviations[1] + means[1]


def quality_focal(student: Tensor, teacher: Tensor, weights: Tensor, total: Tensor, beta: float = 1.0) -> Tensor:
    """KD quality focal loss of logits `[N, K]` with weights `[N]` of the places, divided by `total`.

    The gradient goes through the modulating factor, too.
    """
    target = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return (weights[:, None] * cross * (student.sigmoid() - target).abs() ** beta).sum() / (total + EPS32)


def edges_kl(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """sum_r w_r KL(teacher || student) / sum_r w_r of distributions `[N, 4, bins]` as logits, mean over the edges."""
    ours, theirs = student.log_softmax(-1), teacher.log_softmax(-1)
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum((-2, -1)) / (student.shape[-2] + EPS32)
    return (weights * divergence).sum() / weights.sum().clamp(min=EPS)


def overlaps(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of box with box, x1 y1 x2 y2, `[N]` each; no area and no union counts as less than 1e-6."""
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (ours, theirs)]
    shared = torch.minimum(ours[:, 2:], theirs[:, 2:]) - torch.maximum(ours[:, :2], theirs[:, :2])
    shared = shared.clamp(min=0).prod(1)
    union = (areas[0] + areas[1] - shared).clamp(min=EPS)
    around = torch.maximum(ours[:, 2:], theirs[:, 2:]) - torch.minimum(ours[:, :2], theirs[:, :2])
    enclosed = around.clamp(min=0).prod(1).clamp(min=EPS)
    return shared / union, shared / union - (enclosed - union) / enclosed


def iou_loss(student: Tensor, teacher: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """sum_r w_r (-log IoU) / total of boxes `[N, 4]`; an IoU below 1e-6 counts as that."""
    return (weights * -overlaps(student, teacher)[0].clamp(min=EPS).log()).sum() / (total + EPS32)


def giou_loss(student: Tensor, teacher: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """sum_r w_r (1 - GIoU) / total of boxes `[N, 4]`."""
    return (weights * (1 - overlaps(student, teacher)[1])).sum() / (total + EPS32)


def imitation(
    head: Any, batch: Batch, classes: list[Tensor], boxes: list[Tensor], teacher: Any, beta: float
) -> tuple[Tensor, Tensor]:
    """Both terms, unweighted: predictions of the teacher's form, level by level, against the teacher's.

    Args:
        head: of the teacher.
        classes, boxes: `[B, A * K, h, w]` and `[B, A * R, h, w]` of each level.
    """
    matches = head.match(batch, teacher.boxes)
    weights = head.weights(batch, teacher.boxes, matches).flatten()
    total = head.normalizer(batch, teacher.boxes, matches).clamp(min=1)
    ours, theirs = (head.flat(maps, head.num_classes).flatten(0, 1) for maps in (classes, teacher.classes))
    cls = quality_focal(ours, theirs, weights, total, beta)
    sure = weights * theirs.sigmoid().amax(1)
    if head.box_losses == "distribution":
        edges = [head.flat(maps, head.code).reshape(-1, 4, head.bins + 1) for maps in (boxes, teacher.boxes)]
        return cls, edges_kl(*edges, sure)
    found, wanted = (head.boxes_of(maps).flatten(0, 1) for maps in (boxes, teacher.boxes))
    compare = iou_loss if head.box_losses == "iou" else giou_loss
    return cls, compare(found, wanted, sure, total)


@register(
    "cross_kd",
    family="detection",
    paper=Paper(
        title="CrossKD: Cross-Head Knowledge Distillation for Object Detection",
        authors="Wang et al.",
        year=2024,
        venue="CVPR",
        arxiv="2306.11369",
        code="jbwang1997/CrossKD",
    ),
    fidelity="official-code",
)
class CrossKD(Method):
    """`convolutions`: after how many of a tower's convolutions the map leaves the student's head; 0: the pyramid's."""

    needs = frozenset({"detector"})
    reads_logits = False
    search_space = Space(cls_weight=Around(), box_weight=Around(), convolutions=Choice(1, 2, 3))

    def __init__(
        self,
        cls_weight: float = 1.0,
        box_weight: float = 4.0,
        convolutions: int = 3,
        beta: float = 1.0,
        align: bool = True,
    ) -> None:
        super().__init__()
        self.cls_weight, self.box_weight, self.convolutions = cls_weight, box_weight, convolutions
        self.beta, self.align = beta, align

    def build(self, student: Network, teacher: Network) -> None:
        require_levels("cross_kd", student, teacher)
        for network in (student, teacher):
            if not 0 <= self.convolutions <= network.head.depth:
                raise NotApplicable(
                    f"cross_kd enters after {self.convolutions} convolutions, but the towers of network "
                    f"{network.name!r} have {network.head.depth}"
                )
        self.head: Any = copy.deepcopy(teacher.head).requires_grad_(False)
        ours, theirs = student.head.width, self.head.width
        self.bridges = nn.ModuleDict(
            {branch: nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1) for branch in ("classes", "boxes")}
        )

    def crossed(self, branch: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> list[Tensor]:
        """What the teacher's head says of the student's held maps, level by level."""
        said = []
        for level, (student, teacher) in enumerate(zip(ours, theirs, strict=True)):
            held = wide(self.bridges[branch](student[self.convolutions]))
            if self.align:
                held = align_scale(held, wide(teacher[self.convolutions]))
            said.append(wide(self.head.enter(branch, held, self.convolutions, level)[0]))
        return said

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        ours: Any = student
        theirs: Any = teacher
        classes = self.crossed("classes", ours.class_holds, theirs.class_holds)
        boxes = self.crossed("boxes", ours.box_holds, theirs.box_holds)
        cls, box = imitation(self.head, batch, classes, boxes, theirs, self.beta)
        return {
            **student.supervised(batch),
            "cross_cls": self.cls_weight * cls,
            "cross_box": self.box_weight * box,
        }


def require_levels(method: str, student: Any, teacher: Any) -> None:
    """Refuse a pair whose pyramids have other levels.

    Raises:
        NotApplicable: naming both.
    """
    ours, theirs = student.head.strides, teacher.head.strides
    if ours != theirs:
        raise NotApplicable(
            f"{method} compares pyramids level by level, but {student.name!r} has strides {ours} and {teacher.name!r} "
            f"{theirs}: give both the same `levels`"
        )
