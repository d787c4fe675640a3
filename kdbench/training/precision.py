"""The numerics of a cell: in which precision, and compiled or not, where recipe and user leave that to kdbench."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm
import torch
from torch import nn

from kdbench.errors import KDBenchError
from kdbench.hardware.compilers import lacking
from kdbench.hardware.machine import multiplies_tiles
from kdbench.hardware.numerics import Numerics, resolve
from kdbench.suites.grid import Cell
from kdbench.suites.networks import split
from kdbench.tasks.image import networks  # noqa: F401  (networks: registers the CIFAR networks with timm)
from kdbench.training import tuned

LONG = 50  # epochs: for fewer, compiling may take longer than it saves
LONG_IN_UPDATES = LONG * 782  # of CIFAR's 50,000 images in batches of 64


def numerics_of(
    cell: Cell,
    device: str | None = None,
    compile: str = "auto",
    runs: Path | None = None,
    threads: int | None = None,
    graphs: int = 0,
) -> Numerics:
    """The device rules for one cell; all cells of a cohort share its student and so have the same.

    On a CPU a student with grouped convolutions trains in fp32: strided depthwise ones have no fast backward pass in
    bf16 there, and a MobileNetV2's step takes twice as long. Long trainings are compiled on CUDA, and in bf16 on a CPU
    with AMX: what lies between the convolutions is most of their time. docs/performance.md has the measurements of what
    CPUs do. Where nothing can be compiled, all networks run as they are.

    Args:
        compile, threads: as on the command line; the suite may fix them.
        graphs: on how many streams whole steps are replayed as CUDA graphs.
        runs: the results folder, where verdicts of `kdbench tune` may lie.

    Raises:
        KDBenchError: as `kdbench.hardware.numerics.resolve`, for a damaged file of verdicts, for what is not as the
            suite fixes it, and where networks are to be compiled and cannot be.
    """
    precision = cell.recipe.precision
    compile, threads = cell.fixed.choose(compile, threads)
    numerics = resolve(device, precision, compile, threads, graphs)
    slow = precision == "auto" and numerics.precision == "bf16" and numerics.device.type == "cpu"
    if slow and layers_of(cell.pair.student).grouped:
        rule = "grouped convolutions train slower in bf16 on a CPU"
        numerics = dataclasses.replace(numerics, precision="fp32", precision_rule=rule)
    if compile != "auto":
        if numerics.compiles and (why := lacking(numerics.device)):
            where = f"networks cannot be compiled on device {str(numerics.device)!r}: {why}"
            raise KDBenchError(f"{where}; leave out --compile on, or a suite's compile = true")
        return numerics
    if numerics.device.type == "cuda":
        numerics = _on_cuda(numerics, cell)
    elif multiplies_tiles(numerics.device):
        numerics = _on_tiles(numerics, cell)
    return _compilable(numerics if runs is None else tuned.applied(numerics, cell, runs))


def _compilable(numerics: Numerics) -> Numerics:
    """The same, plain if nothing can be compiled here: a compiled run is never the only one."""
    if not numerics.compiles or not (why := lacking(numerics.device)):
        return numerics
    return dataclasses.replace(numerics, compile=False, verdicts=(), compile_rule=f"off: {why}")


def _on_cuda(numerics: Numerics, cell: Cell) -> Numerics:
    """The rule for GPUs, whose number of epochs is that of CPUs until one is measured."""
    enough, length = _long(cell)
    rule = f"on with CUDA for trainings of at least {length}"
    return dataclasses.replace(numerics, compile=enough, compile_rule=rule)


def _long(cell: Cell) -> tuple[bool, str]:
    """Whether a training is long enough to be compiled, and from which length on one is."""
    recipe = cell.recipe
    least = LONG_IN_UPDATES if recipe.updates else LONG
    return getattr(recipe, recipe.unit) >= least, f"{least} {recipe.unit}"


def _on_tiles(numerics: Numerics, cell: Cell) -> Numerics:
    """The rule for CPUs with AMX."""
    enough, length = _long(cell)
    if numerics.precision != "bf16" or not enough:
        rule = f"on where there is CUDA, or AMX for bf16 and at least {length}"
        return dataclasses.replace(numerics, compile_rule=rule)
    settings = tuned.settings_of(cell, numerics)
    found = tuple((s.network, s.frozen, _pays_on_tiles(layers_of(s.network), s.frozen)) for s in settings)
    rule = "on with AMX for long trainings in bf16: networks of plain convolutions; to train, without max pooling"
    return dataclasses.replace(numerics, verdicts=found, compile_rule=rule)


def _pays_on_tiles(layers: Layers, frozen: bool) -> bool:
    return layers.normalised and not layers.grouped and (frozen or not layers.max_pooled)


@dataclass(frozen=True)
class Layers:
    """What kinds of layers a network has.

    Attributes:
        grouped: grouped convolutions, depthwise ones among them.
        max_pooled: max pooling.
        normalised: BatchNorm.
    """

    grouped: bool = False
    max_pooled: bool = False
    normalised: bool = False


@cache
def layers_of(network: str) -> Layers:
    """The kinds of layers of one of timm's networks; none for a name that timm does not know."""
    base, _ = split(network)  # no option changes what kinds it has
    if not timm.is_model(base):
        return Layers()
    try:
        with torch.device("meta"):
            modules = list(timm.create_model(base).modules())
    except (NotImplementedError, RuntimeError):  # older versions of timm compute with numbers as they build a ViT
        modules = list(timm.create_model(base).modules())
    return Layers(
        grouped=any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in modules),
        max_pooled=any(isinstance(module, nn.MaxPool2d) for module in modules),
        normalised=any(isinstance(module, nn.BatchNorm2d) for module in modules),
    )
