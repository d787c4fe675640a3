"""What the columns of a published suite's tables hold: types, ranges and meaning.

docs/results.md shows them (`markdown`), and `kdbench validate` holds the files against them (`violations`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.board.publishing.problem import Problem
from kdbench.errors import KDBenchError

try:
    import pandera.pandas as pa
except ImportError:
    raise KDBenchError("tables are checked by pandera, which is not installed: pip install 'kdbench[report]'") from None

STATUSES = ("done", "failed", "not_applicable", "missing")
ID = r"[0-9a-f]{16}"
# how far below zero rounding may bring a divergence
TINY = -1e-4

Columns = dict[str, pa.Column]


def _text(meaning: str, values: str = "text", empty: bool = False, checks: Sequence[pa.Check] = ()) -> pa.Column:
    return pa.Column(None, list(checks), nullable=empty, description=meaning, metadata={"values": values})


def _name(meaning: str) -> pa.Column:
    return _text(meaning, "text, not empty")


def _choice(meaning: str, *values: str, empty: bool = False) -> pa.Column:
    words = ", ".join(f"`{value}`" for value in values)
    return _text(meaning, words, empty, [pa.Check.isin(values, error=f"it is none of {', '.join(values)}")])


def _pattern(meaning: str, pattern: str, values: str, empty: bool = False) -> pa.Column:
    check = pa.Check(lambda column: column.str.fullmatch(pattern), error=f"it is not {values}")
    return _text(meaning, values, empty, [check])


def _number(
    meaning: str, low: float = -float("inf"), high: float = float("inf"), whole: bool = False, empty: bool = True
) -> pa.Column:
    kind = "whole number" if whole else "number"
    checks = [pa.Check(lambda column: column.abs() < float("inf"), error="it is not finite")]
    values = kind
    if low > -float("inf"):
        values = f"{kind}, {low:g} or more" if high == float("inf") else f"{kind}, {low:g} to {high:g}"
    if values != kind:
        checks.append(pa.Check.in_range(low, high, error=f"it is not a {values}".replace(",", " of", 1)))
    if whole:
        checks.append(pa.Check(lambda column: column % 1 == 0, error="it is not a whole number"))
    return pa.Column(float, checks, nullable=empty, description=meaning, metadata={"values": values})


def _percent(meaning: str, empty: bool = True) -> pa.Column:
    return _number(meaning, 0, 100, empty=empty)


def _count(meaning: str, empty: bool = True) -> pa.Column:
    return _number(meaning, 0, whole=True, empty=empty)


def _amount(meaning: str) -> pa.Column:
    return _number(meaning, 0)


def _share(meaning: str) -> pa.Column:
    return _number(meaning, 0, 1)


PLACE: Columns = {
    "dataset": _name("data set"),
    "protocol": _name("what is done to it, `clean` if nothing"),
    "pair": _name("teacher and student, or the pair's own name"),
}
METHOD: Columns = {
    "method": _name("label: the method's name, with the hyperparameters that are not its defaults"),
    "name": _name("registered name"),
    "family": _name("family"),
}
STATES: Columns = {
    "n": _count("finished runs", empty=False),
    "failed": _count("runs that failed", empty=False),
    "not_applicable": _count("runs that the pair does not allow", empty=False),
    "missing": _count("runs that nobody made", empty=False),
}
SCORES: Columns = {
    "top5": _percent("top-5 accuracy, %"),
    "nll": _amount("negative log-likelihood, nats"),
    "ece": _percent("expected calibration error, 15 bins, %"),
}
FIDELITY: Columns = {
    "agreement": _percent("test samples on which the teacher names the same class, %"),
    "kl_to_teacher": _number("divergence from the teacher's prediction, nats", TINY),
}


def _difference(baseline: str) -> Columns:
    name = f"vs_{baseline}"
    return {
        name: _number(f"mean paired difference of top-1 to `{baseline}`, points", -100, 100),
        f"{name}_ci95_low": _number("lower end of its 95 % t interval"),
        f"{name}_ci95_high": _number("upper end"),
        f"{name}_n": _count("paired runs"),
        f"{name}_p": _share("p of the paired t-test, two-sided"),
        f"{name}_p_holm": _share("the same after Holm's correction for the number of methods"),
    }


RUNS: Columns = {
    "suite": _name("suite"),
    **PLACE,
    **METHOD,
    "seed": _count("seed", empty=False),
    "status": _choice("how the run ended", *STATUSES),
    "reason": _text("why it is not done", empty=True),
    "teacher": _text("teachers as `network@seed`, joined by ` + `", empty=True),
    "teacher_top1": _percent("top-1 of the first teacher, %"),
    "student": _name("student network"),
    "top1": _percent("top-1 accuracy after the last epoch, %"),
    **SCORES,
    "best_top1": _percent("best top-1 of any epoch on the test set, %; never ranked"),
    "best_epoch": _number("its epoch", 1, whole=True),
    **FIDELITY,
    "seconds_per_epoch": _amount("seconds an epoch takes alone"),
    "own_seconds_per_epoch": _amount("of these, without batches and teachers, which a cohort shares"),
    "joules_per_epoch": _amount("energy of an epoch, where the device tells"),
    "peak_memory_mb": _amount("peak memory of a step, MiB"),
    "extra_parameters": _count("parameters trained beside the one student"),
    "student_parameters": _count("parameters of the student"),
    "deployed_parameters": _count("parameters of what is evaluated"),
    "deployed_macs": _count("multiply-accumulates of it for one input"),
    "latency_ms_batch1": _amount("median forward pass of it for 1 input, ms"),
    "latency_ms_batch128": _amount("for 128 inputs, ms"),
    "extra.*": _number("scores that only some methods have: of the ensemble of several students, ..."),
    "device": _text("where it ran", empty=True),
    "precision": _choice("numbers it trained in", "fp32", "bf16", empty=True),
    "compile": _choice("whether networks were compiled", "true", "false", empty=True),
    "id": _pattern("the cell's id; empty if missing", ID, "16 hex digits", empty=True),
}
WIDE: Columns = {
    "rank": _number("by `top1_mean`; equal means share it", 1, whole=True),
    **METHOD,
    **STATES,
    "top1_mean": _percent("top-1 of the last epoch, %: over seeds, of a seed's mean over the places"),
    "top1_std": _amount("its sample standard deviation over seeds"),
    "mean_rank": _number("rank at a place, averaged over the places", 1),
    "borda": _amount("methods beaten, summed over the places; a tie is half"),
    "iqm": _percent("interquartile mean of all runs, %"),
    "iqm_ci95_low": _percent("lower end of its 95 % bootstrap interval"),
    "iqm_ci95_high": _percent("upper end"),
    "probability_of_improvement": _share("chance that a run beats one of `kd` at the same place"),
    "probability_of_improvement_ci95_low": _share("lower end of its 95 % bootstrap interval"),
    "probability_of_improvement_ci95_high": _share("upper end"),
    "ari": _number("average relative improvement over `kd`, %"),
    "wins": _count("places where it is better than `kd`"),
    "ties": _count("places where the two cannot be told apart"),
    "losses": _count("places where it is worse"),
    **_difference("student"),
    **_difference("kd"),
    "gap_closed": _number("share of the teacher's lead over `student` that is won"),
    "time_ratio_to_student": _amount("training time as a multiple of `student`'s"),
    "extra_parameters": _amount("parameters trained beside the one student"),
    "remark": _text("what is missing and why", empty=True),
    "place*": _percent("a column a place, named after it: mean top-1 over its finished seeds, %"),
}
LONG: Columns = {
    **PLACE,
    **METHOD,
    "rank": _number("by `top1_mean` among the rows of its place; equal means share it", 1, whole=True),
    **STATES,
    "top1_mean": _percent("top-1 of the last epoch over seeds, %"),
    "top1_std": _amount("its sample standard deviation"),
    "ci95_low": _number("lower end of its 95 % t interval"),
    "ci95_high": _number("upper end"),
    "bootstrap_low": _percent("lower end of its 95 % bootstrap interval"),
    "bootstrap_high": _percent("upper end"),
    "best_top1_mean": _percent("mean of the best epochs on the test set, %; never ranked"),
    "teacher_top1": _percent("top-1 of the first teacher, %"),
    **_difference("student"),
    **_difference("kd"),
    "gap_closed": _number("share of the teacher's lead over `student` that is won"),
    **SCORES,
    **FIDELITY,
    "seconds_per_epoch": _amount("means over the finished runs, from here on"),
    "time_ratio_to_student": _amount("training time as a multiple of `student`'s"),
    "joules_per_epoch": _amount("energy of an epoch"),
    "peak_memory_mb": _amount("peak memory of a step, MiB"),
    "latency_ms_batch1": _amount("forward pass of what is deployed for 1 input, ms"),
    "latency_ms_batch128": _amount("for 128 inputs, ms"),
    "extra_parameters": _amount("parameters trained beside the one student"),
    "deployed_parameters": _amount("parameters of what is evaluated"),
    "deployed_macs": _amount("multiply-accumulates of it for one input"),
    "pareto": _choice("whether no row is as good in less time, or better in the same", "true", "false", empty=True),
    "remark": _text("what is missing and why", empty=True),
}
CURVES: Columns = {
    "id": _pattern("the cell's id", ID, "16 hex digits"),
    **PLACE,
    "method": METHOD["method"],
    "seed": _count("seed", empty=False),
    "epoch": _number("epoch, from 1", 1, whole=True, empty=False),
    "learning_rate": _amount("learning rate of the first parameter group at its end"),
    "loss": _number("mean loss of its steps", empty=False),
    "seconds": _amount("how long it took"),
    "top1": _percent("top-1 accuracy on the test set after it, %; empty where it was not evaluated"),
    **SCORES,
    **FIDELITY,
    "terms": _name("the loss's terms by name, as a JSON object"),
    "watched": _text("numbers of the method's own, as a JSON object", empty=True),
}
TABLES: dict[str, Columns] = {
    "leaderboard.csv": WIDE,
    "leaderboard_long.csv": LONG,
    "runs.csv": RUNS,
    "curves.parquet": CURVES,
}
Rule = tuple[str, str, Callable[[pd.DataFrame], pd.Series]]  # what is wrong, the column it shows in, where it is right
RULES: dict[str, tuple[Rule, ...]] = {
    "runs.csv": (
        ("a done run has a top-1", "top1", lambda f: (f["status"] != "done") | f["top1"].notna()),
        ("only a done run has a top-1", "top1", lambda f: (f["status"] == "done") | f["top1"].isna()),
        ("a run that was made has an id", "id", lambda f: (f["status"] == "missing") | f["id"].notna()),
        ("a missing run has no id", "id", lambda f: (f["status"] != "missing") | f["id"].isna()),
        ("the best epoch is not below the last", "best_top1", lambda f: ~(f["best_top1"] < f["top1"])),
        ("the same cell stands there twice", "id", lambda f: ~(f["id"].notna() & f["id"].duplicated())),
        (
            "the same method, place and seed stand there twice",
            "seed",
            lambda f: ~f.duplicated(["dataset", "protocol", "pair", "method", "seed"]),
        ),
    ),
    "leaderboard.csv": (
        ("the same method stands there twice", "method", lambda f: ~f["method"].duplicated()),
        ("a method that is ranked has a mean", "top1_mean", lambda f: f["rank"].isna() | f["top1_mean"].notna()),
    ),
    "leaderboard_long.csv": (
        (
            "the same method stands twice at a place",
            "method",
            lambda f: ~f.duplicated(["dataset", "protocol", "pair", "method"]),
        ),
        ("a method that is ranked has a mean", "top1_mean", lambda f: f["rank"].isna() | f["top1_mean"].notna()),
        ("the best epochs are not below the last", "best_top1_mean", lambda f: ~(f["best_top1_mean"] < f["top1_mean"])),
    ),
    "curves.parquet": (("the same epoch stands there twice", "epoch", lambda f: ~f.duplicated(["id", "epoch"])),),
}


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as it stands there: every cell a text.

    Raises:
        KDBenchError: if it is absent, or as `parse_csv`.
    """
    try:
        return parse_csv(path.read_bytes())
    except OSError as error:
        raise KDBenchError(f"it cannot be read ({error.strerror})") from error


