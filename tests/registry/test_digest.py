"""The digest of a method's source: edits of meaning change it, edits of writing do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench import losses, registry
from kdbench.registry import digest
from kdbench.registry.digest import source_digest

METHOD = '''"""A method."""

import torch.nn.functional as F

from kdbench import Method, register
from kdbench.losses import kl

WEIGHT = 2.0


def scaled(value):
    return WEIGHT * value


@register("sourced", family="logits")
class Sourced(Method):
    """Doc."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def loss(self, batch, student, teacher):
        # a comment
        return {"kd": scaled(kl(student.logits, teacher.logits, self.temperature))}
'''


def digest_of(text: str, folder: Path, name: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(text)
    registry.load_file(path)
    found = source_digest(registry.get("sourced"))
    del registry._METHODS["sourced"]
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""Doc."""', '"""Other words."""'),
        ("2.0\n\n\n", "2.0\n\n"),
        ('"logits")', '"features")'),
        ("    def loss", "    def reads(self, stages):\n        return (stages,)\n\n    def loss"),
    ],
)
def test_an_edit_that_decides_no_number_keeps_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert old in METHOD
    assert digest_of(METHOD, tmp_path, "a") == digest_of(METHOD.replace(old, new), tmp_path, "b")


def with_space(line: str) -> str:
    """The method with a search space, or something else of that name."""
    imported = METHOD.replace("import Method", "import Around, Method, Space")
    imported = imported.replace("from kdbench.losses", "import kdbench\nfrom kdbench.losses")
    return imported.replace("    def __init__", f"    {line}\n\n    def __init__")


@pytest.mark.parametrize(
    "line",
    [
        "search_space = Space(temperature=Around())",
        "search_space: object = Space(temperature=Around(3.0))",
        "search_space = kdbench.Space(temperature=kdbench.LogUniform(1.0, 8.0))",
        "search_space = Space()",
    ],
)
def test_a_search_space_is_no_part_of_the_digest(tmp_path: Path, line: str) -> None:
    assert digest_of(METHOD, tmp_path, "a") == digest_of(with_space(line), tmp_path, "b")


@pytest.mark.parametrize(
    "line",
    [
        "search_space = None",
        "search_space = {'temperature': Around()}",
        "search_space = Space(temperature=scaled(Around()))",
        "space = Space(temperature=Around())",
        "def search_space(self):\n        return 1",
    ],
)
def test_what_only_has_the_name_of_a_search_space_is_part_of_it(tmp_path: Path, line: str) -> None:
    text = with_space(line).replace("WEIGHT * value", "value")
    assert digest_of(METHOD.replace("WEIGHT * value", "value"), tmp_path, "a") != digest_of(text, tmp_path, "b")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("temperature: float = 4.0", "temperature: float = 3.0"),
        ("WEIGHT = 2.0", "WEIGHT = 3.0"),
        ("* value", "+ value"),
    ],
)
def test_an_edit_of_the_class_a_constant_or_a_helper_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert old in METHOD
    assert digest_of(METHOD, tmp_path, "a") != digest_of(METHOD.replace(old, new), tmp_path, "b")


def test_an_edit_of_a_kdbench_loss_changes_only_the_methods_that_use_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edited = tmp_path / "losses.py"
    text = Path(losses.__file__).read_text()
    assert "temperature**2" in text
    edited.write_text(text.replace("temperature**2", "temperature**3"))
    before = {name: source_digest(registry.get(name)) for name in ("kd", "student")}
    monkeypatch.setattr(losses.__spec__, "origin", str(edited))
    monkeypatch.setattr(digest, "_REACHED", {})
    assert source_digest(registry.get("student")) == before["student"]
    assert source_digest(registry.get("kd")) != before["kd"]
