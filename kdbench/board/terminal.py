"""The tables in a terminal."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.board.compare import Comparison
from kdbench.board.tables import OVERALL

# header, least width of the terminal that shows it
COLUMNS = (
    ("#", 0),
    ("method", 0),
    ("family", 110),
    ("top-1", 0),
    ("n", 0),
    ("vs student", 0),
    ("vs kd", 90),
    ("time", 60),
    ("params", 120),
    ("MACs", 130),
    ("extra params", 145),
    ("agreement", 155),
    ("remark", 0),
)


def leaderboard(frame: pd.DataFrame, width: int = 120) -> list[Table]:
    """One table a (data set, protocol, pair); the overall table only where there is more than one pair."""
    shown = [name for name, least in COLUMNS if width >= least]
    if not (frame["remark"].fillna("") != "").any():
        shown.remove("remark")
    tables = []
    for (dataset, protocol), part in frame.groupby(["dataset", "protocol"], sort=True):
        pairs = sorted(set(part["pair"]) - {OVERALL})
        for pair in pairs if len(pairs) == 1 else [*pairs, OVERALL]:
            rows = part[part["pair"] == pair]
            tables.append(_table(_title(str(dataset), str(protocol), pair, rows), rows, shown))
    return tables


def _title(dataset: str, protocol: str, pair: str, rows: pd.DataFrame) -> str:
    teacher = rows["teacher_top1"].dropna()
    score = f", teacher {teacher.iloc[0]:.2f}" if len(teacher) and pair != OVERALL else ""
    where = "all pairs" if pair == OVERALL else pair
    return f"{dataset}{'' if protocol == 'clean' else ', ' + protocol}: {where}{score}"


def _table(title: str, rows: pd.DataFrame, shown: list[str]) -> Table:
    overall = bool((rows["pair"] == OVERALL).all())
    spread = "each seed's mean over the pairs, n runs" if overall else "n seeds"
    caption = (
        f"top-1 of the last epoch in %, mean ± sample std over {spread}; differences in points, paired by"
        f" {'pair and ' * overall}seed, [95 % CI]; time as a multiple of student"
    )
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    for name in shown:
        left = name in ("method", "family", "remark")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for _, row in rows.iterrows():
        cells = _cells(row)
        table.add_row(*(Text(cells[name]) for name in shown))
    return table


def _cells(row: Any) -> dict[str, str]:
    return {
        "#": _number(row["rank"], 0),
        "method": str(row["method"]),
        "family": str(row["family"]),
        "top-1": _number(row["top1_mean"], 2) + (f" ± {row['top1_std']:.2f}" if _known(row["top1_std"]) else ""),
        "n": str(row["n"]),
        "vs student": _difference(row, "student"),
        "vs kd": _difference(row, "kd"),
        "time": _number(row["time_ratio_to_student"], 1) + ("x" if _known(row["time_ratio_to_student"]) else ""),
        "params": _scaled(row["deployed_parameters"]),
        "MACs": _scaled(row["deployed_macs"]),
        "extra params": _scaled(row["extra_parameters"]),
        "agreement": _number(row["agreement"], 1),
        "remark": str(row["remark"] or "") if not isinstance(row["remark"], float) else "",
    }


def _difference(row: Any, baseline: str) -> str:
    value = row[f"vs_{baseline}"]
    if not _known(value):
        return ""
    low, high = row[f"vs_{baseline}_ci95_low"], row[f"vs_{baseline}_ci95_high"]
    return f"{value:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if _known(low) else "")


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if _known(value) else ""


def _scaled(value: Any) -> str:
    """A count with a suffix: 77.8k, 1.23M."""
    if not _known(value):
        return ""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def comparison(console: Console, result: Comparison) -> None:
    """Print a comparison: a row a place, then the verdict."""
    table = Table("where", "difference", "95 % CI", "p", "runs", box=box.SIMPLE_HEAD, title=f"{result.a} - {result.b}")
    for name, d in result.rows:
        interval = f"{d.low:+.2f} to {d.high:+.2f}" if _known(d.low) else ""
        table.add_row(name, f"{d.mean:+.2f}", interval, f"{d.p:.2g}" if _known(d.p) else "", str(d.n))
    console.print(table)
    console.print(result.verdict, markup=False, highlight=False, soft_wrap=True)
