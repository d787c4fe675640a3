"""The overviews: what a suite found, on what, how sure that is, and what is missing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbench.board.columns import rows_of
from kdbench.board.engines import engines_of
from kdbench.board.grid import STATES
from kdbench.board.numbers import aligned, decimals, fixed, interval, known, probability, with_unit
from kdbench.board.page.cells import Cell, mark_of, resolution, rounded
from kdbench.board.page.data import COMMON, Board, Place, Results
from kdbench.board.results import Tables
from kdbench.board.seen import CLASSES, class_of
from kdbench.board.statistics.intervals import SURE
from kdbench.board.statistics.ranks import CriticalDifference
from kdbench.board.teachers import teacher_seeds
from kdbench.suites.grid import BASELINES
from kdbench.suites.recipe import LENGTH
from kdbench.tasks.metrics import Metric

FEW = 5  # seeds below which a t interval is wide


@dataclass(frozen=True)
class Lead:
    """The highest mean among the methods that see as many teachers.

    Attributes:
        sees: `one teacher`; empty where no others are on the board.
        best: its row.
        score: `79.65 ± 0.15`; the unit is the metric's.
        gain, gain_interval: difference to the plain student, `+3.39` and `+3.17 to +3.62`, or nothing.
        ahead, ahead_interval: difference to kd, likewise.
    """

    sees: str
    best: Mapping[str, Any]
    score: str
    gain: str
    gain_interval: str
    ahead: str
    ahead_interval: str


@dataclass(frozen=True)
class Finding:
    """What one board says in a sentence or two.

    Attributes:
        leads: one for each number of teachers that methods see; none if nothing is finished.
        better, worse, compared: methods that Holm's correction leaves better or worse than the baseline, of how many.
        resolution: half the width of the middle interval of the differences, or nothing.
    """

    leads: list[Lead]
    better: int
    worse: int
    compared: int
    resolution: str


def finding(board: Board, baseline: str, metric: Metric) -> Finding:
    """Sum a board up, whose primary score is `metric`."""
    scored = [row for row in board.rows if known(row["score_mean"])]
    marks = Counter(mark_of(row, baseline, metric) for row in scored)
    compared = sum(known(row[f"vs_{baseline}"]) for row in scored)
    half = resolution(scored, baseline)
    width = fixed(half, decimals(half, metric.decimals)) if known(half) else ""
    classes = [name for name in CLASSES if any(row["sees"] == name for row in scored)]
    leads = [
        _lead(CLASSES[name] * (len(classes) > 1), next(row for row in scored if row["sees"] == name), metric)
        for name in classes
    ]
    return Finding(leads, marks["better"], marks["worse"], compared, width)


def _lead(sees: str, best: Mapping[str, Any], metric: Metric) -> Lead:
    told: list[str] = []
    for baseline in BASELINES:
        mean, _, ends = _difference(best, baseline, metric).partition(" ")
        told += [mean, ends.strip("[]").replace(", ", " to ")]
    gain, gain_interval, ahead, ahead_interval = told
    score = " ".join(filter(None, rounded(best, metric)))
    return Lead(sees, best, score, gain, gain_interval, ahead, ahead_interval)


def _difference(row: Mapping[str, Any], baseline: str, metric: Metric) -> str:
    mean, low, high = (row[f"vs_{baseline}{part}"] for part in ("", "_ci95_low", "_ci95_high"))
    if not known(mean):
        return ""
    digits = decimals((high - low) / 2 if known(low) and known(high) else math.nan, metric.decimals)
    return f"{fixed(mean, digits, True)} {interval(low, high, digits)}".strip()


@dataclass(frozen=True)
class HeatRow:
    """A method's differences to the baseline: one cell per place, its strength in % of the scale (above 0 where it is
    better), its state if it has no number.
    """

    method: str
    slug: str
    cells: list[Cell]
    strength: list[int]
    state: list[str]


@dataclass(frozen=True)
class Heat:
    """Methods x places. `worst` and `best` are the differences at the ends of the colour scale."""

    places: list[Place]
    rows: list[HeatRow]
    worst: str
    best: str


def heat(results: Results) -> Heat:
    """The heat map, best method first."""
    boards = [board for board in results.boards if not board.overall]
    name, metric = f"vs_{results.baseline}", results.metrics.primary
    rows = [{row["method"]: row for row in board.rows} for board in boards]
    values = np.array([[row.get(m, {}).get(name, np.nan) for row in rows] for m in results.methods], dtype=float)
    size = np.abs(values[np.isfinite(values)])
    limit = max(float(np.quantile(size, 0.9)), 10.0 ** (1 - metric.decimals)) if len(size) else 1.0
    digits = max(metric.decimals - (limit >= 1), 0)
    columns = [aligned([fixed(v, digits, True) if known(v) else "" for v in column]) for column in values.T.tolist()]
    made = [
        HeatRow(
            method,
            results.slugs[method],
            [_heat_cell(row.get(method), columns[p][m], results.baseline, metric) for p, row in enumerate(rows)],
            [_strength(metric.sign * values[m, p], limit) for p in range(len(rows))],
            [_state(row.get(method)) for row in rows],
        )
        for m, method in enumerate(results.methods)
    ]
    order = list(results.wide["method"]) if len(boards) > 1 else [row["method"] for row in boards[0].rows]
    made.sort(key=lambda row: order.index(row.method))
    worst, best = (fixed(sign * limit, digits, True) for sign in (-metric.sign, metric.sign))
    return Heat([board.place for board in boards], made, worst, best)


def _heat_cell(row: Mapping[str, Any] | None, text: str, baseline: str, metric: Metric) -> Cell:
    if row is None:
        return Cell()
    return Cell(text, mark=mark_of(row, baseline, metric), hint=_difference(row, baseline, metric))


def _strength(value: float, limit: float) -> int:
    return round(100 * min(max(value / limit, -1.0), 1.0)) if known(value) else 0


def _state(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not planned"
    if known(row["score_mean"]):
        return ""
    return next((state for state in STATES if row[state]), "missing")


@dataclass(frozen=True)
class Ranks:
    """A critical-difference diagram, ready to be drawn.

    Attributes:
        key, title: of the methods that see as many teachers: `one`, and `one teacher` where there are others.
        data: ranks, cliques and tests.
        position: where each method's rank stands on the axis, in %.
        width: of the critical difference on the axis, in %.
        sentence: what the test says.
        left_out: methods that did not finish everything.
    """

    key: str
    title: str
    data: CriticalDifference
    position: list[float]
    width: float
    sentence: str
    left_out: list[str]


def ranks(results: Results) -> list[Ranks]:
    """Average ranks of the complete methods, of those apart that see one teacher, several, and none; none where there
    are not two of them, or nothing to average over. Where no two methods finished everything, they are over what all
    finished.
    """
    over: Tables = results if results.rankings or results.subset is None else results.subset
    found = {name: data for name, data in over.rankings.items() if data.blocks >= 2}
    several = len(set(results.grid.classes)) > 1
    return [_ranks(over, name, data, several) for name, data in found.items()]


def _ranks(results: Tables, name: str, data: CriticalDifference, several: bool) -> Ranks:
    least, span = 1.0, max(len(data.methods) - 1.0, 1.0)
    what = "pairs" if len(results.counted.places) > 1 else "seeds"
    position = [round(100 * (rank - least) / span, 2) for rank in data.ranks]
    test = data.friedman
    if known(test.f_p):
        differ = "the ranks differ more than by chance" if test.f_p < SURE else "the ranks may differ by chance alone"
        equal = "" if test.f_p < 1e-4 else "= "
        sentence = f"Friedman's test over {data.blocks} {what}: p {equal}{probability(test.f_p)}, {differ}."
    else:
        sentence = f"With {data.blocks} {what} Friedman's test says nothing."
    if data.difference >= data.ranks[-1] - data.ranks[0]:
        sentence += f" With so few {what} the critical difference spans all ranks: no two methods can be told apart."
    whole = zip(results.grid.methods, results.grid.classes, strict=True)
    left_out = [method for method, own in whole if own == name and method not in data.methods]
    title = CLASSES[name] if several else ""
    return Ranks(name, title, data, position, round(min(100 * data.difference / span, 100.0), 2), sentence, left_out)


@dataclass(frozen=True)
class Aggregates:
    """The wide table as text, over all runs or over what all methods finished.

    Attributes:
        key: names it in the page.
        title: what it is over.
        rows: the methods that see as many teachers together, best first.
        note: what it leaves out.
    """

    key: str
    title: str
    rows: list[dict[str, Any]]
    note: str

    @property
    def ranked(self) -> int:
        return sum(bool(row["rank"]) for row in self.rows)


def aggregates(results: Results) -> list[Aggregates]:
    """The tables over all pairs, the one with most methods in it first."""
    made = [Aggregates("all", "all runs", _aggregates(results, results), "")]
    if results.subset is not None:
        rows = _aggregates(results, results.subset)
        made.append(Aggregates("common", COMMON, rows, results.subset.note))
    return sorted(made, key=lambda one: -one.ranked)


def _aggregates(results: Results, over: Tables) -> list[dict[str, Any]]:
    """The wide table's rows as text."""
    rows, metric = [], results.metrics.primary
    for row in rows_of(over.wide, results.metrics):
        mean, spread = rounded(row, metric)
        counts = [row["wins"], row["ties"], row["losses"]]
        rows.append(
            {
                "method": row["method"],
                "slug": results.slugs[row["method"]],
                "sees": class_of(row["teachers"]),
                "teachers": row["teachers"],
                "n": row["n"],
                "rank": f"{row['rank']:.0f}" if known(row["rank"]) else "",
                "score": mean,
                "spread": spread,
                "mean_rank": _number(row["mean_rank"], 1),
                "borda": _number(row["borda"], 1),
                "iqm": _number(row["iqm"], metric.decimals),
                "iqm_interval": _plain_interval(row["iqm_ci95_low"], row["iqm_ci95_high"], metric.decimals),
                "improvement": _number(row["probability_of_improvement"], 2),
                "counts": " / ".join(f"{count:.0f}" for count in counts) if known(counts[0]) else "",
                "ari": _number(row["ari"], 1) + "\u202f%" * known(row["ari"]),
                "remark": row["remark"] or "",
            }
        )
    for key in ("score", "mean_rank", "borda", "iqm"):
        for made, text in zip(rows, aligned([made[key] for made in rows]), strict=True):
            made[key] = text
    return rows


