"""The tables: records in, data frames and CSV files out. The same records give the same bytes, whatever their order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdbench.board import comparable
from kdbench.board.columns import as_filed
from kdbench.board.grid import STATES, Grid
from kdbench.board.runs import CORPUS, GROUP, PLACE, SOMETIMES
from kdbench.board.seen import CLASSES, class_of
from kdbench.board.statistics.aggregates import gap_closed, pareto_front
from kdbench.board.statistics.intervals import SURE, Paired, bootstrap, holm, paired, summary
from kdbench.records.files import write_atomically
from kdbench.suites.grid import BASELINES

OVERALL = "overall"
# the median over a method's runs, and their range
TIME = ("time_ratio_to_student", "time_ratio_low", "time_ratio_high")
WRITTEN = "its teacher wrote the corpus in {:.0f} s, which is in no time"
TUNED = "chosen by {} trials on a validation split, and compared with the other tuned rows"
COSTS = (
    "seconds_per_epoch",
    *TIME,
    "joules_per_epoch",
    "peak_memory_mb",
    "latency_ms_batch1",
    "latency_ms_batch128",
    "extra_parameters",
    "deployed_parameters",
    "deployed_macs",
)
# columns of a difference: vs_kd, vs_kd_n, ...; the last two are those of the family of tests (`correct`)
DIFFERENCE = ("", "_ci95_low", "_ci95_high", "_n", "_p", "_p_holm", "_tests")


def leaderboard_table(whole: Grid, grid: Grid, baselines: Sequence[str] = BASELINES) -> pd.DataFrame:
    """One row per (data set, protocol, pair, method), and one per method over all pairs (`pair` is `overall`).

    The rank is by the mean primary score of the last epoch, among the methods that see as many teachers: one, several,
    none (`kdbench.board.seen`), which stand one after the other. A pair row's mean is over its finished seeds, with `n`
    and the counts of the others beside it; an overall row has no mean as soon as one of its cells is not done.
    Differences are paired by seed (overall: by pair and seed) over the runs that both methods finished; where a suite
    gives one more seeds than the other, over those of both. A suite that runs a baseline with settings of its own, and
    only so, is compared with that. docs/records.md explains every column.

    Args:
        whole: all runs.
        grid: the runs that the overall rows are over: all, or what all methods finished (`Grid.common`).
        baselines: the plain student's name, then kd's.
    """
    rows = []
    for group in sorted({place[:2] for place in whole.places}):
        mine, counted = (g.part(np.array([place[:2] == group for place in g.places])) for g in (whole, grid))
        alone = [mine.part(np.array([p])) for p in range(len(mine.places))]  # each pair by itself
        boards = [(OVERALL, _board(counted, mine, baselines, overall=True))]
        boards += [(part.places[0][2], _board(part, part, baselines, overall=False)) for part in alone]
        rows += [dict(zip(PLACE, (*group, pair), strict=True)) | row for pair, board in boards for row in board]
    columns = [*GROUP, "name", "family", "teachers", "rank", "n", *STATES]
    columns += ["score_mean", "score_std", "ci95_low", "ci95_high"]
    columns += ["bootstrap_low", "bootstrap_high", "best_score_mean", "teacher_score"]
    columns += [f"vs_{baseline}{part}" for baseline in baselines for part in DIFFERENCE]
    columns += ["gap_closed", *(metric.name for metric in whole.metrics.others), *COSTS, "pareto"]
    columns += [*(name for name in SOMETIMES if name in whole.values), "remark"]
    return as_filed(pd.DataFrame(rows, columns=columns), whole.metrics)


def _board(grid: Grid, whole: Grid, baselines: Sequence[str], overall: bool) -> list[dict[str, Any]]:
    """The ranked rows of one pair, or of all pairs of a data set and protocol.

    Args:
        grid: the runs that count.
        whole: the runs whose states are told.
        baselines: names.
        overall: if so, a method that lacks a run has no mean.
    """
    rows = []
    for m in range(len(grid.methods)):
        if not overall and whole.elsewhere[m].all():
            continue
        scored = bool(grid.complete[m] if overall else grid.counts("done")[m])
        row = state_row(whole, m, overall, grid if scored or not grid.places else whole)
        if scored:
            row |= _score_row(grid, m, overall)
            for baseline in baselines:
                row |= difference_row(grid, m, baseline, overall)
            row |= gap_row(grid, m, baselines[0], overall)
            row = with_time(row, grid, m)
            row = comparable.with_remark(row, grid, m, baselines)
        rows.append(row)
    correct(rows, baselines, whole)
    sign = whole.metrics.primary.sign
    _mark_front([row for row in rows if "score_mean" in row], sign)
    return ranked(rows, sign)


def state_row(whole: Grid, m: int, overall: bool, counted: Grid) -> dict[str, Any]:
    """Who a method is, how many of its runs that are counted are in which state, and what to say of it."""
    row: dict[str, Any] = {"method": whole.methods[m], "name": whole.names[m], "family": whole.families[m]}
    row |= {"teachers": int(whole.teachers[m].max(initial=0))}
    row |= {"n" if state == "done" else state: int(counted.counts(state)[m]) for state in ("done", *STATES)}
    lacks = {state: int(whole.counts(state)[m]) for state in STATES}
    parts = [f"{count} {state.replace('_', ' ')}" for state, count in lacks.items() if count]
    if overall and (elsewhere := int(whole.elsewhere[m].sum())):
        parts.append(f"not planned on {elsewhere} of {len(whole.places)} pairs")
    reasons = sorted({reason for reason in whole.reasons[m].flat if reason})
    text = ", ".join(parts) + (f": {reasons[0]}" if reasons else "")
    if counted is not whole and counted.scores.shape != whole.scores.shape:
        what, few, all_ = "pairs", len(counted.places), len(whole.places)
        if few == all_:
            what, few, all_ = "seeds", len(counted.seeds), len(whole.seeds)
        text += f"{'; ' * bool(text)}over {few} of {all_} {what}"
    elif text and overall:
        text = f"incomplete ({text})"
    if trials := whole.trials[m]:
        row["trials"] = trials
        text += f"{'; ' * bool(text)}{TUNED.format(trials)}"
    if CORPUS in whole.values and np.isfinite(whole.values[CORPUS][m]).any():
        text += f"{'; ' * bool(text)}{WRITTEN.format(np.nanmean(whole.values[CORPUS][m]))}"
    return row | {"remark": text}


def _score_row(grid: Grid, m: int, overall: bool) -> dict[str, Any]:
    """What one method's finished runs say by themselves."""
    # over all pairs the sample is each seed's mean over the pairs, so that pairs count alike
    sample = grid.scores[m][grid.whole_seeds(m)].mean(1) if overall else grid.scores[m][grid.states[m] == "done"]
    s, (low, high) = summary(sample.tolist()), bootstrap(sample)
    row = {"score_mean": s.mean, "score_std": s.std, "ci95_low": s.low, "ci95_high": s.high}
    row |= {"bootstrap_low": float(low), "bootstrap_high": float(high)}
    others = [metric.name for metric in grid.metrics.others]
    averaged = ("teacher_score", *others, *(name for name in COSTS if name not in TIME), "trial_seconds", CORPUS)
    row |= {name: mean_of(grid, name, m) for name in averaged if name in grid.values}
    return row | {"best_score_mean": mean_of(grid, "best_score", m)}


