"""The grid: a suite is datasets x pairs x methods x seeds and one recipe, and each of its points is a cell.

`kdbench.suites.parse` makes it of a TOML file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kdbench import registry
from kdbench.records.types import CellConfig, MethodConfig
from kdbench.registry.digest import source_digest, untracked
from kdbench.suites.added import added, plain
from kdbench.suites.dataset import DatasetSpec
from kdbench.suites.fixed import FREE, Fixed
from kdbench.suites.folders import ABSENT
from kdbench.suites.recipe import Recipe
from kdbench.suites.sweep import DEFAULT, Sweep
from kdbench.suites.teacher_seeds import ONE, PAIRED, paired

if TYPE_CHECKING:
    from kdbench.suites.corpus import Corpus
    from kdbench.suites.members import Members

ENGINE = 2  # raise it when the loop, the networks or the data change what a cell's result would be
NEWER = 3  # engines after it that are looked for, in results of a newer kdbench
# what a record says of its method and no result depends on
REMARKS = ("label", "family", "source_not_tracked", "tuning", "teachers")
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

    `methods` are those of the suite, by label or name, that run on this pair, and `seeds` those of theirs that they run
    with on it; none: all.
    """

    teacher: TeacherSpec
    student: str
    pool: tuple[TeacherSpec, ...] = ()
    assistants: tuple[str, ...] = ()
    name: str = ""
    methods: tuple[str, ...] = added(())
    seeds: tuple[int, ...] = added(())

    def __str__(self) -> str:
        return self.name or f"{self.teacher.network} -> {self.student}"


@dataclass(frozen=True)
class MethodSpec:
    """A method by registered name, the hyperparameters that differ from its defaults, what tables call it if they are
    not to name these, and its own seeds, if it has others than the suite.
    """

    name: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    seeds: tuple[int, ...] = added(())

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

    `fixed` are the numerics that its suite asks for: a record of others is not this cell's, whatever its id. A cell
    that a sweep tuned is another than that of the same settings by hand, so that both have a record.
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
    tuning: Mapping[str, Any] | None = None  # how a sweep chose its settings, where one did

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """The pair's teacher, and the rest of the pool where the method uses it."""
        from kdbench.method import MultiTeacherMethod  # not at the top: it loads torch

        cls = registry.get(self.method.name)
        return self.pair.pool if issubclass(cls, MultiTeacherMethod) and self.pair.pool else (self.pair.teacher,)

    @cached_property
    def config(self) -> CellConfig:
        """The record's `cell`: plain values only."""
        data = plain(self.dataset)
        config: CellConfig = {
            "role": self.role,
            "dataset": data.pop("name"),
            "task": data.pop("task"),
            "protocol": data.pop("protocol"),
            **data,  # what came later
            "pair": str(self.pair),
            "teachers": plain(self.teachers),
            "teacher_recipes": plain(self.teacher_recipes[: len(self.teachers)]),
            "student": self.pair.student,
            "method": self._method(),
            "seed": self.seed,
            "recipe": plain(self.recipe),
        }
        assistants = self._assistants()
        if assistants is not None:
            config["assistants"] = assistants
        if found := self.dataset.content:
            config["data"] = found
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
        if self.tuning is not None:
            method |= {"tuned": True, "tuning": plain(self.tuning)}
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

    @property
    def corpus(self) -> Corpus | None:
        """What its first teacher writes for it to train on, where its method asks for such a corpus."""
        return self._members.corpus if self.role == "student" else None

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
        return Cell("teachers", self.dataset.of_teachers, pair, spec, teacher.seed, recipe, (), "teacher", self.fixed)

    @property
    def cohort(self) -> str:
        """Cells with the same key train side by side: same data, same batches, same teachers, same seed."""
        recipe, corpus = self.recipe, self.corpus
        return digest(
            {
                **({"corpus": [corpus.written, corpus.view]} if corpus else {}),
                "data": [plain(self.dataset), recipe.image_size, list(recipe.augment)],
                "batches": [recipe.batch_size, recipe.span, recipe.precision],
                "teacher": plain(self.pair.teacher),
                "teacher_recipe": plain(self.teacher_recipes[:1]),
                "seed": self.seed,
            }
        )


