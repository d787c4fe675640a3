"""Is a record what the engine would have written? Its shape, its id, its numbers, its curve, its place in the suite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.board.publishing.problem import Problem
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.records.shape import DONE, SHAPE, misfits
from kdbench.suites.added import plain
from kdbench.suites.fixed import fixed_of
from kdbench.suites.grid import Pair, engine_of, identity
from kdbench.suites.recipe import length_of, overridden, part
from kdbench.suites.tables import suite_of
from kdbench.tasks.metrics import Metric, Metrics, of

# by how much a teacher's score may shift on another device or in another precision: points of a percentage, and of
# any other score a share of it
TEACHER_POINTS, TEACHER_SHARE = 0.5, 0.01
# what a score that is told again may differ by: points of a percentage, for samples whose two best answers are equal in
# bf16 are decided one way by the score and another by what is kept; of any other score a share of it
TIES, ROUNDING = 1.0, 1e-6


def done_shape(metrics: Metrics) -> dict[str, Any]:
    """The keys that a finished record has besides."""
    scores = {metrics.primary.name: float, metrics.best_name: float}
    teacher = {**DONE["teachers"][0], metrics.primary.name: float}
    return {**DONE, "result": {**scores, **DONE["result"]}, "teachers": [teacher]}


def shape(file: str, record: Record) -> list[Problem]:
    """Keys that are missing or of a wrong type, or a task that is unknown: where there are any, nothing else can be
    said of the record.
    """
    found, wanted, task = [], SHAPE, record["cell"].get("task")
    try:
        metrics = of(task) if isinstance(task, str) else None
    except KDBenchError as error:
        metrics = None
        found.append(Problem(file, str(error), "cell.task", task))
    if metrics and record.get("status") == "done":
        wanted = {**SHAPE, **done_shape(metrics)}
    found += [Problem(file, rule, where) for where, rule in misfits(record, wanted)]
    if record.get("status") not in ("done", "failed", "not_applicable"):
        found.append(Problem(file, "it is none of done, failed, not_applicable", "status", record.get("status")))
    return found


def audit(file: str, record: Record, original_schema: int) -> Iterator[Problem]:
    """What is wrong with a record of the right shape, whichever suite it is of.

    Args:
        file: its name, for the problems.
        record: as `kdbench.records.read_record` gives it.
        original_schema: the version in the file itself.
    """
    cell, status = record["cell"], record["status"]
    if original_schema < 1:
        yield Problem(file, "there is no such version of records", "schema", original_schema)
    if engine_of(record) is None:
        rule = f"the digest of its cell is {identity(cell)}: the cell or the id was changed after the run"
        yield Problem(file, rule, "id", record["id"])
    if cell["seed"] < 0:
        yield Problem(file, "seeds are 0 or more", "cell.seed", cell["seed"])
    if status != "done":
        if not record["reason"]:
            yield Problem(file, f"a record that is {status.replace('_', ' ')} says why", "reason")
        return
    metrics = of(cell["task"])
    ranges = {metric.name: metric for metric in metrics.scores} | {metrics.best_name: metrics.primary}
    yield from _numbers(file, "result", record["result"], ranges)
    extra = {metric.name: metric for metric in metrics.extra}
    measured = {name: value for name, value in record["result"]["extra"].items() if name in extra}
    yield from _numbers(file, "result.extra", measured, extra)
    yield from _numbers(file, "cost", record["cost"], {})
    for number, teacher in enumerate(record["teachers"]):
        score = {metrics.primary.name: teacher[metrics.primary.name]}
        yield from _numbers(file, f"teachers[{number}]", score, ranges)
    yield from _curve(file, record, metrics, ranges)
    yield from _told_again(file, record["result"], metrics)


def _numbers(file: str, part: str, values: Mapping[str, Any], ranges: Mapping[str, Metric]) -> Iterator[Problem]:
    """Numbers that are not finite, or outside of their range: 0 or more, where nothing else is said."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high = (ranges[name].low, ranges[name].high) if name in ranges else (0.0, math.inf)
        where = f"{part}.{name}"
        if not math.isfinite(value):
            yield Problem(file, "it is not finite", where, value)
        elif not low <= value <= high:
            yield Problem(file, _outside(low, high), where, value)


