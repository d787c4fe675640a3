"""Calling a method's hooks, and checking what they give.

Whatever goes wrong in a hook is that method's own fault and ends its cell alone. What it gives is checked where it is
given, so that a record says what to mend and not what torch made of it some calls later.
"""

from __future__ import annotations

import dis
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError, NotApplicable
from kdbench.hardware import memory
from kdbench.hardware.settings import Surroundings, restore, settings
from kdbench.method import Phase


class Misbehaved(Exception):  # noqa: N818  (a verdict)
    """A method did what it must not: its cell fails, with the sentence as the record's reason."""


class NonFinite(Misbehaved):
    """A number of a method's became NaN or infinite: the cell fails, and its record names the number."""


# ------------------------------------------------------------------------------------------------ calling


class Calling:
    """A block in which a method's own code runs.

    Torch's settings, and the process's surroundings, are afterwards what they were before.

    Raises:
        Misbehaved: if the block changed one of torch's settings, or in place of what would end more than this cell.
    """

    __slots__ = ("_hook", "_method", "_settings", "_surroundings")

    def __init__(self, method: str, hook: str) -> None:
        self._method, self._hook = method, hook

    def __enter__(self) -> None:
        self._settings, self._surroundings = settings(), Surroundings.now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._surroundings.restore()
        changed = restore(self._settings)
        if error is not None:
            self._judge(error)
        if changed and (error is None or not memory.ran_out(error)):
            raise Misbehaved(
                f"method {self._method!r} changed {changed} in its {self._hook}, which everybody in the process "
                "shares: leave it as it is, or change it in a `with` block"
            ) from error

    def _judge(self, error: BaseException) -> None:
        """Turn what would be taken for everybody's trouble into this method's."""
        if isinstance(error, SystemExit):
            raise Misbehaved(f"method {self._method!r} ends the process in its {self._hook}: raise an error") from error
        if isinstance(error, KDBenchError) and not isinstance(error, NotApplicable) and not _of_data(error):
            raise Misbehaved(str(error)) from error
        if isinstance(error, RuntimeError) and memory.ran_out(error) and _said_by_hand(error):
            raise Misbehaved(first_line(error))  # not `from error`, whose words stand for a full memory


def _of_data(error: BaseException) -> bool:
    """Whether it was raised where data are read, as `prepare` goes through them: that is nobody's fault here."""
    return _innermost(error).tb_frame.f_globals.get("__name__", "").startswith("kdbench.tasks.")


def _said_by_hand(error: BaseException) -> bool:
    """Whether a `raise` outside of torch made it, and no allocator: only the words are those of a full memory."""
    if type(error) is not RuntimeError or memory.ran_out(error.__cause__) or memory.ran_out(error.__context__):
        return False
    last = _innermost(error)
    code = last.tb_frame.f_code.co_code
    inside = last.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "torch"
    return code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"] and not inside


def _innermost(error: BaseException) -> TracebackType:
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def first_line(error: BaseException) -> str:
    """An exception in one line; one without a message says where it was raised."""
    text = str(error).strip()
    if text:
        return f"{type(error).__name__}: {text.splitlines()[0]}"
    last = _innermost(error)
    code = last.tb_frame.f_code
    return f"{type(error).__name__} in {code.co_name} ({Path(code.co_filename).name}, line {last.tb_lineno})"


# ------------------------------------------------------------------------------------------------ what hooks give


def check_terms(method: str, terms: Any) -> None:
    """Check that these are named terms that can be summed and logged.

    Raises:
        Misbehaved: if not.
    """
    if not isinstance(terms, Mapping) or not terms:
        raise Misbehaved(
            f"method {method!r} gave {_kind(terms)} as its loss: return a dictionary of named terms, e.g. "
            "{'ce': F.cross_entropy(student.logits, batch.targets)}"
        )
    for name, term in terms.items():
        if not isinstance(name, str):
            raise Misbehaved(f"method {method!r} gave a loss term the name {name!r}: names are strings")
        if not isinstance(term, Tensor):
            raise Misbehaved(f"loss term {name!r} of method {method!r} is {_kind(term)}: give a tensor of one number")
        if term.dim():
            raise Misbehaved(
                f"loss term {name!r} of method {method!r} has shape {list(term.shape)}, but a term is one number, of "
                "shape []: take the mean or the sum"
            )
        if not term.is_floating_point():
            raise Misbehaved(f"loss term {name!r} of method {method!r} is of {term.dtype}: give it in floating point")


