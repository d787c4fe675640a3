"""The tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from kdbench.board.captions import correction, notes
from kdbench.board.columns import rows_of
from kdbench.board.grid import Grid
from kdbench.board.numbers import in_unit, known, plain, scaled
from kdbench.board.reproduction import VERDICTS
from kdbench.board.results import Tables
from kdbench.board.runs import place_name
from kdbench.board.seen import CLASSES, class_of
from kdbench.board.statistics.intervals import SURE
from kdbench.board.tables import OVERALL
from kdbench.board.teachers import teacher_seeds
from kdbench.tasks.metrics import Metric, Metrics

IDENTITY = ("#", "method", "family", "teachers")  # columns before the score
KD_INTERVAL = 105  # the least width that shows the interval of the difference to kd
Row = Mapping[str, Any]


def columns(metrics: Metrics) -> list[tuple[str, int]]:
    """Of a leaderboard: header, and the least width of the terminal that shows it."""
    return [
        ("#", 0),
        ("method", 0),
        ("family", 125),
        ("teachers", 100),
        (_counted(metrics.primary), 0),
        ("vs student", 0),
        ("vs kd", 0),
        ("time", 60),
        ("params", 135),
        ("MACs", 145),
        ("extra params", 160),
        *((metric.title, 170 + 10 * number) for number, metric in enumerate(metrics.shown)),
    ]


def suite_columns(score: Metric) -> list[tuple[str, int, str]]:
    """Of the suite's aggregates: header, least width, and what the caption says of it."""
    tie = "after the correction that stars have"
    return [
        ("#", 0, ""),
        ("method", 0, ""),
        ("teachers", 100, ""),
        (score.title, 0, f"{score.title}{in_unit(score.unit)}, mean ± sample std over each seed's mean{_lower(score)}"),
        ("mean rank", 0, f"rank by {score.title}, mean over the pairs"),
        ("Borda", 115, "Borda, the methods beaten, summed over the pairs"),
        ("IQM", 85, "IQM, the mean of the middle half of all runs [95 % bootstrap]"),
        ("P(> kd)", 105, "the chance that a run beats one of kd"),
        ("w/t/l", 0, f"pairs won, tied and lost against kd {tie}"),
        ("ARI", 125, "ARI, the gain over kd as a share of kd's gain over student, where that is told from 0"),
        ("vs kd", 75, f"difference to kd{in_unit(score.points)}, paired by pair and seed"),
        ("time", 60, ""),
    ]


def _counted(score: Metric) -> str:
    return f"{score.title} (n)"


def _lower(score: Metric) -> str:
    return ", lower is better" if score.sign < 0 else ""


def leaderboard(tables: Tables, width: int = 120) -> list[Table]:
    """One table per (data set, protocol, pair); the overall table only where there is more than one pair.

    Args:
        tables: of the suite.
        width: of the terminal, in characters.
    """
    metrics, teachers = tables.metrics, teacher_seeds(tables.records)
    shown = {name: least for name, least in columns(metrics) if width >= least}
    made = []
    for (dataset, protocol), part in tables.long.groupby(["dataset", "protocol"], sort=True):
        pairs = sorted(set(part["pair"]) - {OVERALL})
        for pair in pairs if len(pairs) == 1 else [*pairs, OVERALL]:
            rows = rows_of(part[part["pair"] == pair], metrics)
            title = _title(place_name((dataset, protocol)), pair, rows, metrics.primary) + _of_engine(tables)
            cells = [_cells(row, width, metrics) for row in rows]
            fitting = _fitting(shown, cells, width)
            caption, place = _caption(pair, metrics.primary, fitting, teachers), (str(dataset), str(protocol), pair)
            made.append(_table(title, _noted(caption, rows, tables.grid, fitting, place), rows, cells, fitting))
    return made


def _of_engine(tables: Tables) -> str:
    return f" ({tables.engine})" if tables.engine else ""


def suite(tables: Tables, width: int = 120) -> list[Table]:
    """The aggregates over all pairs and data sets; no table if there is only one place.

    Args:
        tables: of the suite.
        width: of the terminal, in characters.
    """
    places, score = len(tables.grid.places), tables.metrics.primary
    if places < 2:
        return []
    rows = rows_of(tables.wide, tables.metrics)
    cells = [_suite_cells(row, score) for row in rows]
    columns = [column for column in suite_columns(score) if width >= column[1]]
    shown = _fitting({name: least for name, least, _ in columns}, cells, width)
    caption = "; ".join(said for name, _, said in columns if said and name in shown)
    caption = _noted(caption, rows, tables.grid, shown)
    return [_table(f"the suite, {places} pairs{_of_engine(tables)}", caption, rows, cells, shown)]


