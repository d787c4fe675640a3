"""Is a record what the engine would have written? Its shape, its id, its numbers, its curve, its place in the suite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdbench.board.publishing.problem import Problem
from kdbench.records import Record
from kdbench.records.shape import SHAPE, misfits
from kdbench.suites.grid import ENGINE, identity

TEACHER_TOLERANCE = 0.5  # points by which a teacher's score may shift on another device or in another precision
PERCENT = ("top1", "top5", "ece", "best_top1", "agreement")
DONE: dict[str, Any] = {
    "result": {"top1": float, "best_top1": float, "best_epoch": int, "extra": dict},
    "cost": {"seconds_per_epoch": float},
    "curve": [{"epoch": int, "loss": float, "terms": dict}],
    "teachers": [{"network": str, "seed": int, "weights": str, "top1": float}],
}


def shape(file: str, record: Record) -> list[Problem]:
    """Keys that are missing or of a wrong type: where there are any, nothing else can be said of the record."""
    wanted = {**SHAPE, **(DONE if record.get("status") == "done" else {})}
    found = [Problem(file, rule, where) for where, rule in misfits(record, wanted)]
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
    expected = identity(cell, ENGINE)
    if record["id"] != expected:
        older = [e for e in range(1, ENGINE) if identity(cell, e) == record["id"]]
        rule = (
            f"it was run by engine {older[0]}, whose results are not those of engine {ENGINE}: run it again"
            if older
            else f"the digest of its cell is {expected}: the cell or the id was changed after the run"
        )
        yield Problem(file, rule, "id", record["id"])
    if cell["seed"] < 0:
        yield Problem(file, "seeds are 0 or more", "cell.seed", cell["seed"])
    if status != "done":
        if not record["reason"]:
            yield Problem(file, f"a record that is {status.replace('_', ' ')} says why", "reason")
        return
    yield from _numbers(file, "result", record["result"])
    yield from _numbers(file, "cost", record["cost"])
    for number, teacher in enumerate(record["teachers"]):
        yield from _numbers(file, f"teachers[{number}]", {"top1": teacher["top1"]})
    yield from _curve(file, record)


def _numbers(file: str, part: str, values: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        where = f"{part}.{name}"
        if not math.isfinite(value):
            yield Problem(file, "it is not finite", where, value)
        elif name in PERCENT and not 0 <= value <= 100:
            yield Problem(file, "it is not between 0 and 100", where, value)
        elif value < (-1e-4 if name == "kl_to_teacher" else 0):
            yield Problem(file, "it is negative", where, value)


def _curve(file: str, record: Record) -> Iterator[Problem]:
    """The curve has every epoch, ends in the result, and has no better epoch than the best."""
    curve, result, epochs = record["curve"], record["result"], record["cell"]["recipe"]["epochs"]
    if len(curve) != epochs:
        yield Problem(file, f"it has {len(curve)} points, but the recipe has epochs 1 to {epochs}", "curve")
    elif [point["epoch"] for point in curve] != list(range(1, epochs + 1)):
        yield Problem(file, "its epochs are not 1, 2, ... in order", "curve")
    for number, point in enumerate(curve):
        yield from _numbers(file, f"curve[{number}]", {k: v for k, v in point.items() if k not in ("loss", "terms")})
        for name, value in {"loss": point["loss"], **point["terms"]}.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                yield Problem(file, "it is not a finite number", f"curve[{number}].{name}", value)
    if not curve:
        return
    for name in sorted(curve[-1].keys() & result.keys()):
        if curve[-1][name] != result[name]:
            yield Problem(file, f"the last point of the curve has {curve[-1][name]}", f"result.{name}", result[name])
    scores = {point["epoch"]: point["top1"] for point in curve if isinstance(point.get("top1"), int | float)}
    if result["best_top1"] < result["top1"]:
        yield Problem(file, f"it is below the last epoch's {result['top1']}", "result.best_top1", result["best_top1"])
    elif scores and result["best_top1"] != max(scores.values()):
        rule = f"the best point of the curve has {max(scores.values())}"
        yield Problem(file, rule, "result.best_top1", result["best_top1"])
    elif scores and scores.get(result["best_epoch"]) != result["best_top1"]:
        rule = f"that epoch of the curve has {scores.get(result['best_epoch'])}, not {result['best_top1']}"
        yield Problem(file, rule, "result.best_epoch", result["best_epoch"])


def placed(file: str, record: Record, suite: Mapping[str, Any]) -> Iterator[Problem]:
    """What keeps a record from being a cell of the suite: another place, seed, recipe or setting.

    Args:
        suite: a `kdbench.board.publishing.card.suite_table`.
    """
    cell, method = record["cell"], record["cell"]["method"]

    def problem(where: str, value: Any, rule: str) -> Problem:
        return Problem(file, rule, where, value)

    if record["suite"] != suite["name"]:
        yield problem("suite", record["suite"], f"the folder is of suite {suite['name']!r}")
    if cell["role"] != "student":
        yield problem("cell.role", cell["role"], "a suite's records are of students")
    if cell["seed"] not in suite["seeds"]:
        yield problem("cell.seed", cell["seed"], f"the suite's seeds are {', '.join(map(str, suite['seeds']))}")
    data = [cell["dataset"], cell["task"], cell["protocol"]]
    if data not in [[d["name"], d["task"], d["protocol"]] for d in suite["datasets"]]:
        yield problem("cell.dataset", data, "the suite has no such data set, task and protocol")
    pair = next((pair for pair in suite["pairs"] if pair["name"] == cell["pair"]), None)
    if pair is None:
        yield problem("cell.pair", cell["pair"], "the suite has no such pair")
    else:
        yield from _networks(file, cell, pair)
    given = {entry["label"]: entry for entry in suite["methods"]}.get(method["label"])
    if given:
        yield from _unlike(file, "cell.method", {"name": method["name"]}, {"name": given["name"]})
        where = "cell.method.hyperparameters"
        yield from _unlike(file, where, method["hyperparameters"], given["hyperparameters"])
    recipe = {**suite["recipe"], **suite["student_recipes"].get(cell["student"], {})}
    yield from _unlike(file, "cell.recipe", cell["recipe"], recipe)
    for number, (spec, mine) in enumerate(zip(cell["teachers"], cell["teacher_recipes"], strict=False)):
        recipe = {**suite["teacher_recipe"], **suite["teacher_recipes"].get(spec["network"], {})}
        yield from _unlike(file, f"cell.teacher_recipes[{number}]", mine, recipe)


def _networks(file: str, cell: Mapping[str, Any], pair: Mapping[str, Any]) -> Iterator[Problem]:
    if cell["student"] != pair["student"]:
        yield Problem(file, f"the pair's student is {pair['student']!r}", "cell.student", cell["student"])
    if cell["teachers"] not in ([pair["teacher"]], pair["pool"]):
        names = ", ".join(f"{spec['network']}@{spec['seed']}" for spec in cell["teachers"])
        yield Problem(file, "they are neither the pair's teacher nor its pool", "cell.teachers", names)
    if len(cell["teacher_recipes"]) != len(cell["teachers"]):
        yield Problem(file, "it is not one a teacher", "cell.teacher_recipes")
    used = cell.get("assistants", [])
    if used != pair["assistants"][: len(used)]:
        yield Problem(file, f"the pair's are {pair['assistants']}", "cell.assistants", used)


def _unlike(file: str, where: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Problem]:
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            rule = f"the suite has {theirs[key]!r}" if key in theirs else "the suite has no such key"
            yield Problem(file, rule, f"{where}.{key}", mine.get(key))


def taught(file: str, record: Record, teachers: Mapping[str, Record], wanted: Sequence[str]) -> Iterator[Problem]:
    """Whether the teachers that a record names are there, and score as it says.

    Args:
        teachers: their records by id.
        wanted: ids of those that kdbench trained.
    """
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
        elif abs(theirs["result"]["top1"] - teacher["top1"]) > TEACHER_TOLERANCE:
            rule = f"the teacher's own record has {theirs['result']['top1']}"
            yield Problem(file, rule, f"{where}.top1", teacher["top1"])
        if theirs["cell"]["role"] != "teacher" or theirs["cell"]["student"] != teacher["network"]:
            yield Problem(file, "its record is of another network or of no teacher", where, identity_)
