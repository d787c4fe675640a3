"""A module as its source says it: what each top-level name is bound by, what it imports, what it does when imported.

Nothing is imported to find this out, so it is the same with and without torch, and under every Python.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec
from importlib.util import decode_source, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.registry.dump import parse

IMPORTS = ast.Import | ast.ImportFrom
SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda  # their bodies bind no name of the module
REGISTER = ("kdbench", "register"), ("kdbench.registry", "register")
SPACE = "search_space"
DIMENSIONS = ("Around", "Choice", "Integer", "LogUniform", "Uniform")  # of kdbench.space
NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
BUILTINS = {"exec", "eval", "globals", "__import__"}
LOADERS = {"import_module", "spec_from_file_location", "run_path", "run_module"}


class Target(NamedTuple):
    """What an imported name stands for: something of a module, or (`name` is empty) the module."""

    module: str
    name: str = ""


@dataclass
class Module:
    """One module's source.

    Attributes:
        bindings: the top-level statements that bind or change each name, in order; stripped of what decides no number.
        imports: what imported names stand for.
        stars: modules of which all names were imported.
        imported: every module that is imported with this one, by a statement at the top level.
        effects: statements that do something when the module is imported (calls, writes into an object): they may
            change whatever is defined here.
    """

    name: str
    package: str
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Target] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)

    def strip(self, tree: ast.AST) -> None:
        """Take out docstrings, `register(...)` with the paper's metadata, `reads` and search spaces."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0] if node.body else None
                if isinstance(first, ast.Expr) and _is_text(first.value):
                    node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, ast.ClassDef):
                node.decorator_list = [d for d in node.decorator_list if not self._registers(d)]
                # `reads` leaves out what no number depends on: a method that uses another map fails
                kept = [part for part in node.body if getattr(part, "name", "") != "reads" and not self._is_space(part)]
                node.body = kept or [ast.Pass()]

    def targets(self, node: ast.AST) -> dict[str, Target]:
        """What the names stand for that an import statement anywhere in a node binds."""
        found: dict[str, Target] = {}
        for child in _imports(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found[name] = Target(alias.name if alias.asname else name)
            else:
                home = self._absolute(child)
                found |= {alias.asname or alias.name: Target(home, alias.name) for alias in child.names}
        return found

    def _absolute(self, node: ast.ImportFrom) -> str:
        try:
            return resolve_name("." * node.level + (node.module or ""), self.package)
        except ImportError:  # too many dots: the import itself fails
            return node.module or ""

    def read(self, body: list[ast.stmt]) -> None:
        """Sort the top-level statements."""
        for node in _run_on_import(body):
            for child in _outside_scopes(node):
                if isinstance(child, ast.Import):
                    self.imported += [alias.name for alias in child.names]
                elif isinstance(child, ast.ImportFrom):
                    home = self._absolute(child)
                    self.imported += [home, *(f"{home}.{alias.name}" for alias in child.names)]
                    self.stars += [home for alias in child.names if alias.name == "*"]
            for name in dict.fromkeys(_binds(node)):
                self.bindings.setdefault(name, []).append(node)
            if any(self._acts(child) for child in _outside_scopes(node)):
                self.effects.append(node)

    def _acts(self, node: ast.AST) -> bool:
        """Whether a node writes into an object, or is a statement that can only be there for what it does."""
        if isinstance(node, ast.Attribute | ast.Subscript):
            return not isinstance(node.ctx, ast.Load)
        return (
            isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant) and not self._registers(node.value)
        )

    def _is_space(self, node: ast.stmt) -> bool:
        """Whether this is `search_space = Space(...)` of kdbench's dimensions, which decide no number by themselves; an
        edit of anything else of that name is noticed.
        """
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value: Any = getattr(node, "value", None)
        if target is None or chain(target) != [SPACE] or not (self._made_by(value, ("Space",)) and not value.args):
            return False
        return all(
            self._made_by(part.value, DIMENSIONS) if part.arg else chain(part.value)[-1:] == [SPACE]
            for part in value.keywords
        )

    def _made_by(self, node: Any, names: tuple[str, ...]) -> bool:
        """Whether a node calls one of these of `kdbench.space`."""
        root, *rest = (chain(node.func) if isinstance(node, ast.Call) else []) or [""]
        module, name = self.imports.get(root, Target(""))
        path = [module, *([name] if name else []), *rest]
        return path[-1] in names and ".".join(path[:-1]) in ("kdbench", "kdbench.space")

    def _registers(self, node: ast.expr) -> bool:
        """Whether this is `register(...)` of kdbench, or `register(...)(TheClass)`."""
        while isinstance(node, ast.Call):
            node = node.func
            root, *attributes = chain(node) or [""]
            if root in self.imports:
                module, name = self.imports[root]
                path = [module, name, *attributes] if name else [module, *attributes]
                if (".".join(path[:-1]), path[-1]) in REGISTER:
                    return True
        return False


