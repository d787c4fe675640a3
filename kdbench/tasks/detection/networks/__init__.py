"""Detectors by name: `FORM_BACKBONE`, a form of head and any timm network that gives a pyramid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.suites import networks
from kdbench.tasks.detection.networks.detector import Detector
from kdbench.tasks.detection.networks.fcos import FCOSForm
from kdbench.tasks.detection.networks.gfl import GFLForm
from kdbench.tasks.detection.networks.heads import Head
from kdbench.tasks.detection.networks.pyramid import Pyramid
from kdbench.tasks.detection.networks.retinanet import RetinaNetForm

__all__ = ["FORMS", "Detector", "create"]

FORMS: dict[str, Callable[..., Head]] = {"fcos": FCOSForm, "retinanet": RetinaNetForm, "gfl": GFLForm}
OWN = ("bins", "depth", "levels", "width")  # options of the pyramid and the head; others are timm's


def create(
    name: str, *, num_classes: int, size: tuple[int, int, int], pretrained: bool = False, **options: Any
) -> Detector:
    """Build a detector.

    Args:
        name: `fcos_resnet18`, `retinanet_resnet50`, `gfl_test_resnet(width=64, levels=3)`. Options: `width` (256), the
            channels of pyramid and towers; `depth` (4), the convolutions of a tower; `levels` (5) or 3; `bins` (16) of
            a distribution. Others are passed to timm's backbone.
        num_classes: K, without background.
        size: (C, H, W) of the pictures.
        pretrained: whether the backbone starts from timm's weights.

    Raises:
        KDBenchError: for an unknown form or backbone, a wrong option, or pictures that do not fit.
    """
    base, given = networks.split(name)
    form, _, backbone = base.partition("_")
    if form not in FORMS or not backbone:
        raise unknown(
            "detector", base, [f"{known}_{backbone or 'resnet18'}" for known in FORMS], "a form, _, a backbone"
        )
    given = {**given, **options}
    if decided := sorted({"num_classes", "in_chans", "pretrained", "features_only", "out_indices"} & given.keys()):
        raise KDBenchError(f"network {name!r} gives {decided[0]!r}, which data and suite decide: leave it out")
    own = {key: given.pop(key) for key in OWN if key in given}
    for key, value in own.items():
        if type(value) is not int or value < 1:
            raise KDBenchError(f"network {name!r} has {key}={value!r}: give a whole number of at least 1")
    if "bins" in own and form != "gfl":
        raise KDBenchError(f"network {name!r} has bins, but only gfl's boxes are distributions: leave them out")
    width, depth, levels = own.get("width", 256), own.get("depth", 4), own.get("levels", 5)
    pyramid = Pyramid(backbone, size[0], width, levels, pretrained, **given)
    more = {"bins": own["bins"]} if "bins" in own else {}
    return Detector(
        networks.canonical(name), pyramid, FORMS[form](width, num_classes, depth, pyramid.strides, **more), size
    )
