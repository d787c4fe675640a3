"""Which runs can be compared: those that saw the same weights of the pair's own teacher, under the same numerics.

Weights are told apart by their sha256 where both records have it, else by the id of their training. Pools and
assistants are a method's own affair: only the first teacher, which every method of a pair shares, is looked at.
Numerics are those of `kdbench.board.numerics.used`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kdbench.board.numerics import used
from kdbench.records import Record

if TYPE_CHECKING:
    from kdbench.board.grid import Grid

# in the attributes of a runs table: id -> what is known of the first teacher's weights, and of the numerics
TEACHERS, NUMERICS = "teachers", "numerics"
DIFFERENT = {TEACHERS: "saw different weights of the teacher", NUMERICS: "ran under different numerics"}
OTHER = {TEACHERS: "saw other teacher weights", NUMERICS: "ran under other numerics"}
Seen = tuple[Any, ...]  # of the teacher: sha256, id


def seen_of(records: Sequence[Record]) -> dict[str, dict[str, Seen]]:
    """What runs must share to be compared: for each key of `DIFFERENT`, what each record says, by its id."""
    first = {record["id"]: (record.get("teachers") or [{}])[0] for record in records}
    teachers = {identity: (teacher.get("sha256"), teacher.get("weights")) for identity, teacher in first.items()}
    return {TEACHERS: teachers, NUMERICS: {r["id"]: used(r) for r in records if r["status"] == "done"}}


def differ(a: Any, b: Any) -> bool:
    """Whether two runs saw different weights, as far as their records say; what is not `Seen` says nothing."""
    both = zip(a, b, strict=True) if isinstance(a, tuple) and isinstance(b, tuple) else ()
    known = next((pair for pair in both if None not in pair), None)
    return known is not None and known[0] != known[1]


def _apart(key: str, a: Any, b: Any) -> bool:
    """Whether two runs differ in one of `DIFFERENT`; what is no tuple is of no finished run."""
    if key == TEACHERS:
        return differ(a, b)
    return isinstance(a, tuple) and isinstance(b, tuple) and a != b


def others(grid: Grid, m: int, b: int) -> np.ndarray:
    """Where method `m` cannot be compared with `b`, `[seeds, places]`."""
    found: np.ndarray = np.any([_others(grid, key, m, b) for key in DIFFERENT], axis=0)
    return found


def _others(grid: Grid, key: str, m: int, b: int) -> np.ndarray:
    seen = grid.seen[key]
    pairs = zip(seen[m].flat, seen[b].flat, strict=True)
    return np.array([_apart(key, *pair) for pair in pairs], dtype=bool).reshape(seen[m].shape)


def remark(grid: Grid, m: int, baselines: Sequence[str]) -> str:
    """With which baselines a method is not compared, and why; nothing if it is with all."""
    said = []
    for name in baselines:
        b = grid.index(name, m)
        reasons = [] if b is None else [reason for key in DIFFERENT if (reason := _reason(grid, key, m, b))]
        if reasons:
            said.append(f"not compared with {name}: {', '.join(reasons)}")
    return "; ".join(said)


def _reason(grid: Grid, key: str, m: int, b: int) -> str:
    """Which seeds stand against a comparison, and why."""
    seeds = [grid.seeds[s] for s in np.flatnonzero(_others(grid, key, m, b).any(1))]
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} {OTHER[key]}" if seeds else ""


def with_remark(row: dict[str, Any], grid: Grid, m: int, baselines: Sequence[str]) -> dict[str, Any]:
    """The row of a table, whose `remark` also says with what it is not compared."""
    return row | {"remark": "; ".join(part for part in (row["remark"], remark(grid, m, baselines)) if part)}


def paired_rows(both: pd.DataFrame, seen: dict[str, Seen], key: str) -> pd.DataFrame:
    """Runs of two methods side by side (`id_a`, `id_b`) without those that differ in one of `DIFFERENT`."""
    pairs = zip(both["id_a"], both["id_b"], strict=True)
    return both[[not _apart(key, seen.get(a), seen.get(b)) for a, b in pairs]]