def mean_of(grid: Grid, column: str, m: int) -> float:
    """Mean over a method's finished runs; NaN if one of them was not measured."""
    return float(grid.values[column][m][grid.states[m] == "done"].mean())


def difference(grid: Grid, m: int, baseline: str, overall: bool) -> Paired | None:
    """Method `m` minus a baseline, as measured; paired over the runs that both finished (overall: if that is all).

    What repeats is a seed; over several pairs, a seed's students.
    """
    b = grid.index(baseline, m)
    both = _both_done(grid, m, b, overall)
    if b is None or b == m or not both.any():
        return None
    seeds, places = np.nonzero(both)
    groups = [(*grid.places[p][:2], grid.students[p]) for p in places]
    return paired(grid.scores[m][both].tolist(), grid.scores[b][both].tolist(), seeds.tolist(), groups)


def difference_row(grid: Grid, m: int, baseline: str, overall: bool) -> dict[str, Any]:
    """The columns of `difference`, without those of the family; none where there is no difference."""
    d = difference(grid, m, baseline, overall)
    if d is None:
        return {}
    values = (d.mean, d.low, d.high, d.n, d.p)
    return {f"vs_{baseline}{part}": value for part, value in zip(DIFFERENCE[:-2], values, strict=True)}


def _time_row(grid: Grid, m: int) -> dict[str, Any]:
    """Training time as a multiple of the plain student's, timed side by side in each run (`kdbench.training.pace`): the
    median over a method's runs, and their range.
    """
    ratios = grid.values[TIME[0]][m]
    known = ratios[np.isfinite(ratios)]
    return dict(zip(TIME, map(float, (np.median(known), known.min(), known.max())), strict=True)) if known.size else {}


def with_time(row: dict[str, Any], grid: Grid, m: int) -> dict[str, Any]:
    """The row of a table with its ratio of time; where others have one and it has not, `remark` says why."""
    row |= _time_row(grid, m)
    reasons = [reason for reason in grid.untimed[m].flat if reason]
    if TIME[0] in row or not reasons or not np.isfinite(grid.values[TIME[0]]).any():
        return row
    return row | {"remark": "; ".join(filter(None, (row["remark"], f"no ratio of time: {reasons[0]}")))}


