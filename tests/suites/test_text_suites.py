"""The suites of texts are planned without their data."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kdbench import registry
from kdbench.commands.cli import app
from kdbench.registry.applies import reason
from kdbench.suites.networks import split
from kdbench.suites.parse import load
from kdbench.tasks.text.checkpoints import is_checkpoint

TEXT = ("alp_kd", "mlkd_bert", "makd", "distilbert", "bert_pkd", "tinybert", "minilm")


@pytest.mark.parametrize("name", ["text_small", "glue"])
def test_a_suite_has_every_method_of_text_and_the_baselines_with_paired_seeds(name: str) -> None:
    suite = load(name)
    methods = {spec.name for spec in suite.methods}
    assert {*TEXT, "student", "kd"} <= methods
    assert len(suite.seeds) >= 3
    assert not [method for method in methods if reason(registry.get(method), "text")]
    assert {cell.method.name for cell in suite.cells()} == methods
    assert all(is_checkpoint(split(name)[0]) for pair in suite.pairs for name in (pair.student, pair.teacher.network))


@pytest.mark.xdist_group("text")
@pytest.mark.parametrize("name", ["text_small", "glue"])
def test_a_suite_is_planned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.tasks.text.data import wordnet  # after the marker: it imports transformers

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(wordnet, "PLACES", ())
    words = ["run", name, "--dry-run", "--out", str(tmp_path / "runs"), "--data", str(tmp_path)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "cost unknown: dataset" in told.output
