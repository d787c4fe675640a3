"""kdbench: which knowledge-distillation method makes a better student, on what, at what cost?

This package exports what the author of a method imports, and nothing else; the names load torch when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.errors import KDBenchError, NotApplicable
    from kdbench.info import Paper
    from kdbench.method import (
        Batch,
        Dataset,
        Method,
        MultiTeacherMethod,
        MutualMethod,
        Network,
        Output,
        Phase,
        Shapes,
        Step,
    )
    from kdbench.registry import register
    from kdbench.space import Around, Choice, Integer, LogUniform, Space, Uniform
    from kdbench.suites.corpus import Corpus

__version__ = "0.1.0"

_HOME = {
    "Corpus": "suites.corpus",
    "KDBenchError": "errors",
    "NotApplicable": "errors",
    "Paper": "info",
    "register": "registry",
}
_HOME |= dict.fromkeys(("Around", "Choice", "Integer", "LogUniform", "Space", "Uniform"), "space")
__all__ = [
    "Around",
    "Batch",
    "Choice",
    "Corpus",
    "Dataset",
    "Integer",
    "KDBenchError",
    "LogUniform",
    "Method",
    "MultiTeacherMethod",
    "MutualMethod",
    "Network",
    "NotApplicable",
    "Output",
    "Paper",
    "Phase",
    "Shapes",
    "Space",
    "Step",
    "Uniform",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
    return getattr(import_module(f"kdbench.{_HOME.get(name, 'method')}"), name)
