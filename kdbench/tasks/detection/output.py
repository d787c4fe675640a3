"""What a batch of detection holds, and what a detector says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from kdbench.method import Batch, Output

if TYPE_CHECKING:
    from kdbench.tasks.detection.networks.heads import Head

Maps = tuple[Tensor, ...]  # one a level of the pyramid, fine to coarse


@dataclass(frozen=True)
class DetectionBatch(Batch):
    """Pictures of one size, `[B, C, H, W]`, each in the upper left corner of its place; `targets` are all labels.

    Attributes:
        boxes: of each picture `[n, 4]`, x1 y1 x2 y2 in pixels of `inputs`; `[0, 4]` where it shows nothing.
        labels: of each picture `[n]`, int64, 0..K-1.
        sizes: height and width of the picture inside its place, `[B, 2]`, in pixels; the rest is padding.
    """

    boxes: Maps = ()
    labels: Maps = ()
    sizes: Tensor = None  # type: ignore[assignment]  # follows fields with defaults


@dataclass(frozen=True)
class DetectionOutput(Output):
    """What a detector says; `logits` and `embedding` are empty, `[B, 0]`.

    Attributes:
        classes: a level's class logits, `[B, A * K, h, w]` with A places for a box in a cell.
        boxes: a level's boxes in the head's own code, `[B, A * R, h, w]`.
        centerness: a level's, `[B, A, h, w]`; empty where the head has none.
        class_holds, box_holds: of each level the pyramid's map and what follows each convolution of the head's tower
            and its norm, before the ReLU: `depth + 1` maps `[B, C, h, w]`.
        head: the head that said it; it knows what its code means.
    """

    classes: Maps = ()
    boxes: Maps = ()
    centerness: Maps = ()
    class_holds: tuple[Maps, ...] = ()
    box_holds: tuple[Maps, ...] = ()
    head: Head = None  # type: ignore[assignment]  # follows fields with defaults

    @property
    def pyramid(self) -> Maps:
        """The maps that the head reads, `[B, C, h, w]`, fine to coarse."""
        return tuple(held[0] for held in self.class_holds)

    @property
    def answer(self) -> Tensor:
        """Each picture's best boxes before any is suppressed, `[B, M, 6]`: x1 y1 x2 y2, score, class."""
        return self.head.candidates(self)

    def supervised(self, batch: DetectionBatch, label_smoothing: float = 0.0) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of the head's own paper, as `labels.NAME`; detectors have no label smoothing, and refuse one.

        Raises:
            KDBenchError: for a label smoothing.
        """
        return self.head.supervised(self, batch, label_smoothing)
