"""The engine trains and measures what any task brings: it names neither a metric nor a field of an `Output`."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from kdbench.method import Output
from kdbench.tasks import metrics

ROOT = Path(__file__).parents[1] / "kdbench"
ROOMS = ("executors", "hardware", "records", "registry", "suites", "testing", "training")
HALL = ("method.py", "reads.py", "seeding.py", "errors.py", "info.py", "__init__.py")


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


ENGINE = [*(path for room in ROOMS for path in files(room)), *(ROOT / name for name in HALL)]
# the reader of records that an older kdbench wrote, which were all of classification
MIGRATION = {"records/__init__.py"}

SCORE = re.compile(r"(?<![a-z0-9])(" + "|".join(m.name for m in metrics.of("image").scores) + r")(?![a-z0-9])")
FIELDS = {field.name for field in fields(Output)} - {"strong", "stem"}  # batches and paths have these, too
RUNS = [
    path
    for room in ("commands", "executors", "hardware", "testing", "training")
    for path in files(room)
    if path.parent.name != "templates"  # files of methods, which `kdbench new` writes
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_pattern_finds_words_and_parts_of_columns() -> None:
    assert all(SCORE.search(text) for text in ('"top1"', "best_top1", "teacher.top1", "nll_of", "ece"))
    assert not SCORE.search("ecectra rpiece stop1 top15")


@pytest.mark.parametrize("path", [path for path in ENGINE if name(path) not in MIGRATION], ids=name)
def test_the_engine_names_no_metric(path: Path) -> None:
    found = SCORE.findall(path.read_text(encoding="utf-8"))
    assert not found, f"{name(path)} names {found[0]}: take it from the task's table of metrics"


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_the_engine_names_no_field_of_an_output(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in FIELDS:
            raise AssertionError(f"{name(path)}:{node.lineno} reads {ast.unparse(node)}: ask the `Output`")
