"""`python -m benchmarks.gpu correct | speed | user`: what to run first on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.gpu import (
    agreement,
    bits,
    cohorts,
    epochs,
    lanes,
    limits,
    methods,
    networks,
    pairs,
    pictures,
    teachers,
    user,
)
from benchmarks.gpu import show as tables
from benchmarks.gpu.machine import described
from benchmarks.gpu.projection import projected
from benchmarks.gpu.scale import FULL, TOY
from benchmarks.gpu.sheet import Part, Sheet
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import resolve

# in each, what matters most comes first, since the limit may cut off the rest
CORRECT = (
    methods.PART, bits.PART, bits.GRAPHS, limits.PART, teachers.PART, agreement.TF32, agreement.PART, pairs.PART,
    pictures.PART, bits.COMPILED,
)  # fmt: skip
SPEED = (
    cohorts.PART, networks.PART, lanes.PART, epochs.PART, networks.TEACHERS, cohorts.WHOLE, cohorts.COMPILED,
    networks.COMPILED,
)  # fmt: skip
PROJECTION = Part("projection", "hours for the suite cifar100, its training steps alone", lambda sheet: iter(()))
USER = (user.COMMANDS, user.KILLED, user.MORE)

app = typer.Typer(add_completion=False, help="What to run first on a GPU: correct, then speed, then user.")
Out = Annotated[Path, typer.Option(help="where results go; the same folder again goes on from them")]
Device = Annotated[str | None, typer.Option(help="as `kdbench run` has it; default: the GPU")]
Limit = Annotated[float, typer.Option(help="seconds after which it stops by itself", min=1)]
Toy = Annotated[bool, typer.Option("--toy", help="at a size that shows only that it runs; on a CPU, too")]
OUT = Path("runs/gpu")


@app.command()
def correct(out: Out = OUT, device: Device = None, limit: Limit = 330, toy: Toy = False) -> None:
    """Is it right? Every method, equal bits (as graphs, too), GPU beside CPU, folding, memory, streams of pictures."""
    measure("correct", CORRECT, out, device, limit, toy)


@app.command()
def speed(out: Out = OUT, device: Device = None, limit: Limit = 240, toy: Toy = False) -> None:
    """How fast is it? Cohorts, steps and passes; as graphs, compiled; images; hours for cifar100."""
    measure("speed", SPEED, out, device, limit, toy)


@app.command(name="user")
def user_(out: Out = OUT, device: Device = None, limit: Limit = 150, toy: Toy = False) -> None:
    """Does a user's day work? The README's commands, and a run that is killed and goes on."""
    measure("user", USER, out, device, limit, toy)


def measure(command: str, parts: Sequence[Part], out: Path, device: str | None, limit: float, toy: bool) -> None:
    """Take the steps that are missing, write JSON, text and archive, and print the tables.

    Raises:
        KDBenchError: without a GPU, unless it is a toy; for results of another machine in the folder.
    """
    numerics = resolve(device, compile="off")
    if numerics.device.type != "cuda" and not toy:
        raise KDBenchError("there is no CUDA device here: --toy shows on a CPU that the command runs")
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    sheet = Sheet(out.resolve(), command, TOY if toy else FULL, numerics, limit, described(numerics), console)
    left = sheet.run(parts)
    if command == "speed":
        sheet.parts[PROJECTION.name] = {"hours": {"rows": projected(sheet)}}
        parts = [*parts, PROJECTION]
    sheet.save()
    (sheet.folder / f"{command}.txt").write_text(tables.text(sheet, parts, left), encoding="utf-8")
    archive = sheet.pack()
    tables.write(console, sheet, parts, left)
    console.print(f"{sheet.file}, {archive}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        app()
    except KDBenchError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        sys.exit(2)
