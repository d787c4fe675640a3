"""When a cohort's learners are saved, and that a run whose checkpoints cannot be written stops with the reason."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.records import Store
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training import saving
from kdbench.training.cohort import Cohort
from kdbench.training.saving import Saving


@dataclass
class Stand:
    """In a learner's place."""

    name: str
    epoch: int = 0
    epochs: int = 9
    cell: Any = field(init=False)

    def __post_init__(self) -> None:
        self.cell = SimpleNamespace(id=self.name)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.epochs

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "weights": torch.ones(2)}


def epochs_saved(tmp_path: Path, seconds_an_epoch: float, epochs: int = 9) -> list[int]:
    """After which epochs two learners are saved that take so long for each."""
    now, store, found = [0.0], Store(tmp_path), []
    learners: list[Any] = [Stand(name, epochs=epochs) for name in ("a", "b")]
    with Saving(store, 30.0, lambda: now[0]) as kept:
        for _ in range(epochs):
            now[0] += seconds_an_epoch
            for learner in learners:
                learner.epoch += 1
                kept.offer(learner)
                now[0] += 0.01
            kept._writer.wait()
            done = {store.epochs_done(learner.cell.id) for learner in learners}
            assert len(done) == 1, "one decision holds for all learners of an epoch"
            found.append(*done)
    return sorted({epoch for epoch in found if epoch})


@pytest.mark.parametrize(
    ("seconds_an_epoch", "expected"), [(1.0, [9]), (10.0, [3, 6, 9]), (29.0, [2, 4, 6, 8, 9]), (31.0, [*range(1, 10)])]
)
def test_learners_are_saved_every_30_seconds_or_every_epoch_whichever_is_more_and_at_their_end(
    tmp_path: Path, seconds_an_epoch: float, expected: list[int]
) -> None:
    assert epochs_saved(tmp_path, seconds_an_epoch) == expected


def test_a_finished_learner_is_on_disk_before_its_record_is_written(tmp_path: Path) -> None:
    store, learner = Store(tmp_path), Stand("a", epoch=9)
    with Saving(store, 1e9) as kept:
        kept.offer(learner)  # type: ignore[arg-type]
        assert store.epochs_done("a") == 9


def test_a_cohort_that_is_ended_between_epochs_loses_none(tmp_path: Path) -> None:
    store, learners = Store(tmp_path), [Stand("a", epoch=4), Stand("b", epoch=4)]
    with Saving(store, 1e9) as kept:
        for learner in learners:
            kept.offer(learner)  # type: ignore[arg-type]
        assert not list(tmp_path.rglob("*.pt"))
        with pytest.raises(TimeoutError), kept.all_if_it_ends():
            raise TimeoutError
    assert [store.epochs_done(learner.name) for learner in learners] == [4, 4]


def cohort(bench: Bench, methods: list[str], **options: Any) -> Cohort:
    cells = [bench.cell(method) for method in methods]
    store = Store(bench.folder / "results")
    return Cohort(cells, bench.task, bench.teachers, store, bench.numerics, trial._Silent(), timed=False, **options)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, teacher="cifar_resnet8", samples=8, batch_size=8, image_size=8, epochs=3)


def test_a_full_disk_ends_the_run_with_its_sentence_and_blames_no_method(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KDBenchError, match="no space left on the disk"):
        cohort(bench, ["student", "kd"], every=0.0).run()
    assert not list(bench.folder.rglob("*.json"))
    assert not list(bench.folder.rglob("*.partial"))


def test_a_run_saves_as_often_as_it_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[str, int]] = []
    real = Store.save_checkpoint

    def save(store: Store, identity: str, state: dict[str, Any]) -> None:
        saved.append((identity, state["epoch"]))
        real(store, identity, state)

    monkeypatch.setattr(Store, "save_checkpoint", save)
    often, seldom = (bench.variant(name) for name in ("often", "seldom"))
    cells = [bench.cell(method) for method in ("student", "kd")]
    assert cohort(often, ["student", "kd"], every=0.0).run() == []
    assert saved == [(cell.id, epoch) for epoch in (1, 2, 3) for cell in cells]
    saved.clear()
    assert cohort(seldom, ["student", "kd"]).run() == []
    assert saved == [(cell.id, 3) for cell in cells]
    results = [[Store(b.folder / "results").read(cell.id)["result"] for cell in cells] for b in (often, seldom)]
    assert results[0] == results[1]
    assert not list(bench.folder.rglob("*.pt"))


def test_the_interval_is_30_seconds_unless_a_caller_says_otherwise(tmp_path: Path) -> None:
    assert saving.EVERY == Saving(Store(tmp_path))._every == 30.0
