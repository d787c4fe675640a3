"""The map of a suite, ready to be shown: a panel for the teacher's lead, and one for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbench.board.maps.gains import LEAD, Field, Map, sentence
from kdbench.board.numbers import capital, fixed, interval, known
from kdbench.board.page.cells import Cell


@dataclass(frozen=True)
class Panel:
    """A heat map.

    Attributes:
        title: the method, or the teacher's lead.
        rows: label and cells of each.
        strength: how far from white each is, -100 to 100, by row.
    """

    title: str
    rows: list[tuple[str, list[Cell]]]
    strength: list[list[int]]


@dataclass(frozen=True)
class Shown:
    """All panels; the methods' are on one scale.

    Attributes:
        across, down: titles of the axes; `down` is empty where there is one.
        labels: of the columns.
        sentence: what decides.
        worst, best: the scale's ends.
    """

    across: str
    down: str
    labels: list[str]
    panels: list[Panel]
    sentence: str
    worst: str
    best: str


def shown(found: Map) -> Shown:
    """A map as its panels."""
    sizes = np.abs(np.concatenate([field.mean[np.isfinite(field.mean)] for field in found.gains.values()] or [[0.0]]))
    limit = max(float(np.quantile(sizes, 0.9)) if len(sizes) else 0.0, 10.0 ** (1 - found.score.decimals))
    digits = max(found.score.decimals - (limit >= 1), 0)
    most = np.nanmax(np.abs(found.lead.mean)) if np.isfinite(found.lead.mean).any() else 1.0
    panels = [_panel(found, capital(LEAD), found.lead, float(most) or 1.0, digits)]  # on a scale of its own
    panels += [_panel(found, title, field, limit, digits) for title, field in found.gains.items()]
    worst, best = (fixed(sign * limit, digits, True) for sign in (-1, 1))
    down = found.rows.title if found.rows else ""
    return Shown(found.columns.title, down, found.columns.labels, panels, sentence(found), worst, best)


def _panel(found: Map, title: str, field: Field, limit: float, digits: int) -> Panel:
    labels: Sequence[str] = found.rows.labels if found.rows else [""]
    rows = [(label, [_cell(field, y, x, digits) for x in range(field.mean.shape[1])]) for y, label in enumerate(labels)]
    share = np.nan_to_num(np.clip(field.mean / limit, -1, 1))
    return Panel(title, rows, np.round(100 * share).astype(int).tolist())


def _cell(field: Field, y: int, x: int, digits: int) -> Cell:
    mean, low, high = (float(part[y, x]) for part in (field.mean, field.low, field.high))
    if not known(mean):
        return Cell()
    mark = "its interval leaves 0 out" if field.told[y, x] else ""
    seeds = f"{field.n[y, x]} {'seed' if field.n[y, x] == 1 else 'seeds'}"
    return Cell(fixed(mean, digits, True), interval(low, high, digits), mark=mark, hint=seeds)
