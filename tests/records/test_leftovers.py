"""What kills leave behind goes with the next run, and nothing that is of use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.sample_record import sample

from kdbench.records import Store
from kdbench.records.leftovers import FORGOTTEN, SETTLED, sweep, sweep_half_written


def left(path: Path, age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    Store(tmp_path / "s").write(sample())
    Store(tmp_path / "teachers").write(sample())
    return tmp_path


@pytest.mark.parametrize("place", ["s/records", "s/checkpoints", "teachers/weights", "teachers/records"])
def test_half_written_files_of_runs_go_at_once(out: Path, place: str) -> None:
    half = left(out / place / ".abc.safetensors.k3x.partial")
    sweep(out)
    assert not half.exists()


def test_half_written_tables_go_when_nobody_can_still_write_them(out: Path) -> None:
    old, fresh = left(out / "s" / ".runs.csv.1.partial", SETTLED + 1), left(out / "s" / ".runs.csv.2.partial")
    sweep(out)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_what_others_keep_in_the_folder_stays(out: Path) -> None:
    kept = [
        left(out / name, 99 * FORGOTTEN) for name in ("s/notes.partial", "mine/.x.partial", ".x.partial", "s/runs.csv")
    ]
    sweep(out)
    assert all(path.exists() for path in kept)


def test_checkpoints_of_finished_cells_go_and_those_of_others_stay(out: Path) -> None:
    store = Store(out / "s")
    for identity in ("abc", "xyz", "broken"):
        store.save_checkpoint(identity, {"epoch": 1})
        store.save_checkpoint(identity, {"epoch": 2})
    store.write(sample(id="broken", status="failed"))
    sweep(out)
    names = sorted(path.name for path in store.checkpoints.iterdir())
    assert names == ["broken.before.pt", "broken.pt", "xyz.before.pt", "xyz.pt"]


def test_a_checkpoint_that_no_suite_came_back_to_for_a_month_goes(out: Path) -> None:
    old, young = (left(out / "s" / "checkpoints" / name, age) for name, age in (("x.pt", FORGOTTEN + 9), ("y.pt", 9)))
    damaged = left(out / "s" / "checkpoints" / "z.pt.damaged", FORGOTTEN + 9)
    sweep(out)
    assert (old.exists(), young.exists(), damaged.exists()) == (False, True, False)


def test_beside_a_merges_target_only_its_own_leftovers_go(tmp_path: Path) -> None:
    mine, others = left(tmp_path / ".to.1.partial", SETTLED + 1), left(tmp_path / ".x.1.partial", SETTLED + 1)
    folder = tmp_path / ".to.2.partial"
    (folder / "records").mkdir(parents=True)
    os.utime(folder, (0, 0))
    sweep_half_written(tmp_path, name="to")
    assert (mine.exists(), folder.exists(), others.exists()) == (False, False, True)