def _fitting(shown: Mapping[str, int], cells: Sequence[dict[str, str]], width: int) -> list[str]:
    """Those of the columns that fit beside the methods' whole names; the first three (rank, method, score) always stay.

    Args:
        shown: by column, the least width of a terminal that has it: what asks for the widest goes first.
        width: of the terminal, in characters.
    """
    wide = {name: max(len(text) for text in (name, *(line[name] for line in cells))) for name in shown}
    wide["method"] = max(wide["method"], len(CLASSES["one"]))
    left, frame = list(shown), 3  # of each column: a space on either side, and a line
    kept = {"#", "method", next(name for name in shown if name not in IDENTITY)}
    for _, _, name in sorted(((least, place, name) for place, (name, least) in enumerate(shown.items())), reverse=True):
        if sum(wide[name] + frame for name in left) + 1 > width and name not in kept:
            left.remove(name)
    return left


def _title(where: str, pair: str, rows: Sequence[Row], score: Metric) -> str:
    if pair == OVERALL:
        return f"{where}: all pairs"
    teacher = next((row["teacher_score"] for row in rows if known(row["teacher_score"])), None)
    beside = "" if teacher is None else f", teacher {plain(teacher, score.decimals)}"
    return f"{where}: {pair}{beside}"


def _caption(pair: str, score: Metric, shown: Sequence[str], teachers: str) -> str:
    """What the columns say that are shown."""
    overall = pair == OVERALL
    spread = "each seed's mean over the pairs, n runs" if overall else "n seeds"
    parts = [f"{score.title} of the last epoch{in_unit(score.unit)}, mean ± sample std over {spread}{_lower(score)}"]
    if {"vs student", "vs kd"} & set(shown):
        parts.append(f"differences{in_unit(score.points)}, paired by {'pair and ' * overall}seed, [95 % CI]")
    parts += [teachers] if teachers else []
    parts += ["time as a multiple of student"] if "time" in shown else []
    return "; ".join(parts)


def _noted(caption: str, rows: Sequence[Row], grid: Grid, shown: Sequence[str], place: Sequence[str] = ()) -> str:
    """The caption with the star's meaning, where stars are shown, and what the board can tell."""
    star = f". * p < {SURE:g} after {correction(rows)}" if "vs kd" in shown else ""
    return "\n".join([caption + star, *notes(grid, place)])


