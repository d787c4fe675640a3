"""A training of so many updates: the same schedule, phases and ramps on data of any size, and it stops anywhere."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.commands.progress import Display
from kdbench.errors import KDBenchError, NotApplicable
from kdbench.hardware.numerics import Numerics
from kdbench.suites import parse
from kdbench.suites.grid import Cell
from kdbench.suites.recipe import Recipe, length_of, overridden, parts
from kdbench.testing.trial import Bench, RandomImages
from kdbench.training.passes import Passes
from kdbench.training.precision import numerics_of

BASE: dict[str, Any] = {
    "name": "s",
    "datasets": [{"name": "digits"}],
    "pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}],
    "methods": ["kd"],
    "recipe": {"updates": 40},
}


def cell_of(bench: Bench, method: str = "kd", **recipe: Any) -> Cell:
    cell = bench.cell(method)
    return dataclasses.replace(cell, recipe=cell.recipe.changed(**{"updates": 40, **recipe}))


def sizes(folder: Path) -> dict[int, Bench]:
    """One batch an epoch, and three."""
    return {samples: Bench(folder / str(samples), samples=samples) for samples in (16, 42)}


# ------------------------------------------------------------------------------------------ the recipe


@pytest.mark.parametrize(("updates", "count"), [(1, 1), (19, 1), (20, 2), (240, 24), (1000, 100), (2820, 100)])
def test_a_training_has_a_hundred_parts_or_fewer_of_ten_updates(updates: int, count: int) -> None:
    recipe = Recipe(updates=updates)
    ends = [recipe.part(number) for number in range(recipe.length)]
    assert recipe.length == parts(updates) == length_of({"updates": updates}) == count
    assert (ends[0][0], ends[-1][1]) == (0, updates)
    assert all(end == start for (_, end), (start, _) in pairwise(ends))
    assert max(end - start for start, end in ends) - min(end - start for start, end in ends) <= 1


def test_epochs_stay_what_they_were() -> None:
    recipe = Recipe(epochs=7)
    assert (recipe.length, recipe.unit, recipe.span, recipe.steps(3, 12)) == (7, "epochs", "7 epochs", 12)
    assert Recipe(updates=45).span == "45 updates"
    assert [Recipe(updates=45).steps(number, 12) for number in range(4)] == [11, 11, 11, 12]


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({}, "recipe has no key 'epochs': add it, or 'updates'"),
        ({"epochs": 2, "updates": 40}, "recipe has both 'epochs' and 'updates': take one of them out"),
        ({"updates": -1}, "recipe.updates is -1, but it must be at least 1"),
        ({"updates": 2.5}, "recipe.updates is 2.5, but it must be of type int"),
        ({"updates": 40, "warmup_epochs": 5}, "warmup_epochs counts epochs and stands beside updates: give warmup_sh"),
        ({"epochs": 4, "warmup_epochs": 1, "warmup_share": 0.1}, "stands beside warmup_share"),
        ({"epochs": 4, "warmup_share": 1.0}, "recipe.warmup_share is 1.0: give a share of the training below 1"),
        ({"updates": 40, "schedule": "step"}, "recipe.schedule 'step' counts epochs, and the recipe has updates"),
    ],
)
def test_a_wrong_length_is_a_sentence(recipe: dict[str, Any], sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        parse.parse({**BASE, "recipe": recipe})
    assert sentence in str(caught.value)


def test_a_new_length_takes_the_old_ones_place_wherever_it_is_given() -> None:
    grid = parse.parse({**BASE, "teacher_recipe": {"epochs": 5}, "student_recipes": {"cifar_resnet8": {"epochs": 3}}})
    assert (grid.recipe.span, grid.teacher_recipe.span, grid.cells()[0].recipe.span) == (
        "40 updates",
        "5 epochs",
        "3 epochs",
    )
    assert parse.narrow(grid, epochs=2).recipe.span == "2 epochs"
    assert parse.narrow(grid, settings=["recipe.epochs=2"]).recipe.span == "2 epochs"
    assert parse.narrow(grid, settings=["teacher_recipe.updates=9"]).teacher_recipe.span == "9 updates"
    assert overridden({"epochs": 2, "batch_size": 4}, {"updates": 9}) == {"updates": 9, "batch_size": 4}
    assert overridden({"epochs": 2}, {"batch_size": 4}) == {"epochs": 2, "batch_size": 4}


def test_a_cell_of_updates_is_another_cell_and_names_no_epochs() -> None:
    (cell,) = parse.parse({**BASE, "seeds": [0]}).cells()
    assert cell.config["recipe"]["updates"] == 40
    assert "epochs" not in cell.config["recipe"]
    others = [
        parse.parse({**BASE, "seeds": [0], "recipe": recipe}).cells()[0] for recipe in ({"updates": 41}, {"epochs": 4})
    ]
    assert len({cell.id, *(other.id for other in others)}) == 3
    assert len({cell.cohort, *(other.cohort for other in others)}) == 3


@pytest.mark.parametrize(("updates", "long"), [(39_099, False), (39_100, True)])
def test_a_long_training_is_one_of_so_many_updates(
    updates: int, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.training import precision

    monkeypatch.setattr(precision, "multiplies_tiles", lambda device: True)
    monkeypatch.setattr(precision, "resolve", lambda *_: Numerics(torch.device("cpu"), "bf16"))
    found = numerics_of(cell_of(Bench(tmp_path), updates=updates), "cpu")
    assert ("at least 39100 updates" in found.describe()["compile_rule"]) is not long


# ------------------------------------------------------------------------------------------ batches


def rows(data: RandomImages, recipe: Recipe, order: list[int]) -> list[list[int]]:
    """The samples of every batch, part by part in this order."""
    passes = Passes(recipe)
    return [batch.indices.tolist() for number in order for batch in passes.epoch(data, number)]


def test_parts_go_through_the_data_pass_after_pass(tmp_path: Path) -> None:
    bench = Bench(tmp_path, samples=42)
    data = bench.task.training_set(3, False)
    recipe = Recipe(updates=20, batch_size=16)
    whole = [batch.indices.tolist() for number in range(7) for batch in data.epoch(number)][:20]
    assert rows(data, recipe, [0, 1]) == whole  # a part of 10 ends within the fourth pass of 3
    assert rows(data, recipe, [1]) == whole[10:]  # as after a kill
    assert rows(data, recipe, [0, 0, 1]) == whole[:10] + whole
    passes = Passes(recipe)
    left = iter(passes.epoch(data, 0))
    next(left)
    other = bench.task.training_set(3, True)
    assert [batch.indices.tolist() for batch in passes.epoch(other, 1)] == whole[10:]


# ------------------------------------------------------------------------------------------ the training


def test_rates_and_phases_change_at_the_same_updates_whatever_the_datas_size(tmp_path: Path) -> None:
    curves = {}
    for samples, bench in sizes(tmp_path).items():
        student, staged = bench.run([cell_of(bench, "student"), cell_of(bench, "fitnet")])
        assert [record["status"] for record in (student, staged)] == ["done", "done"]
        curves[samples] = [
            [(point["epoch"], point["updates"], round(point["learning_rate"], 9)) for point in record["curve"]]
            for record in (student, staged)
        ]
    assert curves[16] == curves[42]
    # shares 0.625, 0.75, 0.875 of four parts
    assert curves[16][0] == [(1, 10, 0.02), (2, 20, 0.02), (3, 30, 0.002), (4, 40, 2e-4)]


def test_it_takes_so_many_steps_and_is_scored_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.training import learner

    steps: list[tuple[int, int]] = []
    real = learner.Learner.train_step

    def counted(self: learner.Learner, number: int, *rest: Any) -> None:
        steps.append((self.epoch, number))
        real(self, number, *rest)

    monkeypatch.setattr(learner.Learner, "train_step", counted)
    bench = Bench(tmp_path, samples=42)
    (record,) = bench.run([cell_of(bench, "student", updates=37, evaluate_every=2)])
    assert (len(steps), len(set(steps))) == (37, 37)  # each with a random stream of its own
    assert [("top1" in point, point["updates"]) for point in record["curve"]] == [(False, 12), (True, 24), (True, 37)]
    assert record["curve"][-1]["top1"] == record["result"]["top1"]


@pytest.mark.parametrize("stop", [1, 3])
def test_it_goes_on_to_the_bit_from_the_part_where_it_was_stopped(tmp_path: Path, stop: int) -> None:
    weights: list[dict[str, Tensor]] = []
    for name, after in (("whole", 0), ("stopped", stop)):
        bench = Bench(tmp_path / name, samples=42)
        cells = [cell_of(bench, "kd"), cell_of(bench, "fitnet")]
        bench.run(cells, stop_after=after)
        weights += [bench.weights["results", cell.id] for cell in cells]
    for whole, stopped in zip(weights[:2], weights[2:], strict=True):
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)


def test_a_warm_up_is_a_share_of_the_training(tmp_path: Path) -> None:
    for samples, bench in sizes(tmp_path).items():
        learner = bench.learner(cell_of(bench, "student", warmup_share=0.5, updates=80))
        rates = []
        for epoch in range(5):
            learner.epoch = epoch
            learner.begin_epoch()
            rates.append(round(learner.optimizer.param_groups[0]["lr"], 9))
        assert rates == [0.004, 0.008, 0.012, 0.016, 0.02], samples  # 4 of 8 parts, as warmup_epochs = 4 of 8


def test_phases_that_do_not_fit_say_what_to_raise(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(NotApplicable, match="do not fit into 15 updates: give the recipe more updates"):
        bench.learner(cell_of(bench, "takd", updates=15))


def test_progress_counts_parts(tmp_path: Path) -> None:
    from rich.console import Console

    display = Display(Console(width=200), 1, 0)
    display.cohort_started([cell_of(Bench(tmp_path))])
    display.step_done(1, 4, 10, 10)
    (task,) = display._steps.tasks
    assert (task.description, task.completed, task.total) == ("random: cifar_resnet14@0, seed 0, part 2/4", 20, 40)