def gap_row(grid: Grid, m: int, student: str, overall: bool) -> dict[str, Any]:
    """The share of the teacher's lead that is won."""
    b = grid.index(student, m)
    both = _both_done(grid, m, b, overall)
    if b is None or not both.any():
        return {}
    teachers = grid.metrics.primary.sign * grid.values["teacher_score"]
    ours, theirs, teacher = (
        np.where(both, values, 0.0).sum(0) / both.sum(0)  # [places]
        for values in (grid.merits[m], grid.merits[b], teachers[m])
    )
    return {"gap_closed": float(gap_closed(ours, theirs, teacher).mean())}


def _both_done(grid: Grid, m: int, b: int | None, overall: bool) -> np.ndarray:
    """Which runs methods `m` and `b` both finished, `[seeds, places]`; none if all of their common seeds are asked for
    and one is missing, or if they saw different teachers or ran under different numerics.
    """
    none = np.zeros(grid.states.shape[1:], dtype=bool)
    if b is None or comparable.others(grid, m, b).any():
        return none
    both = (grid.states[[m, b]] == "done").all(0)
    wanted = grid.planned[[m, b]].all(0)  # by both
    return both & (both | ~wanted).all() & both.any(0).all() if overall else both


def correct(rows: Sequence[dict[str, Any]], baselines: Sequence[str], whole: Grid) -> None:
    """Add Holm's p-values, and to each difference the number of tests that they are corrected for: of all methods that
    ran at the places of `whole` against the baseline, whatever of them is shown, finished or coarse enough to test.
    Tuned rows are a family of their own, against the tuned baseline.
    """
    families = {tuned: [row for row in rows if ("trials" in row) == tuned] for tuned in (False, True)}
    for (tuned, mine), baseline in itertools.product(families.items(), baselines):
        tests = family(whole, baseline, tuned)
        corrected = holm([row.get(f"vs_{baseline}_p", math.nan) for row in mine], tests)
        for row, p in zip(mine, corrected.tolist(), strict=True):
            row[f"vs_{baseline}_p_holm"] = p
            if f"vs_{baseline}" in row:
                row[f"vs_{baseline}_tests"] = tests


def family(whole: Grid, baseline: str, tuned: bool = False) -> int:
    """How many methods ran beside a baseline; of tuned rows, beside the tuned one."""
    mine = [m for m, trials in enumerate(whole.trials) if (trials > 0) == tuned and whole.counts("done")[m]]
    return len(mine) - int(bool(mine) and whole.index(baseline, mine[0]) in mine)


def gains(whole: Grid, grid: Grid, baseline: str) -> np.ndarray:
    """Where methods are better (1) than a baseline after Holm's correction, or worse (-1), `[methods, places]`, at the
    places of `grid`: what their boards mark. 0 is what cannot be told.
    """
    found = np.zeros((len(whole.methods), len(grid.places)), dtype=int)
    for number, place in enumerate(grid.places):
        part = whole.part(np.array([whole.places.index(place)]))
        rows = [
            difference_row(part, m, baseline, False) | ({"trials": trials} if trials else {})
            for m, trials in enumerate(part.trials)
        ]
        correct(rows, [baseline], part)
        for m, row in enumerate(rows):
            if row[f"vs_{baseline}_p_holm"] < SURE:
                found[m, number] = np.sign(whole.metrics.primary.gain(row[f"vs_{baseline}"], over=0.0))
    return found


def _mark_front(rows: Sequence[dict[str, Any]], sign: int) -> None:
    """Mark the methods that no other beats in score and ratio of time at once; one without a ratio is left out."""
    # seconds of runs that did not train side by side cannot be compared
    rows = [row for row in rows if TIME[0] in row]
    cost = np.array([row[TIME[0]] for row in rows])
    merits = sign * np.array([row["score_mean"] for row in rows])
    for row, front in zip(rows, pareto_front(cost, merits), strict=True):
        row["pareto"] = bool(front)


def ranked(rows: list[dict[str, Any]], sign: int) -> list[dict[str, Any]]:
    """The classes of `kdbench.board.seen` one after the other, each with its best mean first and methods without one
    last; equal means of a class share a rank. `sign` is -1 where lower is better.
    """
    classes: dict[str, list[dict[str, Any]]] = {name: [] for name in CLASSES}
    for row in rows:
        classes[class_of(row["teachers"])].append(row)
    for own in classes.values():
        merits = {row["method"]: sign * row["score_mean"] for row in own if "score_mean" in row}
        own.sort(key=lambda row: (-merits.get(row["method"], -math.inf), row["method"]))
        for row in own:
            if row["method"] in merits:
                row["rank"] = 1 + sum(merit > merits[row["method"]] for merit in merits.values())
    return [row for own in classes.values() for row in own]


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV.

    Raises:
        KDBenchError: if the folder cannot be written or the disk is full.
    """
    write_atomically(path, csv_bytes(frame))


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV: UTF-8, `\\n`, six significant digits, no cell that a spreadsheet would run as a formula."""
    safe = frame.map(_harmless)
    safe.columns = safe.columns.map(_harmless)  # a column may be called after a pair, and a pair as its author likes
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8")


def _harmless(value: Any) -> Any:
    """Six digits for numbers; a quote before text that a spreadsheet would take for a formula."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