def check_gradient(method: str, terms: Mapping[str, Tensor]) -> None:
    """Check that some term depends on a weight.

    Raises:
        Misbehaved: if none does.
    """
    if not any(term.requires_grad for term in terms.values()):
        raise Misbehaved(
            f"no loss term of method {method!r} ({', '.join(terms)}) depends on a weight that trains: use the "
            "student's outputs as they are, without `detach`, `item` or `no_grad`"
        )


def check_phases(method: str, phases: Any) -> tuple[Phase, ...]:
    """The phases of a method.

    Raises:
        Misbehaved: if they are none, or their shares do not sum to 1.
    """
    if not isinstance(phases, Sequence) or not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise Misbehaved(f"method {method!r} gave {_kind(phases)} as its phases: give a list of kdbench.Phase")
    total = sum(phase.share for phase in phases)
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise Misbehaved(f"the phases of {method} have shares that sum to {total:g}: make it 1")
    return tuple(phases)


def check_deployed(method: str, deployed: Any) -> nn.Module:
    """What `deploy` gave, if it is a network.

    Raises:
        Misbehaved: if not.
    """
    if not isinstance(deployed, nn.Module):
        raise Misbehaved(f"method {method!r} deploys {_kind(deployed)}: return a module, e.g. the student")
    return deployed


def check_output(method: str, given: Any, wanted: Any) -> None:
    """Check that a deployed network answers an input like the student (both are what is scored).

    Raises:
        Misbehaved: if its shape is another.
    """
    if not isinstance(given, Tensor):
        raise Misbehaved(f"what method {method!r} deploys gives {_kind(given)}: give logits or an Output")
    if isinstance(wanted, Tensor) and given.shape[1:] != wanted.shape[1:]:
        raise Misbehaved(
            f"what method {method!r} deploys gives logits of shape {list(given.shape[1:])} a sample, but the student's "
            f"are {list(wanted.shape[1:])}: deploy a network with the same classes"
        )


def check_scored(what: str, predictions: Any, epoch: int) -> None:
    """Check what is about to be scored.

    Raises:
        NonFinite: if a tensor of it holds NaN or an infinite number.
    """
    tensors = [predictions] if isinstance(predictions, Tensor) else []
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise NonFinite(f"the outputs of {what} on the test set became nan or infinite in epoch {epoch}")


def check_scores(what: str, scores: Mapping[str, float | None], epoch: int) -> None:
    """Check what a task says of predictions: a NaN would be the best score or none, by where it stands.

    Raises:
        NonFinite: if a score is NaN or an infinite number; None is a score that there is not.
    """
    for name, score in scores.items():
        if score is not None and not math.isfinite(score):
            raise NonFinite(f"the score {name!r} of {what} became {score} in epoch {epoch}")


def check_numbers(what: str, numbers: Any, epoch: int) -> dict[str, float]:
    """Named numbers as a record keeps them.

    Raises:
        Misbehaved: if they are no mapping of names to single numbers.
        NonFinite: if one is NaN or infinite.
    """
    if not isinstance(numbers, Mapping):
        raise Misbehaved(f"{what}s are {_kind(numbers)}: give a dictionary of names and numbers")
    checked = {}
    for name, number in numbers.items():
        single = number.numel() == 1 if isinstance(number, Tensor) else isinstance(number, int | float)
        if not isinstance(name, str) or not single:
            raise Misbehaved(f"{what} {name!r} is {_kind(number)}: give a name and a single number")
        checked[name] = float(number.detach() if isinstance(number, Tensor) else number)
        if not math.isfinite(checked[name]):
            raise NonFinite(f"{what} {name!r} became {checked[name]} in epoch {epoch}")
    return checked


def _kind(value: Any) -> str:
    """What a value is, for sentences."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping | Sequence) and not value:
        return f"an empty {type(value).__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
