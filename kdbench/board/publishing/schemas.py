"""What the columns of a published suite's tables hold: types, ranges and meaning.

docs/results.md shows them (`markdown`), and `kdbench validate` holds the files against them (`violations`). Those of
scores follow from the task's metrics.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.board.columns import as_meant, filed_as
from kdbench.board.grid import STATES as GRID_STATES
from kdbench.board.maps.gains import FILE as MAP
from kdbench.board.maps.gains import VALUES as MAP_VALUES
from kdbench.board.publishing.problem import Problem
from kdbench.errors import KDBenchError
from kdbench.tasks.metrics import Metric, Metrics

try:
    import pandera.pandas as pa
except ImportError:
    raise KDBenchError("tables are checked by pandera, which is not installed: pip install 'kdbench[report]'") from None

STATUSES = ("done", *GRID_STATES)
MADE = ("done", "failed", "not_applicable")  # the states of runs that are in the tables by a record
# columns that tables of older versions lack
LATER = ("teachers", "older_source", "other_engine", "threads", "engine")
ID = r"[0-9a-f]{16}"
FILES = ("leaderboard.csv", "leaderboard_long.csv", "runs.csv", "curves.parquet")
ALL_FILES = (*FILES, MAP)  # which is there where the places differ in one number or two

MANY = {"place*": "(one per place)", "axis*": "(one or two)"}  # columns named by what the suite is

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
    elif high < float("inf"):
        values = f"{kind}, {high:g} or less"
    if values != kind:
        checks.append(pa.Check.in_range(low, high, error=f"it is not a {values}".replace(",", " of", 1)))
    if whole:
        checks.append(pa.Check(lambda column: column % 1 == 0, error="it is not a whole number"))
    return pa.Column(float, checks, nullable=empty, description=meaning, metadata={"values": values})


def _score(metric: Metric, meaning: str) -> pa.Column:
    return _number(meaning, metric.low, metric.high)


def _scores(metrics: Sequence[Metric]) -> Columns:
    return {metric.name: _score(metric, metric.meaning) for metric in metrics}


def _titled(metric: Metric, text: str) -> str:
    """What is said of a score, with its unit."""
    return f"{text}, {metric.unit}" if metric.unit else text


def _count(meaning: str, empty: bool = True) -> pa.Column:
    return _number(meaning, 0, whole=True, empty=empty)


def _optional(column: pa.Column) -> pa.Column:
    """A column that is there only where it says something."""
    column.metadata["optional"] = True
    return column


def _amount(meaning: str) -> pa.Column:
    return _number(meaning, 0)


def _share(meaning: str) -> pa.Column:
    return _number(meaning, 0, 1)


def _sometimes() -> Columns:
    """What is said of rows whose settings a sweep chose, and of those that trained on a teacher's corpus."""
    return {
        "trials": _optional(_count("trials that chose the settings of a tuned row; the column is there where one is")),
        "trial_seconds": _optional(_amount("how long these trials trained together, s")),
        "corpus_seconds": _optional(
            _amount("how long its teacher wrote the corpus that it trained on, s; in no other time")
        ),
    }


PLACE: Columns = {
    "dataset": _name("data set"),
    "protocol": _name("what is done to it, `clean` if nothing"),
    "pair": _name("teacher and student, or the pair's own name"),
}
METHOD: Columns = {
    "method": _name("label: the method's name, with the hyperparameters that are not its defaults"),
    "name": _name("registered name"),
    "family": _name("family"),
    "teachers": _count("teachers that the method sees: 0, 1 or several", empty=False),
}
STATES: Columns = {
    "n": _count("finished runs", empty=False),
    "failed": _count("runs that failed", empty=False),
    "not_applicable": _count("runs that the pair does not allow", empty=False),
    "older_source": _count("runs with an older source of the method, to be made again", empty=False),
    "other_engine": _count("runs by another engine, to be made again", empty=False),
    "missing": _count("runs that nobody made", empty=False),
}


def _difference(baseline: str, metric: Metric) -> Columns:
    name, most = f"vs_{baseline}", metric.high - metric.low
    meaning = f"mean paired difference of {metric.title} to `{baseline}`"
    return {
        name: _number(f"{meaning}, {metric.points}" if metric.points else meaning, -most, most),
        f"{name}_ci95_low": _number("lower end of its 95 % t interval"),
        f"{name}_ci95_high": _number("upper end"),
        f"{name}_n": _count("paired runs"),
        f"{name}_p": _share("p of the paired t-test, two-sided; empty of two seeds, and of equal differences"),
        f"{name}_p_holm": _share("the same after Holm's correction for the number of methods"),
        f"{name}_tests": _count("that number: of all methods that ran there"),
    }