def _outside(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"it is not between {low:g} and {high:g}"
    if math.isfinite(high):
        return f"it is above {high:g}"
    return "it is negative" if round(low, 3) == 0 else f"it is below {low:g}"


def _told_again(file: str, result: Mapping[str, Any], metrics: Metrics) -> Iterator[Problem]:
    """Scores that are not what the rest of the result gives."""
    try:
        again = metrics.recompute(result) if metrics.recompute else {}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        yield Problem(file, f"its scores cannot be told again from the rest of it ({type(error).__name__})", "result")
        return
    points = {metric.name for metric in metrics.scores if metric.unit == "%"}
    for name, value in again.items():
        score, most = result.get(name), TIES if name in points else ROUNDING * abs(value)
        if isinstance(score, int | float) and not abs(score - value) <= most:
            yield Problem(file, f"the rest of the result gives {value:.6g}", f"result.{name}", score)


def _curve(file: str, record: Record, metrics: Metrics, ranges: Mapping[str, Metric]) -> Iterator[Problem]:
    """The curve has every epoch, ends in the result, and has no better epoch than the best."""
    curve, result, recipe = record["curve"], record["result"], record["cell"]["recipe"]
    epochs, updates = length_of(recipe), recipe.get("updates")
    early = bool(recipe.get("patience")) and 0 < len(curve) < epochs
    epochs = len(curve) if early else epochs
    if len(curve) != epochs:
        parts = f"{updates} updates in parts" if updates else "epochs"
        yield Problem(file, f"it has {len(curve)} points, but the recipe has {parts} 1 to {epochs}", "curve")
    elif [point["epoch"] for point in curve] != list(range(1, epochs + 1)):
        yield Problem(file, "its epochs are not 1, 2, ... in order", "curve")
    elif updates and [point.get("updates") for point in curve] != [part(recipe, k)[1] for k in range(epochs)]:
        rule = f"its points are not at the ends of {length_of(recipe)} equal parts of {updates} updates"
        yield Problem(file, rule, "curve")
    for number, point in enumerate(curve):
        measured = {k: v for k, v in point.items() if k not in ("loss", "terms")}
        yield from _numbers(file, f"curve[{number}]", measured, ranges)
        for name, value in {"loss": point["loss"], **point["terms"]}.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                yield Problem(file, "it is not a finite number", f"curve[{number}].{name}", value)
    if not curve:
        return
    for name in sorted(curve[-1].keys() & result.keys()):
        if curve[-1][name] != result[name]:
            yield Problem(file, f"the last point of the curve has {curve[-1][name]}", f"result.{name}", result[name])
    yield from _best_epoch(file, record, metrics)


def _best_epoch(file: str, record: Record, metrics: Metrics) -> Iterator[Problem]:
    """The best epoch is no worse than the last, and the best of the curve."""
    result, name = record["result"], metrics.primary.name
    last, best, where = result[name], result[metrics.best_name], f"result.{metrics.best_name}"
    scores = {point["epoch"]: point[name] for point in record["curve"] if isinstance(point.get(name), int | float)}
    if metrics.primary.better(last, than=best):
        yield Problem(file, f"it is worse than the last epoch's {last}", where, best)
    elif scores and best != metrics.primary.best(scores.values()):
        yield Problem(file, f"the best point of the curve has {metrics.primary.best(scores.values())}", where, best)
    elif scores and scores.get(result["best_epoch"]) != best:
        rule = f"that epoch of the curve has {scores.get(result['best_epoch'])}, not {best}"
        yield Problem(file, rule, "result.best_epoch", result["best_epoch"])


def misplaced(file: str, record: Record, suite: Mapping[str, Any]) -> Iterator[Problem]:
    """What keeps a record from being a cell of the suite: another place, seed, recipe or setting.

    Args:
        suite: a `kdbench.board.results.suite_table`.
    """
    cell, method = record["cell"], record["cell"]["method"]

    def problem(where: str, value: Any, rule: str) -> Problem:
        return Problem(file, rule, where, value)

    if record["suite"] != suite["name"]:
        yield problem("suite", record["suite"], f"the folder is of suite {suite['name']!r}")
    if cell["role"] != "student":
        yield problem("cell.role", cell["role"], "a suite's records are of students")
    grid = suite_of(suite)
    if cell["seed"] not in (seeds := grid.seeds_of(grid.methods)):
        yield problem("cell.seed", cell["seed"], f"the suite's seeds are {', '.join(map(str, seeds))}")
    data = [cell["dataset"], cell["task"], cell["protocol"], *_given(cell)]
    if data not in [[d["name"], d["task"], d["protocol"], *_given(d)] for d in suite["datasets"]]:
        yield problem("cell.dataset", data, "the suite has no such data set, task and protocol")
    pair = next((pair for pair in grid.pairs if str(pair) == cell["pair"]), None)
    if pair is None:
        yield problem("cell.pair", cell["pair"], "the suite has no such pair")
    else:
        yield from _networks(file, cell, grid.seen(pair, cell["seed"]))
    row = _tuned_row(suite, cell)
    if method.get("tuned") and row is None:
        yield problem("cell.method.label", method["label"], "the suite has no such tuned row here: publish again")
    given = row or {entry["label"]: entry for entry in suite["methods"]}.get(method["label"])
    if given:
        yield from _unlike(file, "cell.method", {"name": method["name"]}, {"name": given["name"]})
        where = "cell.method.hyperparameters"
        yield from _unlike(file, where, method["hyperparameters"], given["hyperparameters"])
    if reason := fixed_of(suite.get("numerics", {})).refused(record):
        yield Problem(file, reason, "provenance.numerics")
    recipe = overridden(suite["recipe"], suite["student_recipes"].get(cell["student"], {}))
    recipe |= row["recipe"] if row else {}
    yield from _unlike(file, "cell.recipe", cell["recipe"], recipe)
    for number, (spec, mine) in enumerate(zip(cell["teachers"], cell["teacher_recipes"], strict=False)):
        recipe = overridden(suite["teacher_recipe"], suite["teacher_recipes"].get(spec["network"], {}))
        yield from _unlike(file, f"cell.teacher_recipes[{number}]", mine, recipe)


def _given(dataset: Mapping[str, Any]) -> list[Any]:
    """The protocol of its teachers, where it has one."""
    return [dataset["teacher_protocol"]] if "teacher_protocol" in dataset else []


def _tuned_row(suite: Mapping[str, Any], cell: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The tuned row of a suite's table that a record's `cell` is of."""
    keys = ("dataset", "protocol", "teacher_protocol", "pair")
    here = [*(cell.get(key) for key in keys), cell["method"]["label"]]
    rows = suite.get("tuned", ()) if cell["method"].get("tuned") else ()
    return next((row for row in rows if [*(row.get(key) for key in keys), row["label"]] == here), None)


def _networks(file: str, cell: Mapping[str, Any], pair: Pair) -> Iterator[Problem]:
    """Networks that are not those of the pair as the cell's seed sees it."""
    if cell["student"] != pair.student:
        yield Problem(file, f"the pair's student is {pair.student!r}", "cell.student", cell["student"])
    if cell["teachers"] not in ([plain(pair.teacher)], plain(pair.pool)):
        names = ", ".join(f"{spec['network']}@{spec['seed']}" for spec in cell["teachers"])
        yield Problem(file, "they are neither the pair's teacher nor its pool", "cell.teachers", names)
    if len(cell["teacher_recipes"]) != len(cell["teachers"]):
        yield Problem(file, "it is not one per teacher", "cell.teacher_recipes")
    used = cell.get("assistants", [])
    if used != list(pair.assistants[: len(used)]):
        yield Problem(file, f"the pair's are {list(pair.assistants)}", "cell.assistants", used)


def _unlike(file: str, where: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Problem]:
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            rule = f"the suite has {theirs[key]!r}" if key in theirs else "the suite has no such key"
            yield Problem(file, rule, f"{where}.{key}", mine.get(key))


def untaught(file: str, record: Record, teachers: Mapping[str, Record], wanted: Sequence[str]) -> Iterator[Problem]:
    """Teachers that a record names and that are not there, or do not score as it says.

    Args:
        teachers: their records by id.
        wanted: ids of those that kdbench trained.
    """
    primary = of(record["cell"]["task"]).primary
    for number, teacher in enumerate(record.get("teachers") or ()):
        identity_, where = teacher["weights"], f"teachers[{number}]"
        if identity_ not in wanted:
            continue
        if identity_ not in teachers:
            yield Problem(file, "its record is not in the folder 'teachers' beside this one", where, identity_)
            continue
        theirs = teachers[identity_]
        if theirs["status"] != "done":
            yield Problem(file, f"its own record is {theirs['status']}", where, identity_)
        elif _shifted(primary, theirs["result"][primary.name], teacher[primary.name]):
            rule = f"the teacher's own record has {theirs['result'][primary.name]}"
            yield Problem(file, rule, f"{where}.{primary.name}", teacher[primary.name])
        saw, left = teacher.get("sha256"), theirs.get("weights_sha256")
        if saw and left and saw != left:
            yield Problem(file, f"the teacher's training left {left}", f"{where}.sha256", saw)
        if theirs["cell"]["role"] != "teacher" or theirs["cell"]["student"] != teacher["network"]:
            yield Problem(file, "its record is of another network or of no teacher", where, identity_)


def _shifted(metric: Metric, score: float, other: float) -> bool:
    """Whether two scores of one teacher differ by more than another device explains."""
    return abs(score - other) > (TEACHER_POINTS if metric.unit == "%" else TEACHER_SHARE * abs(score))
