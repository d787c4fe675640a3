"""A key that comes later leaves the ids of cells as they are where it has its default, and is in them where not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kdbench.suites import parse
from kdbench.suites.added import added, plain
from kdbench.suites.grid import ENGINE, Cell, DatasetSpec, MethodSpec, Pair, Suite, TeacherSpec, engine_of, identity
from kdbench.suites.recipe import Recipe

PARTS: dict[str, type] = {
    "datasets": DatasetSpec,
    "recipe": Recipe,
    "teacher_recipe": Recipe,
    "teacher": TeacherSpec,
    "pairs": Pair,
    "methods": MethodSpec,
    "suite": Suite,
}
DECIDE = ("datasets", "recipe", "teacher_recipe", "teacher")  # what is in a cell as it stands


def suite() -> Suite:
    return parse.parse(
        {
            "name": "s",
            "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 8}}}],
            "pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}],
            "methods": ["kd"],
            "seeds": [0],
            "recipe": {"epochs": 2},
        }
    )


def grown(value: Any, **values: Any) -> Any:
    """The same value, of a class that has one key more."""
    field = ("novelty", str, added("as ever"))
    cls = dataclasses.make_dataclass("Grown", [field], bases=(type(value),), frozen=True)
    return cls(**{entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}, **values)


def with_a_key(part: str, **values: Any) -> Cell:
    """The only cell of a suite of which one part has one key more."""
    whole = suite()
    if part == "suite":
        whole = grown(whole, **values)
    elif part == "teacher":
        pair = dataclasses.replace(whole.pairs[0], teacher=grown(whole.pairs[0].teacher, **values))
        whole = dataclasses.replace(whole, pairs=(pair,))
    elif part in ("recipe", "teacher_recipe"):
        whole = dataclasses.replace(whole, **{part: grown(getattr(whole, part), **values)})
    else:
        whole = dataclasses.replace(whole, **{part: (grown(getattr(whole, part)[0], **values),)})
    (cell,) = whole.cells()
    return cell


@pytest.mark.parametrize("part", PARTS)
def test_a_later_key_at_its_default_changes_no_id(part: str) -> None:
    (plain_cell,) = suite().cells()
    cell = with_a_key(part)
    assert (cell.id, cell.config) == (plain_cell.id, plain_cell.config)
    assert [cell.training_of(t).id for t in cell.teachers] == [
        plain_cell.training_of(t).id for t in plain_cell.teachers
    ]


@pytest.mark.parametrize("part", DECIDE)
def test_a_later_key_that_says_something_is_part_of_the_id(part: str) -> None:
    assert with_a_key(part, novelty="new").id != suite().cells()[0].id


@pytest.mark.parametrize("part", PARTS.values())
def test_every_key_that_results_were_not_published_with_is_marked_as_later(part: type) -> None:
    """The keys of cells of engine 1, as their records have them."""
    published = {
        Recipe: "epochs batch_size optimizer learning_rate momentum nesterov weight_decay decay_norm_and_bias schedule "
        "milestones decay_rate warmup_epochs min_learning_rate clip_grad augment image_size precision pretrained "
        "evaluate_every",
        TeacherSpec: "network seed weights sha256 mean std",
        DatasetSpec: "name task protocol",
        Pair: "teacher student pool assistants name",
        MethodSpec: "name hyperparameters title",
        Suite: "name datasets pairs methods seeds recipe teacher_recipe student_recipes teacher_recipes description "
        "numerics",
    }[part].split()
    later = [entry for entry in dataclasses.fields(part) if entry.name not in published]
    assert all(entry.metadata for entry in later), [entry.name for entry in later]


def test_plain_leaves_out_what_is_later_and_at_its_default_however_deep() -> None:
    assert "updates" not in plain({"a": (Recipe(epochs=3),)})["a"][0]
    assert plain(Recipe(updates=30))["updates"] == 30
    assert "epochs" not in plain(Recipe(updates=30))
    assert plain(TeacherSpec("a")) == {
        "network": "a",
        "seed": 0,
        "weights": "train",
        "sha256": "",
        "mean": [],
        "std": [],
    }


def test_ids_of_an_older_engine_are_still_those_of_their_cells() -> None:
    """Records that engine 1 left."""
    config = suite().cells()[0].config
    assert ENGINE == 2
    assert len({identity(config), identity(config, 1)}) == 2
    assert engine_of({"cell": config, "id": identity(config, 1)}) == 1
    assert engine_of({"cell": config, "id": identity(config)}) == ENGINE
    assert engine_of({"cell": config, "id": "0" * 16}) is None


def test_an_id_of_engine_1_is_what_it_was() -> None:
    """A published cell of engine 1, with its id."""
    folder = Path(__file__).parents[1] / "data" / "identity"
    record = json.loads((folder / "engine1_cell.json").read_text())
    assert engine_of(record) == 1
