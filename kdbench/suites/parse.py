"""Suites as people write them: a TOML file, and the command line's choices, become a `kdbench.suites.grid.Suite`.

Every key is checked; a wrong one is answered with the nearest right one. The file format is described in
docs/suites.md.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from kdbench import registry, suites
from kdbench.errors import KDBenchError, unknown
from kdbench.suites.added import plain
from kdbench.suites.checks import check, check_seeds
from kdbench.suites.fixed import Fixed
from kdbench.suites.grid import PLAIN, DatasetSpec, MethodSpec, Pair, Suite, TeacherSpec
from kdbench.suites.method_files import load_methods
from kdbench.suites.networks import canonical
from kdbench.suites.recipe import LENGTH, Recipe, overridden
from kdbench.suites.sweep import Sweep

ALL = "all"  # in a suite's `methods`: every registered one that applies to its task

SEEDS = [0, 1, 2]  # of a suite that names none

T = TypeVar("T")


def load(name_or_path: str) -> Suite:
    """Read a suite that kdbench brings, or a TOML file.

    Raises:
        KDBenchError: if there is no such suite, the file is no TOML, or a key or value is wrong.
    """
    return parse(suites.read(name_or_path), default_name=Path(name_or_path).stem)


def parse(table: dict[str, Any], default_name: str = "suite") -> Suite:
    """Make a suite of a TOML table; see docs/suites.md for the keys."""
    table = {"name": default_name, "seeds": SEEDS, "teacher_recipe": {}, **table}
    for key in ("datasets", "pairs", "methods", "recipe"):
        if key not in table:
            raise unknown_or_missing(key, table)
    sections = ("recipe", "teacher_recipe", "student_recipes", "teacher_recipes")
    recipe, teacher, *_ = (_table(table.get(key, {}), key) for key in sections)
    datasets = tuple(_build(DatasetSpec, _named(d), "datasets") for d in _list(table, "datasets"))
    parts: dict[str, Any] = {
        "datasets": datasets,
        "pairs": tuple(_pair(p) for p in _list(table, "pairs")),
        "methods": _methods(_list(table, "methods"), sorted({dataset.task for dataset in datasets})),
        "seeds": tuple(_list(table, "seeds")),
        "recipe": _recipe(recipe, "recipe"),
        **{section: _by_network(table.get(section, {}), section) for section in ("student_recipes", "teacher_recipes")},
        "teacher_recipe": _recipe(recipe, "teacher_recipe", teacher),
        "numerics": _build(Fixed, table.get("numerics", {}), "numerics"),
        "sweep": _build(Sweep, table.get("sweep", {}), "sweep"),
        "tuned": _typed(table.get("tuned", False), bool, "tuned"),
    }
    suite = _build(Suite, {**table, **parts}, "the suite", convert=False)
    suite.numerics.check()
    suite.sweep.check()
    for section in ("student_recipes", "teacher_recipes"):
        for network, overrides in parts[section].items():
            _recipe(recipe, f"{section}.{network}", _table(overrides, f"{section}.{network}"))
    check(suite)
    return suite


def narrow(
    suite: Suite,
    *,
    methods: Sequence[str] = (),
    pairs: Sequence[str] = (),
    seeds: Sequence[int] = (),
    epochs: int | None = None,
    settings: Sequence[str] = (),
    precision: str = "auto",
) -> Suite:
    """Apply the command line's choices.

    Args:
        methods: registered names or paths of method files; a suite's own settings of a method are kept.
        pairs: pair names, or parts of them that fit at least one.
        seeds: those of the suite and of its methods that are named; one that nothing is planned with, for all methods.
        epochs, precision: as in the suite's recipe; teachers keep their own.
        settings: `method.hyperparameter=value` or `recipe.key=value`, values as in TOML.

    Raises:
        KDBenchError: for anything unknown.
    """
    check_seeds(seeds)
    planned, whole = suite.seeds_of(suite.methods), suite
    if methods:
        suite = _with_methods(suite, methods, seeds)
    if pairs:
        suite = _with_pairs(suite, pairs)
    if seeds:
        suite = _with_seeds(suite, seeds, [seed for seed in seeds if seed not in planned])
    if not any(suite.points()):
        raise KDBenchError(f"suite {suite.name!r} has none of these methods on these pairs with these seeds")
    suite = _with_recipe(_with_tuner(suite, whole), epochs, precision)
    for setting in settings:
        suite = _set(suite, setting)
    return suite


def _with_methods(suite: Suite, wanted: Sequence[str], seeds: Sequence[int]) -> Suite:
    """Only these; one that the suite does not have runs on every pair, with these seeds, or else the suite's."""
    loaded = [load_methods(entry) if entry.endswith(".py") else [entry] for entry in wanted]
    given: dict[str, list[MethodSpec]] = {}
    for spec in suite.methods:
        given.setdefault(spec.name, []).append(spec)
    names = [registry.get(name).info.name for names in loaded for name in names]
    new = [name for name in names if name not in given]
    specs = [spec for name in names for spec in given.get(name) or [MethodSpec(name, seeds=tuple(seeds))]]
    pairs = [dataclasses.replace(pair, methods=(*pair.methods, *new)) if pair.methods else pair for pair in suite.pairs]
    return dataclasses.replace(suite, methods=_distinct(specs), pairs=tuple(pairs))


