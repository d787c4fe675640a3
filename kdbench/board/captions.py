"""What a board's caption says of what it can tell: whether the teacher leads, how small a difference is seen, for how
many methods p-values are corrected. One text for terminal, page, LaTeX and README.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdbench.board.grid import Grid
from kdbench.board.numbers import interval, known, plain
from kdbench.board.reach import baseline_of, reach, seen, sentence
from kdbench.board.runs import place_name
from kdbench.board.statistics.intervals import LEAST_SEEDS, Paired, paired
from kdbench.board.tables import OVERALL, family
from kdbench.suites.grid import PLAIN

NAMED = 3  # pairs; more are counted


def correction(rows: Iterable[Mapping[str, Any]]) -> str:
    """`Holm's correction for 54 methods, all that ran here, shown or not`, of a table's rows.

    Several numbers are of several baselines: the plain student is compared with kd, and kd with the student.
    """
    columns = ("vs_student_tests", "vs_kd_tests")
    counts = sorted({int(row[column]) for row in rows for column in columns if known(row.get(column))})
    if not counts:
        return "Holm's correction for the number of methods"
    methods = f"{' or '.join(map(str, counts))} method{'s' * (counts != [1])}"
    return f"Holm's correction for {methods}, all that ran here, shown or not"


def notes(whole: Grid, place: Sequence[str] = ()) -> list[str]:
    """Sentences on one board.

    Args:
        whole: all runs of the suite.
        place: data set, protocol and pair (or `overall`); nothing for the suite as a whole.
    """
    fits = [not place or (own[:2] == tuple(place[:2]) and place[2] in (OVERALL, own[2])) for own in whole.places]
    grid = whole.part(np.array(fits, dtype=bool))
    baseline, spread = baseline_of(grid), seen(grid)
    tests = family(grid, baseline) if baseline else 0
    found = reach(grid, tests, spread) if spread else []
    few = bool(baseline) and 0 < len(grid.seeds) < LEAST_SEEDS and tests > 0
    told = f"Fewer than {LEAST_SEEDS} seeds tell no difference: there is no interval and no mark." if few else ""
    return [note for note in (_teachers(grid), told or sentence(found, baseline, grid.metrics.primary)) if note]


def lead(grid: Grid) -> Paired | None:
    """By how much the teacher is better than the plain student at the one place of `grid`, seed by seed: of one teacher
    for all seeds it is the interval of the student's mean that is held against it. None if either has no score.
    """
    s = grid.index(PLAIN)
    if s is None:
        return None
    sign, scores = grid.metrics.primary.sign, grid.merits[s, :, 0]
    others = sign * grid.values["teacher_score"][:, :, 0]  # [methods, seeds]
    teachers = [
        next((float(v) for v in (others[s, n], *others[:, n]) if known(float(v))), math.nan) for n in range(len(scores))
    ]
    both = np.isfinite(scores) & np.isfinite(teachers)
    if not both.any():
        return None
    return paired(np.array(teachers)[both].tolist(), scores[both].tolist())


def leads(lead_: Paired) -> bool:
    """Whether a teacher is clearly better than the plain student: the interval is above 0. Of too few seeds to have
    one, the mean is.
    """
    return lead_.mean > 0 if lead_.seeds < LEAST_SEEDS else lead_.low > 0


def _teachers(grid: Grid) -> str:
    """On which pairs the teacher is not clearly better than the plain student; nothing if it is everywhere."""
    found = [(place, lead(grid.part(np.array([p])))) for p, place in enumerate(grid.places)]
    poor = [(place, own) for place, own in found if own and not leads(own)]
    if not poor:
        return ""
    score = grid.metrics.primary
    if len(grid.places) == 1:
        own, digits = poor[0][1], score.decimals
        between = f" {interval(own.low, own.high, digits)}".replace("\u2212", "-").rstrip()
        return (
            f"The teacher is not clearly better than the plain student (lead {plain(own.mean, digits, True)}{between}"
            f"{f' {score.points}' * bool(score.points)}): this board cannot tell methods apart."
        )
    names = ", ".join(
        place_name(place if len({p[:2] for p in grid.places}) > 1 else place[2:]) for place, _ in poor[:NAMED]
    )
    more = f" and {len(poor) - NAMED} more" * (len(poor) > NAMED)
    return (
        f"On {len(poor)} of {len(grid.places)} pairs ({names}{more}) the teacher is not clearly better than the plain"
        f" student: {'they' if len(poor) > 1 else 'it'} cannot tell methods apart."
    )
