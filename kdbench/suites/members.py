"""Which networks a method trains together, and which teachers it sees: the first use of an author's class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from kdbench import registry
from kdbench.errors import KDBenchError
from kdbench.hardware.settings import Surroundings, restore, settings

if TYPE_CHECKING:
    from kdbench.method import Method
    from kdbench.suites.corpus import Corpus
    from kdbench.suites.grid import MethodSpec

ROLE = re.compile(r"student|teacher|assistant|student\*\d*\.?\d+")


class Members(NamedTuple):
    """What a method with its hyperparameters says of itself.

    Attributes:
        roles: that its `members` names.
        fault: why it has none, in a sentence; one of the two is empty.
        sees: `none`, `one` or `several` teachers.
        corpus: that a teacher writes for it, if one does.
    """

    roles: tuple[str, ...]
    fault: str
    sees: str
    corpus: Corpus | None = None


def members_of(spec: MethodSpec) -> Members:
    """Ask a method which networks it trains together and which teachers it sees.

    Whatever its constructor or `members` does, this raises nothing: it is that method's cells' fault alone.
    """
    cls = registry.get(spec.name)
    before, around = settings(), Surroundings.now()
    try:
        method = registry.create(spec.name, dict(spec.hyperparameters))
        if "_modules" not in vars(method):
            fault = f"method {spec.name!r} does not call super().__init__() in its __init__: begin with it"
            return Members((), fault, _sees(cls, cls.uses_teacher))
        roles, corpus = method.members(), method.corpus()
        uses = method.uses_teacher or corpus is not None
    except (Exception, SystemExit) as error:
        return Members((), _sentence(spec, error), _sees(cls, cls.uses_teacher))
    finally:
        around.restore()
        restore(before)
    return Members(*_checked(spec.name, roles), _sees(cls, uses), corpus)


def _sees(cls: type[Method], uses_teacher: bool) -> str:
    from kdbench.method import MultiTeacherMethod  # not at the top: it loads torch

    if not uses_teacher:
        return "none"
    return "several" if issubclass(cls, MultiTeacherMethod) else "one"


def _checked(name: str, roles: object) -> tuple[tuple[str, ...], str]:
    if not isinstance(roles, tuple | list) or not roles:
        return (), f"method {name!r} gave {roles!r} as its members: return a tuple of roles, e.g. ('student',)"
    for role in roles:
        if not isinstance(role, str) or not ROLE.fullmatch(role):
            return (), (
                f"method {name!r} names a member {role!r}, which is no role: take 'student', 'teacher', 'assistant', "
                "or 'student*0.5' for half its channels"
            )
    return tuple(roles), ""


def _sentence(spec: MethodSpec, error: BaseException) -> str:
    if isinstance(error, KDBenchError):
        return str(error)
    given = ", ".join(f"{key}={value!r}" for key, value in spec.hyperparameters.items())
    what = f"{type(error).__name__}: {error}".splitlines()[0] if str(error) else type(error).__name__
    return f"method {spec.name!r} cannot be created with {given or 'its defaults'}: {what}"
