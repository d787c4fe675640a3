"""The wheel holds all that kdbench needs: it is built, installed where no checkout is, and trains a cell there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("kdbench", "methods", "results/reported", "pyproject.toml", "README.md", "LICENSE")
SUITE = """
name = "tiny"
seeds = [0]
methods = ["student"]
[[datasets]]
name = "digits"
protocol = { subset = { per_class = 4 } }
[recipe]
epochs = 1
[[pairs]]
teacher = "cifar_resnet8"
student = "cifar_resnet8"
"""
WHERE = """
import importlib.util
for name in ("kdbench", "kdbench.methods.logits.kd", "kdbench.reported"):
    print(importlib.util.find_spec(name).origin)
"""

pytestmark = pytest.mark.xdist_group("wheel")  # it is built once


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the wheel of a copy of the sources (building writes beside them)."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--no-cache-dir", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options]
    subprocess.run([*pip, "--target", target, source], check=True)
    return target


def python(installed: Path, cwd: Path, *arguments: str) -> str:
    """What Python prints that finds kdbench there and its dependencies where they are, but no checkout."""
    # with -S no .pth file is read, so that an editable installation of the checkout is not found
    sites = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sites])}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_engine_methods_and_reported_numbers_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    origins = [Path(line) for line in python(installed, tmp_path, "-c", WHERE).splitlines()]
    assert len(origins) == 3
    assert all(origin.is_relative_to(installed) for origin in origins)
    for folder, patterns in {
        "kdbench": ("*.toml", "*.j2", "*.css", "*.js", "py.typed"),
        "results/reported": ("*",),
    }.items():
        wanted = [p.relative_to(ROOT / folder) for pattern in patterns for p in (ROOT / folder).rglob(pattern)]
        there = installed / ("kdbench/reported" if folder == "results/reported" else folder)
        missing = [path for path in wanted if not (there / path).exists() and "__pycache__" not in path.parts]
        assert not missing


def test_the_installed_kdbench_trains_a_cell(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE, encoding="utf-8")
    python(installed, tmp_path, "-m", "kdbench", "run", "./tiny.toml", "--out", "runs", "--device", "cpu")
    (record,) = (tmp_path / "runs" / "tiny" / "records").iterdir()
    assert json.loads(record.read_text(encoding="utf-8"))["status"] == "done"
