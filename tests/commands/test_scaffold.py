"""`kdbench new`: every family's template is a method that already runs and passes every style check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench import registry
from kdbench.commands import cli
from kdbench.commands.scaffold import families, method_source, write_method
from kdbench.errors import KDBenchError
from kdbench.testing.checks import first_task, trains
from kdbench.testing.trial import Bench

pytestmark = pytest.mark.usefixtures("temporary")

ROOT = Path(__file__).parents[2]
FAMILIES = families()


def test_there_is_a_template_of_every_family_but_the_baseline() -> None:
    assert {registry.get(name).info.family for name in registry.names()} - {"baseline"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_registers_a_method_that_trains(tmp_path: Path, family: str) -> None:
    path = write_method("my_method", family, tmp_path)
    assert registry.load_file(path) == ["my_method"]
    info = registry.get("my_method").info
    assert (info.name, info.family, info.fidelity) == ("my_method", family, "unchecked")
    trains(Bench.of(first_task("my_method"), tmp_path), "my_method")


def test_the_templates_pass_lint_and_format(tmp_path: Path) -> None:
    for family in FAMILIES:
        write_method(f"my_{family}", family, tmp_path)
    for command in (["check"], ["format", "--check", "--diff"]):
        words = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_template_passes_kdbench_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_method("my_method", "features", tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdbench", "check", str(path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr().out
    assert end.value.code == 0, out
    assert "my_method: resumes to the same bits: ok" in out


def test_a_method_that_breaks_the_contract_does_not_pass_kdbench_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_method("my_method", "logits", tmp_path)
    path.write_text(path.read_text().replace("self.ce_weight * F", "float('nan') * F"))
    monkeypatch.setattr("kdbench.testing.checks.CHECKS", {"trains": trains})
    monkeypatch.setattr(sys, "argv", ["kdbench", "check", str(path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "my_method: trains: the cell ended as failed: loss term 'ce' became nan" in capsys.readouterr().out


def test_the_class_is_named_after_the_method() -> None:
    assert "class MyBestMethod(MutualMethod):" in method_source("my_best_method", "mutual")


@pytest.mark.parametrize("name", ["kd", "2nd", "class", "my-method", "sub/dir"])
def test_a_name_that_no_method_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KDBenchError, match=r"choose another name|is no Python name"):
        write_method(name, "logits", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_family_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="unknown family 'feature': did you mean 'features'"):
        write_method("my_method", "feature", tmp_path)


def test_a_file_that_exists_is_not_written_over(tmp_path: Path) -> None:
    path = write_method("my_method", "logits", tmp_path)
    before = path.read_text()
    with pytest.raises(KDBenchError, match="exists already"):
        write_method("my_method", "features", tmp_path)
    assert path.read_text() == before