def _number(value: Any, digits: int) -> str:
    return fixed(value, digits) if known(value) else ""


def _plain_interval(low: Any, high: Any, digits: int) -> str:
    return f"[{fixed(low, digits)}, {fixed(high, digits)}]" if known(low) and known(high) else ""


def counts(results: Results) -> dict[str, int]:
    """Cells by state, of all methods."""
    return {**dict.fromkeys(("done", *STATES), 0), **results.states}


def unfinished(results: Results) -> list[dict[str, Any]]:
    """What is not done and why, one row per method, place and state, its seeds together."""
    grid = results.grid
    rows: dict[tuple[int, int, str, str], list[int]] = {}
    shown = np.array([method in results.slugs for method in grid.methods])
    for m, s, p in np.argwhere((grid.states != "done") & grid.planned & shown[:, None, None]).tolist():
        key = (m, p, grid.states[m, s, p], grid.reasons[m, s, p] or "")
        rows.setdefault(key, []).append(grid.seeds[s])
    return [
        {
            "method": grid.methods[m],
            "slug": results.slugs[grid.methods[m]],
            "place": results.places[p],
            "state": state.replace("_", " "),
            "reason": reason,
            "seeds": ", ".join(map(str, sorted(seeds))),
        }
        for (m, p, state, reason), seeds in sorted(rows.items())
    ]