def _time() -> Columns:
    return {
        "time_ratio_to_student": _amount("time of a step as a multiple of `student`'s: median over the runs"),
        "time_ratio_low": _amount("the least of a run"),
        "time_ratio_high": _amount("the most"),
    }


def _runs(metrics: Metrics) -> Columns:
    score, title = metrics.primary, metrics.primary.title
    return {
        "suite": _name("suite"),
        **PLACE,
        **METHOD,
        "seed": _count("seed", empty=False),
        "status": _choice("how the run ended", *STATUSES),
        "reason": _text("why it is not done", empty=True),
        "teacher": _text("teachers as `network@seed`, joined by ` + `", empty=True),
        "teacher_score": _score(score, _titled(score, f"{title} of the first teacher")),
        "student": _name("student network"),
        "score": _score(score, _titled(score, f"{title} after the last epoch")),
        **_scores(metrics.own),
        "best_score": _score(score, _titled(score, f"best {title} of any epoch on the test set") + "; never ranked"),
        "best_epoch": _number("its epoch", 1, whole=True),
        **_scores(metrics.of_teacher),
        "seconds_per_epoch": _amount("seconds an epoch takes alone"),
        "own_seconds_per_epoch": _amount("of these, without batches and teachers, which a cohort shares"),
        "time_ratio_to_student": _amount("time of a step as a multiple of `student`'s, timed side by side"),
        "joules_per_epoch": _amount("energy of an epoch, where the device tells"),
        "peak_memory_mb": _amount("peak memory of a step, MiB"),
        "extra_parameters": _count("parameters trained beside the one student"),
        "student_parameters": _count("parameters of the student"),
        "deployed_parameters": _count("parameters of what is evaluated"),
        "deployed_macs": _count("multiply-accumulates of it for one input"),
        "latency_ms_batch1": _amount("median forward pass of it for 1 input, ms"),
        "latency_ms_batch128": _amount("for 128 inputs, ms"),
        "untimed": _text("why there is no `time_ratio_to_student`", empty=True),
        "extra.*": _number("scores that only some methods have: of the ensemble of several students, ..."),
        "device": _text("where it ran", empty=True),
        "precision": _choice("numbers it trained in", "fp32", "bf16", "tf32", empty=True),
        "compile": _choice("whether networks were compiled", "true", "false", empty=True),
        "threads": _number("threads of the CPU that each learner had", 1, whole=True),
        "engine": _number("kdbench's engine that ran it", 1, whole=True),
        "id": _pattern("the cell's id; empty if missing", ID, "16 hex digits", empty=True),
        **_sometimes(),
    }


def _wide(metrics: Metrics) -> Columns:
    score, title = metrics.primary, metrics.primary.title
    return {
        "rank": _number(
            f"by `{filed_as('score_mean', metrics)}` among the methods that see as many teachers (one, several, none);"
            " equal means share it",
            1,
            whole=True,
        ),
        **METHOD,
        **STATES,
        "score_mean": _score(
            score, _titled(score, f"{title} of the last epoch") + ": over seeds, of a seed's mean over the places"
        ),
        "score_std": _amount("its sample standard deviation over seeds"),
        "mean_rank": _number("rank at a place among those that see as many teachers, averaged over the places", 1),
        "borda": _amount("methods beaten of these, summed over the places; a tie is half"),
        "iqm": _score(score, _titled(score, "interquartile mean of all runs")),
        "iqm_ci95_low": _score(score, "lower end of its 95 % bootstrap interval"),
        "iqm_ci95_high": _score(score, "upper end"),
        "probability_of_improvement": _share("chance that a run beats one of `kd` at the same place"),
        "probability_of_improvement_ci95_low": _share("lower end of its 95 % bootstrap interval"),
        "probability_of_improvement_ci95_high": _share("upper end"),
        "ari": _number("average relative improvement over `kd`, %; empty where `kd`'s own gain is not told from 0"),
        "wins": _count("places where it is better than `kd` after Holm's correction"),
        "ties": _count("places where the two cannot be told apart"),
        "losses": _count("places where it is worse"),
        **_difference("student", score),
        **_difference("kd", score),
        "gap_closed": _number("share of the teacher's lead over `student` that is won"),
        **_time(),
        "extra_parameters": _amount("parameters trained beside the one student"),
        **_sometimes(),
        "remark": _text("what is missing and why", empty=True),
        "place*": _score(
            score, _titled(score, f"one column per place, named after it: mean {title} over its finished seeds")
        ),
    }


