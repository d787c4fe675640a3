"""The list of methods by their source: the same as the registry's, and left to it where the source does not tell."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kdbench import registry, suites
from kdbench.commands.listing import _count
from kdbench.registry import catalogue
from kdbench.suites import parse

HEAD = "from kdbench import Method, MultiTeacherMethod, Paper, register\n"
REGISTER = '@register("mine", "logits")\n'
READABLE = {
    "constant": 'P = Paper("T", "A", 2020)\n\n@register("mine", "logits", P, aliases=("m",))\nclass Mine(Method): ...',
    "pool": f"{REGISTER}class Mine(MultiTeacherMethod):\n    min_teachers = 3",
    "inherited": f'class Base(Method):\n    needs = frozenset({{"maps"}})\n\n{REGISTER}class Mine(Base): ...',
    "layer": f"from torch import nn\n\nclass Layer(nn.Module): ...\n\n{REGISTER}class Mine(Method): ...",
}
UNREADABLE = {
    "loop": 'for name in ("a", "b"):\n    register(name, "logits")(type(name, (Method,), {}))',
    "computed": 'import math\n\n@register(f"mine{math.pi:.0f}", "logits")\nclass Mine(Method): ...',
    "made": 'def made(): return Method\n\nMine = register("mine", "logits")(made())',
    "hidden": 'def enter(cls): return register("mine", "logits")(cls)\n\n@enter\nclass Mine(Method): ...',
    "base": f"from torch import nn\n\n{REGISTER}class Mine(Method, nn.Linear): ...",
    "broken": "class Mine(",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package that is read instead of kdbench.methods."""
    folder = tmp_path / "read_methods"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalogue, "GROUP", folder.name)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_the_source_tells_of_every_method_what_the_registry_does() -> None:
    told = {cls.info: (cls.needs, catalogue.needs_of(cls)) for cls in catalogue.read()}
    classes = [registry.get(name) for name in registry.names()]
    assert told == {cls.info: (cls.needs, catalogue.needs_of(cls)) for cls in classes}
    assert [entry.info.name for entry in catalogue.entries()] == registry.names()


@pytest.mark.parametrize("body", READABLE.values(), ids=READABLE)
def test_what_is_read_is_what_an_import_would_register(package: Path, body: str) -> None:
    path = package / "mine.py"
    path.write_text(HEAD + body)
    (read,) = catalogue.read()
    (name,) = registry.load_file(path)
    real = registry._METHODS.pop(name)
    assert (read.info, catalogue.needs_of(read)) == (real.info, catalogue.needs_of(real))


def test_a_class_of_another_file_is_followed(package: Path) -> None:
    (package / "a.py").write_text(HEAD + f"from {package.name}.b import B\n\n@register('a', 'logits')\nclass A(B): ...")
    (package / "b.py").write_text(HEAD + "@register('b', 'logits')\nclass B(Method):\n    needs = frozenset({'maps'})")
    assert [(cls.info.name, cls.needs) for cls in catalogue.read()] == [("a", {"maps"}), ("b", {"maps"})]


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_only_an_import_can_follow_is_left_to_the_registry(package: Path, body: str) -> None:
    (package / "mine.py").write_text(HEAD + body)
    with pytest.raises(catalogue.Unreadable):
        catalogue.read()
    assert [entry.info.name for entry in catalogue.entries()] == registry.names()


def test_methods_of_other_packages_are_left_to_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", "theirs.methods", catalogue.GROUP)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [entry] if group == entry.group else [])
    with pytest.raises(catalogue.Unreadable):
        catalogue.read()


@pytest.mark.parametrize("name", suites.names())
def test_the_list_counts_the_methods_that_a_suite_runs(name: str) -> None:
    grid = suites.read(name)
    (task,) = {dataset.get("task", "image") for dataset in grid["datasets"]}
    infos = [entry.info for entry in catalogue.entries() if task in entry.tasks]
    assert _count(grid["methods"], infos) == len(parse.load(name).methods)
