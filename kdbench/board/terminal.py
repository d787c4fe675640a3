"""The tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdbench.board.compare import Comparison
from kdbench.board.power import MOST, Plan
from kdbench.board.reproduction import VERDICTS
from kdbench.board.runs import place_name
from kdbench.board.statistics.intervals import SURE
from kdbench.board.tables import OVERALL

# header, least width of the terminal that shows it
COLUMNS = (
    ("#", 0),
    ("method", 0),
    ("family", 125),
    ("top-1 (n)", 0),
    ("vs student", 0),
    ("vs kd", 80),
    ("time", 60),
    ("params", 135),
    ("MACs", 145),
    ("extra params", 160),
    ("agreement", 170),
)
KD_INTERVAL = 105  # the least width that shows the interval of the difference to kd
MARK = f"* p < {SURE:g} after Holm's correction for the number of methods"
# header, least width, what the caption says of it
SUITE_COLUMNS = (
    ("#", 0, ""),
    ("method", 0, ""),
    ("top-1", 0, "top-1 in %, mean ± sample std over each seed's mean"),
    ("mean rank", 0, "rank by top-1, mean over the pairs"),
    ("Borda", 115, "Borda, the methods beaten, summed over the pairs"),
    ("IQM", 85, "IQM, the mean of the middle half of all runs [95 % bootstrap]"),
    ("P(> kd)", 105, "the chance that a run beats one of kd"),
    ("w/t/l", 0, "pairs won, tied and lost against kd, a tie where the 95 % interval of the difference includes 0"),
    ("ARI", 125, "ARI, the gain over kd as a share of kd's gain over student"),
    ("vs kd", 75, f"difference to kd in points, paired by pair and seed. {MARK}"),
    ("time", 60, ""),
)


def leaderboard(frame: pd.DataFrame, width: int = 120) -> list[Table]:
    """One table a (data set, protocol, pair); the overall table only where there is more than one pair.

    Args:
        frame: of `kdbench.board.tables.leaderboard_table`.
        width: of the terminal, in characters.
    """
    shown = [name for name, least in COLUMNS if width >= least]
    tables = []
    for (dataset, protocol), part in frame.groupby(["dataset", "protocol"], sort=True):
        pairs = sorted(set(part["pair"]) - {OVERALL})
        for pair in pairs if len(pairs) == 1 else [*pairs, OVERALL]:
            rows = part[part["pair"] == pair]
            title = _title(str(dataset), str(protocol), pair, rows)
            tables.append(_table(title, _caption(pair), rows, [_cells(row, width) for row in _dicts(rows)], shown))
    return tables


def suite(frame: pd.DataFrame, width: int = 120) -> list[Table]:
    """The aggregates over all pairs and data sets; no table if there is only one place.

    Args:
        frame: of `kdbench.board.wide.wide_table`.
        width: of the terminal, in characters.
    """
    places = frame.columns[list(frame.columns).index("remark") + 1 :]
    if len(places) < 2:
        return []
    columns = [(name, said) for name, least, said in SUITE_COLUMNS if width >= least]
    shown, caption = [name for name, _ in columns], "; ".join(said for _, said in columns if said)
    rows = [_suite_cells(row) for row in _dicts(frame)]
    return [_table(f"the suite, {len(places)} pairs", caption, frame, rows, shown)]


def _title(dataset: str, protocol: str, pair: str, rows: pd.DataFrame) -> str:
    teacher = rows["teacher_top1"].dropna()
    score = f", teacher {teacher.iloc[0]:.2f}" if len(teacher) and pair != OVERALL else ""
    where = "all pairs" if pair == OVERALL else pair
    student = rows.loc[rows["name"] == "student", ["teacher_top1", "top1_mean"]]
    gapless = pair != OVERALL and (student["teacher_top1"] <= student["top1_mean"]).any()
    return f"{place_name((dataset, protocol))}: {where}{score}{' (not above the student)' * bool(gapless)}"


def _caption(pair: str) -> str:
    overall = pair == OVERALL
    spread = "each seed's mean over the pairs, n runs" if overall else "n seeds"
    return (
        f"top-1 of the last epoch in %, mean ± sample std over {spread}; differences in points, paired by"
        f" {'pair and ' * overall}seed, [95 % CI]; time as a multiple of student. {MARK}"
    )


def _table(title: str, caption: str, frame: pd.DataFrame, rows: list[dict[str, str]], shown: list[str]) -> Table:
    """A table whose caption ends with the remarks on its methods."""
    caption = "\n".join([caption, *_remarks(frame)])
    table = Table(title=Text(title, "table.title"), caption=Text(caption, "table.caption"), box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    for name in shown:
        left = name in ("method", "family")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cells[name]) for name in shown))
    return table


def _remarks(frame: pd.DataFrame) -> list[str]:
    """Each remark once, with the methods that it is on."""
    told = frame[frame["remark"].fillna("") != ""]
    return [f"{remark}: {', '.join(group['method'])}" for remark, group in told.groupby("remark", sort=False)]


def _cells(row: dict[str, Any], width: int) -> dict[str, str]:
    return {
        **_common_cells(row),
        "family": str(row["family"]),
        "top-1 (n)": f"{_mean(row)} ({row['n']})".strip(),
        "vs student": _difference(row, "student"),
        "vs kd": _difference(row, "kd", interval=width >= KD_INTERVAL) + _mark(row),
        "params": _scaled(row["deployed_parameters"]),
        "MACs": _scaled(row["deployed_macs"]),
        "extra params": _scaled(row["extra_parameters"]),
        "agreement": _number(row["agreement"], 1),
    }


def _suite_cells(row: dict[str, Any]) -> dict[str, str]:
    low, high = row["iqm_ci95_low"], row["iqm_ci95_high"]
    counts = [row[name] for name in ("wins", "ties", "losses")]
    return {
        **_common_cells(row),
        "top-1": _mean(row),
        "mean rank": _number(row["mean_rank"], 1),
        "Borda": _number(row["borda"], 1).removesuffix(".0"),
        "IQM": _number(row["iqm"], 2) + (f" [{low:.2f}, {high:.2f}]" if _known(low) else ""),
        "P(> kd)": _number(row["probability_of_improvement"], 2),
        "w/t/l": "/".join(_number(count, 0) for count in counts) if _known(counts[0]) else "",
        "ARI": _number(row["ari"], 1) + "%" * _known(row["ari"]),
        "vs kd": _difference(row, "kd", interval=False) + _mark(row),
    }


def _common_cells(row: dict[str, Any]) -> dict[str, str]:
    ratio = row["time_ratio_to_student"]
    return {
        "#": _number(row["rank"], 0),
        "method": str(row["method"]),
        "time": _number(ratio, 1) + "x" * _known(ratio),
    }


def _mean(row: dict[str, Any]) -> str:
    return _number(row["top1_mean"], 2) + (f" ± {row['top1_std']:.2f}" if _known(row["top1_std"]) else "")


def _difference(row: dict[str, Any], baseline: str, interval: bool = True) -> str:
    value = row[f"vs_{baseline}"]
    if not _known(value):
        return ""
    low, high = row[f"vs_{baseline}_ci95_low"], row[f"vs_{baseline}_ci95_high"]
    return f"{value:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if interval and _known(low) else "")


def _mark(row: dict[str, Any]) -> str:
    """A star if the difference to kd stands after Holm's correction, else the space of one, so that columns align."""
    p = row["vs_kd_p_holm"]
    return ("*" if p < SURE else " ") if _known(p) else ""


