"""The command that measures the machine: tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tune(
    suite: Annotated[
        str, typer.Argument(help="a suite's name (`kdbench list suites`) or a .toml file", metavar="SUITE")
    ] = "digits",
    pairs: Annotated[str, typer.Option(help="only these, comma-separated: names or parts of names")] = "",
    out: Annotated[Path, typer.Option(help="folder of the runs", envvar="KDBENCH_OUT")] = Path("runs"),
    data: Annotated[Path | None, typer.Option(help="data folder", envvar="KDBENCH_DATA")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is")] = None,
) -> None:
    """Time a suite's networks plain and compiled on this machine; `kdbench run` then takes the faster of the two."""
    from rich.console import Console

    from kdbench.records.lock import locked
    from kdbench.suites.parse import load, narrow
    from kdbench.training.tune import tune as measure

    words = [word.strip() for word in pairs.split(",") if word.strip()]
    with locked(out):
        measure(Console(), narrow(load(suite), pairs=words).cells(), out, device, data)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(tune)
