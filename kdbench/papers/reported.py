"""What papers report: the tables of `results/reported`, installed as `kdbench.reported`.

One file per paper, one row per value. Those of image classification lie in the folder itself and have top-1 accuracy in
%; each other task has a folder in it, whose rows name a score of `kdbench/tasks/<task>/metrics.py`. `method` is a label
as kdbench's own tables have it, so that reported and measured meet under one name. docs/papers.md explains every column
and how to add a paper.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError, unknown
from kdbench.registry.composition import split
from kdbench.tasks.metrics import Metric, of

SELECTIONS = ("last", "best", "unknown")  # which epoch a value is from: the last, the best on the test set
TEACHER = "teacher"  # the label of a row that gives the teacher's own score
UNKNOWN = "unknown"  # a recipe, a teacher or a student that the source does not tell
IMAGE = "image"  # the task whose tables lie in the folder itself


@dataclass(frozen=True)
class Reported:
    """One value of a paper.

    Attributes:
        paper: whose table it is, ending in venue and year: `DKD (CVPR 2022)`; with a comma it is another one than the
            paper's own: `WSLD, rerun by a user (2021)`.
        source: where it was read.
        method: a label as kdbench's tables have it, or `teacher`.
        dataset, teacher, student: kdbench's names, where it has them.
        value: of the score `metric`, in its unit.
        std, n: the spread over n runs, where the source has them.
        selection: one of `SELECTIONS`.
        recipe: how it was trained, a name of `recipes.toml` where kdbench can train it so.
        note: what a reader must know; copied, contradicted and unsupported values say so here.
        metric: a score of the task, by its name in `kdbench/tasks/<task>/metrics.py`.
        task: whose networks these are.
    """

    paper: str
    source: str
    method: str
    dataset: str
    teacher: str
    student: str
    value: float
    std: float | None
    n: int | None
    selection: str
    recipe: str
    note: str
    metric: str = "top1"
    task: str = IMAGE

    @property
    def pair(self) -> str:
        return f"{self.teacher} -> {self.student}"

    @property
    def name(self) -> str:
        """The registered name inside the label."""
        return self.method.partition("(")[0]

    @property
    def year(self) -> int:
        return int(self.paper[-5:-1])

    @property
    def aside(self) -> bool:
        """Whether this is not from the paper's own table: a rerun, a log, an ablation, a draft."""
        return "," in self.paper

    @property
    def score(self) -> Metric:
        """What the value is."""
        return score_of(self.task, self.metric)


# as the files of image classification call them; those of other tasks name the score in a column of its own
COLUMNS = tuple("top1" if field.name == "value" else field.name for field in dataclasses.fields(Reported)[:-2])
TASK_COLUMNS = (*COLUMNS[:6], "metric", "value", *COLUMNS[7:])
FREE = ("std", "n", "note")  # may be empty
OTHER_COLUMNS = (*COLUMNS[:6], "metric", "value", "note")


def score_of(task: str, name: str) -> Metric:
    """A score of a task by its name.

    Raises:
        KDBenchError: if the task has none of this name.
    """
    scores = {score.name: score for score in of(task).scores}
    if name not in scores:
        raise unknown("metric", name, scores, f"of task {task!r}")
    return scores[name]


def tasks_of(folder: Path | None = None) -> list[str]:
    """The tasks that have tables: image classification, and each that has a folder of its own."""
    inside = [entry.name for entry in (folder or files("kdbench.reported")).iterdir() if entry.is_dir()]
    return [IMAGE, *sorted(name for name in inside if name[0] not in "._")]


def place_of(task: str, folder: Path | None = None) -> Traversable:
    """Where the tables and recipes of a task lie."""
    base = folder or files("kdbench.reported")
    return base if task == IMAGE else base.joinpath(task)


def load_all(folder: Path | None = None) -> list[Reported]:
    """The values of all tasks, image classification's first; raises what `load` does."""
    return [row for task in tasks_of(folder) for row in load(folder, task)]


def load(folder: Path | None = None, task: str = IMAGE) -> list[Reported]:
    """All values of a task, file by file.

    Args:
        folder: of the CSV files; None: the one that comes with kdbench.

    Raises:
        KDBenchError: naming file and line, for a row that breaks the schema or stands twice.
    """
    rows: list[Reported] = []
    seen: dict[tuple[object, ...], str] = {}
    columns = COLUMNS if task == IMAGE else TASK_COLUMNS
    for entry in sorted(place_of(task, folder).iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".csv"):
            continue
        for line, cells in _lines(entry.read_text(encoding="utf-8"), columns, entry.name):
            row = _row(cells, f"{entry.name}, line {line}", task)
            key = (*dataclasses.astuple(row)[:6], row.metric, row.selection)
            if key in seen:
                raise KDBenchError(f"{entry.name}, line {line} repeats {seen[key]}: take one of the two out")
            seen[key] = f"{entry.name}, line {line}"
            rows.append(row)
    return rows


