"""The tables: records in, data frames and CSV files out. The same records give the same bytes, whatever their order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.board.statistics import paired, summary
from kdbench.records import Record, write_atomically

OVERALL = "overall"
BASELINES = ("student", "kd")
GROUP = ["dataset", "protocol", "pair", "method"]
RESULT = ("top1", "top5", "nll", "ece", "best_top1", "best_epoch", "agreement", "kl_to_teacher")
COST = (
    "seconds_per_epoch",
    "own_seconds_per_epoch",
    "joules_per_epoch",
    "peak_memory_mb",
    "extra_parameters",
    "student_parameters",
    "deployed_parameters",
    "deployed_macs",
    "latency_ms_batch1",
    "latency_ms_batch128",
)
STATES = ("failed", "not_applicable", "missing")


def runs_table(records: Sequence[Record], expected: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """A row a cell, missing ones included.

    Args:
        records: of one suite.
        expected: the grid's cells, with `suite`, `dataset`, `protocol`, `pair`, `student`, `label`, `name`, `family`
            and `seed`; those without a record get a row with status `missing`.
    """
    rows = [_run_row(record) for record in records]
    known = {_key(row) for row in rows}
    rows += [row for cell in expected if _key(row := _missing_row(cell)) not in known]
    extras = sorted({column for row in rows for column in row if column.startswith("extra.")})
    columns = ["suite", *GROUP, "name", "family", "seed", "status", "reason", "teacher", "teacher_top1", "student"]
    columns += [*RESULT, *COST, *extras, "device", "precision", "compile", "id"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["suite", *GROUP, "seed", "id"], kind="stable", ignore_index=True)


def leaderboard_table(
    records: Sequence[Record],
    expected: Iterable[Mapping[str, Any]] = (),
    baselines: Sequence[str] = BASELINES,
) -> pd.DataFrame:
    """A row a (data set, protocol, pair, method), and one a method over all pairs (`pair` is `overall`).

    The rank is by mean top-1 of the last epoch. A pair row's mean is over its finished seeds, with `n` and the counts
    of the others beside it; an overall row has no mean as soon as one of its cells is not done. Differences are paired
    by seed (overall: by pair and seed) over the runs that both methods finished. A suite that runs a baseline with
    settings of its own, and only so, is compared with that.
    """
    runs = runs_table(records, expected)
    rows = []
    for (dataset, protocol), part in runs.groupby(["dataset", "protocol"], sort=True):
        boards = [(pair, group) for pair, group in part.groupby("pair", sort=True)]
        for pair, group in [(OVERALL, part), *boards]:
            rows += _ranked(
                [
                    {
                        "dataset": dataset,
                        "protocol": protocol,
                        "pair": pair,
                        **_method_row(group, method, str(pair), baselines),
                    }
                    for method in sorted(group["method"].unique())
                ]
            )
    columns = [*GROUP, "name", "family", "rank", "n", *STATES, "top1_mean", "top1_std", "ci95_low", "ci95_high"]
    columns += ["best_top1_mean", "teacher_top1"]
    for baseline in baselines:
        columns += [f"vs_{baseline}", f"vs_{baseline}_ci95_low", f"vs_{baseline}_ci95_high", f"vs_{baseline}_n"]
    columns += ["seconds_per_epoch", "time_ratio_to_student", "peak_memory_mb", "extra_parameters"]
    columns += ["deployed_parameters", "deployed_macs", "agreement", "remark"]
    return pd.DataFrame(rows, columns=columns)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV: UTF-8, `\\n`, six significant digits, no cell that a spreadsheet would run as a formula.

    Raises:
        KDBenchError: if the folder cannot be written or the disk is full.
    """
    safe = frame.map(_harmless)
    write_atomically(path, safe.to_csv(index=False, lineterminator="\n").encode("utf-8"))


def protocol_text(protocol: Mapping[str, Mapping[str, Any]]) -> str:
    """`clean`, or e.g. `label_noise(kind=symmetric, rate=0.4)`."""
    parts = []
    for name, options in sorted(protocol.items()):
        inside = ", ".join(f"{key}={options[key]}" for key in sorted(options))
        parts.append(f"{name}({inside})")
    return " + ".join(parts) or "clean"


