"""Publishing a suite: its records, tables, curves, card and README in one folder that `kdbench validate` can check."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.board.curves import curves_table, need_pyarrow, parquet
from kdbench.board.maps.gains import FILE as MAP
from kdbench.board.maps.gains import table as map_table
from kdbench.board.publishing.audit import audit, shape
from kdbench.board.publishing.card import Card, card_bytes, make_card, read_card, sha256
from kdbench.board.publishing.merge import TEACHERS, Entry, entries, unite
from kdbench.board.publishing.problem import Problem
from kdbench.board.publishing.readme import readme
from kdbench.board.publishing.weights import About, Weights
from kdbench.board.publishing.weights import gather as gather_weights
from kdbench.board.results import ALL, Shown, Tables, grid_rows, suite_table, with_strays
from kdbench.board.select import current
from kdbench.board.sweeps.kept import save
from kdbench.board.sweeps.published import CARD, gather, with_rows
from kdbench.board.tables import csv_bytes
from kdbench.board.views import set_aside
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.records.files import write_atomically
from kdbench.records.leftovers import sweep_half_written
from kdbench.suites.grid import Suite
from kdbench.suites.sweep import Sweep
from kdbench.suites.trials import FOLDER

CURVES = "curves.parquet"
PLOTS = ("pareto", "ranks", "heat", "map")


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        folder: where.
        records: how many are in the tables.
        teachers: how many trained teachers they name.
        trials: how many trials their tuned rows name.
        aside: how many records of this run are not of the suite as it is now, or of other numerics than it fixes or
            than their row has, and were not published.
        weights: those of the teachers.
    """

    folder: Path
    records: int
    teachers: int
    trials: int
    aside: int
    weights: Weights


def publish(suite: Suite, out: Path, to: Path, weights_at: str = "", shown: Collection[str] = ()) -> Published:
    """Bring a suite's records from `out` into the results folder `to`, and make everything else there anew.

    What is published there already stays: both are united as `kdbench merge` does. Records of other recipes and of
    older sources of a method are not published; those that are there since earlier stay there and out of the tables.
    The same records give the same bytes. The teachers' weights come along (`kdbench.board.publishing.weights`).

    Args:
        weights_at: the address of a folder in the web where weights lie that are too large to be published.

    Args:
        suite: the grid.
        out: the folder of the runs.
        to: the folder of published results.
        shown: labels of the methods that the tables show beside the baselines; none: all. All are published, and
            differences are corrected for all.

    Raises:
        KDBenchError: if there is nothing to publish, a result differs from the published one, a teacher's record is not
            there, or pyarrow is not installed.
    """
    need_pyarrow()
    folder = to / suite.name
    mine = entries(out / suite.name / "records")
    there = entries(folder / "records")
    kept = unite([*there, *mine])
    swept = gather(suite, (out / suite.name, folder), kept)
    records = current([entry.record for entry in kept.values()], [*suite.cells(), *swept.cells])
    if not records:
        others = (
            f"; {len(mine)} records there are of another recipe, of older methods, or of other numerics" if mine else ""
        )
        raise KDBenchError(
            f"there is no record of suite {suite.name!r} in {str(out / suite.name)!r}{others}: run it first, or name"
            " its folder with --out"
        )
    counted = {record["id"] for record in records}
    old = {entry.record["id"] for entry in there} - counted
    refuse_unsound(entry for entry in kept.values() if entry.record["id"] in counted)
    trials = swept.used(records)
    refuse_unsound(trials.values())
    wanted = {identity: entry for identity, entry in kept.items() if identity in counted | old}
    teachers = _teachers([entry.record for entry in (*wanted.values(), *trials.values())], out, to)
    taught = [*records, *(entry.record for entry in trials.values())]
    refuse_unsound(teachers[identity] for record in taught for identity in trained(record))
    weights = gather_weights(teachers, [to, out], published_weights(folder), weights_at)
    table = with_rows(suite_table(suite), swept.sweep, records)
    _write(folder, table, wanted, sorted(old), teachers, trials, weights, sorted(shown))
    aside = len({entry.record["id"] for entry in mine} - counted)
    return Published(folder, len(records), len(teachers), len(trials), aside, weights)


def published_weights(folder: Path) -> Mapping[str, About]:
    """What a published folder's card says of its teachers' weights; nothing if it has none that can be read."""
    try:
        return read_card(folder / "card.json").get("weights", {})
    except KDBenchError:
        return {}


def refuse_unsound(found: Iterable[Entry]) -> None:
    """Look at records before they are published, as `kdbench validate` would afterwards.

    Raises:
        KDBenchError: naming the first thing that is wrong, and how many there are.
    """
    problems = [p for entry in found for p in _problems(entry)]
    if problems:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise KDBenchError(f"nothing was published, for a record is not what a run leaves: {problems[0]}{more}")


def _problems(entry: Entry) -> list[Problem]:
    file = str(entry.path)
    return shape(file, entry.record) or list(audit(file, entry.record, json.loads(entry.content)["schema"]))


