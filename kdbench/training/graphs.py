"""Whole steps of learners as graphs (forward, losses, backward, update, sums), each learner's on one of some streams.

A step of a small network is hundreds of kernels, each of which its host takes longer to issue than the GPU to compute.
Captured, they are issued as one, in the same order on the same numbers: the bits stay. Learners share nothing but the
batch and the teachers' outputs, which are copied to where the graphs read them, so that several graphs may run at once.

A graph is captured after some steps as they are, and serves until a number changes that it holds as a constant: its
key. That is the phase, the learning rates and the epoch, as far as the method reads it; what `Method.warmup` gives is a
number of the device (`kdbench.training.ramps`). A step that does something on the host (`kdbench.training.hostside`),
or that cannot be captured, stays as it is, and the record says why; so does every batch that is not whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kdbench.hardware import memory
from kdbench.hardware.lanes import Graph, Lanes
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Output
from kdbench.training.hooks import Misbehaved, first_line
from kdbench.training.hostside import Host
from kdbench.training.learner import Learner
from kdbench.training.ramps import Reads
from kdbench.training.steps import Key, Steps

FIRST, LATER = 3, 2  # steps as they are before a learner's first capture, and before one under another key


class Uncapturable(Exception):  # noqa: N818  (a verdict)
    """A step that cannot be a graph; the text says why."""


@dataclass
class _Own:
    """What is kept of one learner.

    Attributes:
        key: of the graph, or of the steps that lead to one.
        warm: how many of these were taken.
        ramped: the epoch whose ramps the device has.
        totals: where the graph sums the terms.
    """

    lane: int
    reads: Reads = field(default_factory=Reads)
    key: tuple[Any, ...] = ()
    warm: int = 0
    captures: int = 0
    ramped: int = -1
    graph: Graph | None = None
    totals: dict[str, Tensor] = field(default_factory=dict)


class Graphs(Steps):
    """Steps as graphs, on the streams of `lanes`.

    Seconds that a learner's clock counts while others run beside it are not its own; its steps are timed alone, as they
    are, at the start of each phase (`kdbench.training.pace`).
    """

    def __init__(self, numerics: Numerics, lanes: Lanes) -> None:
        super().__init__(numerics)
        self._lanes, self._device = lanes, numerics.device
        self._own: WeakKeyDictionary[Learner, _Own] = WeakKeyDictionary()
        self._places: dict[object, dict[tuple[Any, ...], Any]] = {}
        self._dealt = 0

    def lend(self, batch: Batch, outputs: Mapping[Key, Output]) -> tuple[Batch, dict[Key, Output]]:
        """Copies at places that stay the same for all batches of a size."""
        kept = self._copied("batch", dataclasses.replace(batch, follow=None))
        if batch.follow is not None:
            kept = dataclasses.replace(kept, follow=_Follow(batch.follow))
        lent = kept, {key: self._copied(key, output) for key, output in outputs.items()}
        self._lanes.fork()
        return lent

    def take(self, learner: Learner, number: int, batch: Batch, outputs: list[Output]) -> None:
        if learner not in self._own:
            self._own[learner] = _Own(self._dealt % self._lanes.count)
            self._dealt += 1
        own = self._own[learner]
        with self._lanes.on(own.lane), learner.clock.running(), self._guarded(learner):
            if learner.uncaptured or len(batch) != learner.recipe.batch_size:
                learner.train_step(number, batch, outputs)
            else:
                self._whole(own, learner, number, batch, outputs)
        if number == 0:  # the first batch is looked at after each learner (kdbench/training/guard.py)
            self._lanes.join()
            self._lanes.fork()

    def join(self) -> None:
        self._lanes.join()

    # ------------------------------------------------------------------------------------------ one learner's step

    def _whole(self, own: _Own, learner: Learner, number: int, batch: Batch, outputs: list[Output]) -> None:
        key = _key(own, learner, batch, outputs)
        if key != own.key:
            own.key, own.warm, own.graph = key, 0, None
        if own.graph is None and own.warm >= (LATER if own.captures else FIRST):
            learner.seed_step(number)
            try:
                self._capture(own, learner, batch, outputs)
            except Uncapturable as reason:
                learner.uncaptured = str(reason)
        if own.graph is not None:
            self._replay(own, learner, number)
        elif learner.uncaptured:
            learner.train_step(number, batch, outputs)
        else:
            self._warm_up(own, learner, number, batch, outputs)

    def _warm_up(self, own: _Own, learner: Learner, number: int, batch: Batch, outputs: list[Output]) -> None:
        """A step as it is, which shows what it reads, and whether it does anything on the host."""
        learner.seed_step(number)
        host = Host(_modules(learner), learner.optimizer, self._device)
        with own.reads.noted(learner.method):
            learner.train_step(number, batch, outputs)
        if own.warm:  # the first one under a key may set things up
            learner.uncaptured = host.changed()
        own.warm += 1
        own.key = _key(own, learner, batch, outputs)

    def _replay(self, own: _Own, learner: Learner, number: int) -> None:
        assert own.graph is not None
        if own.ramped != learner.epoch:
            own.reads.fill()
            own.ramped = learner.epoch
        for name, total in own.totals.items():
            summed = learner.sums.get(name)
            if summed is None:
                total.fill_(-0.0)  # to which any number adds up to itself
            elif summed is not total:
                total.copy_(summed)
            learner.sums[name] = total
        learner.seed_step(number)
        own.graph.replay()
        learner.steps += 1

    def _capture(self, own: _Own, learner: Learner, batch: Batch, outputs: list[Output]) -> None:
        """Make the learner's graph; nothing is computed.

        Raises:
            Uncapturable: if there can be none.
        """
        own.reads.place(self._device)
        own.ramped = learner.epoch
        totals = {name: total.clone() for name, total in learner.sums.items()}
        before, host = learner.sums, Host(_modules(learner), learner.optimizer, self._device)
        learner.sums = dict(totals)
        try:
            with (
                own.reads.noted(learner.method, self._device),
                _capturable(learner.optimizer),
                _not_followed(batch),
                self._lanes.capture(own.lane) as graph,
            ):
                learner.compute(batch, outputs)
                if learner.sums.keys() != totals.keys():
                    raise Uncapturable("its terms are not the same in every step")
                for name, total in totals.items():
                    total.copy_(learner.sums[name])
        except Exception as error:
            learner.optimizer.zero_grad(set_to_none=True)  # what there is was never computed
            if memory.ran_out(error):
                memory.release(self._device)
                raise Uncapturable("no memory was left for a graph") from None
            raise Uncapturable(_why(error)) from None
        finally:
            learner.sums = before
        if changed := host.changed():
            raise Misbehaved(
                f"the steps of method {learner.name!r} are not alike ({changed}): leave --graphs out for it"
            )
        own.graph, own.totals, own.captures = graph, totals, own.captures + 1
        own.key = _key(own, learner, batch, outputs)  # the capture may have shown more of what is read

    # ------------------------------------------------------------------------------------------ places

    def _copied(self, what: object, value: Any) -> Any:
        """A value's copy at its places, which are made for the first one of its shapes."""
        tensors: list[Tensor] = []
        _mapped(value, tensors.append)
        shapes = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
        places = self._places.setdefault(what, {})
        if shapes not in places:
            made = {id(tensor): _like(tensor) for tensor in tensors}
            places[shapes] = _mapped(value, lambda tensor: made[id(tensor)])
        there: list[Tensor] = []
        _mapped(places[shapes], there.append)
        for place, tensor in zip(there, tensors, strict=True):
            place.copy_(tensor)
        return places[shapes]


