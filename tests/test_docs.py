"""What the documents list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from kdbench import registry, suites

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_method_in_its_family() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", README, re.MULTILINE)
    listed = {name: family for family, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert listed == {name: registry.get(name).info.family for name in registry.names()}
    assert f"{len(listed)} methods in {len(rows)} families" in README


def test_the_suites_that_the_readme_names_exist() -> None:
    line = next(line for line in README.splitlines() if line.startswith("kdbench list suites"))
    named = re.findall(r"\w+", line.partition("#")[2])
    assert set(named) - {"and", "others"} <= set(suites.names())
