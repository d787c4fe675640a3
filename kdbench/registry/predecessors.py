"""Edits that changed no bit of any result: the digest of what was edited goes on standing in every id it is part of.

Each entry of predecessors.toml is one such edit of a method, or of a function of `kdbench.losses` or
`kdbench.connectors`, shown to be bit-equal by a test. It holds for the code it was written for: whoever edits that once
more, or anything it reaches, has new digests again. CONTRIBUTING.md tells how an entry is made.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from kdbench.registry.modules import Module, of_text


@dataclass(frozen=True)
class Edit:
    """One bit-equal edit.

    Attributes:
        name: the class or function.
        was, now: its digest (`kdbench.registry.digest.reached`) before and after the edit.
        source: its text before the edit, with the helpers and imports that it needed and that are gone.
    """

    name: str
    was: str
    now: str
    source: str

    def read(self, module: Module) -> Module:
        """A module with the old text in place of the new."""
        old = of_text(self.source, module.name, module.package, module.imports)
        bindings = {**old.bindings, **module.bindings, self.name: old.bindings[self.name]}
        return replace(module, bindings=bindings, imports=old.imports)


@cache
def edits() -> tuple[Edit, ...]:
    """All entries."""
    table = tomllib.loads((files(__package__) / "predecessors.toml").read_text(encoding="utf-8"))
    return tuple(Edit(**entry) for entry in table.get("edits", ()))


def of(module: str, name: str) -> list[Edit]:
    """The edits of something of kdbench's that has this name."""
    return [edit for edit in edits() if edit.name == name] if module.startswith("kdbench.") else []
