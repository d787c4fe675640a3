"""Records and tables in, what the pages show out: plain values without markup, in an order that only they decide."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from kdbench.board.captions import notes
from kdbench.board.columns import rows_of
from kdbench.board.numbers import known
from kdbench.board.page.cells import Cell, table
from kdbench.board.page.series import Curve, Reliability, curve, reliability
from kdbench.board.results import Tables
from kdbench.board.runs import place_name, protocol_of, protocol_text
from kdbench.board.tables import OVERALL
from kdbench.papers.reported import TEACHER, Reported, by_paper
from kdbench.records import Record
from kdbench.registry.about import Described
from kdbench.suites.grid import BASELINES


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
            `fidelity`, `seeds` and `reported`.
        cells: key of a column -> one cell per row.
        notes: what it can tell, in sentences.
    """

    place: Place
    rows: list[dict[str, Any]]
    cells: dict[str, list[Cell]]
    notes: list[str]

    @property
    def overall(self) -> bool:
        return self.place.pair == OVERALL


class Results(Tables):
    """All that a suite's pages are made of.

    Args:
        suite, description: its name and what it says of itself.
        records: those that belong in its tables.
        expected: the grid's cells (`kdbench.board.results.grid_rows`).
        described: registered name -> `Described`; names of methods that are not at hand may be absent.
        reported: what papers report.
    """

    def __init__(
        self,
        suite: str,
        description: str,
        records: Sequence[Record],
        expected: Iterable[Mapping[str, Any]] = (),
        described: Mapping[str, Described] | None = None,
        reported: Sequence[Reported] = (),
    ) -> None:
        super().__init__(records, expected)
        self.suite, self.description = suite, description
        self.described = dict(described or {})
        self.reported = list(reported)

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
        """One board per place; before those of a data set and protocol with several pairs, one over all of them."""
        pairs: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
        for place in self.places:
            pairs.setdefault((place.dataset, place.protocol), []).append((place.dataset, place.protocol, place.pair))
        wanted = [
            place for setting, own in pairs.items() for place in ([(*setting, OVERALL), *own] if len(own) > 1 else own)
        ]
        return [self._board(place) for place in self._placed(wanted)]

    def _placed(self, places: Sequence[tuple[str, str, str]]) -> list[Place]:
        several = len({place[:2] for place in places}) > 1
        keys = slugs([" ".join(place if several else place[2:]) for place in places])
        return [
            Place(key, *place, place_name(shown), place_name(shown) if several else shown[2])
            for place, key in zip(places, keys.values(), strict=True)
            for shown in [place if place[2] != OVERALL else (*place[:2], "all pairs")]
        ]

    def _board(self, place: Place) -> Board:
        where = {"dataset": place.dataset, "protocol": place.protocol, "pair": place.pair}
        frame = self.long[(self.long[list(where)] == pd.Series(where)).all(axis=1)]
        rows = rows_of(frame, self.metrics)
        for row in rows:
            row["slug"] = self.slugs[row["method"]]
            described = self.described.get(row["name"])
            row["fidelity"] = described.fidelity if described else "unknown"
            row["seeds"] = self._least_seeds(row, place)
            row["reported"] = self._reported(row["method"], place)
        told = notes(self.grid, (place.dataset, place.protocol, place.pair))
        return Board(place, rows, table(rows, self.metrics), told)

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
        for record in self.records:
            cell = record["cell"]
            key = (cell["dataset"], protocol_of(cell), cell["pair"], cell["method"]["label"])
            found.setdefault(key, []).append(record)
        return found

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
