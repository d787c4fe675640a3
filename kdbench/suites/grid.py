"""The grid: a suite is datasets x pairs x methods x seeds and one recipe, and each of its points is a cell.

`kdbench.suites.parse` makes it of a TOML file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kdbench import registry
from kdbench.records.types import CellConfig, MethodConfig
from kdbench.registry.digest import source_digest, untracked
from kdbench.suites.fixed import FREE, Fixed
from kdbench.suites.folders import ABSENT, content
from kdbench.suites.recipe import Recipe

if TYPE_CHECKING:
    from kdbench.suites.members import Members

ENGINE = 2  # raise it when the loop, the networks or the data change what a cell's result would be
# what a record says of its method and no result depends on
REMARKS = ("label", "family", "source_not_tracked", "teachers")
BASELINES = ("student", "kd")  # what every method is compared with
PLAIN = "student"  # the registered method that trains without distillation; teachers are trained by it


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher.

    Attributes:
        network: a timm name.
        seed: which training of this network; a pool may name one network with several seeds.
        weights: `"train"` (by kdbench, with the suite's teacher recipe), `"pretrained"` (timm's weights as they are),
            or the path of a checkpoint file, which must have its `sha256` beside it.
        mean, std: the input normalisation a checkpoint was trained with, if not the data set's.
    """

    network: str
    seed: int = 0
    weights: str = "train"
    sha256: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.network}@{self.seed}"