@dataclass(frozen=True)
class Suite:
    """The grid, its recipe, the numerics that it fixes, whether a seed has teachers of its own
    (`kdbench.suites.teacher_seeds`), how a sweep tunes it, and whether tuned rows belong to it.

    `tuner` is the plain student that a sweep tunes the recipe by, where `methods` are chosen from those of a suite and
    it is not among them.
    """

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
    teacher_seeds: str = added(ONE)
    sweep: Sweep = added(DEFAULT)
    tuned: bool = added(False)
    tuner: MethodSpec | None = added(None)

    def cells(self) -> list[Cell]:
        """Every point of the grid, cohorts together, in the suite's order."""
        return [
            Cell(self.name, *point, self._recipe(point[1]), self._teacher_recipes(point[1]), fixed=self.numerics)
            for point in self.points()
        ]

    def points(self) -> Iterator[tuple[DatasetSpec, Pair, MethodSpec, int]]:
        """What is planned: data set, pair with the teachers of that seed, method, seed."""
        for dataset in self.datasets:
            for pair in self.pairs:
                methods = self.methods_of(pair)
                for seed in self.seeds_of(methods):
                    if pair.seeds and seed not in pair.seeds:
                        continue
                    seen = self.seen(pair, seed)
                    yield from ((dataset, seen, each, seed) for each in methods if seed in (each.seeds or self.seeds))

    def seen(self, pair: Pair, seed: int) -> Pair:
        """A pair with the trainings of its teachers that a seed learns from."""
        return paired(pair, seed) if self.teacher_seeds == PAIRED else pair

    def methods_of(self, pair: Pair) -> list[MethodSpec]:
        """Those that run on a pair; a name there stands for all methods of it where none has it as its label."""
        labels = {spec.label for spec in self.methods}
        named = {entry for entry in pair.methods if entry not in labels}
        return [spec for spec in self.methods if not pair.methods or spec.label in pair.methods or spec.name in named]

    def seeds_of(self, methods: Sequence[MethodSpec]) -> list[int]:
        """All seeds that some of these methods run with, the suite's own first."""
        return list(dict.fromkeys(seed for seeds in (self.seeds, *(m.seeds for m in methods)) for seed in seeds))

    def tuned_seeds(self, planned: Iterable[int]) -> list[int]:
        """Of the seeds that a method runs with at a place, those of its tuned row, each once: the suite's own, or all
        where it has none of these.
        """
        every = list(dict.fromkeys(planned))
        return [seed for seed in every if seed in self.seeds] or every

    def hidden_source(self) -> list[str]:
        """Methods with code whose edits their cells do not notice, as sentences."""
        hidden = {spec.name: untracked(registry.get(spec.name)) for spec in self.methods}
        return [f"method {name}: source not tracked: {', '.join(what)}" for name, what in hidden.items() if what]

    def absent_data(self) -> list[str]:
        """Folders of images that are not here, so that no record is known to be of them, as sentences."""
        absent = [data.name for data in self.datasets if data.content == ABSENT]
        return [f"dataset {name!r} is not here: records of it cannot be told from others" for name in absent]

    def _recipe(self, pair: Pair) -> Recipe:
        return self.recipe.changed(**self.student_recipes.get(pair.student, {}))

    def _teacher_recipes(self, pair: Pair) -> tuple[Recipe, ...]:
        teachers = pair.pool or (pair.teacher,)
        changes = [self.teacher_recipes.get(teacher.network, {}) for teacher in teachers]
        return tuple(self.teacher_recipe.changed(**change) for change in changes)


def cohorts(cells: Sequence[Cell], size: int = 0) -> Iterator[list[Cell]]:
    """Cells that train side by side, at most `size` at once (0: no limit), in the order of the grid."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.suite, cell.cohort), []).append(cell)
    for group in groups.values():
        step = size or len(group)
        yield from (group[start : start + step] for start in range(0, len(group), step))


def identity(config: Mapping[str, Any], engine: int = ENGINE) -> str:
    """A cell's id, from its record's `cell`: 16 hex digits over all that decides the result."""
    method = {key: value for key, value in config["method"].items() if key not in REMARKS}
    decisive = {key: value for key, value in config.items() if key != "pair"}  # a name; its networks are there
    if engine > 1:
        decisive["teachers"] = [_without_path(teacher) for teacher in config.get("teachers", ())]
    return digest({**decisive, "method": method, "engine": engine})


def _without_path(teacher: Mapping[str, Any]) -> Mapping[str, Any]:
    """A teacher from a file is what its sha256 says, wherever the file lies."""
    return {**teacher, "weights": "file"} if teacher.get("sha256") else teacher


def engine_of(record: Mapping[str, Any]) -> int | None:
    """The engine that a record was run by, from its id; None if that is of no engine: cell or id were changed."""
    candidates = (*range(ENGINE, 0, -1), *range(ENGINE + 1, ENGINE + 1 + NEWER))
    return next((e for e in candidates if identity(record["cell"], e) == record["id"]), None)


def digest(value: Any) -> str:
    """16 hex digits of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
