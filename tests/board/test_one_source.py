"""A label stands for one source: runs of another are missing and say why, and a published mix is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdbench.board.publishing.publish import publish
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Tables
from kdbench.commands.cli import app
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.suites.grid import Suite, identity

OLD, NEW = "052fcfaf4b9a43ea", "6cb3ed9ba626935c"
FILE = """
import torch.nn.functional as F
from kdbench import Method, register

@register("mine", family="logits")
class Mine(Method):
    def loss(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.targets)}
"""


@pytest.fixture
def out(tiny_runs: Path, tmp_path: Path) -> Path:
    """Runs that may be changed, of which those of kd are said to be of a method that is not at hand."""
    folder = Path(shutil.copytree(tiny_runs, tmp_path / "runs"))
    renamed(folder, lambda seed: OLD if seed == 0 else NEW)
    return folder


def renamed(folder: Path, source: Callable[[int], str], name: str = "kd") -> None:
    """Turn kd's runs (or mine) into runs of `mine`, each from a source by its seed; the later seed is the newer run."""
    for path in sorted((folder / "tiny" / "records").iterdir()):
        record = json.loads(path.read_text())
        if record["cell"]["method"]["name"] != name:
            continue
        seed = record["cell"]["seed"]
        record["cell"]["method"] |= {"name": "mine", "label": "mine", "source": source(seed), "hyperparameters": {}}
        record["provenance"]["finished_at"] = f"2025-01-0{1 + seed}T00:00:00+00:00"
        record["id"] = identity(record["cell"])
        path.unlink()
        path.with_name(f"{record['id']}.json").write_text(json.dumps(record))


def suite_of(out: Path) -> Suite:
    return parse.load(str(out / "tiny.toml"))


def row(out: Path) -> dict[str, Any]:
    long = Tables.of(suite_of(out).cells(), Store(out / "tiny").all()).long
    return dict(long[long["method"] == "mine"].iloc[0])


def test_runs_of_an_older_source_are_missing_and_say_why(out: Path) -> None:
    found = row(out)
    assert (found["n"], found["missing"]) == (1, 1)
    assert f"seed 0 ran from source {OLD} of its method, the newest run of that name from {NEW}" in found["remark"]


def test_runs_of_one_source_form_a_row(out: Path) -> None:
    renamed(out, lambda seed: NEW, name="mine")
    assert (row(out)["n"], row(out)["remark"]) == (2, "")


def test_publish_takes_one_source_and_validate_finds_two(out: Path, tmp_path: Path) -> None:
    done = publish(suite_of(out), out, tmp_path / "results")
    (report,) = validate(done.folder)
    assert report.problems == []
    older = next(r for r in Store(out / "tiny").all() if r["cell"]["method"]["source"] == OLD)
    assert not Store(done.folder).has(older["id"])
    shutil.copy(out / "tiny" / "records" / f"{older['id']}.json", done.folder / "records")
    (report,) = validate(done.folder)
    assert any(f"is from {NEW}: publish anew" in str(problem) and OLD in str(problem) for problem in report.problems)


@pytest.mark.usefixtures("temporary")
def test_with_its_file_a_methods_present_source_counts_and_not_its_newest_run(out: Path, tmp_path: Path) -> None:
    from kdbench import registry
    from kdbench.registry.digest import source_digest

    path = tmp_path / "mine.py"
    path.write_text(FILE)
    registry.load_file(path)
    present = source_digest(registry.get("mine"))
    renamed(out, lambda seed: present if seed == 0 else NEW, name="mine")
    options = ["--suite", str(out / "tiny.toml"), "--out", str(out)]
    compared = CliRunner().invoke(app, ["compare", str(path), "student", *options])
    assert compared.exit_code == 0, compared.output
    assert "too few seeds to tell mine and student apart (1)" in compared.output  # seed 1 is of another source
    words = ["publish", str(out / "tiny.toml"), "--out", str(out), "--to", str(tmp_path / "to"), "--methods", str(path)]
    published = CliRunner().invoke(app, words)
    assert published.exit_code == 0, published.output
    methods = [record["cell"]["method"] for record in Store(tmp_path / "to" / "tiny").all()]
    assert {method["source"] for method in methods if method["name"] == "mine"} == {present}
