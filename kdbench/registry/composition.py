"""`crd+kd`: several methods' terms for one student.

The terms of all parts are added with their weights. The student learns the labels once: the cross-entropy `ce` is the
first part's, those of the others are left out. So `crd+kd` is CE + 0.8 NCE + 0.9 KL, as the field's tables have it, and
`kd+crd` is 0.1 CE + 0.9 KL + 0.8 NCE. A hyperparameter of a part is `part.name`, e.g. `kd.temperature`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.info import FIDELITIES, Info
from kdbench.method import Batch, Dataset, Method, MultiTeacherMethod, MutualMethod, Network, Output, of_labels

if TYPE_CHECKING:
    from kdbench.suites.corpus import Corpus

OWN_LOOP = ("step", "members", "phases", "compute", "bind")  # what a part must have left as it is


class Composite(Method):
    """The base of all compositions; subclasses, made by `compose`, name the parts."""

    parts: ClassVar[tuple[type[Method], ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        methods = []
        for part in self.parts:
            start = f"{part.info.name}."
            own = {key.removeprefix(start): v for key, v in hyperparameters.items() if key.startswith(start)}
            methods.append(part(**own))
        self.methods = nn.ModuleList(methods)

    def _methods(self) -> list[Method]:
        return list(self.methods)  # type: ignore[arg-type]

    def build(self, student: Network, teacher: Any) -> None:
        for method in self._methods():
            method.build(student, teacher if method.uses_teacher else None)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        for method in self._methods():
            method.prepare(data, teachers)

    def corpus(self) -> Corpus | None:
        return next((found for method in self._methods() if (found := method.corpus())), None)

    def reads(self, stages: int) -> set[int]:
        return {n for m in self._methods() if m.needs & {"features", "maps"} for n in m.reads(stages)}

    def respond(self, student: Output) -> Output:
        for method in self._methods():
            student = method.respond(student)
        return student

    def watch(self) -> dict[str, Tensor]:
        return {f"{m.info.name}.{name}": value for m in self._methods() for name, value in m.watch().items()}

    def loss(self, batch: Batch, student: Output, teacher: Output | None) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for index, method in enumerate(self._methods()):
            method.epoch, method.epochs, method.phase = self.epoch, self.epochs, self.phase
            for name, term in method.loss(batch, student, teacher if method.uses_teacher else None).items():
                if not index or not of_labels(name):
                    terms[name if name not in terms else f"{method.info.name}.{name}"] = term
        return terms

    def deploy(self, student: Network) -> nn.Module:
        changed = [method for method in self._methods() if type(method).deploy is not Method.deploy]
        return changed[0].deploy(student) if changed else student


def split(name: str) -> list[str]:
    """`crd+kd` to its parts; the pluses at a name's end (`kd++`) are its own."""
    return re.split(r"\+(?=[^+])", name)


def compose(
    parts: Sequence[type[Method]], hyperparameters: Callable[[type[Method]], dict[str, Any]]
) -> type[Composite]:
    """The method class whose loss adds up those of `parts`.

    Raises:
        KDBenchError: if a part stands twice, has a training loop of its own, or two change what is deployed or each
            train on a corpus of their own.
    """
    names = [part.info.name for part in parts]
    name = "+".join(names)
    if len(set(names)) < len(names):
        raise KDBenchError(f"{name!r} names a method twice: name each part once")
    for part in parts:
        if issubclass(part, MutualMethod | MultiTeacherMethod) or any(
            getattr(part, hook) is not getattr(Method, hook) for hook in OWN_LOOP
        ):
            raise KDBenchError(
                f"{part.info.name!r} cannot be a part of {name!r}: it trains in a loop of its own (several networks, "
                "phases or updates); compose methods that only add terms to the loss"
            )
    changed = [part.info.name for part in parts if part.deploy is not Method.deploy]
    if len(changed) > 1:
        raise KDBenchError(f"{name!r} cannot be composed: {' and '.join(changed)} each deploy another network")
    taught = [part.info.name for part in parts if part.corpus is not Method.corpus]
    if len(taught) > 1:
        raise KDBenchError(f"{name!r} cannot be composed: {' and '.join(taught)} each train on a corpus of their own")
    weakest = max((part.info.fidelity for part in parts), key=list(FIDELITIES).index)
    info = Info(name, parts[0].info.family, None, weakest)
    defaults = {f"{part.info.name}.{key}": v for part in parts for key, v in hyperparameters(part).items()}
    attributes = {
        "__doc__": f"The terms of {' and '.join(names)}.",
        "info": info,
        "parts": tuple(parts),
        "defaults": defaults,
        "needs": frozenset().union(*(part.needs for part in parts)),
        "uses_teacher": any(part.uses_teacher for part in parts),
        "reads_logits": any(part.reads_logits for part in parts),
    }
    return type(f"Composite[{name}]", (Composite,), attributes)
