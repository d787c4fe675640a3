"""The trials of a sweep: what is drawn, what the cells are, and what changes no id."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from kdbench import suites
from kdbench.board.results import grid_rows, suite_table
from kdbench.board.sweeps.state import Sweeping
from kdbench.errors import KDBenchError
from kdbench.space import Choice, Dimension, Integer, LogUniform, Uniform
from kdbench.suites import parse
from kdbench.suites.grid import Cell, Suite, identity
from kdbench.suites.recipe import Recipe
from kdbench.suites.sweep import Sweep
from kdbench.suites.tables import cells_of
from kdbench.suites.trials import (
    draw,
    method_trials,
    places,
    plain_label,
    points,
    recipe_trials,
    shortened,
    with_values,
)

BASE: dict[str, Any] = {
    "name": "s",
    "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 8}}}],
    "pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}],
    "methods": ["student", "kd", {"name": "at", "weight": 62.5}],
    "seeds": [0, 1],
    "recipe": {"epochs": 12},
}
SPACE: dict[str, Dimension] = {"weight": LogUniform(0.1, 10.0), "temperature": Choice(1.0, 2.0, 4.0)}
OWN = {"weight": 1.0, "temperature": 4.0}


def test_trial_0_is_ones_own_value_and_the_others_lie_in_the_space() -> None:
    drawn = draw(SPACE, {"weight": 99.0, "temperature": 4.0}, 8, "kd")
    assert drawn[0] == {"weight": 99.0, "temperature": 4.0}  # a suite's own may lie outside
    assert all(SPACE[name].holds(value) for values in drawn[1:] for name, value in values.items())
    assert len({tuple(values.values()) for values in drawn}) == len(drawn) == 8


def test_trials_are_seeded_by_names_and_more_of_them_go_on() -> None:
    assert draw(SPACE, OWN, 16, "kd")[:4] == draw(SPACE, OWN, 4, "kd")
    assert draw(SPACE, OWN, 4, "kd") != draw(SPACE, OWN, 4, "dkd")
    turned = dict(reversed(SPACE.items()))
    assert draw(turned, OWN, 4, "kd") == draw(SPACE, OWN, 4, "kd")


def test_trials_cover_the_space_better_than_chance() -> None:
    """Of 16 trials each sixteenth of a dimension has about one: no two lie much closer than that."""
    weights = sorted(values["weight"] for values in draw({"weight": Uniform(0.0, 1.0)}, {"weight": 0.5}, 17, "kd")[1:])
    gaps = [high - low for low, high in itertools.pairwise(weights)]
    assert max(gaps) < 0.2


def test_a_small_space_is_searched_whole_and_no_value_twice() -> None:
    found = [values["factor"] for values in draw({"factor": Choice(1, 2, 4)}, {"factor": 2}, 16, "simkd")]
    assert found[0] == 2
    assert sorted(found) == [1, 2, 4]
    assert len(draw({"n": Integer(1, 3)}, {"n": 9}, 16, "x")) == 4  # its own value lies outside
    assert draw({}, {}, 16, "x") == [{}]
    assert points(SPACE, OWN, 16) == 16


def test_the_recipe_is_tuned_by_the_plain_student_and_stays_for_the_methods() -> None:
    suite = parse.parse(BASE)
    (place,) = places(suite, Sweep(trials=4))
    trials = recipe_trials(place, Sweep(trials=4))
    assert plain_label(place) == "student"
    assert trials.values[0] == {"recipe.learning_rate": 0.05, "recipe.weight_decay": 5e-4, "label_smoothing": 0.0}
    assert {cell.method.name for cell in trials.cells} == {"student"}
    assert [cell.recipe.learning_rate for cell in trials.cells] == [v["recipe.learning_rate"] for v in trials.values]
    teachers = {cell.training_of(cell.pair.teacher).id for cell in trials.cells}
    own = method_trials(place, "at(weight=62.5)", {"learning_rate": 0.1}, Sweep(trials=4))
    assert own.values[0] == {"weight": 62.5}
    assert {cell.recipe.learning_rate for cell in own.cells} == {0.1}
    assert {cell.training_of(cell.pair.teacher).id for cell in own.cells} == teachers  # teachers keep theirs


def test_trials_are_scored_on_a_split_with_a_seed_of_their_own_in_one_cohort() -> None:
    suite, sweep = parse.parse(BASE), Sweep(trials=4, share=1 / 3, seed=77, fraction=0.25)
    (place,) = places(suite, sweep)
    cells = [*recipe_trials(place, sweep).cells, *method_trials(place, "kd", {"learning_rate": 0.1}, sweep).cells]
    assert {cell.seed for cell in cells} == {77}
    assert {cell.suite for cell in cells} == {"s/sweep"}
    assert all(cell.dataset.protocol["validation"] == {"fraction": 0.25} for cell in cells)
    assert all("subset" in cell.dataset.protocol for cell in cells)
    assert {(cell.recipe.epochs, cell.recipe.evaluate_every) for cell in cells} == {(4, 4)}
    assert len({cell.cohort for cell in cells}) == 1
    teacher = cells[0].training_of(cells[0].pair.teacher)
    assert "validation" in teacher.dataset.protocol  # it saw no sample that the trials are scored on
    assert teacher.recipe.epochs == 12


def test_a_short_trial_keeps_at_least_one_epoch_and_its_share_of_the_warm_up() -> None:
    assert shortened(Recipe(epochs=2, warmup_epochs=1), 0.1).epochs == 1
    assert shortened(Recipe(epochs=60, warmup_epochs=6), 1 / 3).warmup_epochs == 2


def test_a_suite_without_the_plain_student_is_tuned_by_it_all_the_same() -> None:
    (place,) = places(parse.parse({**BASE, "methods": ["kd"]}), Sweep())
    assert plain_label(place) == "student"


def test_seeds_of_methods_and_pairs_are_of_results_so_that_trials_are_the_same_whatever_is_chosen() -> None:
    """With teachers of each seed's own, a seed that leaked into a trial was another teacher, a pair had no trials."""
    student, kd = {"name": "student", "seeds": [0, 1, 2]}, {"name": "kd", "seeds": [2]}
    table = {**BASE, "teacher_seeds": "paired", "pairs": [{**BASE["pairs"][0], "seeds": [1]}]}
    sweep = Sweep(trials=2, seed=77)
    found = set()
    for methods in (["kd"], [kd], [student, kd], [student, kd, "at"]):
        (place,) = places(parse.parse({**table, "methods": methods}), sweep)
        cells = [*recipe_trials(place, sweep).cells, *method_trials(place, "kd", {}, sweep).cells]
        assert {cell.pair.teacher.seed for cell in cells} == {77}
        found.add(tuple(cell.id for cell in cells))
    assert len(found) == 1