def _long(metrics: Metrics) -> Columns:
    score, title = metrics.primary, metrics.primary.title
    return {
        **PLACE,
        **METHOD,
        "rank": _number(
            f"by `{filed_as('score_mean', metrics)}` among the rows of its place that see as many teachers; equal means"
            " share it",
            1,
            whole=True,
        ),
        **STATES,
        "score_mean": _score(score, _titled(score, f"{title} of the last epoch over seeds")),
        "score_std": _amount("its sample standard deviation"),
        "ci95_low": _number("lower end of its 95 % t interval"),
        "ci95_high": _number("upper end"),
        "bootstrap_low": _score(score, "lower end of its 95 % bootstrap interval"),
        "bootstrap_high": _score(score, "upper end"),
        "best_score_mean": _score(score, _titled(score, "mean of the best epochs on the test set") + "; never ranked"),
        "teacher_score": _score(score, _titled(score, f"{title} of the first teacher")),
        **_difference("student", score),
        **_difference("kd", score),
        "gap_closed": _number("share of the teacher's lead over `student` that is won"),
        **_scores(metrics.others),
        "seconds_per_epoch": _amount("means over the finished runs, from here on"),
        **_time(),
        "joules_per_epoch": _amount("energy of an epoch"),
        "peak_memory_mb": _amount("peak memory of a step, MiB"),
        "latency_ms_batch1": _amount("forward pass of what is deployed for 1 input, ms"),
        "latency_ms_batch128": _amount("for 128 inputs, ms"),
        "extra_parameters": _amount("parameters trained beside the one student"),
        "deployed_parameters": _amount("parameters of what is evaluated"),
        "deployed_macs": _amount("multiply-accumulates of it for one input"),
        "pareto": _choice("whether no row is as good in less time, or better in the same", "true", "false", empty=True),
        **_sometimes(),
        "remark": _text("what is missing and why", empty=True),
    }


def _curves(metrics: Metrics) -> Columns:
    score = metrics.primary
    return {
        "id": _pattern("the cell's id", ID, "16 hex digits"),
        **PLACE,
        "method": METHOD["method"],
        "seed": _count("seed", empty=False),
        "epoch": _number("epoch, from 1", 1, whole=True, empty=False),
        "learning_rate": _amount("learning rate of the first parameter group at its end"),
        "loss": _number("mean loss of its steps", empty=False),
        "seconds": _amount("how long it took"),
        "score": _score(
            score, _titled(score, f"{score.title} on the test set after it") + "; empty where it was not evaluated"
        ),
        **_scores(metrics.others),
        "terms": _name("the loss's terms by name, as a JSON object"),
        "watched": _text("numbers of the method's own, as a JSON object", empty=True),
    }


def _map(metrics: Metrics) -> Columns:
    score = metrics.primary
    difference = _titled(score, f"mean difference in {score.title} to the plain student, paired over seeds")
    ends = ("lower end of its 95 % interval; empty below three seeds", "upper end")
    columns = (
        _score(score, _titled(score, f"the plain student's mean {score.title} there")),
        _count("seeds of the difference", empty=False),
        *map(_number, (f"{difference}; above zero is better", *ends)),
    )
    return {
        "method": _name("the method, or `the teacher's lead`: the teacher's score less the plain student's"),
        "axis*": _number("what the places differ in, such as `images a class`", empty=False),
        **dict(zip(MAP_VALUES, columns, strict=True)),
    }


@cache
def tables(metrics: Metrics) -> dict[str, Columns]:
    """The columns of each of `ALL_FILES`, for a task with these metrics."""
    columns = (_wide(metrics), _long(metrics), _runs(metrics), _curves(metrics), _map(metrics))
    made = dict(zip(ALL_FILES, columns, strict=True))
    return {name: {filed_as(key, metrics): spec for key, spec in columns.items()} for name, columns in made.items()}


# what is wrong, the column it shows in, where it is right; columns as `kdbench.board.columns` calls them
Rule = tuple[str, str, Callable[[pd.DataFrame], pd.Series]]


