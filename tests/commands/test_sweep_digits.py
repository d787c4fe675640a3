"""The embedded suite, tuned: four trials of six methods, their tuned rows, a published folder that is sound."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from kdbench.commands.cli import app

METHODS = ("student", "kd", "dkd", "fitnet", "simkd", "at")


def shortened(folder: Path) -> Path:
    """The suite `digits` with six methods, its first pair, two seeds and three epochs."""
    text = (files("kdbench.suites") / "digits.toml").read_text(encoding="utf-8")
    text = re.sub(r"seeds = .*", 'name = "digits_short"\nseeds = [0, 1]', text, count=1)
    text = re.sub(r'  "student", .*', f"  {', '.join(repr(name) for name in METHODS[:-1])},", text)
    text = re.sub(r"^epochs = .*", "epochs = 3", text, flags=re.MULTILINE)
    path = folder / "digits_short.toml"
    path.write_text("[[pairs]]".join(text.split("[[pairs]]")[:2]))
    return path


@pytest.mark.sweep
def test_digits_is_tuned_published_and_validated(tmp_path: Path) -> None:
    suite, runs, results = shortened(tmp_path), str(tmp_path / "runs"), str(tmp_path / "results")
    for words in (
        ("sweep", suite, "--trials", "4", "--epochs-share", "1/3", "--out", runs, "--device", "cpu"),
        ("run", suite, "--tuned", "--out", runs, "--device", "cpu"),
        ("publish", suite, "--out", runs, "--to", results),
        ("validate", results),
    ):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    assert "24 records, " in result.output
    assert "nothing wrong" in result.output
    table = pd.read_csv(tmp_path / "results" / "digits_short" / "leaderboard.csv")
    tuned = table[table["trials"].notna()]
    assert len(table) == 12
    assert dict(zip(tuned["name"], tuned["trials"], strict=True)) == {**dict.fromkeys(METHODS, 4), "simkd": 3}
