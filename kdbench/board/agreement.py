"""How the methods' order on a board agrees with that of the papers' tables: rank correlations over shared methods.

A table is what one paper gives for one data set and one choice of the epoch (`kdbench.papers.reported`). A method's
worth in it is its effect, fitted to the table's values beside one of each pair, so that a method without a value for an
easy pair is not the worse for it. On the board it is its mean difference to the plain student.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse, stats

from kdbench.board.grid import Grid
from kdbench.board.runs import place_name
from kdbench.board.tables import difference
from kdbench.papers.reported import TEACHER, Reported
from kdbench.suites.grid import PLAIN

FEWEST = 5  # shared methods that a rank correlation is taken of
EVERY = "all tables"
SHUFFLES = 9_999
COLUMNS = (
    *("place", "settings", "paper", "dataset", "selection", "methods", "pairs"),
    *("rank_correlation", "p", "between_pairs", "shared"),
)


@dataclass(frozen=True)
class Agreement:
    """Attributes:
    place: of the board.
    tuned: whether the board's rows are those that a sweep chose.
    paper: whose table, or `EVERY` of the data set.
    dataset, selection: of the table; the selection of `EVERY` is empty.
    pairs: of networks that the table has shared methods for.
    shared: the methods that both have, the board's best first.
    rank: Spearman's rank correlation over them.
    p: of a rank correlation as far from 0 if the orders had nothing to do with each other (permutations).
    between_pairs: how the table's own pairs agree, the yardstick: the mean rank correlation of a pair's values with
        the methods' effects in its other pairs; NaN where too few pairs have as many methods.
    """

    place: str
    tuned: bool
    paper: str
    dataset: str
    selection: str
    pairs: int
    shared: tuple[str, ...]
    rank: float
    p: float
    between_pairs: float


def agreements(grid: Grid, rows: Sequence[Reported]) -> list[Agreement]:
    """Of each place of the board and each table of its task and primary score with enough shared methods: all tables of
    a data set first, and then those with the most methods.
    """
    primary = grid.metrics.primary
    tables = _tables([row for row in rows if (row.task, row.metric) == (grid.metrics.task, primary.name)])
    made = []
    for p, place in enumerate(grid.places):
        for tuned in (False, True):
            worth = gains(grid.part(np.array([p])), tuned)
            for (paper, dataset, selection), table in tables.items():
                here = linked([row for row in table if row.method in worth])
                shared = tuple(sorted({row.method for row in here}, key=lambda method: -primary.sign * worth[method]))
                if len(shared) < FEWEST:
                    continue
                effect = effects(here)
                rank, chance = _rank([worth[m] for m in shared], [effect[m] for m in shared])
                pairs = len({row.pair for row in here})
                head = (place_name(place), tuned, paper, dataset, selection, pairs, shared)
                made.append(Agreement(*head, rank, chance, _between_pairs(here)))
    return sorted(made, key=lambda a: (a.place, a.tuned, a.paper != EVERY, -len(a.shared), a.paper))


def gains(grid: Grid, tuned: bool = False) -> dict[str, float]:
    """What each method is worth at the place of a grid: its mean difference to the plain student, as measured; of a
    tuned row to the tuned student.

    A method stands under its registered name if it has one row, or under the label of its row without settings.
    """
    own = [m for m in range(len(grid.methods)) if (grid.trials[m] > 0) == tuned]
    names = [grid.names[m] for m in own]
    found: dict[str, float] = {}
    for m, name in zip(own, names, strict=True):
        paired = difference(grid, m, PLAIN, overall=False)
        if paired and (names.count(name) == 1 or grid.methods[m] == name):
            found[name] = paired.mean
    return found


def _tables(rows: Sequence[Reported]) -> dict[tuple[str, str, str], list[Reported]]:
    """The papers' own tables, and all of a data set together.

    Methods stand under their registered names; of one with several settings in a table the row without settings counts.
    """
    tables: dict[tuple[str, str, str], list[Reported]] = {}
    for row in rows:
        if row.method not in (TEACHER, PLAIN) and not row.aside:
            tables.setdefault((row.paper, row.dataset, row.selection), []).append(row)
    every: dict[tuple[str, str, str], list[Reported]] = {}
    for key, table in tables.items():
        settings = {name: {row.method for row in table if row.name == name} for name in {row.name for row in table}}
        kept = [row for row in table if row.method == row.name or len(settings[row.name]) == 1]
        tables[key] = [dataclasses.replace(row, method=row.name) for row in kept]
        every.setdefault((EVERY, key[1], ""), []).extend(tables[key])
    return {**every, **tables}


def linked(rows: Sequence[Reported]) -> list[Reported]:
    """The largest part of the rows in which any two methods are compared, if only by way of others: what stands in no
    column with the rest has an effect of any size.
    """
    if not rows:
        return []
    nodes = {node: n for n, node in enumerate(dict.fromkeys(n for row in rows for n in (row.method, _column(row))))}
    ends = [nodes[row.method] for row in rows], [nodes[_column(row)] for row in rows]
    graph = sparse.coo_matrix((np.ones(len(rows)), ends), shape=(len(nodes), len(nodes)))
    part = sparse.csgraph.connected_components(graph, directed=False)[1]
    methods = {row.method for row in rows}
    largest = Counter(part[nodes[method]] for method in sorted(methods)).most_common(1)[0][0]
    return [row for row in rows if part[nodes[row.method]] == largest]


def effects(rows: Sequence[Reported]) -> dict[str, float]:
    """Each method's effect by least squares of value = method + column, where a column is one pair of one table."""
    methods = sorted({row.method for row in rows})
    columns = sorted({_column(row) for row in rows})
    design = np.zeros((len(rows), len(methods) + len(columns)))
    for number, row in enumerate(rows):
        design[number, methods.index(row.method)] = 1
        design[number, len(methods) + columns.index(_column(row))] = 1
    fitted = np.linalg.lstsq(design, np.array([row.value for row in rows]), rcond=None)[0]
    return dict(zip(methods, fitted[: len(methods)].tolist(), strict=True))


def _column(row: Reported) -> tuple[str, str, str]:
    return row.paper, row.selection, row.pair


def _rank(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Spearman's rank correlation, and its two-sided p over permutations (all of them where they are few)."""
    ranks = [stats.zscore(stats.rankdata(values)) for values in (a, b)]
    if not all(np.isfinite(one).all() for one in ranks):
        return math.nan, math.nan
    test = stats.permutation_test(
        (ranks[0],),
        lambda x, axis: (x * ranks[1]).mean(axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=SHUFFLES,
        rng=np.random.default_rng(0),
    )
    return float(test.statistic), float(test.pvalue)


def _between_pairs(rows: Sequence[Reported]) -> float:
    found = []
    for column in sorted({_column(row) for row in rows}):
        own: Mapping[str, float] = {row.method: row.value for row in rows if _column(row) == column}
        others = linked([row for row in rows if _column(row) != column])
        rest = effects(others) if others else {}
        both = sorted(set(own) & set(rest))
        if len(both) >= FEWEST:
            found.append(float(stats.spearmanr([own[m] for m in both], [rest[m] for m in both]).statistic))
    return float(np.nanmean(found)) if len(found) > 1 else math.nan


def table(found: Sequence[Agreement]) -> pd.DataFrame:
    """agreement.csv."""
    rows = [
        (
            *(a.place, "tuned" if a.tuned else "default", a.paper, a.dataset, a.selection, len(a.shared), a.pairs),
            *(a.rank, a.p, a.between_pairs, " > ".join(a.shared)),
        )
        for a in found
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