def test_a_suite_s_own_plain_student_tunes_the_recipe_though_it_is_not_chosen() -> None:
    """Of `student(label_smoothing=0.1)` and of `student` the trials are others, and so are the methods' after them."""
    whole = parse.parse({**BASE, "methods": [{"name": "student", "label_smoothing": 0.1}, "kd", "at"]})
    found = set()
    for methods in ([], ["student", "kd"], ["kd"], ["at"]):
        suite = parse.narrow(whole, methods=methods)
        assert "tuner" not in suite_table(suite)
        (place,) = places(suite, Sweep(trials=3))
        found.add(tuple(cell.id for cell in recipe_trials(place, Sweep(trials=3)).cells))
    assert len(found) == 1


def test_a_pair_that_names_its_methods_is_tuned_by_the_plain_student_and_for_these_alone() -> None:
    pairs = [{**BASE["pairs"][0], "methods": ["kd"]}, {"teacher": "cifar_resnet14", "student": "cifar_vgg8"}]
    suite, sweep = parse.parse({**BASE, "pairs": pairs}), Sweep(trials=2)
    assert [sorted(place.cells) for place in places(suite, sweep)] == [
        ["kd", "student"],
        ["at(weight=62.5)", "kd", "student"],
    ]
    state = _swept(suite, sweep)
    assert state.missing()[0] == 0
    assert [label for label, _ in state.searches()] == ["student", "kd", "student", "kd", "at(weight=62.5)"]
    assert {cell.method.name for cell in state.cells() if cell.pair.student == "cifar_resnet8"} == {"kd"}


def _swept(suite: Suite, sweep: Sweep) -> Sweeping:
    """With every trial done, all of them alike."""
    result = {"status": "done", "result": {"top1": 50.0}, "cost": {"seconds_per_epoch": 1.0}}
    records: dict[str, Any] = {}
    for cells in (Sweeping.recipe_cells, Sweeping.method_cells):
        tried = cells(Sweeping(suite, sweep, records.get))
        records |= {cell.id: {**result, "id": cell.id, "cell": cell.config} for cell in tried}
    return Sweeping(suite, sweep, records.get)