def _run_row(record: Record) -> dict[str, Any]:
    cell, numerics = record["cell"], record["provenance"]["numerics"]
    result, cost = record.get("result") or {}, record.get("cost") or {}
    teachers = record.get("teachers") or []
    row = {
        "suite": record["suite"],
        "dataset": cell["dataset"],
        "protocol": protocol_text(cell["protocol"]),
        "pair": cell["pair"],
        "method": cell["method"]["label"],
        "name": cell["method"]["name"],
        "family": cell["method"]["family"],
        "seed": cell["seed"],
        "status": record["status"],
        "reason": record["reason"],
        "teacher": " + ".join(f"{t['network']}@{t['seed']}" for t in cell["teachers"]),
        "teacher_top1": teachers[0]["top1"] if teachers else None,
        "student": cell["student"],
        "device": numerics["device"],
        "precision": numerics["precision"],
        "compile": numerics["compile"],
        "id": record["id"],
    }
    row |= {name: result.get(name) for name in RESULT} | {name: cost.get(name) for name in COST}
    return row | {f"extra.{name}": value for name, value in (result.get("extra") or {}).items()}


def _missing_row(cell: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: cell.get(name) for name in ("suite", "dataset", "pair", "student", "name", "family", "seed")}
    text = protocol_text(cell["protocol"])
    return {**kept, "protocol": text, "method": cell["label"], "status": "missing", "reason": "", "id": ""}


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in (*GROUP, "seed")])


def _method_row(group: pd.DataFrame, method: str, pair: str, baselines: Sequence[str]) -> dict[str, Any]:
    """One method's row among the runs of one pair, or of all pairs."""
    mine = group[group["method"] == method]
    done = mine[mine["status"] == "done"]
    counts = {state: int((mine["status"] == state).sum()) for state in STATES}
    complete = pair != OVERALL or not any(counts.values())
    row: dict[str, Any] = {
        "method": method,
        "name": mine["name"].iloc[0],
        "family": mine["family"].iloc[0],
        "n": len(done),
    }
    row |= counts
    row["remark"] = _remark(mine, counts, complete)
    if not len(done) or not complete:
        return row
    # over all pairs, the sample is each seed's mean over the pairs, so that pairs count alike
    per_seed = done.groupby("seed")["top1"].mean() if pair == OVERALL else done["top1"]
    s = summary(per_seed.tolist())
    row |= {"top1_mean": s.mean, "top1_std": s.std, "ci95_low": s.low, "ci95_high": s.high}
    row["best_top1_mean"] = done["best_top1"].mean()
    for name in ("seconds_per_epoch", "peak_memory_mb", "agreement", "teacher_top1"):
        row[name] = done[name].astype(float).mean()
    for name in ("extra_parameters", "deployed_parameters", "deployed_macs"):
        row[name] = done[name].astype(float).mean()
    for baseline in baselines:
        row |= _difference(group, done, method, baseline)
    row["time_ratio_to_student"] = _time_ratio(group, done, baselines[0])
    return row


def _difference(group: pd.DataFrame, done: pd.DataFrame, method: str, baseline: str) -> dict[str, Any]:
    if method == _label_of(group, baseline):
        return {}
    both = _matched(group, done, baseline)
    if both.empty:
        return {}
    d = paired(both["top1"].tolist(), both["top1_base"].tolist())
    names = (f"vs_{baseline}", f"vs_{baseline}_ci95_low", f"vs_{baseline}_ci95_high", f"vs_{baseline}_n")
    return dict(zip(names, (d.mean, d.low, d.high, d.n), strict=True))


def _time_ratio(group: pd.DataFrame, done: pd.DataFrame, baseline: str) -> float:
    both = _matched(group, done, baseline)
    if both.empty:
        return math.nan
    return float((both["seconds_per_epoch"].astype(float) / both["seconds_per_epoch_base"].astype(float)).mean())


def _matched(group: pd.DataFrame, done: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The method's finished runs beside the baseline's of the same pair and seed."""
    base = group[(group["method"] == _label_of(group, baseline)) & (group["status"] == "done")]
    return done.merge(base[["pair", "seed", "top1", "seconds_per_epoch"]], on=["pair", "seed"], suffixes=("", "_base"))


def _label_of(group: pd.DataFrame, baseline: str) -> str:
    """The baseline's label: its plain name, or the one variant of it that ran (ImageNet's `kd` has other weights)."""
    variants = group.loc[group["name"] == baseline, "method"].unique()
    return baseline if baseline in variants or len(variants) != 1 else str(variants[0])


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best mean first, methods without one last; equal means share a rank."""
    rows.sort(key=lambda row: (-row.get("top1_mean", -math.inf), row["method"]))
    means = [row["top1_mean"] for row in rows if "top1_mean" in row]
    for row in rows:
        if "top1_mean" in row:
            row["rank"] = 1 + sum(mean > row["top1_mean"] for mean in means)
    return rows


def _remark(mine: pd.DataFrame, counts: Mapping[str, int], complete: bool) -> str:
    parts = [f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count]
    reasons = sorted({reason for reason in mine["reason"] if reason})
    text = ", ".join(parts) + (f": {reasons[0]}" if reasons else "")
    return text if complete or not text else f"incomplete ({text})"


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
