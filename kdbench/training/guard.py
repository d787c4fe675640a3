"""What the learners of a cohort share, and which of them changed it.

Torch counts the writes into a tensor, and so a sum of counts shows that somebody wrote: after each learner's step for
the batch, the teachers' outputs and what the data set stores, once a batch for the teachers' weights. Writes past the
count (through `.data`, or numpy's view of a tensor) show in the content: of the first batch of each epoch after each
learner's step, of the data set and the teachers after every other hook and at each epoch's end, before anything of that
epoch is kept.

Whoever changed something fails, and the others start again from their last checkpoints with data and teachers loaded
anew. Where the content does not say whose fault it was, they start again watchfully: with a look at all content after
each learner's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.method import Batch, Network, Output, tensors_in
from kdbench.training.hooks import Misbehaved

ROW = 1024  # words of a checksum's row
LONG = 1000  # entries from which on a list is only looked through if it begins with a tensor
FOREIGN = ("torch", "numpy", "builtins", "multiprocessing", "threading", "weakref", "functools", "PIL", "pathlib")
_writes = attrgetter("_version")


class Tampered(Misbehaved):
    """A learner changed what it shares with the others."""


class Spoiled(KDBenchError):  # noqa: N818  (a verdict)
    """What a cohort shares was changed: its cells without a record are to start again with everything loaded anew.

    Attributes:
        known: whether the culprit has its record; if not, the next run must be watchful to find it.
    """

    def __init__(self, known: bool) -> None:
        super().__init__("what the learners of a cohort share was changed")
        self.known = known


class Held(NamedTuple):
    """A tensor that is shared, and what it is in a sentence."""

    words: str
    tensor: Tensor


class Shared:
    """The watch over what one cohort shares.

    Attributes:
        watchful: whether all content is looked at after each learner's work.
    """

    def __init__(self, watchful: bool = False) -> None:
        self.watchful = watchful
        self._roots: list[object] = []
        self._teachers: list[tuple[str, Network]] = []
        self._stored: list[Held] = []
        self._weights: list[Tensor] = []
        self._lent: tuple[tuple[str, object], ...] = ()
        self._thorough = False

    def keep_data(self, *roots: object) -> None:
        """Watch every tensor that a training set or its task stores."""
        self._roots += roots

    def keep_teacher(self, name: str, network: Network) -> None:
        self._teachers.append((name, network))

    def begin(self) -> None:
        """Remember everything as it is now."""
        found = self._found()
        # the same tensor has several names: the shortest is the one that an author knows
        shortest = sorted(found, key=lambda held: held.words.count("."), reverse=True)
        self._stored = list({id(held.tensor): held for held in shortest}.values())
        self._data = [held.tensor for held in self._stored]
        self._places = {(held.words, held.tensor.data_ptr()) for held in found}
        self._modules = [module for _, teacher in self._teachers for module in teacher.modules()]
        self._weights = [tensor for _, teacher in self._teachers for tensor in _weights(teacher)]
        self._weight_writes = sum(map(_writes, self._weights))
        self._layouts = [_layout(teacher) for _, teacher in self._teachers]
        self._content = contents(self._data), total(self._weights)
        self._watch((), thorough=False)

    def lend(self, batch: Batch, outputs: Iterable[Output], thorough: bool) -> None:
        """Watch a batch and the teachers' outputs, in place of the last one's.

        Args:
            thorough: look at their content, too.
        """
        lent = (("the batch's", batch), *(("the teacher's", output) for output in outputs))
        self._watch(lent, thorough or self.watchful)

    def give_back(self) -> None:
        """The epoch's last batch is no longer used."""
        self._watch((), thorough=False)

    def _watch(self, lent: tuple[tuple[str, object], ...], thorough: bool) -> None:
        self._lent, self._thorough = lent, thorough
        self._borrowed = [tensor for _, owner in lent for tensor in tensors_in(list(vars(owner).values()))]
        self._counted = [*self._data, *self._borrowed]
        self._each = [*map(_writes, self._counted)]
        self._writes = sum(self._each)
        self._borrowed_content = contents(self._borrowed) if thorough else []

    # -------------------------------------------------------------------------------------------- what was changed

    def kept_by(self, method: str, changed: Callable[[], str]) -> _Kept:
        """A block of one learner's work, which must leave all as it is.

        Args:
            changed: what to look at afterwards: `after_step` or `after_hook`.
        """
        return _Kept(method, changed)

    def after_step(self) -> str:
        """What was changed since the batch was lent, in words, or nothing."""
        if sum(map(_writes, self._counted)) != self._writes:
            return self._named(self._counted[_difference([*map(_writes, self._counted)], self._each)])
        if self._thorough and (now := contents(self._borrowed)) != self._borrowed_content:
            return self._named(self._borrowed[_difference(now, self._borrowed_content)])
        return self.anywhere() if self.watchful else ""

    def after_hook(self) -> str:
        """The same, and all content: for work that is not done with every batch."""
        return self.after_step() or self.anywhere()

    def anywhere(self) -> str:
        """What was changed in the data set or the teachers, in words, or nothing."""
        if words := self._layers() or self.weights():
            return words
        # several roots may have a tensor of one name, and what is new since then (a cached view) is nobody's change
        replaced = self._places - {(held.words, held.tensor.data_ptr()) for held in self._found()}
        if replaced:
            return min(replaced)[0]
        if (content := contents(self._data)) != self._content[0]:
            return self._stored[_difference(content, self._content[0])].words
        return "a teacher's weights" if total(self._weights) != self._content[1] else ""

    def weights(self) -> str:
        """Whether a teacher was written to, or left in train mode, in words, or nothing: for once a batch."""
        written = sum(map(_writes, self._weights)) != self._weight_writes
        return "a teacher's weights" if written or any(module.training for module in self._modules) else ""

    def _layers(self) -> str:
        for (name, teacher), layout in zip(self._teachers, self._layouts, strict=True):
            if _layout(teacher) != layout:
                return f"the layers of teacher {name} (their mode, their hooks or what is trainable)"
        return ""

    def settle(self, changed: str, suspects: Sequence[str]) -> None:
        """Act on what was found after the work of several learners; `suspects` are their methods.

        Raises:
            Tampered: if there is one suspect.
            Spoiled: if there are several.
        """
        if not changed:
            return
        if len(suspects) == 1:
            raise Tampered(sentence(suspects[0], changed))
        if not self.watchful:
            raise Spoiled(known=False)
        self.begin()  # each learner was looked after: it was none of them

    def _named(self, tensor: Tensor) -> str:
        lent = [held for words, owner in self._lent for held in held_in(owner, words)]
        return next(held.words for held in (*self._stored, *lent) if held.tensor is tensor)

    def _found(self) -> list[Held]:
        seen: set[int] = set()
        return [held for root in self._roots for held in held_in(root, "the data set's", seen)]


