"""A method whose package is not installed fails alone, with a sentence that says which extra brings it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdbench.testing.trial import Bench


def test_a_method_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    bench = Bench(tmp_path, epochs=1)
    without, other = bench.run([bench.cell("ig_kd"), bench.cell("kd")])
    assert (without["status"], other["status"]) == ("failed", "done")
    assert without["reason"] == "ig_kd needs captum: pip install 'kdbench[attribution]'"


def test_a_package_that_no_extra_brings_is_named_as_python_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench import registry

    def loss(*_: object) -> None:
        import nowhere  # noqa: F401

    monkeypatch.setattr(registry.get("kd"), "loss", loss)
    bench = Bench(tmp_path, epochs=1)
    assert bench.run([bench.cell("kd")])[0]["reason"] == "ModuleNotFoundError: No module named 'nowhere'"
