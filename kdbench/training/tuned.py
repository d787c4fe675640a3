"""Whether a network is faster compiled, as `kdbench tune` measured it: kept in a results folder and always reused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdbench.errors import KDBenchError
from kdbench.hardware.machine import hardware
from kdbench.hardware.numerics import Numerics
from kdbench.records.files import write_atomically
from kdbench.suites.grid import Cell

FILE = "compile.json"  # in the folder of the runs


@dataclass(frozen=True)
class Setting:
    """What a verdict holds for: another processor, version of torch, number of threads, image or batch size asks anew.

    Attributes:
        frozen: whether the network is a frozen teacher; others are timed with their backward pass.
        threads: None where an accelerator computes, and in files of older versions, which do not say.
    """

    network: str
    frozen: bool
    dataset: str
    image_size: int
    batch_size: int
    precision: str
    processor: str
    torch: str
    threads: int | None = None


def settings_of(cell: Cell, numerics: Numerics) -> list[Setting]:
    """The settings of a cell's student and teachers."""
    recipe, facts = cell.recipe, hardware(numerics.device)
    where = {
        "dataset": cell.dataset.name,
        "image_size": recipe.image_size or 0,
        "batch_size": recipe.batch_size,
        "precision": numerics.precision,
        "processor": facts.get("accelerator") or facts["processor"],
        "torch": torch.__version__,
        "threads": numerics.threads,
    }
    frozen = dict.fromkeys(teacher.network for teacher in cell.teachers) if cell.role == "student" else {}
    return [Setting(cell.pair.student, False, **where), *(Setting(network, True, **where) for network in frozen)]


def read(folder: Path) -> dict[Setting, dict[str, Any]]:
    """The measurements of a results folder; none where there is no file.

    Raises:
        KDBenchError: if the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    names = [field.name for field in dataclasses.fields(Setting) if field.name != "threads"]
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {_setting(entry, names): entry for entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KDBenchError(
            f"{str(file)!r} is damaged: delete it, and run `kdbench tune` again if you want it"
        ) from error


def _setting(entry: dict[str, Any], names: Sequence[str]) -> Setting:
    """Take a setting out of an entry of the file."""
    return Setting(**{name: entry.pop(name) for name in names}, threads=entry.pop("threads", None))


def write(folder: Path, measured: dict[Setting, dict[str, Any]]) -> None:
    """Replace the file.

    Raises:
        KDBenchError: if the disk is full or the folder cannot be written.
    """
    entries = [{**dataclasses.asdict(setting), **found} for setting, found in measured.items()]
    write_atomically(folder / FILE, (json.dumps(entries, indent=1) + "\n").encode())


def applied(numerics: Numerics, cell: Cell, folder: Path) -> Numerics:
    """The numerics with the verdicts of a results folder on the cell's networks, where it has some."""
    measured = read(folder)
    found = [(s, bool(measured[s]["compiled"])) for s in settings_of(cell, numerics) if s in measured]
    if not found:
        return numerics
    words = ", ".join(f"{s.network}{' frozen' if s.frozen else ''} {'on' if on else 'off'}" for s, on in found)
    # those of a rule stay where nothing was measured
    verdicts = (*numerics.verdicts, *((s.network, s.frozen, on) for s, on in found))
    return dataclasses.replace(
        numerics, verdicts=verdicts, compile_rule=f"measured by kdbench tune: {words}; else {numerics.compile_rule}"
    )
