"""What a record holds, as types: the file's keys, described in docs/records.md.

A task's scores have names of its own, so they are no keys here: they stand in `Scores`, and
`kdbench.tasks.metrics` says which there are.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

SCHEMA = 2

Status = Literal["done", "failed", "not_applicable"]
# a task's scores by name, and beside them `best_epoch`, `reliability` and `extra` (scores of several students)
Scores = dict[str, Any]
Recipe = dict[str, Any]  # the fields of a `kdbench.suites.recipe.Recipe`


class TeacherConfig(TypedDict):
    """A teacher as the suite names it: the fields of a `kdbench.suites.grid.TeacherSpec`."""

    network: str
    seed: int
    weights: str
    sha256: str
    mean: list[float]
    std: list[float]


class MethodConfig(TypedDict):
    """A method with all its hyperparameters, and the digest of its source."""

    name: str
    label: str
    family: str
    hyperparameters: dict[str, Any]
    source: str
    source_not_tracked: NotRequired[list[str]]  # what it uses that the digest cannot follow
    tuned: NotRequired[bool]  # True where a sweep chose the settings
    tuning: NotRequired[dict[str, Any]]  # then: its search space, all trials and the choice
    teachers: NotRequired[int]  # how many it sees, where these are fewer than the cell names: 0


class CellConfig(TypedDict):
    """All that decides a cell's result, and what tables call it."""

    role: str
    dataset: str
    task: str
    protocol: dict[str, dict[str, Any]]
    teacher_protocol: NotRequired[dict[str, dict[str, Any]]]  # where teachers are trained under another
    pair: str
    teachers: list[TeacherConfig]
    teacher_recipes: list[Recipe]
    student: str
    assistants: NotRequired[list[str]]  # where the method trains some
    data: NotRequired[str]  # digest of a folder's files, where the data set is one
    method: MethodConfig
    seed: int
    recipe: Recipe


class StepTimes(TypedDict):
    """A phase's steps beside a plain student's, in seconds, pair by pair (see `kdbench.records.step_times`)."""

    phase: int
    share: float
    student: NotRequired[list[float]]
    own: NotRequired[list[float]]
    reason: NotRequired[str]  # why there are none


class Cost(TypedDict):
    """What training and the deployed network cost; None was not measured."""

    seconds_per_epoch: float
    own_seconds_per_epoch: float
    step_times: NotRequired[list[StepTimes]]  # records of an older kdbench have none
    joules_per_epoch: float | None
    peak_memory_mb: float | None
    extra_parameters: int
    student_parameters: int
    deployed_parameters: int
    deployed_macs: int
    latency_ms_batch1: float | None
    latency_ms_batch128: float | None


class NumericsConfig(TypedDict):
    """Where and how numbers were computed."""

    device: str
    precision: str
    precision_rule: str
    compile: bool
    compile_rule: str
    cuda_graphs: bool
    channels_last: bool
    threads: int
    tf32: bool
    deterministic: NotRequired[bool]  # on CUDA: whether equal bits are promised
    deterministic_rule: NotRequired[str]
    cuda_graphs_rule: NotRequired[str]  # where they were asked for: on how many streams, and whether they could be


class Provenance(TypedDict):
    """Where a record comes from."""

    versions: dict[str, str]
    hardware: dict[str, Any]
    numerics: NumericsConfig
    git: str | None
    finished_at: str


class Record(TypedDict):
    """One cell's record; `result`, `cost`, `curve` and `teachers` are there if it is done, `traceback` if it crashed.

    A point of the `curve` is one epoch's: its number, loss, terms, seconds, learning rate and scores, and the updates
    done, where the recipe counts those. A teacher of
    `teachers` has network, seed, which weights it has, their sha256, and its primary score.
    """

    schema: int
    id: str
    suite: str
    status: Status
    reason: str
    cell: CellConfig
    provenance: Provenance
    result: NotRequired[Scores]
    cost: NotRequired[Cost]
    curve: NotRequired[list[dict[str, Any]]]
    teachers: NotRequired[list[dict[str, Any]]]
    traceback: NotRequired[str]
    corpus: NotRequired[dict[str, Any]]  # what a teacher wrote for it to train on, and what it took
    data: NotRequired[str]  # digest of the data as it was trained and scored on
    weights_sha256: NotRequired[str]  # of a teacher's: its trained weights; of a student that is kept: what it deploys