def _dicts(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(row) for _, row in frame.iterrows()]


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
    table = Table("where", "difference", "95 % CI", "p", box=box.SIMPLE_HEAD, title=f"{result.a} - {result.b}")
    several = len(result.rows) > 2
    if several:
        table.add_column("p (Holm)")
    table.add_column("runs")
    for (name, d), holm in zip(result.rows, result.holm, strict=True):
        interval = f"{d.low:+.2f} to {d.high:+.2f}" if _known(d.low) else ""
        corrected = [_p(holm)] if several else []
        table.add_row(Text(name), f"{d.mean:+.2f}", interval, _p(d.p), *corrected, str(d.n))
    console.print(table)
    if several and any(_known(p) for p in result.holm):
        note = f"p (Holm) is corrected for looking at {len(result.rows) - 1} pairs; the first row is one test by itself"
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(result.verdict, markup=False, highlight=False, soft_wrap=True)


def power(console: Console, plan: Plan) -> None:
    """Print how many seeds tell two methods apart: a row a place, then the sentence."""
    table = Table("where", "difference", "std", "seeds so far", "seeds needed", box=box.SIMPLE_HEAD)
    table.title = f"{plan.a} - {plan.b}"
    for row in plan.rows:
        needed = f"more than {MOST}" if row.needed == math.inf else _number(row.needed, 0)
        table.add_row(Text(row.place), f"{row.difference:+.2f}", _number(row.std, 2), str(row.seeds), needed)
    console.print(table)
    console.print(plan.sentence, markup=False, highlight=False, soft_wrap=True)


def _p(value: float) -> str:
    return f"{value:.2g}" if _known(value) else ""


def reproduction(frame: pd.DataFrame) -> Iterator[Table | Text]:
    """One table per (data set, pair), then the count of each verdict."""
    for (dataset, pair), part in frame.groupby(["dataset", "pair"], sort=False):
        table = Table(title=f"{dataset}: {pair}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for header in ("method", "reported", "epoch", "measured", "n", "95 % interval", "verdict", "why"):
            right = header in ("reported", "measured", "n", "95 % interval")
            table.add_column(header, justify="right" if right else "left", no_wrap=header != "why", overflow="fold")
        for row in part.to_dict("records"):
            table.add_row(*map(Text, _verdict_cells(row)))
        yield table
    verdicts = [verdict for verdict in VERDICTS if (frame["verdict"] == verdict).any()]
    counts = ", ".join(f"{(frame['verdict'] == verdict).sum()} {verdict}" for verdict in verdicts)
    yield Text(f"{(frame['verdict'] != '').sum()} reported values: {counts}")


def _verdict_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    def number(key: str) -> str:
        return f"{row[key]:.2f}" if _known(row[key]) else ""

    def spread(key: str) -> str:
        return f" ± {row[key]:.2f}" if _known(row[key]) else ""

    interval = f"{number('ci95_low')} to {number('ci95_high')}" if _known(row["ci95_low"]) else ""
    epoch = row["selection"] if isinstance(row["selection"], str) else ""
    of_last = spread("top1_std") if epoch != "best" else ""
    reported, runs = number("reported") + spread("reported_std"), str(row["n"] or "")
    return row["method"], reported, epoch, number("measured") + of_last, runs, interval, row["verdict"], row["reason"]
