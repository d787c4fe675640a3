"""An edit that changes no bit may name what it replaces: ids stay. Any further edit makes records stale again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.registry import digest, modules, predecessors
from kdbench.registry.predecessors import Edit

MODULE = "kdbench.example"
WAS = """
def wide(x):
    return x.double()


def spread(x):
    centred = wide(x) - wide(x).mean()
    return (centred * centred).mean()


class M:
    def loss(self, student):
        return spread(student)


class Other:
    def loss(self, student):
        return wide(student)
"""
OLD = WAS[WAS.index("def spread") : WAS.index("class M")]
NEW = """
def squares(x):
    return x.mul(x)


def spread(x):
    x = wide(x)
    return squares(x - x.mean()).mean()
"""
NOW = WAS.replace(OLD, NEW)


def digest_of(text: str, folder: Path, name: str = "M") -> str:
    (folder / "example.py").write_text(text)
    return digest.reached(folder / "example.py", MODULE, name).digest


def run(text: str, inputs: torch.Tensor) -> torch.Tensor:
    names: dict[str, Any] = {}
    exec(text, names)
    return names["spread"](inputs)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """The worked example of CONTRIBUTING.md: the digests before and after, and the text before."""
    was, now = (digest_of(text, tmp_path, "spread") for text in (WAS, NOW))
    edit = Edit("spread", was, now, OLD)
    monkeypatch.setattr(predecessors, "edits", lambda: (edit,))
    return edit


def test_the_edit_of_the_example_changes_no_bit() -> None:
    for seed in range(5):
        inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(run(WAS, inputs), run(NOW, inputs))


def test_an_edit_without_an_entry_changes_the_digest_of_what_reaches_it(tmp_path: Path) -> None:
    assert digest_of(WAS, tmp_path) != digest_of(NOW, tmp_path)
    assert digest_of(WAS, tmp_path, "Other") == digest_of(NOW, tmp_path, "Other")


def test_an_edit_with_an_entry_keeps_the_digest_of_what_reaches_it(entry: Edit, tmp_path: Path) -> None:
    assert digest_of(NOW, tmp_path) == digest_of(WAS, tmp_path)
    assert digest_of(NOW, tmp_path, "spread") == entry.was


@pytest.mark.parametrize(
    ("old", "new"), [("x - x.mean()", "x - x.median()"), ("x.mul(x)", "x.abs()"), ("x.double()", "x.float()")]
)
def test_a_further_edit_of_it_or_of_what_it_reaches_makes_records_stale(
    entry: Edit, tmp_path: Path, old: str, new: str
) -> None:
    assert NOW.count(old) == 1
    assert digest_of(NOW.replace(old, new), tmp_path) not in (digest_of(WAS, tmp_path), digest_of(NOW, tmp_path))


def test_a_method_class_keeps_its_digest_and_helpers_that_are_gone_stand_in_the_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inlined = WAS.replace(OLD, "").replace("return spread(student)", "x = wide(student)\n        return (x - x.mean())")
    old_class = WAS[WAS.index("class M") : WAS.index("class Other")]
    was, now = digest_of(WAS, tmp_path), digest_of(inlined, tmp_path)
    monkeypatch.setattr(predecessors, "edits", lambda: (Edit("M", was, now, OLD + old_class),))
    assert was != now
    assert digest_of(inlined, tmp_path) == was


def test_a_user_s_function_of_the_same_name_has_no_predecessor_here(entry: Edit, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NOW)
    assert digest.reached(tmp_path / "mine.py", "mine", "spread").digest == entry.now


def test_every_entry_that_is_written_down_holds() -> None:
    """It names code that is there, and its old text gives the old digest."""
    for edit in predecessors.edits():
        standing = [found for module in modules_of_ours() if (found := standing_digest(module, edit.name))]
        assert edit.was in standing, f"{edit.name}: no definition of this name has the digest {edit.was} any more"


def modules_of_ours() -> list[str]:
    import kdbench.methods

    root = Path(kdbench.methods.__path__[0])
    files = [path.relative_to(root).with_suffix("") for path in root.rglob("*.py")]
    return ["kdbench.losses", "kdbench.connectors", *(".".join(("kdbench.methods", *file.parts)) for file in files)]


def standing_digest(module: str, name: str) -> str | None:
    spec = modules.spec_of(module)
    if spec is None or spec.origin is None or name not in modules.read(spec.origin, module).bindings:
        return None
    return digest.reached(spec.origin, module, name).digest
