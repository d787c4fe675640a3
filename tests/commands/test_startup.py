"""What commands that compute nothing must not wait for: the libraries that take seconds to import."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from timm.optim import list_optimizers

from kdbench.suites.recipe import OPTIMIZERS

HEAVY = {"torch", "torchvision", "timm", "pandas", "scipy", "sklearn"}
COMMAND = """
import sys
sys.argv = ["kdbench", *{arguments!r}]
from kdbench.commands.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def loaded(code: str) -> set[str]:
    """The modules that are loaded when `code` has run in a Python of its own."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


def loaded_by(*arguments: str) -> set[str]:
    return loaded(COMMAND.format(arguments=arguments))


def test_importing_kdbench_loads_no_heavy_library() -> None:
    assert not HEAVY & loaded("import sys, kdbench; print(*sys.modules, file=sys.stderr)")


def test_the_metrics_of_a_task_are_told_without_what_the_task_needs() -> None:
    code = "from kdbench.tasks import metrics; import sys; metrics.of('image'); print(*sys.modules, file=sys.stderr)"
    modules = loaded(code)
    assert "kdbench.tasks.image.metrics" in modules
    assert not HEAVY & modules


@pytest.mark.parametrize(
    "arguments",
    ["--help", "run --help", "list", "list --papers", "list suites", "list datasets"],
)
def test_a_command_that_only_lists_loads_no_heavy_library(arguments: str) -> None:
    assert not HEAVY & loaded_by(*arguments.split())


@pytest.mark.parametrize("command", ["run", "status", "run --dry-run"])
def test_a_finished_suite_is_shown_without_what_training_needs(tiny_runs: Path, tmp_path: Path, command: str) -> None:
    out = shutil.copytree(tiny_runs, tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("records/*.json")}
    modules = loaded_by(*command.split(), str(out / "tiny.toml"), "--out", str(out))
    assert (
        not {"timm", "torchvision", "sklearn", "plotly", "kdbench.training.cohort", "kdbench.executors.local"} & modules
    )
    assert {path: path.stat().st_mtime_ns for path in out.rglob("records/*.json")} == before


def test_timm_has_the_optimizers_that_are_taken_without_a_look_at_its_list() -> None:
    assert set(OPTIMIZERS) <= set(list_optimizers())
