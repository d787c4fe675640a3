"""What a suite plans: own seeds of a method, methods of a pair, teachers of a seed, protocols of teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench import Batch, Method, Output, register, registry
from kdbench.board.results import suite_table
from kdbench.commands.cli import app
from kdbench.commands.cost import EpochCost
from kdbench.errors import KDBenchError
from kdbench.suites import names, parse
from kdbench.suites.grid import Cell, Suite
from kdbench.suites.tables import suite_of
from kdbench.suites.teacher_seeds import PAIRED

BASE: dict[str, Any] = {
    "name": "s",
    "datasets": [{"name": "digits"}],
    "pairs": [
        {"teacher": "cifar_resnet14", "student": "cifar_resnet8"},
        {"teacher": "cifar_resnet20", "student": "cifar_resnet8", "methods": ["student", "kd"]},
    ],
    "methods": ["student", {"name": "kd", "seeds": [0, 1, 2, 3]}, "dkd", {"name": "at", "weight": 5.0}],
    "seeds": [0, 1],
    "recipe": {"epochs": 2},
}
FIRST, SECOND = "cifar_resnet14 -> cifar_resnet8", "cifar_resnet20 -> cifar_resnet8"


def suite(**changes: Any) -> Suite:
    return parse.parse({**BASE, **changes})


def plan(whole: Suite) -> set[tuple[str, str, int]]:
    cells = whole.cells()
    found = {(str(cell.pair), cell.method.name, cell.seed) for cell in cells}
    assert len(found) == len(cells)
    return found


def product(pair: str, methods: str, seeds: range) -> set[tuple[str, str, int]]:
    return {(pair, method, seed) for method in methods.split() for seed in seeds}


def test_a_method_may_have_its_own_seeds_and_a_pair_its_own_methods() -> None:
    assert plan(suite()) == (
        product(FIRST, "student dkd at", range(2))
        | product(FIRST, "kd", range(4))
        | product(SECOND, "student", range(2))
        | product(SECOND, "kd", range(4))
    )


def few_seeds(seeds: list[Any]) -> dict[str, Any]:
    return {"pairs": [BASE["pairs"][0], {**BASE["pairs"][1], "seeds": seeds}]}


def test_a_pair_may_take_fewer_seeds_than_its_methods_have() -> None:
    assert plan(suite(**few_seeds([1, 2]))) == (
        product(FIRST, "student dkd at", range(2))
        | product(FIRST, "kd", range(4))
        | product(SECOND, "student", range(1, 2))
        | product(SECOND, "kd", range(1, 3))
    )
    assert {cell.id for cell in suite(**few_seeds([1, 2])).cells()} < {cell.id for cell in suite().cells()}
    narrowed = parse.narrow(suite(**few_seeds([1, 2])), seeds=[2, 3, 9], methods=["kd"])
    assert plan(narrowed) == (
        product(FIRST, "kd", range(2, 4))
        | product(FIRST, "kd", range(9, 10))
        | product(SECOND, "kd", range(2, 3))
        | product(SECOND, "kd", range(9, 10))
    )
    assert plan(parse.narrow(suite(**few_seeds([1])), seeds=[3])) == product(FIRST, "kd", range(3, 4))


def test_a_card_keeps_the_seeds_of_a_pair() -> None:
    own = suite(**few_seeds([1, 2]))
    assert plan(suite_of(json.loads(json.dumps(suite_table(own))))) == plan(own)


def test_neither_changes_an_id() -> None:
    whole = {cell.id for cell in suite(methods=["student", "kd"], pairs=[*BASE["pairs"][:1]]).cells()}
    own = suite(methods=["student", {"name": "kd", "seeds": [0, 1]}], pairs=[{**BASE["pairs"][0], "methods": ["kd"]}])
    assert {cell.id for cell in own.cells()} < whole


def test_cohorts_stay_together_seed_by_seed() -> None:
    seeds = [cell.seed for cell in suite(pairs=BASE["pairs"][:1]).cells()]
    assert seeds == [0, 0, 0, 0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({"seeds": [2, 3]}, product(FIRST, "kd", range(2, 4)) | product(SECOND, "kd", range(2, 4))),
        (
            {"seeds": [1, 2], "pairs": ["resnet14"]},
            product(FIRST, "student dkd at", range(1, 2)) | product(FIRST, "kd", range(1, 3)),
        ),
        ({"seeds": [9], "pairs": ["resnet14"]}, product(FIRST, "student kd dkd at", range(9, 10))),
        ({"methods": ["dkd"]}, product(FIRST, "dkd", range(2))),
        ({"methods": ["kd"], "pairs": ["resnet20"]}, product(SECOND, "kd", range(4))),
        # one that the suite does not have runs on every pair, and with all seeds that are asked for
        ({"methods": ["sp"]}, product(FIRST, "sp", range(2)) | product(SECOND, "sp", range(2))),
        ({"methods": ["sp"], "seeds": [0, 1, 2, 3], "pairs": ["resnet20"]}, product(SECOND, "sp", range(4))),
        ({"settings": ["at.weight=7"], "methods": ["at"]}, product(FIRST, "at", range(2))),
    ],
)
def test_the_command_line_leaves_of_the_plan_what_it_names(choice: dict[str, Any], left: set[Any]) -> None:
    assert plan(parse.narrow(suite(), **choice)) == left


def test_a_setting_renames_a_method_where_a_pair_names_it_by_its_label() -> None:
    pairs = [{**BASE["pairs"][0], "methods": ["at(weight=5)", "student"]}]
    assert plan(parse.narrow(suite(pairs=pairs), settings=["at.weight=7"])) == product(FIRST, "student at", range(2))


FIXED = {"network": "a", "weights": "pretrained"}


def only(methods: list[Any]) -> dict[str, Any]:
    return {"pairs": [{**BASE["pairs"][0], "methods": methods}]}


def teaching(protocol: Any) -> dict[str, Any]:
    return {"datasets": [{"name": "digits", "teacher_protocol": protocol}]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": [{"name": "kd", "seeds": [0, 0]}]}, "seeds of method 'kd' are [0, 0]: give different whole"),
        ({"methods": [{"name": "kd", "seeds": []}]}, "seeds of method 'kd' is []: give a list with at least one"),
        ({"methods": [{"name": "kd", "seeds": 3}]}, "seeds of method 'kd' is 3: give a list"),
        (few_seeds([1, 1]), "seeds of a pair are [1, 1]: give different whole"),
        (few_seeds([]), "seeds of a pair is []: give a list with at least one"),
        (few_seeds([1, 7]), f"seed 7 of pair '{SECOND}' is one of no method that runs on it, which have 0, 1, 2, 3"),
        (only(["kdd"]), f"unknown method 'kdd': did you mean 'kd'? (in methods of pair '{FIRST}'"),
        (only(["sp"]), "unknown method 'sp'"),
        (only([3]), "pairs.methods is 3, but it must be of type str"),
        ({"teacher_seeds": "pairs"}, "unknown teacher_seeds 'pairs': did you mean 'paired'?"),
        (teaching("clean"), "teacher_protocol is 'clean', but it must be a table"),
        (teaching({"validation": {"fraction": 0.1}}), "has a validation of its own"),
        (
            {**teaching({"subset": {"per_class": 3}}), "pairs": [{"teacher": FIXED, "student": "b"}]},
            "has a teacher_protocol, but kdbench trains none of the teachers of suite 's': take it out",
        ),
    ],
)
def test_a_wrong_plan_is_answered_with_what_is_wrong(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        suite(**changes)
    assert sentence in str(caught.value)


def test_a_choice_that_leaves_nothing_is_a_sentence() -> None:
    with pytest.raises(KDBenchError, match="suite 's' has none of these methods on these pairs with these seeds"):
        parse.narrow(suite(), methods=["dkd"], pairs=["resnet20"])


# ------------------------------------------------------------------------------------------ teachers of a seed


POOL = ["cifar_resnet14", "cifar_resnet14@1", "cifar_resnet14@2"]


def taught(seeds: str, pool: list[Any], teacher: Any = None, method: str = "aver_mkd") -> dict[int, list[str]]:
    pair = {"teacher": teacher or pool[0], "student": "cifar_resnet8", **({"pool": pool} if pool else {})}
    grid = suite(teacher_seeds=seeds, pairs=[pair], methods=[method], seeds=[0, 1, 4])
    return {cell.seed: [str(teacher) for teacher in cell.teachers] for cell in grid.cells()}


def test_a_seed_has_trainings_of_its_own_where_teachers_are_paired() -> None:
    own = {0: [0, 1, 2], 1: [3, 4, 5], 4: [12, 13, 14]}
    assert taught("paired", POOL) == {seed: [f"cifar_resnet14@{t}" for t in found] for seed, found in own.items()}
    assert taught("one", POOL)[4] == ["cifar_resnet14@0", "cifar_resnet14@1", "cifar_resnet14@2"]


def test_a_method_of_one_teacher_sees_the_first_of_the_pool_and_other_networks_count_by_themselves() -> None:
    assert taught("paired", POOL, method="kd") == {s: [f"cifar_resnet14@{3 * s}"] for s in (0, 1, 4)}
    assert taught("paired", ["cifar_resnet14", "cifar_resnet20"])[4] == ["cifar_resnet14@4", "cifar_resnet20@4"]
    assert taught("paired", [], "cifar_resnet14@2", "kd") == {s: [f"cifar_resnet14@{3 * s + 2}"] for s in (0, 1, 4)}


def test_weights_that_are_not_trained_here_are_the_same_for_every_seed() -> None:
    fixed = {"network": "cifar_resnet20", "weights": "pretrained"}
    assert taught("paired", ["cifar_resnet14", fixed])[4] == ["cifar_resnet14@4", "cifar_resnet20@0"]


def test_each_seed_trains_its_own_teachers_and_seed_0_keeps_its_id() -> None:
    def cells(seeds: str) -> list[Cell]:
        return suite(teacher_seeds=seeds, pairs=BASE["pairs"][:1], methods=["kd"]).cells()

    one, own = cells("one"), cells("paired")
    trainings = [{cell.training_of(cell.teachers[0]).id for cell in made} for made in (one, own)]
    assert [len(ids) for ids in trainings] == [1, 2]
    assert (own[0].id, own[0].cohort) == (one[0].id, one[0].cohort)
    assert own[1].id != one[1].id


@pytest.mark.parametrize("name", names())
def test_only_some_suites_have_a_teacher_for_each_seed(name: str) -> None:
    paired = parse.load(name).teacher_seeds == PAIRED
    assert paired is (name.startswith(("fashion", "translation_")) or name.endswith("_small"))


@pytest.mark.parametrize("name", [name for name in names() if name.startswith("fashion")])
def test_the_suites_of_fashion_fix_their_precision(name: str) -> None:
    """That of all images is for a GPU, the others are for CPUs."""
    found = {r.precision for cell in parse.load(name).cells() for r in (cell.recipe, *cell.teacher_recipes)}
    assert found == {"bf16" if name == "fashion_full" else "fp32"}


def test_all_of_fashion_is_every_method_on_all_images_with_three_paired_seeds() -> None:
    grid = parse.load("fashion_full")
    cells = grid.cells()
    methods = {cell.method.name for cell in cells}
    assert methods == {cell.method.name for cell in parse.load("fashion").cells()}
    assert {str(cell.pair) for cell in cells} == {"cifar_resnet32x4 -> cifar_resnet8x4"}
    assert [(dataset.name, dataset.protocol) for dataset in grid.datasets] == [("fashion_mnist", {})]
    assert len(cells) == 3 * len(methods)
    assert len({cell.training_of(teacher).id for cell in cells for teacher in cell.teachers}) == 9


def test_a_dry_run_of_all_of_fashion_says_what_a_gpu_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.commands.cost.measure", lambda *_: EpochCost(1.0, 1.0))  # it needs the data
    words = ["run", "fashion_full", "--dry-run", "--device", "cpu", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    count = len(parse.load("fashion_full").cells())
    assert f"{count} of {count} cells to run" in result.output
    assert result.output.count("teacher to train: cifar_resnet32x4@") == 9


# ------------------------------------------------------------------------------------------ protocols of teachers


FEW = {"subset": {"per_class": 4}}


def data(**entry: Any) -> Cell:
    pairs = [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}]
    return suite(datasets=[{"name": "digits", **entry}], pairs=pairs, methods=["kd"], seeds=[0]).cells()[0]


def test_a_teacher_is_trained_under_its_own_protocol() -> None:
    cell = data(protocol=FEW, teacher_protocol={})
    training = cell.training_of(cell.teachers[0])
    assert (cell.config["protocol"], cell.config["teacher_protocol"]) == (FEW, {})
    assert training.config["protocol"] == {}
    assert "teacher_protocol" not in training.config
    whole = data()
    assert training.id == whole.training_of(whole.teachers[0]).id  # it is the teacher of all the data
    assert len({cell.id, data(protocol=FEW).id, whole.id}) == 3
    assert len({cell.cohort, data(protocol=FEW).cohort}) == 2


@pytest.mark.parametrize("same", [FEW, None])
def test_one_that_is_the_students_is_none(same: Any) -> None:
    entry = {"protocol": FEW} if same is None else {"protocol": FEW, "teacher_protocol": same}
    assert data(**entry).config == data(protocol=FEW).config
    assert "teacher_protocol" not in data(**entry).config


def test_what_students_are_scored_on_in_validation_is_held_out_for_teachers_too() -> None:
    held = {"validation": {"fraction": 0.2}}
    cell = data(protocol={**held, **FEW}, teacher_protocol={})
    assert cell.training_of(cell.teachers[0]).config["protocol"] == held
    assert "teacher_protocol" not in data(protocol=held, teacher_protocol={}).config


@pytest.mark.usefixtures("temporary")
def test_a_method_that_comes_by_the_command_line_is_no_stranger_to_a_pair() -> None:
    registry.names()

    @register("mine_alone", family="logits")
    class Mine(Method):
        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Any]:
            return {}

    assert plan(parse.narrow(suite(), methods=["student", "mine_alone"], pairs=["resnet20"])) == product(
        SECOND, "student mine_alone", range(2)
    )