def load_other() -> list[dict[str, str]]:
    """Values of scores that kdbench does not measure (mAP, top-5, EM, differences), as they stand in the file."""
    entry = files("kdbench.reported") / "other_metrics.tsv"
    return [cells for _, cells in _lines(entry.read_text(encoding="utf-8"), OTHER_COLUMNS, entry.name, "\t")]


def of_method(rows: Iterable[Reported], name: str) -> list[Reported]:
    """A method's values: under its own name, or as the leading part of a composition (`sp` finds `sp+kd`)."""
    return [row for row in rows if name in (row.name, split(row.name)[0])]


def by_paper(rows: Iterable[Reported]) -> dict[str, list[Reported]]:
    """Values by paper, earliest first and reruns, logs and drafts last: the first paper with a method is its own, or
    else the first that compares with it.
    """
    papers: dict[str, list[Reported]] = {}
    for row in sorted(rows, key=lambda row: (row.aside, row.year)):  # stable: one year stays in the files' order
        papers.setdefault(row.paper, []).append(row)
    return papers


def parse_label(label: str) -> tuple[str, dict[str, Any]]:
    """`kd(temperature=2)` to `kd` and its hyperparameters.

    Raises:
        KDBenchError: if the label is not as `kdbench.suites.grid.MethodSpec` writes it.
    """
    match = re.fullmatch(r"([a-z0-9_+]+)(?:\(([^()]+)\))?", label)
    pairs = [part.partition("=") for part in match[2].split(", ")] if match and match[2] else []
    keys = [key for key, _, _ in pairs]
    wrong = any(not equals or not value or set(value) & set(",=") for _, equals, value in pairs)
    if not match or wrong or keys != sorted(set(keys)):
        raise KDBenchError(
            f"method {label!r} is no label: write name or name(key=value, key=value), keys in alphabetical order"
        )
    return match[1], {key: _value(text) for key, _, text in pairs}


def check_methods(rows: Iterable[Reported]) -> set[str]:
    """Hold the labels against the registry; returns the names that kdbench does not have, and the compositions that it
    cannot make.

    Raises:
        KDBenchError: if a registered method has no such hyperparameter.
    """
    from kdbench import registry

    strangers = set()
    for label in sorted({row.method for row in rows} - {TEACHER}):
        name, settings = parse_label(label)
        missing = [part for part in split(name) if part not in registry.names()]
        if missing or not _can_be_made(name):
            strangers.update(missing or [name])
        else:
            registry.resolve(name, settings)
    return strangers


def _can_be_made(name: str) -> bool:
    """Whether registered methods can be composed."""
    from kdbench import registry

    try:
        registry.get(name)
    except KDBenchError:
        return False
    return True


def _lines(text: str, columns: Sequence[str], name: str, delimiter: str = ",") -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise KDBenchError(f"{name} has columns {reader.fieldnames}, but they must be {list(columns)}")
    for cells in reader:
        if None in cells or None in cells.values():
            raise KDBenchError(f"{name}, line {reader.line_num} does not have {len(columns)} cells: quote its commas")
        yield reader.line_num, cells


def _row(cells: dict[str, str], where: str, task: str) -> Reported:
    value_of = "top1" if task == IMAGE else "value"
    empty = [key for key in cells if not cells[key].strip() and key not in FREE]
    if empty:
        raise KDBenchError(f"{where}: {empty[0]} is empty")
    if not re.search(r" \((?:.+ )?\d{4}\)$", cells["paper"]):
        raise KDBenchError(f"{where}: paper {cells['paper']!r} must end in its venue and year, e.g. 'DKD (CVPR 2022)'")
    if cells["selection"] not in SELECTIONS:
        raise unknown("selection", cells["selection"], SELECTIONS, where)
    try:
        parse_label(cells["method"])
        score = score_of(task, cells.get("metric", "top1"))
    except KDBenchError as error:
        raise KDBenchError(f"{where}: {error}") from error
    value = _number(cells[value_of], where, value_of, score.low, score.high)
    std = _number(cells["std"], where, "std", 0.0, score.high - score.low) if cells["std"] else None
    if cells["n"] and not (cells["n"].isdigit() and int(cells["n"]) >= 1):
        raise KDBenchError(f"{where}: n is {cells['n']!r}, but it counts runs: give a whole number from 1 up")
    text = {key: text for key, text in cells.items() if key not in (value_of, "std", "n")}
    return Reported(**text, value=value, std=std, n=int(cells["n"]) if cells["n"] else None, task=task)


def _number(text: str, where: str, key: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise KDBenchError(f"{where}: {key} is {text!r}, but it must be a number") from None
    if not least <= value <= most:
        raise KDBenchError(f"{where}: {key} is {text}, but it must be from {least:g} to {most:g}")
    return value


def _value(text: str) -> Any:
    """A label's value: a number, True, False or None, else text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
