"""The benchmarks run, their report holds what they measured, and the reference does the same work as kdbench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import reference, report
from benchmarks.figures import Results
from benchmarks.setting import SIX
from benchmarks.targets import START_UP
from kdbench import Batch, Output, registry
from kdbench.hardware.machine import multiplies_bf16
from kdbench.tasks.image import networks

ROOT = Path(__file__).parents[1]
SHAPES: dict[str, Any] = {"num_classes": 100, "in_chans": 3, "input_size": (3, 32, 32)}


@pytest.fixture(scope="module")
def outputs() -> tuple[Any, Any, Output, Output, Tensor]:
    torch.manual_seed(0)
    student, teacher = networks.create("cifar_resnet8", **SHAPES), networks.create("cifar_resnet14", **SHAPES)
    inputs, targets = torch.randn(64, 3, 32, 32), torch.randint(0, 100, (64,))
    with torch.no_grad():
        return student, teacher, student(inputs), teacher(inputs), targets


@pytest.mark.parametrize("method", SIX)
@pytest.mark.parametrize("epoch", [1, 20])
def test_the_references_loss_is_kdbenchs(outputs: Any, method: str, epoch: int) -> None:
    student, teacher, ours, theirs, targets = outputs
    mine = registry.create(method, {})
    mine.bind([student], [teacher])
    mine.epoch, mine.epochs = epoch, 240
    loss = reference.LOSSES[method](student, teacher)
    loss.load_state_dict({name.removeprefix("hint."): tensor for name, tensor in mine.state_dict().items()})
    expected = sum(mine.loss(Batch(torch.empty(64, 0), targets, torch.arange(64)), ours, theirs).values())
    found = sum(loss(ours, theirs, targets, epoch).values())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def toy_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark, once, at a size that shows only that it runs; of the start-up's commands, one.

    It is told nothing of the pytest that starts it: pytest-benchmark measures nothing in a worker of pytest-xdist.
    """
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    options = ["--toy", f"--benchmark-json={path}", "-k", "not start_of or start_of[python]", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "benchmarks", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("benchmarks")
def test_a_run_fills_every_section_of_the_report(toy_results: Path, tmp_path: Path) -> None:
    page, *pictures = report.write(Results.read(toy_results), tmp_path)
    text = page.read_text()
    missing = [line for line in text.splitlines() if "ot measured in this run" in line]
    rows = [line for line in missing if line.startswith("|")]
    assert [line.split("|")[1].strip(" `") for line in rows] == list(START_UP)  # the commands that are left out
    sections = [line for line in missing if line not in rows]
    bf16 = multiplies_bf16(torch.device("cpu"))
    assert [line.split("`")[1] for line in sections] == ([] if bf16 else ["pytest benchmarks/test_precision.py"])
    assert all(f"({picture.relative_to(tmp_path)})" in text for picture in pictures)
    assert len(pictures) == 2


@pytest.mark.slow
@pytest.mark.xdist_group("benchmarks")
def test_a_run_of_some_benchmarks_says_what_is_missing(toy_results: Path, tmp_path: Path) -> None:
    content = json.loads(toy_results.read_text())
    content["benchmarks"] = [entry for entry in content["benchmarks"] if "growth" in entry["fullname"]]
    page, *pictures = report.write(Results(content), tmp_path)
    assert [picture.name for picture in pictures] == ["cost_of_a_cell.svg"]
    assert "Not measured in this run: `pytest benchmarks/test_steps.py`." in page.read_text()


def test_a_figure_that_falls_short_is_said_to() -> None:
    def row(side: str, seconds: float, **about: str) -> dict[str, Any]:
        extra = {"side": side, "how": "fp32", "steps": 1, **about}
        return {"group": "six methods", "stats": {"data": [seconds]}, "extra_info": extra}

    turns = [("reference", "before"), ("reference", "after"), ("alone", "")]
    each = [row(side, 1.0, method=method, when=when) for side, when in turns for method in SIX]
    text = report.render(Results({"benchmarks": [*each, row("cohort", 3.0)]}))
    assert "over the same six as the peers run them | at least 8 times as fast | 2.00 times | **short** |" in text
    assert "over the same six one by one in kdbench | at least 1.8 times as fast | 2.00 times | reached |" in text
