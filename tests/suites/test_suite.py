"""Suites: parsing, narrowing, and which changes make a cell another cell."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kdbench import registry, suites
from kdbench.errors import KDBenchError
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.suites.networks import split
from kdbench.suites.recipe import Recipe

BASE = {
    "name": "s",
    "datasets": [{"name": "digits"}],
    "pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}],
    "methods": ["student", "kd"],
    "recipe": {"epochs": 2},
}


def only_cell(**changes: object) -> Cell:
    table = {**BASE, "methods": ["kd"], "seeds": [0], **changes}
    return parse.parse(table).cells()[0]


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_that_kdbench_brings_is_valid(name: str) -> None:
    grid = parse.load(name)
    assert grid.name == name
    assert grid.description
    assert grid.cells()


def test_imagenet_trains_with_the_ramps_and_weights_of_the_authors_configurations_there() -> None:
    methods = {cell.method.name: cell.method.hyperparameters for cell in parse.load("imagenet").cells()}
    assert {name: methods[name]["warmup_share"] for name in ("dkd", "reviewkd", "fcfd", "kd++")} == {
        "dkd": 0.0, "reviewkd": 0.0, "fcfd": 0.05, "kd++": 0.05,
    }  # fmt: skip
    assert (methods["ofd"]["weight"], methods["kd++"]["temperature"]) == (1e-4, 1.0)


@pytest.mark.parametrize("name", [name for name in suites.names() if parse.load(name).datasets[0].task == "image"])
def test_every_network_of_a_suite_exists(name: str) -> None:
    import timm

    import kdbench.tasks.image.networks

    suite, known = parse.load(name), set(kdbench.tasks.image.networks.list_networks())
    if suite.datasets[0].task not in ("image", "detection"):
        return  # no timm models; text: tests/suites/test_text_suites.py
    for pair in suite.pairs:
        for network in (pair.student, pair.teacher.network, *(t.network for t in pair.pool)):
            base = split(network)[0]
            if suite.datasets[0].task == "detection":
                form, _, base = base.partition("_")
                assert form in ("fcos", "gfl", "retinanet")
            assert base.partition(".")[0] in known or timm.is_model(base)


def test_the_cifar100_suite_holds_the_pairs_of_the_literature() -> None:
    grid = parse.load("cifar100")
    assert len(grid.pairs) == 17
    assert grid.recipe == Recipe(epochs=240, augment=("pad_crop:4", "flip"))
    rates = {cell.pair.student: cell.recipe.learning_rate for cell in grid.cells()}
    assert {student for student, rate in rates.items() if rate == 0.01} == {
        "cifar_mobilenetv2",
        "cifar_shufflenetv1",
        "cifar_shufflenetv2",
    }


def test_the_grid_is_the_product_of_its_parts() -> None:
    assert len(parse.parse({**BASE, "seeds": [0, 1, 2]}).cells()) == 6


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({**BASE, "metods": ["kd"]}, "unknown suite key 'metods': did you mean 'methods'"),
        (
            {**BASE, "datasets": [{"name": "digits"}, {"name": "sst2", "task": "text"}]},
            "the data sets of suite 's' are of several tasks (image, text), whose scores",
        ),
        ({**BASE, "recipe": {"epochs": 2, "learning_rat": 0.1}}, "did you mean 'learning_rate'"),
        ({**BASE, "recipe": {"learning_rate": 0.1}}, "recipe has no key 'epochs'"),
        ({**BASE, "recipe": {"epochs": "2"}}, "recipe.epochs is '2', but it must be of type int"),
        ({**BASE, "recipe": {"epochs": 2, "milestones": 0.5}}, "must be a list"),
        ({**BASE, "methods": ["kdd"]}, "unknown method 'kdd': did you mean 'kd'"),
        ({**BASE, "methods": [{"name": "kd", "temprature": 2}]}, "did you mean 'temperature'"),
        ({**BASE, "methods": [{"name": "kd", "temperature": "hot"}]}, "takes a float"),
        ({**BASE, "methods": ["kd", "kd"]}, "stands twice"),
        ({**BASE, "methods": []}, "at least one"),
        ({**BASE, "seeds": [0, 0]}, "different whole numbers"),
        ({**BASE, "pairs": [{"teacher": "a@x", "student": "b"}]}, "network@seed"),
        ({**BASE, "pairs": [{"teacher": "a"}]}, "pairs has no key 'student'"),
        ({**BASE, "pairs": [{"teacher": "a", "student": "b", "pool": ["c", "a"]}]}, "must begin with its teacher"),
        ({**BASE, "pairs": [{"teacher": {"network": "a", "weights": "w.pt"}, "student": "b"}]}, "sha256"),
        ({key: value for key, value in BASE.items() if key != "pairs"}, "no key 'pairs'"),
        ({**{k: v for k, v in BASE.items() if k != "pairs"}, "pair": []}, "did you mean 'pairs'"),
    ],
)
def test_a_wrong_suite_is_answered_with_what_is_wrong(table: dict, sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        parse.parse(table)
    assert sentence in str(caught.value)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(KDBenchError, match="did you mean 'digits'"):
        parse.load("digit")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("epochs = [")
    with pytest.raises(KDBenchError, match="not valid TOML"):
        parse.load(str(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": [1]},
        {"recipe": {"epochs": 3}},
        {"methods": [{"name": "kd", "temperature": 2.0}]},
        {"datasets": [{"name": "digits", "protocol": {"label_noise": {"rate": 0.4}}}]},
        {"pairs": [{"teacher": "cifar_resnet14@1", "student": "cifar_resnet8"}]},
        {"teacher_recipe": {"epochs": 9}},
    ],
)
def test_what_decides_the_result_changes_the_id(changes: dict) -> None:
    assert only_cell(**changes).id != only_cell().id


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"description": "words"},
        {"methods": [{"name": "kd", "temperature": 4}]},
        {"pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8", "name": "my pair"}]},
        {
            "pairs": [
                {"teacher": "cifar_resnet14", "student": "cifar_resnet8", "pool": ["cifar_resnet14", "cifar_resnet20"]}
            ]
        },
    ],
)
def test_what_decides_nothing_keeps_the_id(changes: dict) -> None:
    assert only_cell(**changes).id == only_cell().id


def test_a_multi_teacher_cell_depends_on_its_whole_pool() -> None:
    def cell(second: str) -> Cell:
        pair = {"teacher": "cifar_resnet14", "student": "cifar_resnet8", "pool": ["cifar_resnet14", second]}
        return only_cell(methods=["aver_mkd"], pairs=[pair])

    assert cell("cifar_resnet14@1").id != cell("cifar_resnet14@2").id


def test_a_changed_hyperparameter_shows_in_the_label() -> None:
    grid = parse.narrow(parse.parse(BASE), settings=["kd.temperature=2"])
    assert [spec.label for spec in grid.methods] == ["student", "kd(temperature=2)"]


def test_a_method_that_a_suite_has_with_several_settings_is_narrowed_to_all_of_them() -> None:
    methods = ["student", {"name": "kd", "temperature": 2}, {"name": "kd", "temperature": 8}]
    grid = parse.narrow(parse.parse({**BASE, "methods": methods}), methods=["kd"])
    assert [spec.label for spec in grid.methods] == ["kd(temperature=2)", "kd(temperature=8)"]


def test_set_reaches_recipes() -> None:
    grid = parse.narrow(parse.parse(BASE), settings=["recipe.batch_size=32", "teacher_recipe.epochs=7"])
    assert (grid.recipe.batch_size, grid.teacher_recipe.batch_size, grid.teacher_recipe.epochs) == (32, 64, 7)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"settings": ["kd.temperature"]}, "not of the form"),
        ({"settings": ["kd.heat=2"]}, "unknown hyperparameter of kd 'heat'"),
        ({"settings": ["dkd.beta=2"]}, "'dkd' is not run"),
        ({"settings": ["recipe.epoch=2"]}, "did you mean 'epochs'"),
        ({"methods": ["nope"]}, "unknown method 'nope'"),
        ({"methods": ["./absent.py"]}, "does not exist"),
        ({"pairs": ["resnet9000"]}, "unknown pair 'resnet9000'"),
        ({"epochs": 0}, "give at least 1"),
    ],
)
def test_a_wrong_choice_is_answered_with_what_is_wrong(choice: dict, sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        parse.narrow(parse.parse(BASE), **choice)
    assert sentence in str(caught.value)


def test_epochs_leave_the_teachers_recipe_alone() -> None:
    grid = parse.narrow(parse.parse(BASE), epochs=9)
    assert (grid.recipe.epochs, grid.teacher_recipe.epochs) == (9, 2)


def test_cells_of_one_cohort_share_teacher_data_and_seed() -> None:
    pairs = [*BASE["pairs"], {"teacher": "cifar_resnet14", "student": "cifar_resnet14"}]  # type: ignore[misc]
    grid = parse.parse({**BASE, "pairs": pairs, "seeds": [0, 1]})
    keys = {(cell.seed, cell.cohort) for cell in grid.cells()}
    assert len(keys) == 2


def test_a_teacher_is_trained_from_other_random_numbers_than_a_student() -> None:
    cell = only_cell(pairs=[{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}], methods=["student"])
    training = cell.training_of(cell.teachers[0])
    assert training.role == "teacher"
    assert training.id != cell.id
    assert dataclasses.asdict(training.recipe) == dataclasses.asdict(cell.recipe)


def test_all_stands_for_every_registered_method_and_keeps_the_suites_settings() -> None:
    table = {**BASE, "methods": ["all", {"name": "kd", "temperature": 2}, {"name": "kd", "temperature": 8}]}
    specs = parse.parse(table).methods
    assert specs[0].name == "student"
    assert {spec.name for spec in specs} == set(registry.names("image"))
    assert [spec.label for spec in specs if spec.name == "kd"] == ["kd(temperature=2)", "kd(temperature=8)"]
    assert len(specs) == len(registry.names("image")) + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_hyperparameter_is_a_finite_number(value: float) -> None:
    """A record could not hold it: there is no such number in JSON."""
    with pytest.raises(KDBenchError, match=rf"hyperparameter 'temperature' of kd is {value}: give a finite number"):
        registry.resolve("kd", {"temperature": value})
