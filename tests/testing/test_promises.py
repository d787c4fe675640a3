"""The promises list every method and every cell of the suites that kdbench brings, and tell when one is broken."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from kdbench import registry, suites
from kdbench.suites.parse import load
from kdbench.testing import promises as module
from kdbench.testing.promises import promises


@pytest.fixture(scope="module")
def lines() -> list[list[str]]:
    command = [sys.executable, "-m", "kdbench.testing.promises"]
    return [
        line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ]


def test_every_registered_method_has_its_digest(lines: list[list[str]]) -> None:
    digests = {name: digest for kind, name, digest in lines if kind == "method"}
    assert list(digests) == registry.names()
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests.values())


def test_every_cell_of_every_shipped_suite_has_its_id(lines: list[list[str]]) -> None:
    counts = Counter(suite for kind, suite, _ in lines if kind == "cell")
    assert counts == {name: len(load(name).cells()) for name in suites.names()}
    assert len({(suite, identity) for kind, suite, identity in lines if kind == "cell"}) == counts.total()


def test_a_changed_recipe_changes_the_lines_of_its_suite_alone(
    monkeypatch: pytest.MonkeyPatch, lines: list[list[str]]
) -> None:
    def changed(name: str) -> object:
        suite = load(name)
        return replace(suite, recipe=replace(suite.recipe, epochs=7)) if name == "digits" else suite

    monkeypatch.setattr(module, "load", changed)
    altered = [old for old, new in zip(lines, map(str.split, promises()), strict=True) if old != new]
    assert len(altered) == len(load("digits").cells())
    assert {suite for _, suite, _ in altered} == {"digits"}
