"""Is a published folder what `kdbench publish` makes of honest records? Everything that is not, said one by one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench import registry, suites
from kdbench.board.columns import metrics_of
from kdbench.board.curves import need_pyarrow, read_parquet
from kdbench.board.numerics import strays, unlike, used
from kdbench.board.publishing import weights
from kdbench.board.publishing.card import VERSION, Card, read_card, sha256
from kdbench.board.publishing.contents import changed, files, read_entries, teachers_of, unfit
from kdbench.board.publishing.merge import TEACHERS, Entry
from kdbench.board.publishing.problem import Problem, shown
from kdbench.board.publishing.publish import CURVES, folder_content, plots_in, trained
from kdbench.board.publishing.schemas import FILES, MAP, MAP_VALUES, parse_csv, read_csv, violations
from kdbench.board.results import suite_table
from kdbench.board.runs import GROUP, protocol_of
from kdbench.board.sources import other_sources, source_of
from kdbench.board.sweeps.check import faults
from kdbench.board.sweeps.published import CARD
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.registry.digest import source_digest
from kdbench.suites.grid import ENGINE, engine_of
from kdbench.suites.parse import load
from kdbench.suites.trials import FOLDER
from kdbench.tasks.metrics import Metrics, of_tasks

# what a row is found by; of a map, the method and all that the places differ in
KEYS = {"runs.csv": [*GROUP, "seed"], "leaderboard_long.csv": GROUP, "leaderboard.csv": ["method"], MAP: []}
FIXED = (
    *("datasets", "pairs", "seeds", "teacher_seeds"),
    *("recipe", "teacher_recipe", "student_recipes", "teacher_recipes", "numerics"),
)


@dataclass
class Report:
    """What was found in one suite's folder.

    Attributes:
        folder: which.
        problems: everything that is wrong.
        notes: what a reader should know and what is no fault of the folder.
        records, teachers: how many were looked at.
    """

    folder: Path
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    teachers: int = 0


def validate(path: Path) -> list[Report]:
    """Check a published suite's folder, or every one in a results folder.

    Raises:
        KDBenchError: if there is none.
    """
    need_pyarrow()
    if not path.is_dir():
        raise KDBenchError(f"folder {str(path)!r} does not exist: give a suite's folder, or a results folder")
    path = path.resolve()
    if (path / "records").is_dir() or (path / "card.json").exists():
        return [check_folder(path)]
    folders = [f for f in sorted(path.iterdir()) if (f / "records").is_dir() and f.name != TEACHERS]
    if not folders:
        raise KDBenchError(f"{str(path)!r} holds no published suite: give a suite's folder, or a results folder")
    return [check_folder(folder) for folder in folders]


def check_folder(folder: Path) -> Report:
    """Check one published suite."""
    report = Report(folder)
    found = report.problems
    try:
        card = read_card(folder / "card.json")
    except KDBenchError as error:
        found.append(Problem("card.json", str(error)))
        card = None
    left_out = set(card["left_out"]) if card else set()
    kept = read_entries(folder / "records", "records", found)
    trials = read_entries(folder / FOLDER / "records", f"{FOLDER}/records", found)
    taught = [*kept.values(), *trials.values()]
    used = {identity: number for number, entry in enumerate(taught) for identity in trained(entry.record)}
    listed = set(card["teachers"]) if card else set()
    teachers = teachers_of(folder.parent / TEACHERS, found, used.keys() | listed)
    report.records, report.teachers = len(kept), len(teachers)
    found += unfit(kept, teachers, card, trials)
    found += weights.problems(folder, card, {identity: teachers[identity] for identity in used if identity in teachers})
    found += weights.strangers(folder)
    counted = {identity: entry.record for identity, entry in kept.items() if identity not in left_out}
    found += _twice(counted)
    found += _mixed(counted)
    found += _of_several_sources(counted)
    outdated = _engine(counted, found)
    metrics = _metrics(card, counted, found)
    older = card is not None and card["card"] < VERSION
    names = [*FILES, *([MAP] if (folder / MAP).is_file() or (card and MAP in card["tables"]) else [])]
    tables = {name: _table(folder, name, metrics, found, older) for name in names} if metrics else {}
    if card:
        if card["suite"]["name"] != folder.name:
            found.append(Problem("card.json", "its folder is named otherwise", "suite.name", card["suite"]["name"]))
        found += _digests(folder, card, kept, teachers, trials)
        found += faults(counted, {key: entry.record for key, entry in trials.items()}, card["suite"])
        found += [] if outdated else _bundled(card["suite"])  # an older engine's suite may have been another
        if len(kept) == len(files(folder / "records")) and counted:
            of_these = {key: entry for key, entry in teachers.items() if key in used}
            found += _made_anew(folder, card, kept, of_these, trials, tables)
    if not kept:
        found.append(Problem("records", "there is no record that can be read"))
    report.notes += [outdated] * bool(outdated)
    if older:
        report.notes.append(
            f"an older kdbench published it: `kdbench publish {folder}` makes its tables and README as they are now"
        )
    report.notes += _notes(counted.values())
    if card and used and not card.get("weights"):
        report.notes.append("it carries no teacher's weights: nobody can add a method to it by `kdbench run --from`")
    return report


# ------------------------------------------------------------------------------------------ records


def _twice(records: Mapping[str, Record]) -> Iterator[Problem]:
    """Records of one method at one place with one seed: only one of them can be in a table."""
    seen: dict[tuple[Any, ...], str] = {}
    for identity, record in records.items():
        cell = record["cell"]
        place = (cell["dataset"], protocol_of(cell), cell["pair"])
        key = (*place, cell["method"]["label"], cell["seed"])
        if key in seen:
            rule = f"records/{seen[key]}.json has the same method, place and seed"
            yield Problem(f"records/{identity}.json", rule, "cell.method.label", key[-2])
        seen.setdefault(key, identity)


def _mixed(records: Mapping[str, Record]) -> Iterator[Problem]:
    """Runs whose row holds another numerics."""
    for stray, newest in strays(list(records.values())):
        mine, theirs = unlike(used(stray), used(newest))
        rule = f"the newest of its row, records/{newest['id']}.json, ran with {theirs}: publish the suite again"
        yield Problem(f"records/{stray['id']}.json", rule, "provenance.numerics", mine)


def _of_several_sources(records: Mapping[str, Record]) -> Iterator[Problem]:
    """Runs of one label from several sources: they are several methods under one name."""
    for stray, newest in other_sources(list(records.values())):
        rule = f"the newest run of that label, records/{newest['id']}.json, is from {source_of(newest)}: publish anew"
        yield Problem(f"records/{stray['id']}.json", rule, "cell.method.source", source_of(stray))


def _engine(records: Mapping[str, Record], found: list[Problem]) -> str:
    """What is to be said of the engine that the records were run by, if it is an older one."""
    engines = {identity: engine for identity, record in records.items() if (engine := engine_of(record))}
    newest = max(engines.values(), default=ENGINE)
    for identity, engine in engines.items():
        if engine != newest:
            rule = (
                f"it was run by engine {engine}, others here by engine {newest}, and they do not compare: publish anew"
            )
            found.append(Problem(f"records/{identity}.json", rule, "id", identity))
    if newest == ENGINE:
        return ""
    return (
        f"its records are of engine {newest} and held against it; results of engine {ENGINE} do not compare with them"
    )


def _notes(records: Any) -> Iterator[str]:
    """Methods that this kdbench does not have, or has in another form."""
    sources = {(r["cell"]["method"]["name"], r["cell"]["method"]["source"]) for r in records}
    for name, source in sorted(sources):
        try:
            present = source_digest(registry.get(name))
        except KDBenchError:
            yield f"method {name!r} is not one of this kdbench: its file must come with the results"
            continue
        if present != source:
            yield f"method {name!r} was run from another source than it has in this kdbench"


# ------------------------------------------------------------------------------------------ tables


def _metrics(card: Card | None, records: Mapping[str, Record], found: list[Problem]) -> Metrics | None:
    """Of the suite's task; None if it is not known here."""
    try:
        return (
            of_tasks(dataset["task"] for dataset in card["suite"]["datasets"]) if card else metrics_of(records.values())
        )
    except KDBenchError as error:
        found.append(Problem("card.json" if card else "records", str(error), "suite.datasets" if card else "cell.task"))
        return None


