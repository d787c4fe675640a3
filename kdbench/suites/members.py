"""Which networks a method trains together, asked before anything trains: the first use of an author's class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kdbench import registry
from kdbench.errors import KDBenchError
from kdbench.hardware.settings import Surroundings, restore, settings

if TYPE_CHECKING:
    from kdbench.suites.grid import MethodSpec

ROLE = re.compile(r"student|teacher|assistant|student\*\d*\.?\d+")


def members_of(spec: MethodSpec) -> tuple[tuple[str, ...], str]:
    """The roles that a method's `members` names, and why it has none, in a sentence; one of the two is empty.

    Whatever its constructor or `members` does, this raises nothing: it is that method's cells' fault alone.
    """
    before, around = settings(), Surroundings.now()
    try:
        method = registry.create(spec.name, dict(spec.hyperparameters))
        if "_modules" not in vars(method):
            return (), f"method {spec.name!r} does not call super().__init__() in its __init__: begin with it"
        roles = method.members()
    except (Exception, SystemExit) as error:
        return (), _sentence(spec, error)
    finally:
        around.restore()
        restore(before)
    return _checked(spec.name, roles)


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