def _with_tuner(suite: Suite, whole: Suite) -> Suite:
    """What of a suite's plain student its sweep needs, where the student is not among the chosen methods."""
    if any(spec.name == PLAIN for spec in suite.methods):
        return suite
    plain = (spec for spec in whole.methods if spec.name == PLAIN)
    return dataclasses.replace(suite, tuner=min(plain, key=lambda spec: spec.label != PLAIN, default=None))


def _with_pairs(suite: Suite, wanted: Sequence[str]) -> Suite:
    for part in wanted:
        if not any(part in str(pair) for pair in suite.pairs):
            raise unknown("pair", part, map(str, suite.pairs), f"of suite {suite.name!r}")
    chosen = tuple(pair for pair in suite.pairs if any(part in str(pair) or part == pair.student for part in wanted))
    return dataclasses.replace(suite, pairs=chosen)


def _with_seeds(suite: Suite, seeds: Sequence[int], new: Sequence[int]) -> Suite:
    """Of these seeds, those that each method is planned with, and the new ones for all."""

    def of(own: Sequence[int]) -> tuple[int, ...]:
        return tuple(seed for seed in seeds if seed in own or seed in new)

    kept = [dataclasses.replace(m, seeds=of(m.seeds)) if m.seeds else m for m in suite.methods if of(m.seeds or seeds)]
    pairs = [dataclasses.replace(p, seeds=of(p.seeds)) if p.seeds else p for p in suite.pairs if of(p.seeds or seeds)]
    return dataclasses.replace(suite, seeds=of(suite.seeds), methods=tuple(kept), pairs=tuple(pairs))


def _with_recipe(suite: Suite, epochs: int | None, precision: str) -> Suite:
    """The students' recipe with these; the teachers' stays."""
    changes: dict[str, Any] = {"precision": precision} if precision != "auto" else {}
    if epochs is not None:
        if epochs < 1:
            raise KDBenchError(f"--epochs is {epochs}: give at least 1")
        changes["epochs"] = epochs
    return dataclasses.replace(suite, recipe=suite.recipe.changed(**changes))


def _methods(entries: list[Any], tasks: Sequence[str]) -> tuple[MethodSpec, ...]:
    """A suite's methods; `"all"` stands for every registered one that applies to one of its tasks and that it does not
    name with settings.
    """
    specs = [method_spec(entry) for entry in entries if entry != ALL]
    if ALL not in entries:
        return tuple(specs)
    applying = {name for task in tasks for name in registry.names(task)}
    names = [PLAIN, *(name for name in registry.names() if name in applying - {PLAIN})]
    return (*(MethodSpec(name) for name in names if name not in {spec.name for spec in specs}), *specs)


def method_spec(entry: Any) -> MethodSpec:
    """A method of a suite: its name, or a table of its name and hyperparameters. Checked against the registry."""
    table = _named(entry)
    if not isinstance(table.get("name"), str):
        raise KDBenchError(f"a method of the suite has no name: {table!r}")
    settings = {key: value for key, value in table.items() if key not in ("name", "seeds")}
    name = registry.get(table["name"]).info.name
    seeds = _list(table, "seeds", f"method {name!r}") if "seeds" in table else ()
    check_seeds(seeds, f"method {name!r}")
    return MethodSpec(name, _changes(name, settings), seeds=tuple(seeds))


