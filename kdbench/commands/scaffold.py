"""`kdbench new`: the file of a method that already runs, with the places to fill in."""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path

from kdbench import registry
from kdbench.errors import KDBenchError, unknown
from kdbench.records.files import write_atomically
from kdbench.registry.applies import check_task

TEMPLATES = files("kdbench.commands") / "templates"  # one file per family: a whole method, called my_method


def families() -> list[str]:
    """The families that have a template."""
    return sorted(entry.name.removesuffix(".py") for entry in TEMPLATES.iterdir() if entry.name.endswith(".py"))


def template_of(task: str) -> str:
    """The template of what a task's networks offer alone; for images a method of the logits.

    Raises:
        KDBenchError: if there is no such task.
    """
    check_task(task)
    return "logits" if task == "image" else task


def method_source(name: str, family: str) -> str:
    """The text of the file.

    Raises:
        KDBenchError: if the name is no Python name or is taken, or there is no such family.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise KDBenchError(f"{name!r} is no Python name: use letters, digits and underscores, as in my_method")
    if name in registry.names():
        raise KDBenchError(f"method {name!r} exists already: choose another name")
    if family not in families():
        raise unknown("family", family, families())
    text = (TEMPLATES / f"{family}.py").read_text(encoding="utf-8")
    return text.replace("my_method", name).replace("MyMethod", "".join(p.capitalize() for p in name.split("_")))


def write_method(name: str, family: str, folder: Path) -> Path:
    """Write `<folder>/<name>.py`, never over a file that exists."""
    path = folder / f"{name}.py"
    text = method_source(name, family)
    if path.exists():
        raise KDBenchError(f"{str(path)!r} exists already: remove it or choose another name")
    write_atomically(path, text.encode())
    return path
