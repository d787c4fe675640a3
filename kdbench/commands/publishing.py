"""The commands for results that others see: publish, validate, merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import CARD, Selection, selecting, words

if TYPE_CHECKING:
    from kdbench.board.publishing.validate import Report
    from kdbench.board.publishing.weights import Weights

Results = Annotated[Path, typer.Option(help="folder of published results")]


def publish(
    suite: Annotated[
        str, typer.Argument(help="a suite's name, a .toml file, or a published folder to be made anew", metavar="SUITE")
    ],
    out: Annotated[Path, typer.Option(help="folder of the runs", envvar="KDBENCH_OUT")] = Path("runs"),
    to: Results = Path("results"),
    methods: Annotated[
        str,
        typer.Option(
            help="show only these and the baselines, comma-separated: names, or .py files, whose present source counts"
        ),
    ] = "",
    weights_at: Annotated[
        str,
        typer.Option(help="address of a web folder with the teachers' weights that are too large to publish (10 MB)"),
    ] = "",
) -> None:
    """Write a suite's records, tables, curves, card and README into the folder of published results."""
    from kdbench.board.publishing import publish as publishing
    from kdbench.commands.views import labels_of
    from kdbench.suites.parse import load

    if (Path(suite) / CARD).is_file():
        done = publishing.remake(Path(suite))
    else:
        grid = load(suite)
        names = {spec.label: spec.name for spec in grid.methods}
        shown = [label for entry in words(methods) for label in labels_of(entry, names)]
        done = publishing.publish(grid, out, to, weights_at, shown)
    of_trials = f", {done.trials} of trials" if done.trials else ""
    print(f"published {done.records} records{of_trials} and {done.teachers} of teachers in {done.folder}")
    if done.aside:
        print(
            f"{done.aside} records of {out} stay there: they are of another recipe, of a method's older source, or of "
            "other numerics than the suite or their row"
        )
    _tell_of_weights(done.weights)
    print(f"next: kdbench validate {done.folder}")


def _tell_of_weights(weights: Weights) -> None:
    """Say which teachers nobody can learn from with the published folder alone, and what helps."""
    if weights.large:
        files = ", ".join(str(path) for path in weights.large)
        print(
            f"too large to publish: {files}; put them where others can get them, and publish again with "
            "--weights-at ADDRESS"
        )
    if weights.lost:
        print(
            f"the weights of {len(weights.lost)} teachers are not at hand ({', '.join(weights.lost)}): nobody can add "
            "a method that learns from them by --from"
        )


@selecting("data", "device", "threads")
def validate(
    chosen: Selection,
    path: Annotated[Path, typer.Argument(help="a published suite's folder, or a results folder with several")],
    rerun: Annotated[
        int, typer.Option(help="also train so many cells of each suite again, drawn by the folder's digest", min=0)
    ] = 0,
) -> None:
    """Check published results: tables against records, records against their suite and curves, digests, teachers."""
    from kdbench.board.publishing.validate import validate as validate_results
    from kdbench.records.plain import plain

    reports = validate_results(path)
    if rerun:
        _rerun(reports, rerun, chosen)
    for report in reports:
        for problem in report.problems:
            print(f"{report.folder.name}/{problem}" if len(reports) > 1 else problem)
        for note in report.notes:
            print(f"note: {plain(note)}")
        what = f"{report.folder}: {report.records} records, {report.teachers} of teachers"
        found = len(report.problems)
        print(f"{what}, {'nothing wrong' if not found else '1 problem' if found == 1 else f'{found} problems'}")
    if any(report.problems for report in reports):
        raise typer.Exit(1)


def _rerun(reports: Sequence[Report], count: int, chosen: Selection) -> None:
    """Train drawn cells of each folder again; what comes of it goes into its report."""
    from kdbench.commands.progress import Display
    from kdbench.commands.rerun import rerun
    from kdbench.commands.screen import PlainConsole

    for report in reports:
        with Display(PlainConsole(stderr=True), count, 0) as display:
            found = rerun(report.folder, count, display, chosen.data, chosen.device, chosen.threads)
        report.problems += found.problems
        report.notes += found.notes


def merge(
    sources: Annotated[list[Path], typer.Argument(help="results folders, or suites' folders", metavar="FOLDER...")],
    to: Annotated[Path, typer.Option(help="a new folder for all of them")],
) -> None:
    """Unite the records of several machines: each cell once; if results of a cell differ, nothing is written."""
    from kdbench.board.publishing.merge import merge as merge_folders

    counts = merge_folders(sources, to)
    parts = ", ".join(f"{count} of {name}" for name, count in counts.items())
    print(f"merged {parts} into {to}; next: kdbench publish SUITE --out {to}")
