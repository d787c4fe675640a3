"""The digest of a method's source: what the code means, not how it is written.

A method's result is decided by its class and by everything that it names: helpers of its own file, functions of
`kdbench.losses`, layers of `kdbench.connectors`, other methods it builds on, an author's own modules. The digest covers
those definitions as syntax trees without what decides no number (docstrings, the paper's entry, `reads`, the search
space), so an edited formula runs the cell again and an edited comment does not. It names definitions, not files: what
is moved stays what it is. What cannot be followed is told by `untracked`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kdbench.errors import KDBenchError
from kdbench.registry import modules, predecessors
from kdbench.registry.dump import dump
from kdbench.registry.modules import Module, Target

Key = tuple[str, str]  # (module, top-level name)
EFFECTS = "(import)"  # in place of a name: what a module does when it is imported
CONTRACT = ("kdbench", "kdbench.method")  # the engine's own, which its version covers
# a record names their versions; they are not followed where somebody has them as a checkout either
DEPENDENCIES = {"torch", "torchvision", "timm", "numpy", "pandas", "scipy", "sklearn", "safetensors", "captum"}
_REACHED: dict[type, Reached] = {}


def source_digest(cls: type) -> str:
    """16 hex digits over the class and all that it reaches, transitively; a composition's over its parts'."""
    parts = "+".join(source_digest(part) for part in getattr(cls, "parts", ()))
    return hashlib.sha256(parts.encode()).hexdigest()[:16] if parts else _reached(cls).digest


def untracked(cls: type) -> list[str]:
    """What a class uses that its digest cannot follow, in alphabetical order: an edit there goes unnoticed."""
    return sorted({name for part in getattr(cls, "parts", ()) or (cls,) for name in _reached(part).untracked})


_text = cache(dump)  # definitions are not changed once they are read, and many methods reach the same


def _reached(cls: type) -> Reached:
    if cls not in _REACHED:
        file = inspect.getsourcefile(cls)
        if file is None:
            raise KDBenchError(f"the source of method class {cls.__name__} cannot be found: define it in a file")
        _REACHED[cls] = reached(file, cls.__module__, cls.__qualname__.partition(".")[0])
    return _REACHED[cls]


def reached(file: str | Path, module: str, name: str) -> Reached:
    """All that a top-level name of a file reaches; read, not imported.

    Args:
        module: what the file is called as a module.
    """
    found = Reached(module, {module: str(file)})
    if not found.reach(module, name):
        found.reach_all(module)
    return found


class Reached:
    """The pieces a definition is made of: its own statements, and those of every name it uses, transitively.

    Attributes:
        pieces: their texts, in the order in which they are reached.
        untracked: what cannot be followed.
    """

    def __init__(self, home: str, files: dict[str, str], raw: frozenset[Key] = frozenset()) -> None:
        self.home, self.files, self.raw = home, files, raw
        self.pieces: dict[Key, str] = {}
        self.untracked: set[str] = set()
        self._modules: dict[str, Module | None] = {}
        self._followed: set[tuple[Target, tuple[str, ...]]] = set()

    @property
    def digest(self) -> str:
        # pieces of one name stay in the order in which they are reached: their modules may be renamed
        named = sorted(((name, piece) for (_, name), piece in self.pieces.items()), key=lambda pair: pair[0])
        return hashlib.sha256("\n".join(f"{name}\n{piece}" for name, piece in named).encode()).hexdigest()[:16]

    def reach(self, module: str, name: str) -> bool:
        """Take in a top-level name of a module; tell whether the module has it."""
        source = self._module(module)
        return source is not None and self._use(source, name)

    def reach_all(self, module: str) -> None:
        """Take in every top-level name of a module."""
        if source := self._module(module):
            for name in sorted({*source.bindings, *source.imports}):
                self._use(source, name)
            for star in source.stars:
                self._follow(source, Target(star))

    def _use(self, source: Module, name: str, attributes: Sequence[str] = ()) -> bool:
        """Take in what a name stands for in a module; tell whether it is one of the module's."""
        if name in source.bindings and (source.name, name) not in self.pieces:
            self._take(source, name)
        if name in source.imports:
            self._follow(source, source.imports[name], attributes)
        if name in source.bindings or name in source.imports:
            return True
        return any(self._is_followed(source, star) and self.reach(star, name) for star in source.stars)

    def _take(self, source: Module, name: str) -> None:
        """Take in a definition: as it stands, or as it was before an edit that changed no bit of any result."""
        key = source.name, name
        entries = predecessors.of(*key) if key not in self.raw else ()
        if entries:
            now = Reached(self.home, self.files, self.raw | {key})
            now.reach(*key)
            source = next((entry.read(source) for entry in entries if entry.now == now.digest), source)
        self._add(source, name, source.bindings[name])

    def _add(self, source: Module, name: str, nodes: list[ast.stmt]) -> None:
        """Take in statements and all that they use."""
        self.pieces[source.name, name] = "\n".join(map(_text, nodes))
        for node in nodes:
            self.untracked |= {f"{call} in {source.name}" for call in modules.hidden(node, source)}
            local = source.targets(node)
            for target in local.values():
                self._import(source, target.module)
            for root, *attributes in modules.uses(node):
                if root in local:
                    self._follow(source, local[root], attributes)
                else:
                    self._use(source, root, attributes)

    def _follow(self, source: Module, target: Target, attributes: Sequence[str] = ()) -> None:
        """Take in what an import of a module stands for."""
        module, path = target.module, [*([target.name] if target.name else []), *attributes]
        if not self._is_followed(source, module) or (target, tuple(path)) in self._followed:
            return
        self._followed.add((target, tuple(path)))
        while path and not self._has(module, path[0]) and modules.spec_of(f"{module}.{path[0]}"):
            module = f"{module}.{path.pop(0)}"
        if module in CONTRACT:
            return
        found = self._module(module)
        if not path:
            self.reach_all(module)
        elif found and not self._use(found, path[0], path[1:]):
            self.untracked.add(f"{module}.{path[0]}")

    def _has(self, module: str, name: str) -> bool:
        source = None if module in CONTRACT else self._module(module)
        itself = Target(module, name)  # `from . import part`: its part
        return source is not None and (name in source.bindings or source.imports.get(name, itself) != itself)

    def _is_followed(self, source: Module, module: str) -> bool:
        """Whether an import leads to code that only its text identifies, rather than its version."""
        here, there, home = (name.partition(".")[0] for name in (source.name, module, self.home))
        if there in ("kdbench", home):
            return True
        if here == "kdbench" or there in sys.stdlib_module_names or there in DEPENDENCIES:
            return False
        spec = modules.spec_of(there)
        return spec is None or not modules.is_third_party(spec)

    def _module(self, name: str) -> Module | None:
        """A module's source, and with the first look at it what its import does; None where there is no source."""
        if name not in self._modules:
            source = self._modules[name] = self._read(name)
            if source is None:
                self.untracked.add(name)
                return None
            if source.effects:
                self._add(source, EFFECTS, source.effects)
            for imported in source.imported:
                self._import(source, imported)
        return self._modules[name]

    def _import(self, source: Module, module: str) -> None:
        """Take in what an author's module does when it is imported, and the packages around it."""
        for end in [i for i, letter in enumerate(f"{module}.") if letter == "."]:
            part = module[:end]
            if part.partition(".")[0] != "kdbench" and self._is_followed(source, part) and modules.spec_of(part):
                self._module(part)

    def _read(self, name: str) -> Module | None:
        spec = None if name in self.files else modules.spec_of(name)
        if spec and spec.origin is None and spec.submodule_search_locations is not None:
            return Module(name, name)  # a folder without __init__.py
        file = self.files.get(name) or (spec.origin if spec and modules.is_source(spec) else None)
        try:
            return modules.read(file, name) if file else None
        except (OSError, SyntaxError, ValueError):
            return None


if __name__ == "__main__":  # python -m kdbench.registry.digest MODULE NAME: for an entry of predecessors.toml
    place = modules.spec_of(sys.argv[1])
    assert place is not None
    assert place.origin is not None
    print(reached(place.origin, *sys.argv[1:3]).digest)
