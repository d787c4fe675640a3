"""The engine trains, measures and shows what any task brings: it names neither a metric nor a field of an `Output`."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from kdbench.method import Output

ROOT = Path(__file__).parents[1] / "kdbench"
NAMES = re.compile(r"(?<![a-z0-9])(top-?1|top-?5|nll|ece)(?![a-z0-9])", re.IGNORECASE)
# who may name one all the same, and which
ALLOWED = {
    "papers/reported.py": {"top1", "top-1", "top-5"},  # the reader of results/reported, whose column is called so
    "registry/dump.py": {"ece"},  # a code point in a table
    "records/reading.py": {"ece"},  # the migration of records that were written before it was measured
}
FILES = sorted(
    path
    for path in ROOT.rglob("*")
    if path.suffix in (".py", ".j2", ".js") and path.relative_to(ROOT).parts[0] != "tasks"
)
FIELDS = {field.name for field in fields(Output)} - {"strong", "stem"}  # batches and paths have these, too
RUNS = [
    path
    for room in ("commands", "executors", "hardware", "testing", "training")
    for path in sorted((ROOT / room).rglob("*.py"))
    if path.parent.name != "templates"  # files of methods, which `kdbench new` writes
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_words_and_parts_of_columns_are_found_and_other_words_are_not() -> None:
    text = '"top1" best_top1 top1_mean teacher.top5 Top-1 nll_of ECE piece stop1 top15 recent'
    assert NAMES.findall(text) == ["top1", "top1", "top1", "top5", "Top-1", "nll", "ECE"]


def test_every_exception_is_needed() -> None:
    for file, allowed in ALLOWED.items():
        assert set(NAMES.findall((ROOT / file).read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_names_a_metric_of_classification(path: Path) -> None:
    found = set(NAMES.findall(path.read_text(encoding="utf-8"))) - ALLOWED.get(name(path), set())
    assert not found, f"{name(path)} names {', '.join(sorted(found))}: take it from the metrics of the records' task"


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_the_engine_names_no_field_of_an_output(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in FIELDS:
            raise AssertionError(f"{name(path)}:{node.lineno} reads {ast.unparse(node)}: ask the `Output`")