def of_text(text: str, name: str, package: str, imports: dict[str, Target] | None = None) -> Module:
    """The module of a text; `imports` are those it has beside its own.

    Raises:
        SyntaxError: if the text is no Python.
    """
    tree, module = parse(text), Module(name, package)
    run = [node for node in _run_on_import(tree.body) if not isinstance(node, SCOPES)]
    module.imports = {**(imports or {}), **module.targets(ast.Module(run, []))}
    module.strip(tree)
    module.read(tree.body)
    return module


@cache
def _of_file(file: str, name: str, package: str, _modified: tuple[int, int]) -> Module:
    return of_text(decode_source(Path(file).read_bytes()), name, package)


def read(file: str, name: str) -> Module:
    """The module of a source file.

    Raises:
        OSError, SyntaxError, UnicodeError: if it cannot be read.
    """
    package = name if Path(file).stem == "__init__" else name.rpartition(".")[0]
    stat = Path(file).stat()
    return _of_file(file, name, package, (stat.st_mtime_ns, stat.st_size))


def chain(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


@cache
def uses(node: ast.AST) -> tuple[tuple[str, ...], ...]:
    """All names in a node with the attributes that are asked of them, e.g. `("a", "b", "c")`; in a fixed order."""
    found: set[tuple[str, ...]] = set()
    stack = [node]
    while stack:
        child = stack.pop()
        if names := chain(child):
            found.add(tuple(names))
        else:
            stack += ast.iter_child_nodes(child)
    return tuple(sorted(found))


@cache
def _imports(node: ast.AST) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(child for child in ast.walk(node) if isinstance(child, IMPORTS))


def hidden(node: ast.AST, module: Module) -> Iterator[str]:
    """The calls in a node that run code which no reader of it can find."""
    for names in uses(node):
        if names[-1] in LOADERS or (len(names) == 1 and names[0] in BUILTINS and names[0] not in module.bindings):
            yield ".".join(names)


def spec_of(module: str) -> ModuleSpec | None:
    """Where a module is, without importing it or what it lies in; None if it is nowhere."""
    if spec := getattr(sys.modules.get(module), "__spec__", None):
        return spec
    parent = module.rpartition(".")[0]
    path = _folders(parent) if parent else None
    if parent and not path:
        return None
    found = (_ask(finder.find_spec, module, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec), None) or (_folder(module, path) if path else None)


def _folders(package: str) -> list[str]:
    """The folders in which the parts of a package lie."""
    spec = spec_of(package)
    return list(spec.submodule_search_locations or ()) if spec else []


def _folder(module: str, path: list[str]) -> ModuleSpec | None:
    """A folder without __init__.py inside a package, which Python itself finds only once that is imported."""
    folders = [os.path.join(place, module.rpartition(".")[2]) for place in path]
    spec = ModuleSpec(module, None, is_package=True)
    spec.submodule_search_locations = [folder for folder in folders if os.path.isdir(folder)]
    return spec if spec.submodule_search_locations else None


def _ask(find: Callable[..., ModuleSpec | None], module: str, path: list[str] | None) -> ModuleSpec | None:
    try:
        return find(module, path)
    except (ImportError, AttributeError, KeyError, ValueError):  # a finder that needs the parent to be imported
        return None


def is_third_party(spec: ModuleSpec) -> bool:
    """Whether a module was installed: its version says what it is."""
    places = [spec.origin or "", *_folders(spec.name)]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


def is_source(spec: ModuleSpec) -> bool:
    return spec.has_location and Path(spec.origin or "").suffix in SOURCE_SUFFIXES


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements without the branches for type checkers and for `python FILE`."""
    for node in body:
        if isinstance(node, ast.If) and _never(node.test):
            yield from _run_on_import(node.orelse)
        else:
            yield node


def _never(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare):
        return chain(test.left) == ["__name__"] and isinstance(test.ops[0], ast.Eq)
    return chain(test)[-1:] == ["TYPE_CHECKING"]


def _outside_scopes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is in it, without the bodies of functions and classes."""
    yield node
    if not isinstance(node, SCOPES):
        for child in ast.iter_child_nodes(node):
            yield from _outside_scopes(child)


def _binds(node: ast.stmt) -> Iterator[str]:
    """The module's names that a top-level statement binds or deletes; a function also by its `global`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Global):
            yield from child.names
    local = {id(name) for child in _outside_scopes(node) if isinstance(child, ast.comprehension)
             for name in ast.walk(child.target)}  # fmt: skip
    for child in _outside_scopes(node):
        if isinstance(child, ast.Name) and not isinstance(child.ctx, ast.Load) and id(child) not in local:
            yield child.id
        elif name := getattr(child, "name" if isinstance(child, NAMED) else "rest", None):
            yield name
