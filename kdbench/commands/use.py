"""The command that puts a kept student to use: a sentence or a picture in, its answer out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.commands.options import RECIPE, Selection, selecting
from kdbench.errors import KDBenchError, unknown
from kdbench.records.plain import plain

if TYPE_CHECKING:
    from kdbench.records import Store
    from kdbench.suites.grid import Cell, Suite


SHOWN = 3  # records that a sentence names


@selecting(*RECIPE, "data", "device")
def use(
    chosen: Selection,
    suite: Annotated[
        str, typer.Argument(help="a suite's name (`kdbench list suites`) or a .toml file", metavar="SUITE")
    ],
    method: Annotated[
        str, typer.Argument(help="the method whose student answers, as tables call it", metavar="METHOD")
    ],
    given: Annotated[
        list[str], typer.Argument(help="picture files or sentences; two for each pair of sentences", metavar="GIVEN...")
    ],
    pair: Annotated[str, typer.Option(help="of teacher and student, by its name or a part of it")] = "",
    dataset: Annotated[str, typer.Option(help="the data set, where the suite has several")] = "",
    seed: Annotated[int, typer.Option(help="which of the method's students")] = 0,
) -> None:
    """Let a student that `kdbench run --keep-students` kept answer: classes, a translation, boxes."""
    chosen = dataclasses.replace(chosen, suite_name=suite, pairs=pair, seeds=str(seed))
    cell = _chosen(chosen, method, dataset)
    _check_done(chosen, cell)
    if any(not word.strip() for word in given):
        raise KDBenchError("one of the inputs is empty: give a sentence or the path of a picture")

    from kdbench import tasks
    from kdbench.hardware.numerics import resolve
    from kdbench.training.students import Students

    numerics = resolve(chosen.device, "fp32", "off")
    numerics.apply()
    students = Students(chosen.store, print)
    task = tasks.create(cell.dataset, cell.recipe, numerics, chosen.data)
    for line in task.answer(students.load(cell, task, numerics), given):
        print(plain(line))


def not_kept(cells: Sequence[Cell], store: Store) -> list[str]:
    """A sentence about finished cells whose student `--keep-students` did not keep, for they were finished before."""
    lost = [cell for cell in cells if store.has(cell.id) and _lacks_student(cell, store)]
    if not lost:
        return []
    names = [store.path(cell.id).name for cell in lost]
    what = f"1 finished cell has no kept student: delete its record {names[0]}"
    if len(lost) > 1:
        rest = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        what = f"{len(lost)} finished cells have no kept student: delete their records {', '.join(names[:SHOWN])}{rest}"
    return [f"{what} in {str(store.path(lost[0].id).parent)!r} and run the same command again, which trains them anew"]


def _lacks_student(cell: Cell, store: Store) -> bool:
    """Of a cell that has a record."""
    record = store.read(cell.id)
    kept = record.get("weights_sha256") and store.student(cell.id).exists()
    return record["status"] == "done" and not kept


def _chosen(chosen: Selection, method: str, dataset: str) -> Cell:
    """The one cell that is meant.

    Raises:
        KDBenchError: if there is none, or several.
    """
    if beside := not _in(chosen.suite, method):
        chosen = dataclasses.replace(chosen, methods=method)
    cells = [cell for cell in chosen.shown if cell.seed == int(chosen.seeds)]
    named = [cell for cell in cells if cell.method.label == method]
    named = named or [cell for cell in cells if cell.tuning is None and (beside or cell.method.name == method)]
    if not named:
        raise KDBenchError(
            f"suite {chosen.suite.name!r} has no cell of method {method!r} with seed {chosen.seeds} on these pairs: "
            f"`kdbench status {chosen.suite_name}` shows those that it has"
        )
    # one pair's name may be a part of another's
    named = [c for c in named if chosen.pairs in (str(c.pair), c.pair.student)] or named
    for what, option, of in (
        ("method", "METHOD", lambda cell: cell.method.label),
        ("pair", "--pair", lambda cell: str(cell.pair)),
        ("data set", "--dataset", _place),
    ):
        if option == "--dataset" and dataset:
            places = {_place(cell) for cell in named}
            named = [cell for cell in named if dataset == cell.dataset.name] or [c for c in named if dataset in of(c)]
            if not named:
                raise unknown(what, dataset, places, f"of suite {chosen.suite.name!r}")
        if len(found := dict.fromkeys(map(of, named))) > 1:
            known = ", ".join(map(repr, found))
            raise KDBenchError(f"which {what} is meant? suite {chosen.suite.name!r} has {known}: give one as {option}")
    return named[0]


def _in(suite: Suite, method: str) -> bool:
    """Whether it is one of the suite's own, and not one that was run beside them."""
    return any(method in (spec.label, spec.name, f"{spec.label} (tuned)") for spec in suite.methods)


def _place(cell: Cell) -> str:
    """A data set and what is done to it."""
    return f"{cell.dataset.name} {dict(cell.dataset.protocol)}" if cell.dataset.protocol else cell.dataset.name


def _check_done(chosen: Selection, cell: Cell) -> None:
    """See that the cell's student is there.

    Raises:
        KDBenchError: saying how it comes to be.
    """
    store, what = chosen.store, f"{cell.method.label!r} on {cell.pair}, seed {cell.seed},"
    options = dataclasses.replace(chosen, methods=cell.method.name, pairs=str(cell.pair)).typed
    train = f"`kdbench run {options} --keep-students`"
    if not store.has(cell.id):
        raise KDBenchError(f"{what} has no record in {str(store.folder)!r}: run {train} first")
    record = store.read(cell.id)
    if record["status"] != "done":
        status = record["status"].replace("_", " ")
        raise KDBenchError(f"{what} has no student, for its cell is {status} ({record['reason']}): choose another")
    if _lacks_student(cell, store):
        raise KDBenchError(
            f"the student of {what} was not kept: delete {str(store.path(cell.id))!r} and run {train}, which trains it "
            "anew and keeps it"
        )