def _table(title: str, caption: str, rows: Sequence[Row], cells: Sequence[dict[str, str]], shown: list[str]) -> Table:
    """A table whose caption ends with the remarks on its methods, and in which those that see as many teachers stand
    together.
    """
    classes = [class_of(row["teachers"]) for row in rows]
    several = len(set(classes)) > 1
    ranks = (
        ["ranks are among methods that see as many teachers"] if several and any(line["#"] for line in cells) else []
    )
    caption = "\n".join([caption, *ranks, *_remarks(rows)])
    table = Table(title=Text(title, "table.title"), caption=Text(caption, "table.caption"), box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    for name in shown:
        left = name in ("method", "family")
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for place, line in enumerate(cells):
        if several and (not place or classes[place] != classes[place - 1]):
            table.add_section()
            table.add_row(*(Text(CLASSES[classes[place]] if name == "method" else "", "italic") for name in shown))
        table.add_row(*(Text(line[name]) for name in shown))
    return table


def _remarks(rows: Sequence[Row]) -> list[str]:
    """Each remark once, with the methods that it is on."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row["remark"]:
            told.setdefault(row["remark"], []).append(row["method"])
    return [f"{remark}: {', '.join(methods)}" for remark, methods in told.items()]


def _cells(row: Row, width: int, metrics: Metrics) -> dict[str, str]:
    digits = metrics.primary.decimals
    return {
        **_common_cells(row),
        "family": str(row["family"]),
        _counted(metrics.primary): f"{_mean(row, digits)} ({row['n']})".strip(),
        "vs student": _difference(row, "student", digits),
        "vs kd": _difference(row, "kd", digits, ends=width >= KD_INTERVAL) + _mark(row),
        "params": scaled(row["deployed_parameters"]),
        "MACs": scaled(row["deployed_macs"]),
        "extra params": scaled(row["extra_parameters"]),
        **{metric.title: plain(row[metric.name], max(metric.decimals - 1, 0)) for metric in metrics.shown},
    }


def _suite_cells(row: Row, score: Metric) -> dict[str, str]:
    counts = [plain(row[name], 0) for name in ("wins", "ties", "losses")]
    return {
        **_common_cells(row),
        score.title: _mean(row, score.decimals),
        "mean rank": plain(row["mean_rank"], 1),
        "Borda": plain(row["borda"], 1).removesuffix(".0"),
        "IQM": " ".join(filter(None, (plain(row["iqm"], score.decimals), _ends(row, "iqm", score.decimals)))),
        "P(> kd)": plain(row["probability_of_improvement"], 2),
        "w/t/l": "/".join(filter(None, counts)),
        "ARI": plain(row["ari"], 1) + "%" * known(row["ari"]),
        "vs kd": _difference(row, "kd", score.decimals, ends=False) + _mark(row),
    }


def _common_cells(row: Row) -> dict[str, str]:
    ratio = row["time_ratio_to_student"]
    return {
        "#": plain(row["rank"], 0),
        "method": str(row["method"]),
        "teachers": plain(row["teachers"], 0),
        "time": plain(ratio, 1) + "x" * known(ratio),
    }


def _mean(row: Row, digits: int) -> str:
    spread = f" ± {plain(row['score_std'], digits)}" if known(row["score_std"]) else ""
    return plain(row["score_mean"], digits) + spread


def _difference(row: Row, baseline: str, digits: int, ends: bool = True) -> str:
    between = _ends(row, f"vs_{baseline}", digits, True) if ends else ""
    return " ".join(filter(None, (plain(row[f"vs_{baseline}"], digits, True), between)))


def _ends(row: Row, name: str, digits: int, sign: bool = False) -> str:
    low, high = (plain(row[f"{name}_ci95_{end}"], digits, sign) for end in ("low", "high"))
    return f"[{low}, {high}]" if low and high else ""


def _mark(row: Row) -> str:
    """A star if the difference to kd stands after Holm's correction, else the space of one, so that columns align."""
    p = row["vs_kd_p_holm"]
    return ("*" if p < SURE else " ") if known(p) else ""


def reproduction(frame: pd.DataFrame, metrics: Metrics) -> Iterator[Table | Text]:
    """One table per (data set, pair), then the count of each verdict.

    Args:
        frame: of `kdbench.board.reproduction.reproduction_table`.
        metrics: of the task that was run.
    """
    for (dataset, pair), part in frame.groupby(["dataset", "pair"], sort=False):
        table = Table(title=f"{dataset}: {pair}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        several = "metric" in part
        first = ("method", "metric") if several else ("method",)
        for header in (*first, "reported", "epoch", "measured", "n", "95 % interval", "verdict", "why"):
            right = header in ("reported", "measured", "n", "95 % interval")
            table.add_column(header, justify="right" if right else "left", no_wrap=header != "why", overflow="fold")
        for row in rows_of(part, metrics):
            name, *cells = _verdict_cells(row, metrics.primary.decimals)
            table.add_row(*map(Text, (name, row["metric"], *cells) if several else (name, *cells)))
        yield table
    verdicts = [verdict for verdict in VERDICTS if (frame["verdict"] == verdict).any()]
    counts = ", ".join(f"{(frame['verdict'] == verdict).sum()} {verdict}" for verdict in verdicts)
    yield Text(f"{(frame['verdict'] != '').sum()} reported values: {counts}")


def _verdict_cells(row: Row, digits: int) -> tuple[str, ...]:
    def number(key: str) -> str:
        return plain(row[key], digits)

    def spread(key: str) -> str:
        return f" ± {number(key)}" if known(row[key]) else ""

    interval = " to ".join(filter(None, (number("ci95_low"), number("ci95_high"))))
    epoch = row["selection"] if isinstance(row["selection"], str) else ""
    of_last = spread("score_std") if epoch != "best" else ""
    reported, runs = number("reported") + spread("reported_std"), str(row["n"] or "")
    return row["method"], reported, epoch, number("measured") + of_last, runs, interval, row["verdict"], row["reason"]