@dataclass(frozen=True)
class Pair:
    """A student, its teacher, the pool that multi-teacher methods use, and the networks between teacher and student
    that methods with assistants train on the way, largest first.
    """

    teacher: TeacherSpec
    student: str
    pool: tuple[TeacherSpec, ...] = ()
    assistants: tuple[str, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"{self.teacher.network} -> {self.student}"


@dataclass(frozen=True)
class DatasetSpec:
    """A data set by name, the task it belongs to (see kdbench.tasks), and what is done to it."""

    name: str
    task: str = "image"
    protocol: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def content(self) -> str | None:
        """A digest of what lies in a folder of images (`folders.content`); None for sets that their name identifies."""
        return content(self.name)


@dataclass(frozen=True)
class MethodSpec:
    """A method by registered name, the hyperparameters that differ from its defaults, and what tables call it if they
    are not to name these.
    """

    name: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    @property
    def label(self) -> str:
        """How tables call it: `kd`, or `kd(temperature=2)`."""
        if self.title:
            return self.title
        plain = {key: f"{v:g}" if isinstance(v, float) else v for key, v in sorted(self.hyperparameters.items())}
        values = ", ".join(f"{key}={value}" for key, value in plain.items())
        return f"{self.name}({values})" if values else self.name


@dataclass(frozen=True, eq=False)
class Cell:
    """One point of the grid; everything that decides its result on a machine, and nothing else, is in `config`.

    `fixed` are the numerics that its suite asks for: a record of others is not this cell's, whatever its id.
    """

    suite: str
    dataset: DatasetSpec
    pair: Pair
    method: MethodSpec
    seed: int
    recipe: Recipe
    teacher_recipes: tuple[Recipe, ...] = ()  # one per teacher of `teachers`
    role: str = "student"  # "teacher" while a teacher is trained: other initial weights and batches than a student's
    fixed: Fixed = FREE

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """The pair's teacher, and the rest of the pool where the method uses it."""
        from kdbench.method import MultiTeacherMethod  # not at the top: it loads torch

        cls = registry.get(self.method.name)
        return self.pair.pool if issubclass(cls, MultiTeacherMethod) and self.pair.pool else (self.pair.teacher,)

    @cached_property
    def config(self) -> CellConfig:
        """The record's `cell`: plain values only."""
        config: CellConfig = {
            "role": self.role,
            "dataset": self.dataset.name,
            "task": self.dataset.task,
            "protocol": plain(self.dataset.protocol),
            "pair": str(self.pair),
            "teachers": [plain(dataclasses.asdict(teacher)) for teacher in self.teachers],
            "teacher_recipes": [plain(dataclasses.asdict(r)) for r in self.teacher_recipes[: len(self.teachers)]],
            "student": self.pair.student,
            "method": self._method(),
            "seed": self.seed,
            "recipe": plain(dataclasses.asdict(self.recipe)),
        }
        assistants = self._assistants()
        if assistants is not None:
            config["assistants"] = assistants
        if data := self.dataset.content:
            config["data"] = data
        return config

    def _method(self) -> MethodConfig:
        cls = registry.get(self.method.name)
        method: MethodConfig = {
            "name": cls.info.name,
            "label": self.method.label,
            "family": cls.info.family,
            "hyperparameters": plain(registry.resolve(self.method.name, dict(self.method.hyperparameters))),
            "source": source_digest(cls),
        }
        if hidden := untracked(cls):
            method["source_not_tracked"] = hidden
        if self._members.sees == "none":
            method["teachers"] = 0
        return method

    def _assistants(self) -> list[str] | None:
        """Those of the pair's assistants that the method trains; None for methods without."""
        count = self._members.roles.count("assistant")
        return list(self.pair.assistants[:count]) if count else None

    @property
    def fault(self) -> str:
        """Why the method cannot even be created with these hyperparameters, in a sentence; empty if it can."""
        return self._members.fault

    @cached_property
    def _members(self) -> Members:
        """Which networks train together (`Method.members`) and which teachers are seen, or the fault."""
        from kdbench.suites.members import members_of  # not at the top: it loads torch

        return members_of(self.method)

    @cached_property
    def id(self) -> str:
        return identity(self.config)

    def training_of(self, teacher: TeacherSpec) -> Cell:
        """The cell that trains one of this cell's teachers; its id names the teacher's weights."""
        recipe = self.teacher_recipes[self.teachers.index(teacher)]
        pair = Pair(teacher, teacher.network, name=str(teacher))
        spec = MethodSpec(PLAIN)
        return Cell("teachers", self.dataset, pair, spec, teacher.seed, recipe, (), "teacher", self.fixed)

    @property
    def cohort(self) -> str:
        """Cells with the same key train side by side: same data, same batches, same teachers, same seed."""
        recipe = self.recipe
        return digest(
            {
                "data": [
                    self.dataset.task,
                    self.dataset.name,
                    plain(self.dataset.protocol),
                    recipe.image_size,
                    list(recipe.augment),
                ],
                "batches": [recipe.batch_size, recipe.epochs, recipe.precision],
                "teacher": plain(dataclasses.asdict(self.pair.teacher)),
                "teacher_recipe": plain(dataclasses.asdict(self.teacher_recipes[0])) if self.teacher_recipes else None,
                "seed": self.seed,
            }
        )


@dataclass(frozen=True)
class Suite:
    """The grid, its recipe, and the numerics that it fixes."""

    name: str
    datasets: tuple[DatasetSpec, ...]
    pairs: tuple[Pair, ...]
    methods: tuple[MethodSpec, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    teacher_recipe: Recipe
    student_recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teacher_recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    description: str = ""
    numerics: Fixed = FREE

    def cells(self) -> list[Cell]:
        """Every point of the grid, cohorts together, in the suite's order."""
        return [
            Cell(
                self.name,
                dataset,
                pair,
                method,
                seed,
                self._recipe(pair),
                self._teacher_recipes(pair),
                fixed=self.numerics,
            )
            for dataset in self.datasets
            for pair in self.pairs
            for seed in self.seeds
            for method in self.methods
        ]

    def hidden_source(self) -> list[str]:
        """Methods with code whose edits their cells do not notice, as sentences."""
        hidden = {spec.name: untracked(registry.get(spec.name)) for spec in self.methods}
        return [f"method {name}: source not tracked: {', '.join(what)}" for name, what in hidden.items() if what]

    def absent_data(self) -> list[str]:
        """Folders of images that are not here, so that no record is known to be of them, as sentences."""
        absent = [data.name for data in self.datasets if data.content == ABSENT]
        return [f"dataset {name!r} is not here: records of it cannot be told from others" for name in absent]

    def _recipe(self, pair: Pair) -> Recipe:
        return dataclasses.replace(self.recipe, **self.student_recipes.get(pair.student, {}))

    def _teacher_recipes(self, pair: Pair) -> tuple[Recipe, ...]:
        teachers = pair.pool or (pair.teacher,)
        changes = [self.teacher_recipes.get(teacher.network, {}) for teacher in teachers]
        return tuple(dataclasses.replace(self.teacher_recipe, **change) for change in changes)


def plain(value: Any) -> Any:
    """Tuples and mappings as JSON has them."""
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def identity(config: Mapping[str, Any], engine: int = ENGINE) -> str:
    """A cell's id, from its record's `cell`: 16 hex digits over all that decides the result."""
    method = {key: value for key, value in config["method"].items() if key not in REMARKS}
    decisive = {key: value for key, value in config.items() if key != "pair"}  # a name; its networks are there
    return digest({**decisive, "method": method, "engine": engine})


def digest(value: Any) -> str:
    """16 hex digits of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
