"""What there is to choose from, known without torch: the methods by their source, and the data sets' names.

Importing kdbench.methods takes as long as importing torch, so a list of the methods is made without that: each file
runs without its imports and without what its functions and classes do. Constants, base classes, `@register(...)` and
the traits of a class are left, which is all that a list shows.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from kdbench.info import Info, Paper
from kdbench.registry.applies import tasks_of

# what `kdbench.tasks.image.data.load` knows
DATASETS = ("digits", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenet", "folder:PATH", "timm:NAME")
# what `kdbench.tasks.text.data.load` knows, with `task = "text"`
TEXTS = ("wordnet", "glue:TASK", "table:FOLDER", "datasets:ID")
# what `kdbench.tasks.detection.data.load` knows, with `task = "detection"`
SCENES = ("fashion_scenes", "coco", "voc2007", "voc2012", "folder:PATH")
GROUP = "kdbench.methods"  # the package, and the entry points of other packages
TRAITS = ("needs", "min_teachers", "reads_logits")  # what a list shows of a class, or chooses by, beside its entry


class Unreadable(Exception):  # noqa: N818  (a verdict on a file, not a fault)
    """A file registers its methods in a way that only an import can follow."""


@dataclass(frozen=True)
class Entry:
    """A line of the list: the entry in the registry, what the method asks of its networks, in words, and the tasks that
    it applies to.
    """

    info: Info
    needs: tuple[str, ...]
    tasks: tuple[str, ...]


def entries() -> list[Entry]:
    """Every registered method, in alphabetical order; from the registry itself where the source does not tell."""
    try:
        classes = read()
    except Unreadable:
        from kdbench import registry

        classes = [registry.get(name) for name in registry.names()]
    return [Entry(cls.info, tuple(needs_of(cls)), tuple(tasks_of(cls))) for cls in classes]


def needs_of(cls: type[Any]) -> list[str]:
    """What a method asks of its networks beside logits and embedding, in words."""
    needs = [need.replace("_", " ") for need in sorted(cls.needs)]
    bases = {base.__name__ for base in cls.__mro__}  # by name: the bases of a class that was read are not the real ones
    if "MultiTeacherMethod" in bases:
        return [f"{cls.min_teachers}+ teachers", *needs]
    return ["several students", *needs] if "MutualMethod" in bases else needs


def read() -> list[type[Any]]:
    """The registered classes with nothing in them but `info` and `TRAITS`, in alphabetical order of their names.

    Raises:
        Unreadable: if a file has to be imported, or another package registers methods.
    """
    if entry_points(group=GROUP):
        raise Unreadable("entry points are code of other packages")
    reader = _Reader()
    for module in pkgutil.walk_packages(import_module(GROUP).__path__, f"{GROUP}."):
        reader.names(module.name)
    return [reader.classes[name] for name in sorted(reader.classes)]


class _Reader:
    def __init__(self) -> None:
        self.classes: dict[str, type[Any]] = {}
        self._modules: dict[str, dict[str, Any]] = {}

    def names(self, module: str) -> dict[str, Any]:
        """The constants and classes of a module, by name."""
        if module not in self._modules:
            known = {"nn": SimpleNamespace(Module=object), "Paper": Paper, "register": self._register}
            self._modules[module] = known
            for node in _source(module).body:
                if not self._runs(node, known) and _registers(node):
                    raise Unreadable(f"{module}, line {node.lineno}")
        return self._modules[module]

    def _runs(self, node: ast.stmt, known: dict[str, Any]) -> bool:
        """Run one statement; tell whether that could be done."""
        if isinstance(node, ast.ImportFrom) and (node.module == "kdbench" or (node.module or "").startswith(GROUP)):
            there = self.names("kdbench.method" if node.module == "kdbench" else str(node.module))
            known.update({alias.asname or alias.name: there[alias.name] for alias in node.names if alias.name in there})
            return True
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if _is_trait(part)] or [ast.Pass(lineno=1, col_offset=0)]
        elif not isinstance(node, ast.Assign | ast.AnnAssign):
            return False
        try:
            exec(compile(ast.Module([node], []), "<source>", "exec"), known)
        except Exception:  # most of all a NameError: it uses what was not imported
            return False
        return True

    def _register(self, *args: Any, **options: Any) -> Callable[[type[Any]], type[Any]]:
        def enter(cls: type[Any]) -> type[Any]:
            cls.info = Info(*args, **options)
            self.classes[cls.info.name] = cls
            return cls

        return enter


def _source(module: str) -> ast.Module:
    spec = find_spec(module)
    try:
        return ast.parse(spec.loader.get_source(module))  # type: ignore[union-attr]
    except (AttributeError, TypeError, SyntaxError, ValueError) as error:  # no source, or none that is Python
        raise Unreadable(module) from error


def _is_trait(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(isinstance(target, ast.Name) and target.id in TRAITS for target in targets)


def _registers(node: ast.stmt) -> bool:
    """Whether a statement speaks of `register`, as a name or as `kdbench.register`; importing it is no harm."""
    return any("register" in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in ast.walk(node))
