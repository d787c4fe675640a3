"""Where a learner begins: at its last checkpoint that is whole, is its own, and fits; else at the first epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdbench.hardware.memory import ran_out
from kdbench.records import Store
from kdbench.records.checkpoints import Unfit, unstorable
from kdbench.training.learner import Learner
from kdbench.training.machine_faults import is_machines


def resumed(build: Callable[[], Learner], store: Store, tell: Callable[[str], None]) -> Learner:
    """A learner, where an earlier run left it.

    Args:
        build: makes it at its beginning; a state that turns out not to fit has spoilt the one it was put into.
        tell: hears what was wrong with a checkpoint.

    Raises:
        TypeError: if its method keeps a state that no checkpoint can hold.
    """
    learner = build()
    _check_storable(learner)
    fresh = [learner]

    def use(state: dict[str, Any]) -> Learner:
        candidate = fresh.pop() if fresh else build()
        _put(candidate, state)
        return candidate

    identity, device = learner.cell.id, learner.numerics.device
    return store.restore(identity, device, use, tell) or (fresh.pop() if fresh else build())


def _put(learner: Learner, state: dict[str, Any]) -> None:
    """Load a state that was written for this cell.

    Raises:
        Unfit: if it is not of a learner like this one.
    """
    try:
        epoch, epochs = state["epoch"], learner.recipe.length
        if not 0 < epoch <= epochs or [point["epoch"] for point in state["curve"]] != list(range(1, epoch + 1)):
            raise Unfit(f"its epoch is {epoch} of 1 to {epochs}, or its curve has others")
        learner.load_state_dict(state)
    except Unfit:
        raise
    except Exception as error:
        if ran_out(error) or is_machines(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Unfit(f"its state does not fit: {reason}") from error


def _check_storable(learner: Learner) -> None:
    strange = next(unstorable(learner.method.state_dict()), None)
    if strange:
        raise TypeError(
            f"the state of method {learner.cell.method.name!r} has {strange}, which no checkpoint can hold: give "
            "tensors, numbers, text, lists, tuples and dicts in get_extra_state"
        )
