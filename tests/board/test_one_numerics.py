"""A row holds one numerics: other seeds are missing and say why, and rows of different numerics are not compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench.board.compare import compare
from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Tables
from kdbench.board.select import choose
from kdbench.board.tables import OVERALL
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.records import Record, Store
from kdbench.suites import parse
from kdbench.suites.grid import Suite

OTHERS = [
    ("threads", 2, "threads 2", "threads 1"),
    ("precision", "bf16", "precision bf16", "precision fp32"),
    ("compile", True, "compile true", "compile false"),
    ("cuda_graphs", True, "cuda_graphs true", "cuda_graphs false"),
    ("device", "cuda", "device cuda and threads unknown", "device cpu and threads 1"),
    ("threads", None, "threads unknown", "threads 1"),  # a record that does not say is like nothing else
]


@pytest.fixture
def suite(tiny_runs: Path) -> Suite:
    return parse.load(str(tiny_runs / "tiny.toml"))


@pytest.fixture
def out(tiny_runs: Path, tmp_path: Path) -> Path:
    """Runs that may be changed, as a processor without bf16 leaves them."""
    folder = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    computed(folder / "tiny", lambda record: True, "2025-01-01T00:00:00+00:00", precision="fp32", compile=False)
    return folder


def kd(record: dict[str, Any]) -> bool:
    return bool(record["cell"]["method"]["name"] == "kd")


def first_kd(record: dict[str, Any]) -> bool:
    return kd(record) and record["cell"]["seed"] == 0


def computed(
    folder: Path, of: Callable[[dict[str, Any]], bool], when: str = "2020-01-01T00:00:00+00:00", **numerics: Any
) -> None:
    """Let some records say that they were computed otherwise, and when."""
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        if of(record):
            record["provenance"]["finished_at"] = when
            used = record["provenance"]["numerics"] | numerics
            record["provenance"]["numerics"] = {key: value for key, value in used.items() if value is not None}
            path.write_text(json.dumps(record))


def records(out: Path) -> list[Record]:
    return Store(out / "tiny").all()


def row(tables: Tables, method: str = "kd") -> dict[str, Any]:
    long = tables.long
    found: dict[str, Any] = long[(long["method"] == method) & (long["pair"] != OVERALL)].iloc[0].to_dict()
    return found


@pytest.mark.parametrize(("key", "value", "mine", "theirs"), OTHERS)
def test_a_seed_of_other_numerics_than_the_newest_is_missing_and_says_why(
    out: Path, suite: Suite, key: str, value: Any, mine: str, theirs: str
) -> None:
    computed(out / "tiny", first_kd, **{key: value})
    tables = Tables.of(suite.cells(), records(out))
    found, whole = row(tables), tables.runs.set_index(["method", "seed"])
    assert (found["n"], found["missing"]) == (1, 1)
    assert f"1 missing: seed 0 ran with {mine}, the newest of its row with {theirs}: delete " in found["remark"]
    assert whole.loc[("kd", 0)]["status"] == "missing"
    assert whole.loc[("kd", 0)]["reason"] in found["remark"]
    assert row(tables, "student")["n"] == 2


def test_the_newest_decides_even_if_it_is_the_odd_one_out(out: Path, suite: Suite) -> None:
    computed(out / "tiny", first_kd, when="2999-01-01T00:00:00+00:00", threads=2)
    tables = Tables.of(suite.cells(), records(out))
    assert tables.runs.set_index(["method", "seed"]).loc[("kd", 1)]["status"] == "missing"


def test_a_failed_run_decides_nothing(out: Path, suite: Suite) -> None:
    computed(out / "tiny", first_kd, when="2999-01-01T00:00:00+00:00", threads=2)
    found = [{**r, "status": "failed", "reason": "why"} if first_kd(r) else r for r in records(out)]  # type: ignore[arg-type]
    assert choose(found, suite.cells()).strays == []  # type: ignore[arg-type]


def test_the_threads_of_an_accelerators_host_make_no_difference(out: Path, suite: Suite) -> None:
    computed(out / "tiny", kd, device="cuda", threads=8)
    computed(out / "tiny", first_kd, threads=16)
    assert choose(records(out), suite.cells()).strays == []


def test_a_row_of_other_numerics_is_not_compared_and_says_why(out: Path, suite: Suite) -> None:
    computed(out / "tiny", kd, threads=2)
    tables = Tables.of(suite.cells(), records(out))
    for found in (row(tables), dict(tables.wide.set_index("method").loc["kd"])):
        assert [found[name] != found[name] for name in ("vs_student", "vs_student_p", "gap_closed")] == [True] * 3
        assert "not compared with student: seeds 0, 1 ran under other numerics" in found["remark"]
    assert row(tables, "aver_mkd")["vs_student_n"] == 2
    with pytest.raises(KDBenchError, match="'kd' and 'student' ran under different numerics with every seed"):
        compare(records(out), "kd", "student")


def test_rows_of_the_same_numerics_are_compared_whatever_the_others_have(out: Path, suite: Suite) -> None:
    computed(out / "tiny", lambda record: True, threads=2)
    found = row(Tables.of(suite.cells(), records(out)))
    assert (found["vs_student_n"], found["remark"]) == (2, "")


def test_compare_and_status_name_the_seeds_that_do_not_count(out: Path) -> None:
    computed(out / "tiny", first_kd, threads=2)
    suite = str(out / "tiny.toml")
    for command in (["compare", "kd", "student", "--suite", suite], ["status", suite]):
        result = CliRunner().invoke(app, [*command, "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert "kdbench: kd on cifar_resnet8 -> cifar_resnet8: seed 0 ran with threads 2" in result.stderr
        assert "1 record left out of what is shown" in result.stderr


def test_publish_leaves_a_seed_of_other_numerics_aside(out: Path, suite: Suite, tmp_path: Path) -> None:
    computed(out / "tiny", first_kd, threads=2)
    done = publish(suite, out, tmp_path / "results")
    assert (done.records, done.aside) == (5, 1)
    assert validate(done.folder)[0].problems == []


def test_validate_finds_a_row_of_several_numerics(out: Path, suite: Suite, tmp_path: Path) -> None:
    folder = publish(suite, out, tmp_path / "results").folder
    computed(folder, first_kd, threads=2)
    remake(folder)
    (problem,) = validate(folder)[0].problems
    assert "provenance.numerics: 'threads 2': the newest of its row, records/" in str(problem)
    assert "ran with threads 1: publish the suite again" in str(problem)


def test_validate_leaves_rows_of_different_numerics_alone(out: Path, suite: Suite, tmp_path: Path) -> None:
    folder = publish(suite, out, tmp_path / "results").folder
    computed(folder, kd, threads=2)
    remake(folder)
    assert validate(folder)[0].problems == []
