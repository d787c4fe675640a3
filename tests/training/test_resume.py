"""A checkpoint that is not its cell's own, whole and fitting costs that cell some epochs and never a wrong result."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Output, register
from kdbench.records import Store, checkpoints
from kdbench.suites.grid import Cell
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training.cohort import Cohort
from kdbench.training.resume import resumed

EPOCHS = 3


class Listening(trial._Silent):
    def __init__(self, stop_after: int = 0) -> None:
        super().__init__(stop_after)
        self.said: list[str] = []

    def notice(self, sentence: str) -> None:
        self.said.append(sentence)


def train(bench: Bench, cells: list[Cell], stop_after: int = 0) -> list[str]:
    """Train cells side by side, maybe leave after some epochs; returns what was said."""
    listener = Listening(stop_after)
    with contextlib.suppress(trial._Stop):
        Cohort(cells, bench.task, bench.teachers, store_of(bench), bench.numerics, listener, every=0.0).run()
    return listener.said


def store_of(bench: Bench) -> Store:
    return Store(bench.folder / "results")


def cells_of(bench: Bench) -> list[Cell]:
    return [bench.cell("kd"), bench.cell("student")]


def results(bench: Bench, cells: list[Cell]) -> list[dict[str, Any]]:
    records = [store_of(bench).read(cell.id) for cell in cells]
    return [{"status": record["status"], **record["result"]} for record in records]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a run of two cells left after two of three epochs."""
    bench = Bench(tmp_path_factory.mktemp("left"), epochs=EPOCHS)
    train(bench, cells_of(bench), stop_after=2)
    return bench.folder


@pytest.fixture
def bench(left: Path, tmp_path: Path) -> Bench:
    """One in a copy of that folder."""
    shutil.copytree(left, tmp_path / "copy")
    return Bench(tmp_path / "copy", epochs=EPOCHS)


def goes_on(bench: Bench, cell: Cell) -> tuple[int, list[str]]:
    """How many epochs a cell has behind it where it goes on, and what was said."""
    said: list[str] = []
    return resumed(lambda: bench.learner(cell), store_of(bench), said.append).epoch, said


def rewrite(path: Path, cell: Cell, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's state under a head that is right: what another version or a fault of ours would leave."""
    state = checkpoints.opened(path.read_bytes(), cell.id, torch.device("cpu"))
    changes = change(state) or {}
    path.write_bytes(checkpoints.sealed(cell.id, {**state, **changes}))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "epoch 99": lambda state: {"epoch": 99},
    "epoch -1": lambda state: {"epoch": -1},
    "epoch 1": lambda state: {"epoch": 1},
    "epoch a word": lambda state: {"epoch": "two"},
    "an empty curve": lambda state: {"curve": []},
    "a key less": lambda state: state.pop("seconds") and None,
    "no student": lambda state: {"students": []},
    "another student": lambda state: {"students": [{"weight": torch.ones(1)}]},
    "another method": lambda state: {"method": {"head.weight": torch.ones(1)}},
    "an optimizer of nothing": lambda state: {"optimizer": {}},
    "a phase that is not": lambda state: {"phase": 7},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_that_does_not_fit_sends_its_cell_back_an_epoch(bench: Bench, change: str) -> None:
    cell, other = cells_of(bench)
    path, _ = checkpoints.places(store_of(bench).folder / "checkpoints", cell.id)
    rewrite(path, cell, CHANGES[change])
    epoch, (said,) = goes_on(bench, cell)
    assert epoch == 1
    assert path.name in said
    assert goes_on(bench, other) == (2, [])


def test_when_no_state_fits_the_cell_begins_again(bench: Bench) -> None:
    cell = bench.cell("kd")
    for path in checkpoints.places(store_of(bench).folder / "checkpoints", cell.id):
        rewrite(path, cell, CHANGES["no student"])
    epoch, said = goes_on(bench, cell)
    assert (epoch, len(said)) == (0, 2)


def test_anothers_checkpoint_is_never_trained_on_and_the_results_are_those_of_an_undisturbed_run(bench: Bench) -> None:
    cells = cells_of(bench)
    mine, theirs = (checkpoints.places(store_of(bench).folder / "checkpoints", cell.id) for cell in cells)
    mine[0].write_bytes(theirs[0].read_bytes())
    (said,) = train(bench, cells)
    assert f"it is of cell {cells[1].id}" in said
    whole = bench.variant("undisturbed")
    train(whole, cells)
    assert results(bench, cells) == results(whole, cells)


def keeper(name: str, state: Callable[[], object]) -> None:
    @register(name, family="logits")
    class Keeper(Method):
        counted = 0

        def get_extra_state(self) -> object:
            return {"counted": self.counted, "what": state()}

        def set_extra_state(self, state: Any) -> None:
            self.counted = state["counted"]

        def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
            self.counted += 1
            return {"ce": F.cross_entropy(student.logits, batch.targets) * (1 + self.counted % 2)}


@pytest.mark.usefixtures("temporary")
def test_a_method_with_plain_state_of_its_own_goes_on(bench: Bench) -> None:
    keeper("counts", lambda: [("a", 1), {"b": torch.ones(1)}])
    cell = bench.cell("counts")
    train(bench, [cell], stop_after=2)
    assert goes_on(bench, cell) == (2, [])
    assert resumed(lambda: bench.learner(cell), store_of(bench), pytest.fail).method.counted == 4


@pytest.mark.usefixtures("temporary")
def test_a_method_whose_state_would_not_come_back_is_refused_before_it_trains(bench: Bench) -> None:
    keeper("odd", lambda: Path("here"))
    cell = bench.cell("odd")
    train(bench, [cell])
    record = store_of(bench).read(cell.id)
    assert record["status"] == "failed"
    assert "method 'odd' has _extra_state.what (pathlib.PosixPath), which no checkpoint can hold" in record["reason"]
