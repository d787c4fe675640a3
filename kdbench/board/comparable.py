"""Which runs can be compared: those that saw the same weights of the pair's own teacher.

Weights are told apart by their sha256 where both records have it, else by the id of their training. Pools and
assistants are a method's own affair: only the first teacher, which every method of a pair shares, is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdbench.records import Record

if TYPE_CHECKING:
    from kdbench.board.grid import Grid

KEY = "teachers"  # in the attributes of a runs table: id -> what is known of the first teacher's weights
Seen = tuple[str | None, str | None]  # sha256, id


def teachers_of(records: Sequence[Record]) -> dict[str, Seen]:
    """The weights of the first teacher that each record's run saw, by the record's id."""
    first = {record["id"]: (record.get("teachers") or [{}])[0] for record in records}
    return {identity: (teacher.get("sha256"), teacher.get("weights")) for identity, teacher in first.items()}


def differ(a: Any, b: Any) -> bool:
    """Whether two runs saw different weights, as far as their records say; what is not `Seen` says nothing."""
    both = zip(a, b, strict=True) if isinstance(a, tuple) and isinstance(b, tuple) else ()
    known = next((pair for pair in both if None not in pair), None)
    return known is not None and known[0] != known[1]


def others(grid: Grid, m: int, b: int) -> np.ndarray:
    """Where method `m` saw other weights than `b`, `[seeds, places]`."""
    pairs = zip(grid.teachers[m].flat, grid.teachers[b].flat, strict=True)
    return np.array([differ(*pair) for pair in pairs], dtype=bool).reshape(grid.teachers[m].shape)


def remark(grid: Grid, m: int, baselines: Sequence[str]) -> str:
    """With which baselines a method is not compared, and why; nothing if it is with all."""
    said = []
    for name in baselines:
        b = grid.index(name)
        seeds = [] if b is None else np.flatnonzero(others(grid, m, b).any(1)).tolist()
        if seeds:
            which = ", ".join(str(grid.seeds[s]) for s in seeds)
            said.append(f"not compared with {name}: seed{'s' * (len(seeds) > 1)} {which} saw other teacher weights")
    return "; ".join(said)


def with_remark(row: dict[str, Any], grid: Grid, m: int, baselines: Sequence[str]) -> dict[str, Any]:
    """The row of a table, whose `remark` also says with what it is not compared."""
    return row | {"remark": "; ".join(part for part in (row["remark"], remark(grid, m, baselines)) if part)}


def paired_rows(both: pd.DataFrame, seen: dict[str, Seen]) -> pd.DataFrame:
    """Runs of two methods side by side (`id_a`, `id_b`) without those that saw different weights."""
    pairs = zip(both["id_a"], both["id_b"], strict=True)
    return both[[not differ(seen.get(a), seen.get(b)) for a, b in pairs]]
