"""A network's name with options, as timm takes them: `cifar_resnet8(width_factor=0.5)`.

The options are part of the name, so that they are part of the pair, of the cell and of every table. One network has
one spelling: options stand in alphabetical order, and those of equal value look alike.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from kdbench.errors import KDBenchError

FORM = re.compile(r"(?P<base>[^()]*)(?:\((?P<options>.*)\))?", re.DOTALL)


def split(name: str) -> tuple[str, dict[str, Any]]:
    """The name that timm knows, and the options.

    Raises:
        KDBenchError: if the options are not of the form `key=value, key=value` with plain values.
    """
    found = FORM.fullmatch(name.strip())
    if found is None or not found["base"].strip():
        raise _malformed(name, "it is no name with options in one pair of brackets")
    try:
        call = ast.parse(f"f({found['options'] or ''})", mode="eval").body
    except SyntaxError:
        raise _malformed(name, "its options cannot be read") from None
    if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise _malformed(name, "an option has no name")
    options: dict[str, Any] = {}
    for keyword in call.keywords:
        try:
            options[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            raise _malformed(name, f"the value of {keyword.arg!r} is no number, truth, text or tuple") from None
    return found["base"].strip(), options


def canonical(name: str) -> str:
    """The one spelling of a network's name."""
    base, options = split(name)
    return joined(base, options)


def joined(base: str, options: dict[str, Any]) -> str:
    """The name of a network with options."""
    inside = ", ".join(f"{key}={_plain(options[key])!r}" for key in sorted(options))
    return f"{base}({inside})" if inside else base


def _plain(value: Any) -> Any:
    """A value so that equal ones look alike: no list, no `2.0`."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _malformed(name: str, why: str) -> KDBenchError:
    return KDBenchError(f"network {name!r}: {why}; write it like cifar_resnet8(width_factor=0.5)")