@cache
def _rules(metrics: Metrics) -> dict[str, tuple[Rule, ...]]:
    """What the rows of each of `ALL_FILES` must hold besides."""
    score, title = metrics.primary, metrics.primary.title
    ranked: Rule = (
        "a method that is ranked has a mean",
        "score_mean",
        lambda f: f["rank"].isna() | f["score_mean"].notna(),
    )

    def no_worse(best: str, last: str) -> Callable[[pd.DataFrame], pd.Series]:
        return lambda f: ~(score.sign * f[best] < score.sign * f[last])

    return {
        "runs.csv": (
            (f"a done run has a {title}", "score", lambda f: (f["status"] != "done") | f["score"].notna()),
            (f"only a done run has a {title}", "score", lambda f: (f["status"] == "done") | f["score"].isna()),
            ("a run that was made has an id", "id", lambda f: ~f["status"].isin(MADE) | f["id"].notna()),
            ("a missing run has no id", "id", lambda f: f["status"].isin(MADE) | f["id"].isna()),
            ("the best epoch is not worse than the last", "best_score", no_worse("best_score", "score")),
            ("the same cell stands there twice", "id", lambda f: ~(f["id"].notna() & f["id"].duplicated())),
            (
                "the same method, place and seed stand there twice",
                "seed",
                lambda f: ~f.duplicated(["dataset", "protocol", "pair", "method", "seed"]),
            ),
        ),
        "leaderboard.csv": (
            ("the same method stands there twice", "method", lambda f: ~f["method"].duplicated()),
            ranked,
        ),
        "leaderboard_long.csv": (
            (
                "the same method stands twice at a place",
                "method",
                lambda f: ~f.duplicated(["dataset", "protocol", "pair", "method"]),
            ),
            ranked,
            (
                "the best epochs are not worse than the last",
                "best_score_mean",
                no_worse("best_score_mean", "score_mean"),
            ),
        ),
        "curves.parquet": (("the same epoch stands there twice", "epoch", lambda f: ~f.duplicated(["id", "epoch"])),),
        MAP: (
            (
                "the same method stands twice at a place",
                "method",
                lambda f: ~f.duplicated([column for column in f.columns if column not in MAP_VALUES]),
            ),
        ),
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


def violations(name: str, frame: pd.DataFrame, metrics: Metrics, older: bool = False) -> Iterator[Problem]:
    """Everything in a table that its columns do not allow. Rows are counted as in a spreadsheet: the header is row 1.

    Args:
        name: of `ALL_FILES`.
        frame: as `read_csv` gives it, or a Parquet file's.
        metrics: of the suite's task.
        older: whether an older version wrote it: then it may lack the columns `LATER`.
    """
    lacks = [header for header in LATER if older and header not in frame.columns]
    fixed = {header: column for header, column in tables(metrics)[name].items() if header not in lacks}
    columns = _resolved(fixed, list(frame.columns))
    yield from _headers(name, columns, list(frame.columns))
    data = frame.astype(object).replace("", None)
    wrong: set[tuple[object, str]] = set()  # (row, column) of what is told already
    for header in set(columns) & set(data.columns):
        if columns[header].dtype is None:  # text
            continue
        numbers = pd.to_numeric(data[header], errors="coerce").astype(float)
        for index in data.index[data[header].notna() & numbers.isna()]:
            wrong.add((index, header))
            yield Problem(name, "it is not a number", _cell(index, header), data.at[index, header])
        data[header] = numbers
    schema = pa.DataFrameSchema({header: columns[header] for header in columns if header in data.columns})
    try:
        schema.validate(data, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.sort_values(["index", "column"], kind="stable")
        for case in cases.itertuples():
            if (case.index, case.column) not in wrong:
                rule = "it is empty" if case.check == "not_nullable" else str(case.check)
                value = None if case.check == "not_nullable" else case.failure_case
                yield Problem(name, rule, _cell(case.index, case.column), value)
    if {name for name in fixed if name in columns} <= set(data.columns):
        meant = as_meant(data, metrics)
        for rule, about, right in _rules(metrics)[name]:
            called = filed_as(about, metrics)
            for index in data.index[~right(meant)]:
                yield Problem(name, rule, _cell(index, called), frame.at[index, called] or None)


def _cell(index: Any, column: object) -> str:
    return f"column {column}" if index is None else f"row {int(index) + 2}, column {column}"


def _resolved(columns: Columns, present: Sequence[str]) -> Columns:
    """The columns with those that a table may have in any number: `extra.*`, and places or axes (`MANY`)."""
    found: Columns = {}
    known = set(columns)
    for name, column in columns.items():
        if name == "extra.*":
            found |= {extra: column for extra in present if extra.startswith("extra.")}
        elif name in MANY:
            found |= {place: column for place in present if place not in known}
        elif name in present or not column.metadata.get("optional"):
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


def markdown(name: str, metrics: Metrics) -> str:
    """The columns of a table as docs/results.md shows them."""
    lines = ["| column | holds | meaning |", "|---|---|---|"]
    for header, spec in tables(metrics)[name].items():
        shown = MANY.get(header, f"`{header}`")
        empty = "; may be empty" if spec.nullable else ""
        lines.append(f"| {shown} | {spec.metadata['values']}{empty} | {spec.description} |")
    return "\n".join(lines)