def _table(folder: Path, name: str, metrics: Metrics, found: list[Problem], older: bool) -> pd.DataFrame | None:
    """A table as it stands there, held against its columns; None if it cannot be read."""
    try:
        frame = read_csv(folder / name) if name.endswith(".csv") else read_parquet(folder / name)
    except KDBenchError as error:
        found.append(Problem(name, str(error)))
        return None
    found += violations(name, frame, metrics, older)
    return frame


def _made_anew(
    folder: Path,
    card: Card,
    kept: Mapping[str, Entry],
    teachers: Mapping[str, Entry],
    trials: Mapping[str, Entry],
    tables: Mapping[str, pd.DataFrame | None],
) -> Iterator[Problem]:
    """Compare everything with what the records give; of what an older version published, what no rule changed."""
    left_out, older = card["left_out"], card["card"] < VERSION
    try:
        said = card.get("weights", {}), card.get("shown", ())
        content = folder_content(card["suite"], kept, left_out, teachers, plots_in(folder), trials, *said)
    except KDBenchError as error:
        yield Problem("records", f"no tables can be made of them: {error}")
        return
    if (MAP in content) != (MAP in tables) and not older:
        rule = "the records give this table: publish again" if MAP in content else "the records give no such table"
        yield Problem(MAP, rule)
    for name, keys in KEYS.items():
        frame = tables.get(name)
        if frame is not None and name in content:
            wanted = parse_csv(content[name])
            keys = keys or [column for column in wanted.columns if column not in MAP_VALUES]
            if older and name != "runs.csv":
                wanted = wanted[[column for column in wanted.columns if _unchanged(column)]]
            yield from _unlike(name, frame, wanted, keys)
    curves = tables.get(CURVES)
    if curves is not None and not curves.equals(read_parquet(io.BytesIO(content[CURVES]))):
        yield Problem(CURVES, "it is not what the records' curves give: publish again")
    if older:
        return
    ours = json.loads(content["card.json"])
    for key in sorted(ours.keys() | card.keys()):
        if key not in ("tables", "records", "teachers", CARD) and ours.get(key) != card.get(key):
            yield Problem("card.json", f"the records give {shown(ours.get(key))}", key, card.get(key))
    readme = folder / "README.md"
    if not readme.is_file() or readme.read_bytes() != content["README.md"]:
        yield Problem("README.md", "it is not what the records give: publish again, and write elsewhere")