def _changes(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that differ from the method's defaults."""
    resolved = registry.resolve(name, settings)
    defaults = registry.hyperparameters(registry.get(name))
    return {key: resolved[key] for key in settings if resolved[key] != defaults[key]}


def _set(suite: Suite, setting: str) -> Suite:
    """Apply one `owner.key=value`."""
    path, equals, text = setting.partition("=")
    owner, dot, key = path.strip().partition(".")
    if not (equals and dot):
        raise KDBenchError(f"--set {setting!r} is not of the form method.hyperparameter=value or recipe.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    if owner in ("recipe", "teacher_recipe"):
        recipe = _recipe(plain(getattr(suite, owner)), owner, {key: value})
        return dataclasses.replace(suite, **{owner: recipe})  # type: ignore[arg-type]
    name = registry.get(owner).info.name
    if name not in {spec.name for spec in suite.methods}:
        raise KDBenchError(f"--set {setting!r}: method {name!r} is not run; add it with --methods")
    changed = {
        spec.label: dataclasses.replace(spec, hyperparameters=_changes(name, {**spec.hyperparameters, key: value}))
        for spec in suite.methods
        if spec.name == name
    }
    methods = [changed.get(spec.label, spec) for spec in suite.methods]
    labels = {old: spec.label for old, spec in changed.items()}
    pairs = [dataclasses.replace(p, methods=tuple(labels.get(m, m) for m in p.methods)) for p in suite.pairs]
    return dataclasses.replace(suite, methods=tuple(methods), pairs=tuple(pairs))


def _distinct(specs: Sequence[MethodSpec]) -> tuple[MethodSpec, ...]:
    return tuple({spec.label: spec for spec in specs}.values())


def _pair(table: Any) -> Pair:
    if not isinstance(table, dict):
        raise KDBenchError(f"pair {table!r} is no table: write {{ teacher = ..., student = ... }}")
    parts = dict(table)
    if "teacher" in parts:
        parts["teacher"] = teacher_spec(parts["teacher"])
    parts["pool"] = tuple(teacher_spec(t) for t in (_list(parts, "pool", "a pair") if "pool" in parts else ()))
    if "assistants" in parts:
        assistants = _list(parts, "assistants", "a pair")
        parts["assistants"] = tuple(canonical(_typed(network, str, "pairs.assistants")) for network in assistants)
    if "methods" in parts:
        parts["methods"] = tuple(_list(parts, "methods", "a pair"))
        for method in parts["methods"]:
            _typed(method, str, "pairs.methods")
    if "seeds" in parts:
        parts["seeds"] = tuple(_list(parts, "seeds", "a pair"))
        check_seeds(parts["seeds"], "a pair")
    for key in ("student", "name"):
        _typed(parts.get(key, ""), str, f"pairs.{key}")
    if "student" in parts:
        parts["student"] = canonical(parts["student"])
    pair = _build(Pair, parts, "pairs", convert=False)
    if pair.pool and pair.teacher != pair.pool[0]:
        raise KDBenchError(
            f"the pool of pair '{pair}' must begin with its teacher, so that they share one forward pass"
        )
    return pair


def teacher_spec(entry: Any) -> TeacherSpec:
    """`"name"`, `"name@seed"`, or a table."""
    if isinstance(entry, str):
        entry = named_training(entry)
    spec: TeacherSpec = _build(TeacherSpec, entry, "teacher")
    spec = dataclasses.replace(spec, network=canonical(spec.network))
    if (spec.weights not in ("train", "pretrained")) != bool(spec.sha256):
        raise KDBenchError(
            f"teacher {spec.network!r} has weights {spec.weights!r} and sha256 {spec.sha256!r}: a checkpoint needs"
            " both, 'train' and 'pretrained' need no sha256"
        )
    return spec


def named_training(entry: str) -> dict[str, Any]:
    """The network and seed of `network@seed`, or the network alone."""
    network, at, seed = entry.rpartition("@")
    if not at:
        return {"network": entry}
    if not seed.isdigit():
        raise KDBenchError(f"teacher {entry!r} is not of the form network@seed with a whole number")
    return {"network": network, "seed": int(seed)}


def _by_network(table: Any, section: str) -> dict[str, Any]:
    """Recipes by network, whose names are spelt as elsewhere."""
    return {canonical(network): changes for network, changes in _table(table, section).items()}


def _named(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {"name": entry}


def _list(table: dict[str, Any], key: str, owner: str = "the suite") -> list[Any]:
    value = table[key]
    if not isinstance(value, list) or not value:
        raise KDBenchError(f"{key} of {owner} is {value!r}: give a list with at least one entry")
    return value


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise KDBenchError(f"{where} is {value!r}, but it must be a table of keys and values")
    return value


def _recipe(table: dict[str, Any], where: str, changes: dict[str, Any] | None = None) -> Recipe:
    """A recipe's table, or one with changes to it; a new length takes the old one's place."""
    table = overridden(table, changes or {})
    if not any(key in table for key in LENGTH):
        strange = [key for key in table if key not in {field.name for field in dataclasses.fields(Recipe)}]
        if not strange:
            raise KDBenchError(f"{where} has no key 'epochs': add it, or 'updates'")
    recipe = _build(Recipe, table, where)
    recipe.check(where)
    return recipe


def unknown_or_missing(key: str, table: dict[str, Any]) -> KDBenchError:
    """The error for a missing key: most often it stands there misspelt."""
    fields = {f.name for f in dataclasses.fields(Suite)}
    strangers = [other for other in table if other not in fields]
    return unknown("suite key", strangers[0], fields) if strangers else KDBenchError(f"the suite has no key {key!r}")


def _build(cls: type[T], table: dict[str, Any], where: str, convert: bool = True) -> T:
    """Make a dataclass of a table, with every key known and every value of the declared type."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values = {}
    for key, value in _table(table, where).items():
        if key not in fields:
            raise unknown("suite key", key, fields, f"in {where}")
        values[key] = _typed(value, hints[key], f"{where}.{key}") if convert else value
    for key, entry in fields.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and key not in values:
            raise KDBenchError(f"{where} has no key {key!r}: add it")
    return cls(**values)


def _typed(value: Any, hint: Any, where: str) -> Any:
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    text = str(hint)
    if text.startswith("tuple") and isinstance(value, list | tuple):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise KDBenchError(f"{where} is {value!r}, but it must be of type {hint.__name__}")
    if text.startswith("tuple"):
        raise KDBenchError(f"{where} is {value!r}, but it must be a list")
    if "Mapping" in text:
        _table(value, where)
    return value