def facts(results: Results) -> list[tuple[str, list[str]]]:
    """What stands behind the numbers: heading and lines, each line with its number of records where several differ."""
    cells = [record["cell"] for record in results.records]
    origins = [record.get("provenance") or {} for record in results.records]
    seeds = sorted({int(seed) for seed in results.runs["seed"]})
    times = sorted(origin["finished_at"] for origin in origins if origin.get("finished_at"))
    found = [
        ("Data", sorted({place.where for place in results.places})),
        ("Pairs", sorted({place.pair for place in results.places})),
        ("Seeds", [", ".join(map(str, seeds))]),
        ("Recipe", _tallied([_recipe(cell.get("recipe") or {}) for cell in cells])),
        ("Teachers", [*filter(None, [teacher_seeds(results.records)]), *_teachers(results)]),
        ("Hardware", _tallied([_flat(origin.get("hardware") or {}) for origin in origins])),
        ("Numerics", _tallied([_flat(origin.get("numerics") or {}) for origin in origins])),
        ("Versions", _tallied([_flat(origin.get("versions") or {}) for origin in origins])),
        ("Engine of kdbench", [", ".join(map(str, engines_of(results.records)))]),
        ("Revision of kdbench", _tallied([str(origin.get("git") or "")[:12] for origin in origins])),
        ("Finished", [" to ".join(dict.fromkeys((times[0][:10], times[-1][:10])))] if times else []),
    ]
    return [(heading, lines) for heading, lines in found if any(lines)]


