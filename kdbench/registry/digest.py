"""The digest of a method's source: what the code means, not how it is written.

A method's result is decided by its class and by everything of kdbench that it names: helpers of its own file, functions
of `kdbench.losses`, layers of `kdbench.connectors`, other methods it builds on. The digest covers those definitions as
syntax trees without what decides no number (docstrings, the paper's entry, `reads`), so an edited formula runs the
cell again and an edited comment does not.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path

from kdbench.errors import KDBenchError

Key = tuple[str, str]  # (file, top-level name)
_DIGESTS: dict[type, str] = {}


def source_digest(cls: type) -> str:
    """16 hex digits over the class and all that it reaches, transitively; a composition's over its parts'."""
    if cls not in _DIGESTS:
        parts = "+".join(source_digest(part) for part in getattr(cls, "parts", ()))
        _DIGESTS[cls] = hashlib.sha256(parts.encode()).hexdigest()[:16] if parts else _digest(cls)
    return _DIGESTS[cls]


def _digest(cls: type) -> str:
    file = inspect.getsourcefile(cls)
    if file is None:
        raise KDBenchError(f"the source of method class {cls.__name__} cannot be found: define it in a file")
    pieces: dict[Key, str] = {}
    _collect(file, cls.__name__, pieces)
    text = "\n".join(f"{name}\n{piece}" for (_, name), piece in sorted(pieces.items(), key=lambda item: item[0][1]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _collect(file: str, name: str, pieces: dict[Key, str]) -> None:
    if (file, name) in pieces:
        return
    definitions, imports = _module(file, Path(file).stat().st_mtime_ns)
    if name == "*":  # a whole module was imported: all that it defines counts
        for defined in definitions:
            _collect(file, defined, pieces)
    elif name in definitions:
        node = definitions[name]
        pieces[file, name] = ast.dump(node)
        for used in {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}:
            _collect(file, used, pieces)
    elif name in imports:
        module, original = imports[name]
        home = _file_of(module)
        if home is not None:
            _collect(home, original, pieces)


@cache
def _module(file: str, _modified: int) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
    """Top-level definitions, and names imported from kdbench, of one file."""
    tree = _strip(ast.parse(Path(file).read_text(encoding="utf-8")))
    definitions: dict[str, ast.stmt] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions.update({t.id: node for t in targets if isinstance(t, ast.Name)})
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kdbench."):
            imports.update({alias.asname or alias.name: (node.module, alias.name) for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module == "kdbench":
            modules = [alias for alias in node.names if importlib.util.find_spec(f"kdbench.{alias.name}")]
            imports.update({alias.asname or alias.name: (f"kdbench.{alias.name}", "*") for alias in modules})
        elif isinstance(node, ast.Import):
            modules = [alias for alias in node.names if alias.name.startswith("kdbench.") and alias.asname]
            imports.update({alias.asname or "": (alias.name, "*") for alias in modules})
    return definitions, imports


def _file_of(module: str) -> str | None:
    if module == "kdbench.method":  # the contract itself is the engine's and is covered by its version
        return None
    loaded = sys.modules.get(module)
    spec = loaded.__spec__ if loaded else importlib.util.find_spec(module)
    return spec.origin if spec else None


def _strip(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            # `register(...)` carries the paper's metadata, which decides no number
            node.decorator_list = [d for d in node.decorator_list if "register" not in ast.dump(d)]
            # `reads` leaves out what no number depends on: a method that uses another map fails
            node.body = [part for part in node.body if getattr(part, "name", "") != "reads"] or [ast.Pass()]
    return tree