class _Kept:
    """See `Shared.kept_by`."""

    __slots__ = ("_changed", "_method")

    def __init__(self, method: str, changed: Callable[[], str]) -> None:
        self._method, self._changed = method, changed

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (error is None or isinstance(error, Exception)) and (words := self._changed()):
            raise Tampered(sentence(self._method, words)) from error


def sentence(method: str, words: str) -> str:
    return (
        f"method {method!r} changed {words} in place, which it shares with every method of its cohort: write on a "
        "copy, e.g. `x / 4` for `x.div_(4)`, or `copy.deepcopy` of a layer"
    )


def held_in(root: object, whose: str, seen: set[int] | None = None) -> Iterator[Held]:
    """The tensors and arrays that a batch, an output, a data set or a task holds, by the names of its attributes."""
    yield from _held(root, f"{whose} ", "", set() if seen is None else seen)


def _held(value: Any, whose: str, name: str, seen: set[int]) -> Iterator[Held]:
    if id(value) in seen:
        return
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value) if value.flags.writeable and value.dtype.kind in "biufc" else None
    if isinstance(value, Tensor):
        if value.layout == torch.strided and not value.is_inference():
            yield Held(whose + name, value)
        return
    for key, part in _parts(value):
        seen.add(id(value))  # what is a number or a name may come again
        yield from _held(part, whose, f"{name}{key}".lstrip("."), seen)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of a container or an object that may hold tensors."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        if len(value) <= LONG or isinstance(value[0], Tensor | np.ndarray):
            yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif not callable(value) and type(value).__module__.partition(".")[0] not in FOREIGN:
        yield from [(f".{key}", part) for key, part in getattr(value, "__dict__", {}).items()]


def _weights(network: nn.Module) -> list[Tensor]:
    """Parameters, and buffers but for counters, which decide nothing in eval mode."""
    return [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]


def _layout(network: nn.Module) -> list[tuple[Any, ...]]:
    """Of which layers a network is made, and what is set on them."""
    return [
        (
            id(module),
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            "forward" in vars(module),
            *(
                (id(parameter), parameter.requires_grad)
                for parameter in module._parameters.values()
                if parameter is not None
            ),
        )
        for module in network.modules()
    ]


def _difference(after: list[int], before: list[int]) -> int:
    """The first place at which two lists differ."""
    return next(place for place, pair in enumerate(zip(after, before, strict=True)) if pair[0] != pair[1])


# ------------------------------------------------------------------------------------------------ content


@torch.no_grad()
def contents(tensors: Sequence[Tensor]) -> list[int]:
    """A checksum of each tensor's memory, waiting once for each device."""
    sums: dict[int, Tensor] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in sums:
            sums[storage.data_ptr()] = _checksum(storage)
    devices: dict[torch.device, list[int]] = {}
    for place, total in sums.items():
        devices.setdefault(total.device, []).append(place)
    known = {
        place: number
        for places in devices.values()
        for place, number in zip(places, torch.stack([sums[place] for place in places]).tolist(), strict=True)
    }
    return [known[tensor.untyped_storage().data_ptr()] for tensor in tensors]


@torch.no_grad()
def total(tensors: Sequence[Tensor]) -> list[int]:
    """Few checksums of many small tensors: they are put together first."""
    together: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        together.setdefault((tensor.device, tensor.dtype), []).append(tensor.reshape(-1))
    return contents([torch.cat(group) for group in together.values()])


def _checksum(storage: torch.UntypedStorage) -> Tensor:
    """A sum over words of 8 bytes that tells their places: those of whole rows by rows and by columns."""
    everything = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    count = len(everything) // 8
    words = everything[: 8 * count].view(torch.int64)
    whole = count // ROW * ROW
    parts = [words[whole:], everything[8 * count :].long()]
    if whole:
        rows = words[:whole].view(-1, ROW)
        parts += [rows.sum(1), rows.sum(0)]
    weighted = [_weighted(part) * odd for part, odd in zip(parts, (3, 5, 7, 11), strict=False) if len(part)]
    return torch.stack(weighted).sum() if weighted else everything.sum()


def _weighted(numbers: Tensor) -> Tensor:
    return (numbers * torch.arange(1, len(numbers) + 1, device=numbers.device)).sum()