def _recipe(recipe: Mapping[str, Any]) -> str:
    unit = next((unit for unit in LENGTH if unit in recipe), None)
    if unit is None:
        return _flat(recipe)
    parts = [f"{recipe[unit]} {unit}"]
    parts += [f"batch {recipe['batch_size']}"] if "batch_size" in recipe else []
    parts += [f"{recipe.get('optimizer', '')} at {recipe['learning_rate']:g}"] if "learning_rate" in recipe else []
    schedule = str(recipe.get("schedule", ""))
    if recipe.get("milestones") and schedule == "multistep":
        steps = ", ".join(f"{share:g}" for share in recipe["milestones"])
        schedule += f" (times {recipe.get('decay_rate', 0.1):g} at {steps} of the {unit})"
    parts += [schedule] if schedule else []
    parts += [f"weight decay {recipe['weight_decay']:g}"] if "weight_decay" in recipe else []
    parts += [" + ".join(recipe["augment"])] if recipe.get("augment") else []
    return ", ".join(parts)


def _teachers(results: Results) -> list[str]:
    """Every teacher once: network, seed, data, score."""
    metric = results.metrics.primary
    found = {
        (record["cell"]["dataset"], t["network"], t["seed"], t[metric.name], _from_file(t))
        for record in results.records
        for t in record.get("teachers") or []
    }
    several = len({entry[0] for entry in found}) > 1
    return [
        f"{network}@{seed}{f' on {dataset}' if several else ''}"
        + (f": {with_unit(fixed(score, metric.decimals), metric.unit)}" if known(score) else "")
        + file
        for dataset, network, seed, score, file in sorted(found, key=str)
    ]


def _from_file(teacher: Mapping[str, Any]) -> str:
    """Which file a teacher comes from, where somebody else trained it: its sha256 is then named in its cell."""
    layout = f", layout: {teacher['layout']}" if "layout" in teacher else ""
    from_file = re.fullmatch(r"[0-9a-fA-F]{64}", str(teacher["weights"]))
    return f" (a file of sha256 {teacher['weights'][:12]}\u2026{layout})" if from_file else ""


def _flat(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {values[key]}" for key in sorted(values) if values[key] not in ("", None))


def _tallied(lines: Sequence[str]) -> list[str]:
    """Each line once, the most frequent first, with its count where there are several."""
    tally = Counter(line for line in lines if line)
    ordered = sorted(tally, key=lambda line: (-tally[line], line))
    return ordered if len(ordered) < 2 else [f"{line} ({tally[line]} records)" for line in ordered]
