"""What of a student's output its method reads.

In a compiled graph an output that nobody reads is not free: its gradient is made of zeros, copied and added.
"""

from __future__ import annotations

from typing import Any, NoReturn

from kdbench.method import Method, Network, Output, Taps, Withheld

__all__ = ["Taps", "Undeclared", "declared", "taps_of"]


class Undeclared(Exception):  # noqa: N818  (a verdict)
    """A method used a map that it does not declare: its cell fails, with the sentence in its record."""


def taps_of(method: Method, student: Network) -> Taps:
    """What a method reads of one of its students."""
    stages = len(student.shapes.features)
    features = set(method.reads(stages)) if method.needs & {"features", "maps"} else set()
    unpooled: bool | None = "unpooled" in method.needs
    if student.shapes.final is None:  # it is the last stage's
        features |= {stages} if unpooled else set()
        unpooled = None
    return Taps(tuple(sorted(features)), "preactivations" in method.needs, unpooled)


def declared(output: Output, taps: Taps, method: str) -> Output:
    """The output for a method, in which each map that it does not declare answers any use with a sentence."""
    return output.only(taps, _Refused(method))


class _Refused(Withheld):
    """Puts what complains in the place of a map, or of all of a kind."""

    def __init__(self, method: str) -> None:
        self._method = method

    def one(self, what: str, why: str) -> Any:
        return _Map(_sentence(self._method, what, why))

    def all(self, what: str, why: str) -> Any:
        return _Maps(_sentence(self._method, what, why))


def _sentence(method: str, what: str, why: str) -> str:
    return f"method {method!r} uses a student's {what}, but {why}: add it there (docs of `kdbench.Method`)"


class _Map:
    """Stands for a map that was not declared."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise Undeclared(self._sentence)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name == "_sentence":  # what copying and printing ask for
            raise AttributeError(name)
        self._refuse()

    __getitem__ = __len__ = __iter__ = __bool__ = __call__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __truediv__ = __neg__ = __pow__ = (
        _refuse
    )

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        next(value for value in (*args, *(kwargs or {}).values()) if isinstance(value, cls))._refuse()


class _Maps(tuple[Any, ...]):
    """Stands for all of a kind."""

    _sentence: str

    def __new__(cls, sentence: str) -> _Maps:
        self = super().__new__(cls)
        self._sentence = sentence
        return self

    def _refuse(self, *_: object) -> NoReturn:
        raise Undeclared(self._sentence)

    __getitem__ = __len__ = __iter__ = __bool__ = __contains__ = __add__ = _refuse  # type: ignore[assignment]
