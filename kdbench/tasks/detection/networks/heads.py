"""Heads of dense detectors, which can be entered in the middle of their towers.

A head has two towers of convolutions, shared by all levels of the pyramid: one for classes, one for boxes. A form
(FCOS, RetinaNet, GFL) says how a cell's boxes are coded, which are matched to which objects, and what the losses are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from kdbench.errors import KDBenchError
from kdbench.losses import wide
from kdbench.tasks.detection.output import DetectionBatch, DetectionOutput, Maps

CANDIDATES = 1000  # boxes that a level gives for suppression, as in the literature


class Matches(NamedTuple):
    """Which place of the pyramid is to find which object.

    Attributes:
        objects: the object's number in its picture, -1 for background, -2 for what is neither, `[B, N]`, int64.
        near: how well a place near an object that is not to find it fits one, 0 elsewhere, `[B, N]`; None where a
            form has no such region.
    """

    objects: Tensor
    near: Tensor | None = None

    @property
    def positive(self) -> Tensor:
        return self.objects >= 0


class Head(nn.Module):
    """The base of all forms.

    Attributes:
        form: its name.
        width: channels of the pyramid and of the towers.
        depth: convolutions of a tower.
        num_classes: K.
        places: A, boxes that a cell may give.
        code: R, numbers that code a box.
    """

    form: ClassVar[str]
    box_losses: ClassVar[str]  # how two boxes of this code are compared: "iou", "giou" or "distribution"
    masks_padding: ClassVar[bool] = True  # whether places outside of the picture count for nothing in imitation
    anchors_of: AnchorGenerator
    width: int
    depth: int
    num_classes: int
    strides: tuple[int, ...]
    code: int = 4

    @property
    def places(self) -> int:
        return int(self.anchors_of.num_anchors_per_location()[0])

    # ------------------------------------------------------------------------------------------------ the towers

    @abstractmethod
    def tower(self, branch: str) -> list[nn.Module]:
        """The convolutions of `"classes"` or `"boxes"`, each with its norm and without its ReLU."""

    @abstractmethod
    def predict(self, branch: str, hidden: Tensor, level: int) -> tuple[Tensor, ...]:
        """What the last layers make of a tower's end: the class logits, or the boxes (and the centerness)."""

    def holds(self, branch: str, feature: Tensor) -> Maps:
        """The pyramid's map, and what follows each convolution of the tower before its ReLU."""
        held = [feature]
        for place, block in enumerate(self.tower(branch)):
            held.append(block(held[-1].relu() if place else feature))
        return tuple(held)

    def enter(self, branch: str, held: Tensor, convolutions: int, level: int) -> tuple[Tensor, ...]:
        """What follows the first so many convolutions of a tower: from their held map to the predictions."""
        for block in self.tower(branch)[convolutions:]:
            held = block(held.relu() if convolutions else held)
            convolutions += 1
        return self.predict(branch, held.relu() if convolutions else held, level)

    def forward(self, pyramid: Sequence[Tensor]) -> dict[str, Any]:
        """The fields of a `DetectionOutput`."""
        classes: list[Tensor] = []
        boxes: list[Tensor] = []
        centerness: list[Tensor] = []
        class_holds, box_holds = ([self.holds(b, feature) for feature in pyramid] for b in ("classes", "boxes"))
        for level, (ours, theirs) in enumerate(zip(class_holds, box_holds, strict=True)):
            classes.append(*self.predict("classes", ours[-1].relu(), level))
            box, *centre = self.predict("boxes", theirs[-1].relu(), level)
            boxes.append(box)
            centerness += centre
        return {
            "classes": tuple(map(wide, classes)),
            "boxes": tuple(map(wide, boxes)),
            "centerness": tuple(map(wide, centerness)),
            "class_holds": tuple(class_holds),
            "box_holds": tuple(box_holds),
        }

    # ------------------------------------------------------------------------------------------------ places and boxes

    def flat(self, maps: Sequence[Tensor], numbers: int) -> Tensor:
        """`[B, A * numbers, h, w]` of all levels to `[B, N, numbers]`: cells row by row, a cell's places in turn."""
        rows = []
        for level in maps:
            batch, _, height, width = level.shape
            parted = level.reshape(batch, -1, numbers, height, width).permute(0, 3, 4, 1, 2)
            rows.append(parted.reshape(batch, -1, numbers))
        return torch.cat(rows, 1)

    def anchors(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The box that each place starts from, x1 y1 x2 y2 in pixels, `[N of the level, 4]`."""
        like = maps[0]
        self.anchors_of.set_cell_anchors(torch.float32, like.device)
        sizes = [list(level.shape[-2:]) for level in maps]
        found = self.anchors_of.grid_anchors(sizes, [[stride, stride] for stride in self.strides])  # type: ignore[list-item]
        return [level.to(wide(like[:0]).dtype) for level in found]

    @abstractmethod
    def decode(self, coded: Tensor, anchors: Tensor) -> Tensor:
        """Boxes `[..., N, R]` in the head's code and their anchors `[N, 4]` to x1 y1 x2 y2 in pixels, `[..., N, 4]`."""

    def boxes_of(self, maps: Sequence[Tensor]) -> Tensor:
        """All boxes of a batch in pixels, `[B, N, 4]`."""
        return self.decode(self.flat(maps, self.code), torch.cat(self.anchors(maps)))

    def inside(self, batch: DetectionBatch, maps: Sequence[Tensor]) -> Tensor:
        """Whether a place's centre lies in its picture and not in the padding, `[B, N]`."""
        anchors = torch.cat(self.anchors(maps))
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        return (centres[None] < batch.sizes.flip(1)[:, None].to(centres)).all(2)

    def weights(self, batch: DetectionBatch, maps: Sequence[Tensor], matches: Matches) -> Tensor:
        """1 for the places that imitation counts, 0 for padding and for what is neither object nor background,
        `[B, N]`; all 1 in a form whose authors mask nothing.
        """
        if not self.masks_padding:
            return torch.ones_like(matches.objects, dtype=maps[0].dtype)
        return (self.inside(batch, maps) & (matches.objects != -2)).to(wide(maps[0][:0]).dtype)

    # ------------------------------------------------------------------------------------------------ learning

    @abstractmethod
    def match(self, batch: DetectionBatch, maps: Sequence[Tensor]) -> Matches:
        """Which place is to find which object."""

    @abstractmethod
    def normalizer(self, batch: DetectionBatch, maps: Sequence[Tensor], matches: Matches) -> Tensor:
        """What sums over places are divided by in this form's paper, a number of at least 1 or a rounding error."""

    def supervised(self, output: DetectionOutput, batch: DetectionBatch, label_smoothing: float) -> dict[str, Tensor]:
        """The losses of the form's paper, as `labels.NAME`."""
        if label_smoothing:
            raise KDBenchError(f"label_smoothing is {label_smoothing}, but {self.form} has none: leave it at 0")
        return {f"labels.{name}": term for name, term in self.losses(output, batch).items()}

    @abstractmethod
    def losses(self, output: DetectionOutput, batch: DetectionBatch) -> dict[str, Tensor]:
        """The losses of the form's paper by name, weighted."""

    # ------------------------------------------------------------------------------------------------ detections

    def scores(self, output: DetectionOutput, level: int) -> Tensor:
        """How sure a level is of each class at each place, `[B, n, K]`."""
        sure = self.flat([output.classes[level]], self.num_classes).sigmoid()
        if not output.centerness:
            return sure
        return (sure * self.flat([output.centerness[level]], 1).sigmoid()).sqrt()

    def candidates(self, output: DetectionOutput) -> Tensor:
        """See `DetectionOutput.answer`."""
        rows = []
        for level, anchors in enumerate(self.anchors(output.boxes)):
            scores = self.scores(output, level).flatten(1)
            best, at = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
            place, label = at // self.num_classes, at % self.num_classes
            coded = self.flat([output.boxes[level]], self.code)
            coded = coded.gather(1, place[..., None].expand(-1, -1, self.code))
            boxes = self.decode(coded, anchors[place])
            rows.append(torch.cat([boxes, best[..., None], label[..., None].to(boxes)], 2))
        return torch.cat(rows, 1)


def as_targets(batch: DetectionBatch, like: Tensor) -> list[dict[str, Tensor]]:
    """A batch's objects as torchvision's detectors take them."""
    pairs = zip(batch.boxes, batch.labels, strict=True)
    return [{"boxes": boxes.to(like), "labels": labels} for boxes, labels in pairs]


def norm(width: int) -> nn.Module:
    """GroupNorm of 32 groups, as in the literature; of fewer in a narrow tower, so that each has two channels."""
    fit = [groups for groups in (32, 16, 8, 4, 2) if width % groups == 0 and width // groups > 1]
    return nn.GroupNorm(fit[0] if fit else 1, width)
