"""Early stopping: by held-out samples alone, with the best weights, the same after a kill, and never ranked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from kdbench.board.unranked import STOPPED
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.suites import parse
from kdbench.suites.recipe import Recipe
from kdbench.tasks.image.metrics import METRICS
from kdbench.testing import trial
from kdbench.training.learner import Learner
from kdbench.training.stopping import Stopping, without_held_out

EARLY = """
name = "early"
seeds = [0]
methods = ["student", "kd", "fsp"]

[[datasets]]
name = "digits"
protocol = { subset = { per_class = 20 } }

[recipe]
epochs = 12
batch_size = 32
patience = 1
held_out = 0.25

[teacher_recipe]
epochs = 2
patience = 0
held_out = 0

[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("early")
    (out / "early.toml").write_text(EARLY)
    ran = CliRunner().invoke(app, ["run", str(out / "early.toml"), "--out", str(out), "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    assert "ranks are among" not in ran.output
    return out


def records_of(out: Path) -> dict[str, Any]:
    records = [json.loads(path.read_text()) for path in (out / "early" / "records").glob("*.json")]
    return {record["cell"]["method"]["label"]: record for record in records}


def test_a_training_ends_by_its_patience_and_its_test_score_is_the_last_point(early: Path) -> None:
    found = records_of(early)
    assert min(len(record["curve"]) for record in found.values()) < 12
    for record in found.values():
        curve, kept = record["curve"], int(record["result"]["extra"]["kept_epoch"])
        watched = {point["epoch"]: point["held_out"] for point in curve if "held_out" in point}
        assert kept == min(epoch for epoch, score in watched.items() if score == max(watched.values()))
        assert len(curve) == 12 or len(curve) == kept + 1
        assert [point["epoch"] for point in curve if "top1" in point] == [len(curve)]
        assert record["result"]["best_epoch"] == len(curve)
    assert "held_out" not in found["fsp"]["curve"][0]  # of its first phase, which trains no student


def test_such_a_board_has_no_ranks_and_says_why(early: Path) -> None:
    for name in ("leaderboard.csv", "leaderboard_long.csv"):
        table = pd.read_csv(early / "early" / name)
        assert len(table) >= 3
        assert table["rank"].isna().all()
        assert table["remark"].str.contains(STOPPED).all()


def test_what_it_leaves_is_published_and_found_sound(early: Path, tmp_path: Path) -> None:
    words = ["publish", str(early / "early.toml"), "--out", str(early), "--to", str(tmp_path)]
    published = CliRunner().invoke(app, words)
    assert published.exit_code == 0, published.output
    checked = CliRunner().invoke(app, ["validate", str(tmp_path)])
    assert checked.exit_code == 0, checked.output


def test_one_that_is_killed_and_goes_on_ends_with_the_same_result(
    early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, whole = parse.load(str(early / "early.toml")), Learner.end_epoch
    cells = [cell for cell in suite.cells() if cell.method.name != "fsp"]

    def killed(self: Learner, *parts: Any) -> None:
        whole(self, *parts)
        if self.cell.role == "student" and self.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.training.saving.EVERY", 0.0)
    monkeypatch.setattr(Learner, "end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(tmp_path, trial._Silent(0), device="cpu").run(cells)
    monkeypatch.setattr(Learner, "end_epoch", whole)
    LocalExecutor(tmp_path, trial._Silent(0), device="cpu").run(cells)
    before, after = records_of(early), records_of(tmp_path)
    for label, record in after.items():
        assert record["result"] == before[label]["result"]


def test_what_is_held_out_is_trained_by_nobody_and_the_test_set_is_not_looked_at(early: Path) -> None:
    cell = parse.load(str(early / "early.toml")).cells()[0]
    from kdbench import tasks
    from kdbench.hardware.numerics import Numerics

    numerics = Numerics(torch.device("cpu"))
    held = tasks.create(without_held_out(cell.dataset, cell.recipe), cell.recipe, numerics, None)
    whole = tasks.create(cell.dataset, cell.recipe, numerics, None)
    trained = {images.numpy().tobytes() for b in held.training_set(0, False).epoch(0) for images in b.inputs}
    scored = {images.numpy().tobytes() for inputs, _ in held.test_batches() for images in inputs}
    tested = {images.numpy().tobytes() for inputs, _ in whole.test_batches() for images in inputs}
    assert len(scored) == 359  # a quarter of what digits has to train, before the subset is taken
    assert not trained & scored
    assert not scored & tested


def test_the_best_weights_come_back_and_ties_keep_the_first() -> None:
    net, stopping = nn.Linear(1, 1), Stopping(Recipe(epochs=9, patience=2, held_out=0.1), METRICS.primary)
    for epoch, score in enumerate([50.0, 70.0, 70.0, 60.0], 1):
        nn.init.constant_(net.weight, epoch)
        assert not stopping.ended
        stopping.look(score, epoch, [net], last=False)
    assert (stopping.ended, stopping.epoch, stopping.best) == (True, 2, 70.0)
    assert net.weight.item() == 2.0


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"patience": 3}, "early stopping needs both"),
        ({"held_out": 0.1}, "early stopping needs both"),
        ({"patience": -1, "held_out": 0.1}, "patience is -1"),
        ({"patience": 1, "held_out": 1.0}, "held_out is 1.0: give a share below 1"),
    ],
)
def test_half_a_rule_is_refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(KDBenchError, match=said):
        Recipe(epochs=2, **recipe).check("recipe")


def test_no_cell_without_it_has_another_id(tmp_path: Path) -> None:
    config = trial.Bench(tmp_path).cell("kd").config
    assert not {"patience", "held_out"} & config["recipe"].keys()