def remake(folder: Path) -> Published:
    """Make everything in a published folder anew from its own card and records, as a newer kdbench writes it.

    Raises:
        KDBenchError: if it has no card, or a record or a teacher's record cannot be read.
    """
    need_pyarrow()
    try:
        card = read_card(folder / "card.json")
    except KDBenchError as error:
        raise KDBenchError(f"{str(folder / 'card.json')!r}: {error}") from error
    kept = {entry.record["id"]: entry for entry in entries(folder / "records")}
    left_out = sorted(set(card["left_out"]) & kept.keys())
    records = [entry.record for identity, entry in kept.items() if identity not in left_out]
    if not records:
        raise KDBenchError(f"{str(folder)!r} has no record that counts: bring them back, or publish its suite again")
    trials = {entry.record["id"]: entry for entry in entries(folder / FOLDER / "records")}
    taught = [entry.record for entry in (*kept.values(), *trials.values())]
    teachers = _teachers(taught, folder.parent, folder.parent)
    weights = gather_weights(teachers, [folder.parent], card.get("weights", {}), "")
    _write(folder, card["suite"], kept, left_out, teachers, trials, weights, card.get("shown", ()))
    return Published(folder, len(records), len(teachers), len(trials), 0, weights)


def _write(
    folder: Path,
    suite: Mapping[str, Any],
    kept: Mapping[str, Entry],
    left_out: Sequence[str],
    teachers: Mapping[str, Entry],
    trials: Mapping[str, Entry],
    weights: Weights,
    shown: Sequence[str],
) -> None:
    content = folder_content(suite, kept, left_out, teachers, plots_in(folder), trials, weights.about, shown)
    shared = Store(folder.parent / TEACHERS)
    for place in (folder, folder / "records", shared.folder / "records", shared.folder / "weights"):
        sweep_half_written(place)
    for identity, path in weights.files.items():
        if path != shared.weights(identity):
            write_atomically(shared.weights(identity), path.read_bytes())
    for identity, entry in teachers.items():
        write_atomically(shared.path(identity), entry.content)
    for identity, entry in sorted(kept.items()):
        write_atomically(folder / "records" / f"{identity}.json", entry.content)
    for identity, entry in sorted(trials.items()):
        write_atomically(folder / FOLDER / "records" / f"{identity}.json", entry.content)
    if trials:
        save(Sweep(**suite["sweep"]), folder)
    for name, data in content.items():
        write_atomically(folder / name, data)


def folder_content(
    suite: Mapping[str, Any],
    kept: Mapping[str, Entry],
    left_out: Sequence[str],
    teachers: Mapping[str, Entry],
    plots: Sequence[str],
    trials: Mapping[str, Entry],
    weights: Mapping[str, About],
    shown: Sequence[str] = (),
) -> dict[str, bytes]:
    """Every file of a published suite beside its records: name -> content. The card comes last.

    Args:
        suite: a `kdbench.board.results.suite_table`.
        kept: the records by id.
        left_out: ids of those that are not in the tables.
        teachers: the teachers' records by id.
        plots: paths of plots, seen from the folder.
        trials: the records of its sweep by id.
        weights: what the card says of the teachers' weights.
        shown: labels of the methods in the tables beside the baselines; none: all.
    """
    records = [entry.record for identity, entry in sorted(kept.items()) if identity not in left_out]
    aside = [entry.record for identity, entry in sorted(kept.items()) if identity in left_out]
    tables = suite_tables(suite, records, aside, shown)
    files = {name: csv_bytes(table) for name, table in tables.files.items()}
    if tables.map:
        files[MAP] = csv_bytes(map_table(tables.map))
    files[CURVES] = parquet(curves_table(records))
    digests = {
        "tables": {name: sha256(data) for name, data in files.items()},
        "records": {identity: sha256(entry.content) for identity, entry in kept.items()},
        "teachers": {identity: sha256(entry.content) for identity, entry in teachers.items()},
        **({"weights": weights} if weights else {}),
    }
    if trials:
        digests[CARD] = {identity: sha256(entry.content) for identity, entry in trials.items()}
    card: Card = make_card(suite, records, left_out, digests, tables.states, shown)
    files["README.md"] = readme(card, tables, plots).encode()
    return {**files, "card.json": card_bytes(card)}


def suite_tables(
    suite: Mapping[str, Any], records: Sequence[Record], aside: Sequence[Record] = (), shown: Sequence[str] = ()
) -> Tables:
    """The tables of a published suite.

    Args:
        suite: a `kdbench.board.results.suite_table`.
        records: those that count.
        aside: those that lie in the folder and do not.
        shown: as `folder_content`.

    Raises:
        KDBenchError: if its task is unknown, or it has several, or two records are of one run.
    """
    rows = with_strays(grid_rows(suite), set_aside(suite, records, aside))
    return Tables(records, rows, Shown(frozenset(shown)) if shown else ALL)


def plots_in(folder: Path) -> list[str]:
    """The plots of `kdbench report` that say most, if somebody put them there."""
    found = [path.name for kind in PLOTS for path in sorted(folder.glob(f"plots/{kind}*.png"))]
    return [f"plots/{name}" for name in found if re.fullmatch(r"[\w.-]+", name)]  # no name is markup


def trained(record: Record) -> list[str]:
    """The ids of the teachers that kdbench trained for a record."""
    cell = record["cell"]["teachers"]
    own = {(spec["network"], spec["seed"]) for spec in cell if spec["weights"] == "train"}
    return [t["weights"] for t in record.get("teachers") or () if (t["network"], t["seed"]) in own]


def _teachers(records: Sequence[Record], out: Path, to: Path) -> dict[str, Entry]:
    """The records of the teachers that the suite's records name, by id."""
    used = sorted({identity for record in records for identity in trained(record)})
    there = [entry for root in (to, out) for entry in entries(root / TEACHERS / "records")]
    found = unite(entry for entry in there if entry.record["id"] in used)
    lost = [identity for identity in used if identity not in found]
    if lost:
        raise KDBenchError(
            f"teacher {lost[0]!r} has no record in {str(out / TEACHERS)!r}: bring the folder where it was trained in by"
            " `kdbench merge`"
        )
    return {identity: found[identity] for identity in used}