def _key(own: _Own, learner: Learner, batch: Batch, outputs: Sequence[Output]) -> tuple[Any, ...]:
    """What a graph of the learner holds as constants: memory, the phase, the optimizer's numbers, what is read."""
    rates = tuple(tuple(v for v in group.values() if isinstance(v, float)) for group in learner.optimizer.param_groups)
    places = id(batch.inputs), id(batch.strong), tuple(id(output) for output in outputs)
    return learner.phase_index, places, rates, own.reads.values()


def _modules(learner: Learner) -> dict[str, Any]:
    return {**{f"student {n}": student for n, student in enumerate(learner.students)}, "method": learner.method}


def _why(error: Exception) -> str:
    if isinstance(error, Uncapturable):
        return str(error)
    return f"it could not be captured ({first_line(error)[:200].rstrip('.')})"


def _mapped(value: Any, change: Any) -> Any:
    """A batch's or an output's copy with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)([_mapped(part, change) for part in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _mapped(getattr(value, each.name), change) for each in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    return value


def _like(tensor: Tensor) -> Tensor:
    """An empty tensor with the same strides, by which kernels are chosen."""
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        return torch.empty_like(tensor)  # expanded
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)


class _Follow:
    """A batch's `follow`, whose drawn numbers are this batch's alone."""

    def __init__(self, follow: Any) -> None:
        self._follow, self.allowed = follow, True

    def __call__(self, maps: Tensor) -> Tensor:
        if not self.allowed:
            raise Uncapturable("it moves maps as the batch's crops were drawn")
        return self._follow(maps)


@contextmanager
def _not_followed(batch: Batch) -> Iterator[None]:
    follow = batch.follow
    if not isinstance(follow, _Follow):
        yield
        return
    follow.allowed = False
    try:
        yield
    finally:
        follow.allowed = True


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let an Adam be captured; its fused kernel counts its steps on the device in any case."""
    groups = [group for group in optimizer.param_groups if group.get("fused") and "capturable" in group]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, was in zip(groups, before, strict=True):
            group["capturable"] = was
