"""The registry: name -> method class, found in kdbench.methods, in entry points, or in a file on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import KDBenchError, unknown
from kdbench.info import FIDELITIES, UNCHECKED, Info, Paper
from kdbench.registry.applies import reason
from kdbench.registry.bounds import out_of_bounds

if TYPE_CHECKING:  # they load torch, which whoever only asks for a suite's name can do without
    from kdbench.method import Method
    from kdbench.registry.composition import Composite

_METHODS: dict[str, type[Method]] = {}
_ALIASES: dict[str, str] = {}
_COMPOSED: dict[tuple[type[Method], ...], type[Composite]] = {}
_discovered = False


def register(
    name: str, family: str, paper: Paper | None = None, fidelity: str = UNCHECKED, aliases: tuple[str, ...] = ()
) -> Callable[[type[Method]], type[Method]]:
    """Enter a method class under a name; see `kdbench.method.Info` for the arguments.

    Raises:
        KDBenchError: if another file holds the name, or `fidelity` is none of `FIDELITIES`.
    """
    if fidelity not in FIDELITIES:
        raise unknown("fidelity", fidelity, FIDELITIES)

    def enter(cls: type[Method]) -> type[Method]:
        for alias in (name, *aliases):
            held = _METHODS.get(_ALIASES.get(alias, alias))
            if held is not None and inspect.getsourcefile(held) != inspect.getsourcefile(cls):
                raise KDBenchError(
                    f"method {alias!r} of {inspect.getsourcefile(cls)} is already registered by "
                    f"{inspect.getsourcefile(held)}: choose another name"
                )
        cls.info = Info(name, family, paper, fidelity, aliases)
        _METHODS[name] = cls
        _ALIASES.update(dict.fromkeys(aliases, name))
        return cls

    return enter


def _discover() -> None:
    """Import every module of kdbench.methods and every `kdbench.methods` entry point, once."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    package = importlib.import_module("kdbench.methods")
    for module in pkgutil.walk_packages(package.__path__, "kdbench.methods."):
        importlib.import_module(module.name)
    for entry in entry_points(group="kdbench.methods"):
        try:
            entry.load()
        except Exception as error:  # somebody else's package must not take the registry down
            print(f"kdbench: entry point {entry.name!r} could not be loaded: {error}", file=sys.stderr)


def load_file(path: str | Path) -> list[str]:
    """Import a user's file and return the names of the methods it registers.

    Raises:
        KDBenchError: if the file is absent, cannot be imported or registers nothing.
    """
    _discover()
    path = Path(path).resolve()
    if not path.is_file():
        raise KDBenchError(f"method file {str(path)!r} does not exist: give the path of a .py file that registers one")
    for name, cls in list(_METHODS.items()):  # a second load (another command in one process) replaces the first
        if Path(inspect.getsourcefile(cls) or "") == path:
            del _METHODS[name]
    before = set(_METHODS)
    spec = importlib.util.spec_from_file_location(f"kdbench_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except KDBenchError:
        raise
    except Exception as error:
        raise KDBenchError(f"method file {str(path)!r} cannot be imported: {type(error).__name__}: {error}") from error
    names = sorted(set(_METHODS) - before)
    if not names:
        raise KDBenchError(f"method file {str(path)!r} registers no method: put @register(...) above its class")
    return names


def names(task: str | None = None) -> list[str]:
    """All registered names, or those that apply to a task, in alphabetical order."""
    _discover()
    return sorted(name for name, cls in _METHODS.items() if task is None or not reason(cls, task))


def get(name: str) -> type[Method]:
    """The class registered under a name or an alias, or composed of several (`crd+kd`).

    Raises:
        KDBenchError: naming the nearest method, if there is none, or if the parts cannot be composed.
    """
    _discover()
    name = _ALIASES.get(name, name)
    if name in _METHODS:
        return _METHODS[name]
    from kdbench.registry.composition import compose, split

    if len(split(name)) > 1:
        parts = tuple(get(part) for part in split(name))
        if parts not in _COMPOSED:
            _COMPOSED[parts] = compose(parts, hyperparameters)
        return _COMPOSED[parts]
    raise unknown("method", name, _METHODS, "`kdbench list` shows all")


def hyperparameters(cls: type[Method]) -> dict[str, Any]:
    """A method's hyperparameters and their defaults, from the signature of its constructor (a composition's: of its
    parts', as `part.name`).
    """
    from kdbench.registry.composition import Composite

    if issubclass(cls, Composite):
        return dict(cls.defaults)
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def resolve(name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """All hyperparameters of a method with a suite's or a user's values over the defaults.

    Raises:
        KDBenchError: for a hyperparameter the method does not have, or a value of another type, not finite, or out of
            its bounds.
    """
    defaults = hyperparameters(get(name))
    for key, value in overrides.items():
        if key not in defaults:
            raise unknown(f"hyperparameter of {name}", key, defaults)
        if isinstance(value, float) and not math.isfinite(value):
            raise KDBenchError(f"hyperparameter {key!r} of {name} is {value}: give a finite number")
        if complaint := out_of_bounds(key, value):
            raise KDBenchError(f"hyperparameter {key!r} of {name} is {value}: {complaint}")
        default = defaults[key]
        fits = value is None or default is None or isinstance(value, type(default))
        if not fits and not (isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)):
            raise KDBenchError(
                f"hyperparameter {key!r} of {name} is {value!r}, but it takes a {type(default).__name__} "
                f"like its default {default!r}"
            )
    return {key: _like(default, overrides.get(key, default)) for key, default in defaults.items()}


def _like(default: Any, value: Any) -> Any:
    """2 for a hyperparameter of 4.0 is 2.0, so that it is the same cell however it was written."""
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def create(name: str, overrides: dict[str, Any] | None = None) -> Method:
    """Build the method object (without `build`, which needs the networks)."""
    return get(name)(**resolve(name, overrides or {}))
