"""Merging: records of several machines become one folder, whole or not at all, and no result is chosen over another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench.board.publishing import merge as merging
from kdbench.board.publishing.merge import merge
from kdbench.board.publishing.publish import publish
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.records import read_record
from kdbench.records.files import write_atomically
from kdbench.suites import parse


@pytest.fixture
def machines(tiny_runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two machines' runs of the tiny suite: one has seed 0, the other seed 1; both have the teachers."""
    folders = []
    for name, other in (("a", 1), ("b", 0)):
        folder = Path(shutil.copytree(tiny_runs, tmp_path / name))
        for path in (folder / "tiny" / "records").iterdir():
            if read_record(path)["cell"]["seed"] == other:
                path.unlink()
        folders.append(folder)
    return folders[0], folders[1]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    return path


def fail(record: dict[str, Any]) -> None:
    record.update(status="failed", reason="out of memory")
    del record["result"], record["curve"]


def records(folder: Path, suite_name: str = "tiny") -> list[Path]:
    return sorted((folder / suite_name / "records").glob("*.json"))


def shared(machines: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same record on both machines."""
    path = records(machines[0])[0]
    return path, Path(shutil.copy(path, machines[1] / "tiny" / "records"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_halves_are_the_whole(machines: tuple[Path, Path], tiny_runs: Path, tmp_path: Path) -> None:
    assert merge(machines, tmp_path / "merged") == {"teachers": 2, "tiny": 6}
    grid = parse.load(str(tiny_runs / "tiny.toml"))
    publish(grid, tmp_path / "merged", tmp_path / "published")
    publish(grid, tiny_runs, tmp_path / "directly")
    assert tree(tmp_path / "published") == tree(tmp_path / "directly")


def test_published_folders_are_united_too(machines: tuple[Path, Path], tiny_runs: Path, tmp_path: Path) -> None:
    grid = parse.load(str(tiny_runs / "tiny.toml"))
    for machine in machines:
        publish(grid, machine, tmp_path / "published" / machine.name)
    sources = [tmp_path / "published" / machine.name for machine in machines]
    assert merge(sources, tmp_path / "merged") == {"teachers": 2, "tiny": 6}


def test_a_record_on_both_machines_comes_once_from_the_first(machines: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = shared(machines)
    edit(second, lambda record: record["cost"].update(seconds_per_epoch=99.0))
    merge(machines, tmp_path / "merged")
    assert (tmp_path / "merged" / "tiny" / "records" / first.name).read_bytes() == first.read_bytes()


def test_results_that_differ_are_all_listed_and_nothing_is_written(machines: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = []
    for path in records(machines[0])[:2]:
        other = Path(shutil.copy(path, machines[1] / "tiny" / "records"))
        edit(other, lambda record: record["result"].update(top1=99.5))
        pairs.append((path, other))
    with pytest.raises(KDBenchError) as error:
        merge(machines, tmp_path / "new" / "merged")
    for path, other in pairs:
        record = read_record(path)
        label, seed, top1 = record["cell"]["method"]["label"], record["cell"]["seed"], record["result"]["top1"]
        line = next(line for line in str(error.value).splitlines() if record["id"] in line)
        assert f"{label}, seed {seed}, cifar_resnet8 -> cifar_resnet8: top1 is {top1} in {str(path)!r}" in line
        assert f"and 99.5 in {str(other)!r}" in line
    assert not (tmp_path / "new").exists()


def test_a_difference_beside_the_top1_counts_and_a_value_not_measured_does_not(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    _, second = shared(machines)
    edit(second, lambda record: record["result"].update(ece=None))
    merge(machines, tmp_path / "merged")
    edit(second, lambda record: record["result"].update(nll=9.25))
    with pytest.raises(KDBenchError, match=r"nll is .* and 9\.25 in"):
        merge(machines, tmp_path / "again")


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failure_gives_way_to_a_result(machines: tuple[Path, Path], tmp_path: Path, failed: int) -> None:
    both = shared(machines)
    edit(both[failed], fail)
    merge(machines, tmp_path / "merged")
    assert read_record(tmp_path / "merged" / "tiny" / "records" / both[0].name)["status"] == "done"


def test_of_two_failures_the_last_is_kept(machines: tuple[Path, Path], tmp_path: Path) -> None:
    both = shared(machines)
    for path in both:
        edit(path, fail)
    edit(both[1], lambda record: record.update(reason="another"))
    merge(machines, tmp_path / "merged")
    assert read_record(tmp_path / "merged" / "tiny" / "records" / both[0].name)["reason"] == "another"


def test_done_and_not_applicable_cannot_both_be(machines: tuple[Path, Path], tmp_path: Path) -> None:
    edit(shared(machines)[1], lambda record: (fail(record), record.update(status="not_applicable")))  # type: ignore[func-returns-value]
    with pytest.raises(KDBenchError, match=r"status is done in .* and not_applicable in"):
        merge(machines, tmp_path / "merged")


def test_teachers_that_differ_are_refused(machines: tuple[Path, Path], tmp_path: Path) -> None:
    edit(records(machines[1], "teachers")[0], lambda record: record["result"].update(top1=1.0))
    with pytest.raises(KDBenchError, match=r"teachers: .*\n.*cifar_resnet8@\d: top1 is .* and 1\.0 in"):
        merge(machines, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_conflicts_of_several_suites_are_told_at_once(machines: tuple[Path, Path], tmp_path: Path) -> None:
    edit(records(machines[1], "teachers")[0], lambda record: record["result"].update(top1=1.0))
    edit(shared(machines)[1], lambda record: record["result"].update(top1=2.0))
    with pytest.raises(KDBenchError, match=r"(?s)teachers: .*tiny: "):
        merge(machines, tmp_path / "merged")


def test_a_suites_folder_brings_its_teachers_and_no_other_suite(machines: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(machines[0] / "tiny", machines[0] / "other")
    assert merge([machines[0] / "tiny", machines[1]], tmp_path / "merged") == {"teachers": 2, "tiny": 6}


def test_weights_of_teachers_come_with_their_records(machines: tuple[Path, Path], tmp_path: Path) -> None:
    merge(machines, tmp_path / "merged")
    weights = sorted(path.name for path in (tmp_path / "merged" / "teachers" / "weights").iterdir())
    assert weights == [f"{path.stem}.safetensors" for path in records(tmp_path / "merged", "teachers")]


def test_a_record_of_an_older_version_is_copied_as_it_is(machines: tuple[Path, Path], tmp_path: Path) -> None:
    def first_version(record: dict[str, Any]) -> None:
        record["schema"] = 1
        del record["result"]["ece"], record["result"]["reliability"]

    path = edit(records(machines[0])[0], first_version)
    merge(machines, tmp_path / "merged")
    assert (tmp_path / "merged" / "tiny" / "records" / path.name).read_bytes() == path.read_bytes()


def test_nothing_is_written_over(machines: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    merge(machines, tmp_path / "merged")
    before = tree(tmp_path / "merged")
    with pytest.raises(KDBenchError, match="is not empty: name a new folder with --to"):
        merge(machines, tmp_path / "merged")
    assert tree(tmp_path / "merged") == before


def test_a_merge_that_ends_early_leaves_nothing(
    machines: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stop(path: Path, content: bytes) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(merging, "write_atomically", stop)
    (tmp_path / "to").mkdir()
    with pytest.raises(KeyboardInterrupt):
        merge(machines, tmp_path / "to" / "merged")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_damaged_record_is_named_and_nothing_is_written(machines: tuple[Path, Path], tmp_path: Path) -> None:
    records(machines[1])[0].write_text("{")
    with pytest.raises(KDBenchError, match=f"{records(machines[1])[0].name}' is damaged"):
        merge(machines, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("name", "said"), [("absent", "does not exist"), ("empty", "holds no records")])
def test_a_folder_without_records_is_named(machines: tuple[Path, Path], tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KDBenchError, match=f"{name}' {said}: give a results folder"):
        merge([machines[0], tmp_path / name], tmp_path / "merged")


def test_the_command_merges_and_names_the_next_one(machines: tuple[Path, Path], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["merge", *map(str, machines), "--to", str(tmp_path / "merged")])
    assert result.exit_code == 0
    assert "merged 2 of teachers, 6 of tiny" in result.output