@pytest.mark.parametrize(
    ("own", "pair", "tuned"),
    [([], [], [0, 1]), ([0, 1, 2, 3], [], [0, 1]), ([1, 2], [], [1]), ([2, 3], [], [2, 3]), ([0, 1, 2], [2], [2])],
)
def test_a_tuned_row_has_the_suite_s_seeds_though_its_method_has_more(
    own: list[int], pair: list[int], tuned: list[int]
) -> None:
    """As its cells have them, and as the card's table alone gives them to cells and to the tables."""
    kd = {"name": "kd", **({"seeds": own} if own else {})}
    pairs = [{**BASE["pairs"][0], **({"seeds": pair} if pair else {})}]
    suite = parse.parse({**BASE, "methods": ["student", kd], "pairs": pairs})
    cells = [cell for cell in _swept(suite, Sweep(trials=2)).cells() if cell.method.name == "kd"]
    assert [cell.seed for cell in cells] == tuned
    row = {key: cells[0].config[key] for key in ("dataset", "task", "protocol", "pair", "student")}
    method = cells[0].config["method"]
    row |= {key: method[key] for key in ("label", "name", "family", "hyperparameters")} | {"recipe": {}, "trials": 2}
    table = {**suite_table(suite), "tuned": [row]}
    assert [cell.seed for cell in cells_of(table) if cell.method.label == "kd (tuned)"] == tuned
    assert [line["seed"] for line in grid_rows(table) if line["label"] == "kd (tuned)"] == tuned


def test_what_a_sweep_says_of_a_cell_is_in_no_id_but_a_tuned_cell_is_one_of_its_own() -> None:
    cell = parse.parse(BASE).cells()[1]
    tuned = with_values(dataclasses.replace(cell, tuning={"trials": [1]}), {}, "kd (tuned)")
    again = with_values(dataclasses.replace(cell, tuning={"trials": [1, 2]}), {}, "kd (tuned)")
    assert tuned.id == again.id != cell.id
    assert tuned.config["method"]["tuning"] == {"trials": [1]}
    without = {key: value for key, value in tuned.config["method"].items() if key not in ("tuned", "tuning")}
    assert identity({**tuned.config, "method": without}) == cell.id


@pytest.mark.parametrize("name", suites.names())
def test_no_cell_of_a_suite_knows_of_sweeps(name: str) -> None:
    suite = parse.load(name)
    other = dataclasses.replace(suite, sweep=Sweep(trials=3), tuned=True)

    def ids(cells: list[Cell]) -> set[str]:
        return {cell.id for cell in cells[:20]}

    assert ids(suite.cells()) == ids(other.cells())


def test_a_suite_s_table_says_how_it_is_tuned_where_it_says_so_itself() -> None:
    assert not {"sweep", "tuned"} & suite_table(parse.parse(BASE)).keys()
    table = suite_table(parse.parse({**BASE, "sweep": {"trials": 4}, "tuned": True}))
    assert table["sweep"]["trials"] == 4
    assert table["tuned"] is True


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"trials": 0}, "sweep.trials is 0"),
        ({"share": 0.0}, "sweep.share is 0.0"),
        ({"share": 1.5}, "sweep.share is 1.5"),
        ({"fraction": 1.0}, "sweep.fraction is 1.0"),
        ({"seed": -1}, "sweep.seed is -1"),
        ({"trails": 3}, "trials"),
        ({"trials": "3"}, "must be of type int"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(sweep: dict[str, Any], said: str) -> None:
    with pytest.raises(KDBenchError, match=said):
        parse.parse({**BASE, "sweep": sweep})


def test_no_result_may_be_chosen_by_what_it_is_scored_on() -> None:
    with pytest.raises(KDBenchError, match="seed 1 is of a result"):
        Sweep(seed=1).allow(parse.parse(BASE))
    with pytest.raises(KDBenchError, match="seed 5 is of a result"):
        Sweep(seed=5).allow(parse.parse(BASE), seeds=[5])
    split = {**BASE, "datasets": [{"name": "digits", "protocol": {"validation": {"fraction": 0.2}}}]}
    with pytest.raises(KDBenchError, match="validation split itself"):
        Sweep().allow(parse.parse(split))
