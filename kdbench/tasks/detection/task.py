"""Detection: dense detectors over timm's backbones, scored by COCO's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics
from kdbench.method import Network, answer_of
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.tasks.detection.data import load
from kdbench.tasks.detection.data.loader import DetectionLoader, normalized, scales
from kdbench.tasks.detection.data.sets import DetectionData, opened
from kdbench.tasks.detection.detections import CAP, detections
from kdbench.tasks.detection.metrics import METRICS
from kdbench.tasks.detection.networks import create
from kdbench.tasks.detection.output import DetectionBatch
from kdbench.tasks.detection.scoring import average_precision
from kdbench.tasks.task import Task

SHOWN = 0.3  # the score from which on a box is told of to a reader
Predictions = list[dict[str, Tensor]]  # of each test picture: boxes, scores, labels


class DetectionTask(Task):
    """A detection data set under one recipe, on one device; its predictions are the boxes of each test picture."""

    metrics = METRICS

    def __init__(
        self, dataset: DatasetSpec, recipe: Recipe, numerics: Numerics, root: Path | None, download: bool = True
    ) -> None:
        protocol = dict(dataset.protocol)
        data = load(dataset.name, root, image_size=recipe.image_size, protocol=protocol, download=download)
        self.hold(data, recipe.batch_size, recipe.augment, numerics)

    def hold(self, data: DetectionData, batch_size: int, augment: Sequence[str], numerics: Numerics) -> None:
        """Work with this data."""
        self.data, self.batch_size, self.augment, self.numerics = data, batch_size, tuple(augment), numerics
        self.content = data.content
        self._test = self.training_set(seed=0, strong_view=False)

    def training_set(self, seed: int, strong_view: bool) -> DetectionLoader:
        """The training data; there is no strong view, and the registry refuses what needs one."""
        return DetectionLoader(self.data, self.batch_size, self.numerics, self.augment, seed)

    def network(self, name: str, pretrained: bool = False, **options: Any) -> Network:
        options.pop("keep_classifier", None)  # weights of timm are a backbone's
        network = create(
            name, num_classes=len(self.data.classes), size=self.input_size, pretrained=pretrained, **options
        )
        self.numerics.place(network)
        return network

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of what networks are given."""
        return len(self.data.mean), self.data.size, self.data.size

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> Predictions:
        model.eval()
        found: Predictions = []
        for batch in self._test.test_batches():
            with self.numerics.autocast():
                answer = answer_of(model(batch.inputs))
            original = self.data.test.sizes[batch.indices.cpu()].double()
            found += detections(answer, batch.sizes, scales(original, self.data.size))
        return found

    def detect(self, network: nn.Module, picture: str | Path) -> list[dict[str, Any]]:
        """What a trained network finds on one picture, the surest first.

        Args:
            picture: a file; grey where the data are.

        Returns:
            `box` (x0, y0, x1, y1 in pixels of the picture), `score`, `name`, and `category`, the data set's number.

        Raises:
            KDBenchError: if the picture cannot be read.
        """
        pixels, size = opened(Path(picture), self.data.size, channels=len(self.data.mean))
        scale = scales(size[None].double(), self.data.size)
        inputs = self.numerics.place_inputs(normalized(pixels[None].to(self.numerics.device), self.data))
        with torch.no_grad(), self.numerics.autocast():
            answer = answer_of(network.eval()(inputs))
        (found,) = detections(answer, (size[None] * scale[:, None]).round().long(), scale)
        rows = zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
        names, numbers = self.data.classes, self.data.categories
        return [{"box": b, "score": s, "name": names[label], "category": numbers[label]} for b, s, label in rows]

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """Of each picture how many boxes have a score of at least `SHOWN`, and a line for each of them: its class, its
        score, and x0 y0 x1 y1 in pixels of the picture.
        """
        lines = []
        for picture in given:
            found = self.detect(model, picture)
            sure = [each for each in found if each["score"] >= SHOWN]
            rest = f", {len(found) - len(sure)} below a score of {SHOWN}" if len(found) > len(sure) else ""
            lines.append(f"{picture}: {len(sure)} box{'es' * (len(sure) != 1)}{rest}")
            for each in sure:
                corners = " ".join(f"{corner:.0f}" for corner in each["box"])
                lines.append(f"  {each['name']} {each['score']:.2f}, {corners}")
        return lines

    def scores(self, predictions: Predictions, teacher: Predictions | None = None) -> dict[str, float | None]:
        return average_precision(predictions, self.data.test, self.data.categories, CAP)

    def keeps(self, predictions: Predictions) -> Mapping[str, Any]:
        dropped = {"train": self.data.train.dropped, "test": self.data.test.dropped}
        return {
            "detections": {"cap": CAP, "found": sum(len(each["scores"]) for each in predictions)},
            "boxes_without_area": dropped,
        }

    def blank_batch(self, inputs: Tensor, indices: Tensor, strong: Tensor | None = None) -> DetectionBatch:
        """Pictures that each show one object, in their middle."""
        count, height, width = len(inputs), *inputs.shape[2:]
        box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]], device=inputs.device)
        labels = self.blank_targets(count).to(inputs.device)
        return DetectionBatch(
            inputs, labels, indices, strong, boxes=(box,) * count, labels=labels.split(1),
            sizes=torch.tensor([[height, width]], device=inputs.device).expand(count, 2),
        )  # fmt: skip

    def example(self) -> Tensor:
        return torch.zeros(1, *self.input_size)
