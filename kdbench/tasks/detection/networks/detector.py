"""A detector as a `kdbench.method.Network`: pyramid and head, every map at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.method import Network, Shapes
from kdbench.tasks.detection.networks.heads import Head
from kdbench.tasks.detection.networks.pyramid import Pyramid
from kdbench.tasks.detection.output import DetectionOutput


class Detector(Network):
    """A dense detector of one form.

    Args:
        size: (C, H, W) of the pictures.

    Raises:
        KDBenchError: if the pictures are too small for the pyramid.
    """

    offers = frozenset({"detector"})

    def __init__(self, name: str, pyramid: Pyramid, head: Head, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.name, self.pyramid, self.head, self._size = name, pyramid, head, size
        self.shapes = self._probe()

    def forward(self, inputs: Tensor) -> DetectionOutput:
        """Pictures `[B, C, H, W]`, normalised, to boxes of all levels."""
        pyramid = self.pyramid(inputs)
        nothing = inputs.new_zeros(len(inputs), 0)
        return DetectionOutput(nothing, nothing, head=self.head, **self.head(pyramid))

    @property
    def classifier(self) -> nn.Module:
        """The last layers of the head are no single classifier: the head as a whole."""
        return self.head

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._size

    def stage_parameters(self) -> list[frozenset[str]]:
        """Names of the parameters of the pyramid, with its backbone, and of the head."""
        named = [name for name, _ in self.named_parameters()]
        body = frozenset(name for name in named if name.startswith("pyramid."))
        return [body, frozenset(named) - body]

    @torch.no_grad()
    def _probe(self) -> Shapes:
        modes = {module: module.training for module in self.modules()}
        try:
            maps = self.eval().pyramid(torch.zeros(1, *self._size))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise KDBenchError(
                f"network {self.name!r} cannot take pictures of {'x'.join(map(str, self._size))} ({reason}): choose "
                "another `image_size` in the recipe, a multiple of 32"
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode
        strides = [self._size[1] / level.shape[-2] for level in maps]
        if strides[:3] != list(self.head.strides[:3]):
            raise KDBenchError(
                f"network {self.name!r} has no whole cells in pictures of {self._size[1]}x{self._size[2]}: give the "
                "recipe an `image_size` that is a multiple of 32"
            )
        return Shapes(0, 0)