def _unchanged(column: str) -> bool:
    """Whether a leaderboard's column has been made alike by every version: no rank, no test, no ratio of times."""
    return column in (*GROUP, "name", "family", "n", "failed", "not_applicable") or (
        "_mean" in column and column != "mean_rank"
    )


def _unlike(name: str, frame: pd.DataFrame, wanted: pd.DataFrame, keys: Sequence[str]) -> Iterator[Problem]:
    """Cells that differ, rows too many and rows too few; rows are met by their keys."""
    if not set(keys) <= set(frame.columns):
        return  # the missing columns are told of already
    mine, theirs = (dict(reversed(list(_keyed(table, keys)))) for table in (frame, wanted))
    for key, index in mine.items():
        if key not in theirs:
            yield Problem(name, "no record gives this row", f"row {index + 2}", ", ".join(key))
    for key in theirs:
        if key not in mine:
            yield Problem(name, "the records give a row that is not there", value=", ".join(key))
    for key in [key for key in mine if key in theirs]:
        for column in [column for column in frame.columns if column in wanted.columns]:
            value, right = str(frame.at[mine[key], column]), str(wanted.at[theirs[key], column])
            if not _same(value, right):
                yield Problem(name, f"the records give {right!r}", f"row {mine[key] + 2}, column {column}", value)


def _keyed(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], int]]:
    return zip(frame[list(keys)].itertuples(index=False, name=None), range(len(frame)), strict=True)


def _same(a: str, b: str) -> bool:
    """Equal as text, or as numbers of six digits, whose last one may differ with the version of a library."""
    if a == b:
        return True
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-5, abs_tol=1e-9)
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------ the card


def _digests(
    folder: Path, card: Card, kept: Mapping[str, Entry], teachers: Mapping[str, Entry], trials: Mapping[str, Entry]
) -> Iterator[Problem]:
    """Compare the card's digests with the files."""
    for name, digest in sorted(card["tables"].items()):
        if (folder / name).is_file() and sha256((folder / name).read_bytes()) != digest:
            yield Problem(name, "it was changed after it was published: card.json has another digest")
    for name in [name for name in FILES if name not in card["tables"]]:
        yield Problem("card.json", "it has no digest of this file", "tables", name)
    yield from changed(folder, card, kept, teachers, trials)
    for identity in sorted(set(card["left_out"]) - card["records"].keys()):
        yield Problem("card.json", "it is left out of the tables, but it is none of the records", "left_out", identity)


def _bundled(suite: Mapping[str, Any]) -> Iterator[Problem]:
    """A suite that has the name of one of kdbench's is that suite."""
    if suite["name"] not in suites.names():
        return
    theirs = suite_table(load(suite["name"]))
    for key in FIXED:
        mine, right = suite.get(key), theirs.get(key)
        if mine == right:
            continue
        if not (isinstance(mine, dict) and isinstance(right, dict)):
            mine, right = {"": mine}, {"": right}
        for inner in sorted(mine.keys() | right.keys()):
            if mine.get(inner) != right.get(inner):
                where = f"suite.{key}.{inner}".removesuffix(".")
                rule = f"kdbench's suite of this name has {shown(right.get(inner))}: give yours another name"
                yield Problem("card.json", rule, where, mine.get(inner))