def parse_csv(content: bytes) -> pd.DataFrame:
    """The cells of a CSV file, as text.

    Raises:
        KDBenchError: if it is no UTF-8, empty, or has rows of different lengths.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise KDBenchError("it is not UTF-8 text") from error
    except csv.Error as error:
        raise KDBenchError(f"it is no CSV ({error})") from error
    if not rows:
        raise KDBenchError("it is empty")
    header, *body = rows
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise KDBenchError(f"row {number} has {len(row)} cells, but there are {len(header)} columns")
    if len(set(header)) < len(header):
        raise KDBenchError(f"column {next(n for n in header if header.count(n) > 1)!r} stands there twice")
    return pd.DataFrame(body, columns=header, dtype=object)


def violations(name: str, frame: pd.DataFrame) -> Iterator[Problem]:
    """Everything in a table that its columns do not allow. Rows are counted as in a spreadsheet: the header is row 1.

    Args:
        name: of `TABLES`.
        frame: as `read_csv` gives it, or a Parquet file's.
    """
    columns = _resolved(TABLES[name], list(frame.columns))
    yield from _headers(name, columns, list(frame.columns))
    data = frame.astype(object).replace("", None)
    wrong: set[tuple[object, str]] = set()  # (row, column) of what is told already
    for column in set(columns) & set(data.columns):
        if columns[column].dtype is None:  # text
            continue
        numbers = pd.to_numeric(data[column], errors="coerce").astype(float)
        for index in data.index[data[column].notna() & numbers.isna()]:
            wrong.add((index, column))
            yield Problem(name, "it is not a number", _cell(index, column), data.at[index, column])
        data[column] = numbers
    schema = pa.DataFrameSchema({column: columns[column] for column in columns if column in data.columns})
    try:
        schema.validate(data, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.sort_values(["index", "column"], kind="stable")
        for case in cases.itertuples():
            if (case.index, case.column) not in wrong:
                rule = "it is empty" if case.check == "not_nullable" else str(case.check)
                value = None if case.check == "not_nullable" else case.failure_case
                yield Problem(name, rule, _cell(case.index, case.column), value)
    if set(TABLES[name]) - {"extra.*", "place*"} <= set(data.columns):
        for rule, column, right in RULES[name]:
            for index in data.index[~right(data)]:
                yield Problem(name, rule, _cell(index, column), frame.at[index, column] or None)


def _cell(index: Any, column: object) -> str:
    return f"column {column}" if index is None else f"row {int(index) + 2}, column {column}"


def _resolved(columns: Columns, present: Sequence[str]) -> Columns:
    """The columns with those that a table may have in any number: `extra.*`, and after the last one the places."""
    found: Columns = {}
    known = set(columns)
    for name, column in columns.items():
        if name == "extra.*":
            found |= {extra: column for extra in present if extra.startswith("extra.")}
        elif name == "place*":
            found |= {place: column for place in present if place not in known}
        else:
            found[name] = column
    return found


def _headers(name: str, columns: Columns, present: list[str]) -> Iterator[Problem]:
    for column in columns:
        if column not in present:
            yield Problem(name, f"there is no column {column!r}")
    for column in present:
        if column not in columns:
            yield Problem(name, f"there is no such column in {name}", "row 1", column)
    mine, theirs = ([c for c in order if c in set(other)] for order, other in ((present, columns), (columns, present)))
    if mine != theirs:
        first = next(a for a, b in zip(mine, theirs, strict=True) if a != b)
        yield Problem(name, "the columns are not in the order of docs/results.md, from this one on", "row 1", first)


def markdown(name: str) -> str:
    """The columns of a table as docs/results.md shows them."""
    lines = ["| column | holds | meaning |", "|---|---|---|"]
    for column, spec in TABLES[name].items():
        shown = "(one a place)" if column == "place*" else f"`{column}`"
        empty = "; may be empty" if spec.nullable else ""
        lines.append(f"| {shown} | {spec.metadata['values']}{empty} | {spec.description} |")
    return "\n".join(lines)
