"""Records and tables in, what the pages show out: plain values without markup, in an order that only they decide."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from kdbench.board.captions import notes
from kdbench.board.columns import rows_of
from kdbench.board.grid import STATES
from kdbench.board.numbers import known
from kdbench.board.page.cells import Cell, table
from kdbench.board.page.series import Curve, Reliability, curve, reliability
from kdbench.board.results import ALL, Shown, Tables
from kdbench.board.runs import place_name, protocol_of, protocol_text
from kdbench.board.seen import CLASSES, class_of
from kdbench.board.tables import OVERALL
from kdbench.errors import KDBenchError
from kdbench.papers.reported import TEACHER, Reported, by_paper
from kdbench.records import Record
from kdbench.registry.about import Described
from kdbench.suites.grid import BASELINES

COMMON = "what all methods finished"


@dataclass(frozen=True)
class Place:
    """One data set, protocol and pair; `key` names its files, `short` is its title without what all places share."""

    key: str
    dataset: str
    protocol: str
    pair: str
    title: str
    short: str

    @property
    def where(self) -> str:
        """Data set and protocol."""
        return place_name((self.dataset, self.protocol))

    @property
    def clean(self) -> bool:
        return self.protocol == protocol_text({})


@dataclass(frozen=True)
class Board:
    """The leaderboard of one place, or of all pairs of a data set and protocol (then its pair is `overall`).

    Attributes:
        place: where.
        rows: those of `leaderboard_table`, by what their columns mean (`kdbench.board.columns`), with `slug`,
            `fidelity`, `seeds`, `sees` (of `kdbench.board.seen.CLASSES`) and `reported`.
        cells: key of a column -> one cell per row.
        notes: what it can tell, in sentences.
        compared: for how many methods differences to kd are corrected.
        note: what a board leaves out that is only over the pairs, or seeds, that all methods finished.
    """

    place: Place
    rows: list[dict[str, Any]]
    cells: dict[str, list[Cell]]
    notes: list[str]
    compared: int = 0
    note: str = ""

    @property
    def overall(self) -> bool:
        return self.place.pair == OVERALL

    @property
    def option(self) -> str:
        """What a list of boards calls it."""
        return self.place.short if self.overall else self.place.pair

    @property
    def filled(self) -> tuple[int, int]:
        """How many methods have a number here, or cannot have one because they do not apply; and, below 0, how many
        runs are lacking.
        """
        states = [name for name in STATES if name != "not_applicable"]
        lacking = [sum(row[name] for name in states) for row in self.rows]
        full = sum(known(row["score_mean"]) or not lacks for row, lacks in zip(self.rows, lacking, strict=True))
        return full, -sum(lacking)

    @property
    def classes(self) -> list[str]:
        """Those of `kdbench.board.seen.CLASSES` that it has, in their order."""
        return [name for name in CLASSES if any(row["sees"] == name for row in self.rows)]


class Results(Tables):
    """All that a suite's pages are made of.

    Args:
        suite, description: its name and what it says of itself.
        records: those that belong in its tables.
        expected: the grid's cells (`kdbench.board.results.grid_rows`).
        described: registered name -> `Described`; names of methods that are not at hand may be absent.
        reported: what papers report; kept is what is of the primary score of these records' task.
        shown: which methods.
        remarks: sentences about records that are not shown.
    """

    def __init__(
        self,
        suite: str,
        description: str,
        records: Sequence[Record],
        expected: Iterable[Mapping[str, Any]] = (),
        described: Mapping[str, Described] | None = None,
        reported: Sequence[Reported] = (),
        shown: Shown = ALL,
        remarks: Sequence[str] = (),
    ) -> None:
        super().__init__(records, expected, shown)
        self.remarks = list(remarks)
        self.suite, self.description = suite, description
        self.described = dict(described or {})
        score = (self.metrics.task, self.metrics.primary.name)
        self.reported = [row for row in reported if (row.task, row.metric) == score]

    @cached_property
    def methods(self) -> list[str]:
        """Labels in alphabetical order."""
        return sorted(set(self.runs["method"]))

    @cached_property
    def slugs(self) -> dict[str, str]:
        """Label -> the name of its page."""
        return slugs(self.methods)

    @cached_property
    def names(self) -> dict[str, str]:
        """Label -> registered name."""
        return dict(zip(self.runs["method"], self.runs["name"], strict=True))

    @cached_property
    def places(self) -> list[Place]:
        """All places, data sets and protocols together."""
        found = self.runs[["dataset", "protocol", "pair"]].drop_duplicates().itertuples(index=False)
        return self._placed(sorted(tuple(place) for place in found))

    @cached_property
    def boards(self) -> list[Board]:
        """One board per place; before those of a data set and protocol with several pairs, one over all of them, and
        where methods lack some of their runs, one over what all finished.
        """
        pairs: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        for place in self.places:
            pairs.setdefault((place.dataset, place.protocol), []).append((place.dataset, place.protocol, place.pair))
        wanted = [
            place for setting, own in pairs.items() for place in ([(*setting, OVERALL), *own] if len(own) > 1 else own)
        ]
        return [board for place in self._placed(wanted) for board in self._boards_at(place)]

    def _boards_at(self, place: Place) -> list[Board]:
        made = [self._board(place, self)]
        if place.pair == OVERALL and self.subset is not None:
            names = {"key": f"{place.key}-common", "title": f"{place.where}: {COMMON}", "short": COMMON}
            board = self._board(dataclasses.replace(place, **names), self.subset)
            made += [board] if any(known(row["score_mean"]) for row in board.rows) else []
        return made

    @cached_property
    def subset(self) -> Tables | None:
        """The tables over what all methods finished; None if that is all, or nothing."""
        try:
            made = self.common()
        except KDBenchError:
            return None
        return made if made.note else None

    def fullest(self, boards: Sequence[Board]) -> Board:
        """The board on which most methods have a number; of equals the first, those over a part of the runs last."""
        return max(sorted(boards, key=lambda board: bool(board.note)), key=lambda board: board.filled)

    def _placed(self, places: Sequence[tuple[str, str, str]]) -> list[Place]:
        several = len({place[:2] for place in places}) > 1
        keys = slugs([" ".join(place if several else place[2:]) for place in places])
        return [
            Place(key, *place, place_name(shown), place_name(shown) if several else shown[2])
            for place, key in zip(places, keys.values(), strict=True)
            for shown in [place if place[2] != OVERALL else (*place[:2], "all pairs")]
        ]

    def _board(self, place: Place, of: Tables) -> Board:
        where = {"dataset": place.dataset, "protocol": place.protocol, "pair": place.pair}
        frame = of.long[(of.long[list(where)] == pd.Series(where)).all(axis=1)]
        rows = rows_of(frame, self.metrics)
        for row in rows:
            row["slug"] = self.slugs[row["method"]]
            described = self.described.get(row["name"])
            row["fidelity"] = described.fidelity if described else "unknown"
            row["sees"] = class_of(row["teachers"])
            row["seeds"] = self._least_seeds(row, place)
            row["reported"] = self._reported(row["method"], place)
        of_place = (place.dataset, place.protocol, place.pair)
        told, compared = notes(self.grid, of_place), of.compared(of_place)
        return Board(place, rows, table(rows, self.metrics), told, compared, "" if of is self else of.note)

    def _least_seeds(self, row: Mapping[str, Any], place: Place) -> int:
        """Seeds finished at the place, or overall at every place."""
        if place.pair != OVERALL:
            return row["n"]
        here = [p for p, own in enumerate(self.grid.places) if own[:2] == (place.dataset, place.protocol)]
        done = self.grid.states[self.grid.methods.index(row["method"])] == "done"  # [seeds, places]
        return int(done[:, here].sum(0).min())

    def _reported(self, label: str, place: Place) -> list[Reported]:
        """A method's values for a pair, the paper that brought it first."""
        if not place.clean:
            return []
        mine = [
            row
            for row in self.reported
            if row.method == label and row.dataset == place.dataset and row.pair == place.pair
        ]
        return [row for rows in by_paper(mine).values() for row in rows]

    @cached_property
    def baseline(self) -> str:
        """What differences in overviews are to: kd where it ran, else the plain student."""
        return "kd" if self.long["vs_kd"].notna().any() else "student"

    def teacher_reported(self, place: Place) -> list[Reported]:
        return self._reported(TEACHER, place)

    def at(self, place: Place) -> dict[str, list[Record]]:
        """Label -> its records at a place, by seed."""
        return {
            method: sorted(found, key=lambda record: record["cell"]["seed"])
            for method in self.methods
            if (found := self._records.get((place.dataset, place.protocol, place.pair, method)))
        }

    @cached_property
    def _records(self) -> dict[tuple[str, str, str, str], list[Record]]:
        found: dict[tuple[str, str, str, str], list[Record]] = {}
        for record in self.shown_records:
            cell = record["cell"]
            key = (cell["dataset"], protocol_of(cell), cell["pair"], cell["method"]["label"])
            found.setdefault(key, []).append(record)
        return found

    @cached_property
    def shown_records(self) -> list[Record]:
        """The records of the methods that are shown."""
        return [record for record in self.records if record["cell"]["method"]["label"] in self.names]

    def curves(self, place: Place) -> dict[str, Curve]:
        """Label -> learning curve, of the methods that finished a run."""
        return {
            method: made
            for method, records in self.at(place).items()
            if (made := curve(records, self.metrics.primary.name))
        }

    def reliabilities(self, place: Place) -> dict[str, Reliability]:
        """Label -> reliability diagram, of the methods that were measured."""
        return {method: made for method, records in self.at(place).items() if (made := reliability(records))}

    @property
    def calibrates(self) -> bool:
        """Whether runs of this task are held against their confidence, as far as their records say."""
        return any("reliability" in (record.get("result") or {}) for record in self.records)

    def shown(self, board: Board, most: int = 5) -> list[str]:
        """The methods that plots show at first: the baselines and the best, `most` in all."""
        scored = [row for row in board.rows if known(row["score_mean"])]
        baselines = [row["method"] for name in BASELINES for row in scored if row["name"] == name]
        best = [row["method"] for row in scored if row["method"] not in baselines]
        return [*baselines, *best][: max(most, len(baselines))]

    def hyperparameters(self, label: str) -> dict[str, Any]:
        """Those of the label's records; none if it left no record."""
        mine = (record["cell"]["method"] for record in self.records if record["cell"]["method"]["label"] == label)
        return next((method["hyperparameters"] for method in mine), {})


def slugs(labels: Iterable[str]) -> dict[str, str]:
    """Label -> a name for its file: lower-case letters, digits and dashes, each name once."""
    names: dict[str, str] = {}
    for label in labels:
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
        slug = base = re.sub(r"[^a-z0-9]+", "-", plain.replace("+", " plus ")).strip("-")[:80] or "unnamed"
        number = 1
        while slug in names.values():
            number += 1
            slug = f"{base}-{number}"
        names[label] = slug
    return names
