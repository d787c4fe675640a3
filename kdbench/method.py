"""What the author of a method sees: `Batch`, `Output`, `Network`, and the base classes of methods.

A method is an `nn.Module` that turns one batch's outputs into named, weighted loss terms. Everything else (devices,
autocast, optimizers, schedules, evaluation, checkpoints, files) belongs to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.errors import NotApplicable
from kdbench.info import TAPS, Info, Paper  # noqa: F401  (Paper: it was defined here)
from kdbench.space import Dimension

if TYPE_CHECKING:
    from kdbench.suites.corpus import Corpus


@dataclass(frozen=True)
class Batch:
    """One batch of training data, on the device.

    Attributes:
        inputs: what a network takes, `[B, ...]`; images are `[B, C, H, W]`, normalised.
        targets: what is right for each row of a network's logits, `[N]`, int64: in classification the class of each
            sample, N = B (noisy ones under a label-noise protocol).
        indices: position of each sample in the training set, `[B]`, int64, stable over epochs.
        strong: a second, strongly augmented view of the same samples, where a method asks for one
            (`needs` contains `"strong_view"`), else None.
        follow: applies each sample's own crop and flip to other maps of the images' size, `[B, C, H, W]`; None where
            the loader does not know them (images that are streamed from disk).
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    strong: Tensor | None = None
    follow: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.indices)


class Taps(NamedTuple):
    """The maps beside logits and embedding that are read.

    Attributes:
        features: numbers of stages, counted from 1; 0 is the stem.
        preactivations: whether those are.
        unpooled: whether the map that the head pools is, where it is none of the stages'; None where it is one.
    """

    features: tuple[int, ...] = ()
    preactivations: bool = False
    unpooled: bool | None = None


class Withheld:
    """What stands in an `Output` for maps that nobody reads: nothing; `kdbench.reads` has stand-ins that complain."""

    def one(self, what: str, why: str) -> Any:
        """For one map: `what` it is, and `why` it cannot be read."""
        return None

    def all(self, what: str, why: str) -> Any:
        """For a tuple of maps."""
        return ()


@dataclass(frozen=True)
class Output:
    """What a network says about a batch.

    The engine names none of its fields: it asks for `tensors`, `answer` and `only` what is read. A task whose networks
    say something else subclasses it, adds fields, and overrides `answer` or `only` where these differ.

    Attributes:
        logits: `[N, K]`, float32 or wider; a row for each answer: one per sample in classification, N = B, and one per
            place where a network answers at several.
        embedding: the classifier's input, `[N, D]`, float32 or wider: `logits == classifier(embedding)`.
        features: stage outputs, shallow to deep, `[B, C, *space]` (images: `[B, C, H, W]`), without the stem.
        preactivations: the same maps before their last ReLU, where the network has them, else empty.
        stem: what enters the first stage, or None where the network has no separate stem.
        strong: the output for the batch's second view, where the method asks for one.
        final: the map that the head pools, where it is none of `features`; read it as `unpooled`.
    """

    logits: Tensor
    embedding: Tensor
    features: tuple[Tensor, ...] = ()
    preactivations: tuple[Tensor, ...] = ()
    stem: Tensor | None = None
    strong: Output | None = None
    final: Tensor | None = field(default=None, kw_only=True)

    @property
    def unpooled(self) -> Tensor:
        """The map that the head pools, `[B, C, *space]`: the last stage's, or `final`, what the head's own norm,
        activation or convolution makes of it.
        """
        return self.features[-1] if self.final is None else self.final

    @property
    def answer(self) -> Tensor:
        """What is scored and differentiated, and what a deployed module may give in place of an `Output`."""
        return self.logits

    def supervised(self, batch: Batch, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """The terms of plain training on the labels: `{"ce": cross-entropy}`.

        A task with other losses overrides it and calls each `labels.NAME`, so that a composition has them once.
        """
        return {"ce": F.cross_entropy(self.logits, batch.targets, label_smoothing=label_smoothing)}

    def tensors(self) -> list[Tensor]:
        """All that it holds, a subclass's own fields too, in the order of the fields."""
        return [tensor for each in fields(self) for tensor in tensors_in(getattr(self, each.name))]

    def only(self, taps: Taps, withheld: Withheld | None = None) -> Output:
        """Without the maps that are not read; `withheld` says what stands in their place."""
        withheld = withheld or Withheld()
        if taps.features:
            hidden = withheld.one("maps of a stage", "its `reads` does not name that stage")
            kept = [feature if number in taps.features else hidden for number, feature in enumerate(self.features, 1)]
            features = tuple(kept)
        else:
            features = withheld.all("features", "its `needs` does not name them")
        before, stem, final = self.preactivations, self.stem, self.final
        if not taps.preactivations:
            before = withheld.all("preactivations", "its `needs` does not name them")
        if 0 not in taps.features:
            stem = withheld.one("stem", "its `reads` does not name stage 0")
        if not taps.unpooled and (final is not None or taps.unpooled is False):
            final = withheld.one("unpooled map", "its `needs` does not name it")
        return replace(self, features=features, preactivations=before, stem=stem, final=final)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors that a value is or holds: an `Output`, or tuples and lists of such."""
    if isinstance(value, Output):
        return value.tensors()
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


def of_labels(term: str) -> bool:
    """Whether a term of this name is one of plain training on the labels (`Output.supervised`)."""
    return term == "ce" or term.startswith("labels.")


def answer_of(output: Any) -> Tensor:
    """The answer of a network or a deployed module, which may give either an `Output` or the answer itself."""
    return output.answer if isinstance(output, Output) else output


def both_views(call: Callable[[Tensor], Output], inputs: Tensor, strong: Tensor | None) -> Output:
    """What a network says about a batch, and about its second view where there is one."""
    output = call(inputs)
    return output if strong is None else replace(output, strong=call(strong))


@dataclass(frozen=True)
class Shapes:
    """The shapes of an `Output` without the batch dimension.

    Attributes:
        num_classes: K, the size of the logits' second axis: classes, or a vocabulary; 1 in a regression, and 0 where a
            network answers with no distribution over classes (a detector).
        embedding: D.
        features, preactivations: one `(C, *space)` a stage; `preactivations` is empty where there are none.
        stem: `(C, *space)` or None.
        final: that of the map that the head pools, where it is none of `features`, else None.
    """

    num_classes: int
    embedding: int
    features: tuple[tuple[int, ...], ...] = ()
    preactivations: tuple[tuple[int, ...], ...] = ()
    stem: tuple[int, ...] | None = None
    final: tuple[int, ...] | None = field(default=None, kw_only=True)

    @property
    def unpooled(self) -> tuple[int, ...]:
        """Of `Output.unpooled`."""
        return self.features[-1] if self.final is None else self.final


class Network(nn.Module):
    """A teacher or a student as a method sees it; each task supplies its own subclass.

    Attributes:
        name: the network's name, for messages.
        shapes: the shapes of what `forward` returns.
        offers: what its `Output` has beside what `shapes` tells, as a method's `needs` call it.
    """

    name: str
    shapes: Shapes
    offers: frozenset[str] = frozenset()

    def forward(self, inputs: Tensor) -> Output:
        """Run the network and give every tap it has."""
        raise NotImplementedError

    @property
    def classifier(self) -> nn.Module:
        """The last layer: `classifier(embedding) == logits`."""
        raise NotImplementedError

    @property
    def core(self) -> nn.Module:
        """The module whose `state_dict` a checkpoint file holds: the network itself, or the one that it wraps."""
        return self

    def tail(self, stage: int) -> nn.Module:
        """What follows stage number `stage` (from 1; 0: the stem): a module from that stage's map to an `Output`.

        It shares the network's layers; `copy.deepcopy` makes layers of its own. Its `features` are those of the later
        stages, and its `unpooled` is the network's.

        Raises:
            NotApplicable: if this network cannot be entered in its middle.
        """
        raise NotApplicable(f"network {self.name!r} cannot be entered in its middle")

    def inherit(self, teachers: Sequence[Network]) -> None:
        """Take the first weights from the teachers', for networks whose name says so; once, before training.

        Raises:
            KDBenchError: if it cannot, or there is no teacher.
        """

    def stage_parameters(self) -> list[frozenset[str]]:
        """Names of the parameters of stage 1 (with the stem), stage 2, ..., and last of the head."""
        raise NotImplementedError


@dataclass(frozen=True)
class Phase:
    """One stage of a staged method. The optimizer and the learning-rate schedule start anew with each phase.

    Attributes:
        name: the method reads it as `self.phase`.
        share: this phase's part of the recipe's epochs; the shares of all phases sum to 1.
        student: names of the student's parameters that train (None: all). The rest is frozen, its norms in eval mode.
        modules: prefixes of the method's own parameter names that train (None: all).
        milestones: where the learning rate drops tenfold, as shares of this phase (None: the recipe's schedule,
            stretched to the phase).
        members: places in `Method.members` of the networks that train (None: all). The others are frozen and in eval
            mode.
    """

    name: str = "all"
    share: float = 1.0
    student: Collection[str] | None = None
    modules: Collection[str] | None = None
    milestones: tuple[float, ...] | None = None
    members: Collection[int] | None = None


class Dataset(Protocol):
    """What `prepare` sees of the training set.

    Attributes:
        num_classes: K, where samples have classes.
        targets: those of all batches, one after the other, int64, on the device.
    """

    num_classes: int
    targets: Tensor

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Batch]:
        """All samples in index order, without augmentation."""
        ...


class Step(Protocol):
    """One update as `Method.step` sees it."""

    batch: Batch
    students: Sequence[Network]
    teachers: Sequence[Network]
    teacher_outputs: Sequence[Output]
    optimizer: torch.optim.Optimizer

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        """Run one student on the batch (both views where the method asks for a strong one), or on other inputs."""
        ...

    def update(self, terms: Mapping[str, Tensor]) -> None:
        """Sum the terms, go backward, clip where the recipe says so, and take one optimizer step."""
        ...


class Method(nn.Module):
    """One distillation method with one student and one teacher.

    Subclasses take hyperparameters as keyword arguments, create extra modules in `build`, and return named terms from
    `loss`. All other hooks have defaults.

    Attributes:
        needs: taps the method uses beside logits and embedding, out of `"features"`, `"maps"` (features with two
            spatial axes), `"unpooled"` (the map that the head pools), `"preactivations"` and `"strong_view"`. A pair
            that lacks one is `not applicable`.
        uses_teacher: False for methods that train without one.
        search_space: what `kdbench sweep` may try for each hyperparameter (`kdbench.space`); decides no result. None: a
            default for its weights and its temperature (`kdbench.registry.spaces.default_space`).
        epoch: the current epoch, counted from 1. Set by the engine, like the next two.
        epochs: all epochs of this training.
        phase: the current phase's name.
    """

    info: ClassVar[Info]
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_teacher: ClassVar[bool] = True
    reads_logits: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Dimension] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 1
        self.epochs = 1
        self.phase = "all"

    def build(self, student: Network, teacher: Any) -> None:
        """Create the extra modules that the method trains, from both sides' `shapes`.

        Teacher layers that the method reuses are deep-copied and frozen here, never registered as they are.

        Raises:
            NotApplicable: with the reason, if the method cannot work on this pair.
        """

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        """Once before training: memory banks, attribution maps, statistics of the teacher. State goes into buffers."""

    def corpus(self) -> Corpus | None:
        """The corpus that the first teacher writes and that is trained on in place of the training set; None: that one.

        A method that needs nothing else of the teacher has `uses_teacher = False`: it does not run in the steps.
        """
        return None

    def phases(self) -> Sequence[Phase]:
        """The stages of training; most methods have one."""
        return (Phase(),)

    def loss(self, batch: Batch, student: Any, teacher: Any) -> dict[str, Tensor]:
        """Named terms, already weighted; their sum is minimised. `teacher` carries no gradient."""
        raise NotImplementedError

    def reads(self, stages: int) -> Iterable[int]:
        """Numbers of the stages whose maps are read of a student with so many, counted from 1; 0 is the stem.

        All stages unless a method says otherwise. The others' maps cannot be read; a compiled student's step is
        shorter for each of them.
        """
        return range(1, stages + 1)

    def step(self, step: Step) -> Mapping[str, Tensor]:
        """One update. Only methods that need several forwards or the optimizer itself override it."""
        students = [step.forward(i) for i in range(len(step.students))]
        terms = self.compute(step.batch, students, step.teacher_outputs)
        step.update(terms)
        return terms

    def deploy(self, student: Any) -> nn.Module:
        """The module that is evaluated and counted: inputs -> an `Output`, or its `answer` alone (the logits). Shares
        the student's weights.
        """
        return student

    def respond(self, student: Any) -> Any:
        """The student's output as the terms see it, those of a composition's other parts too; for methods that train
        layers behind the student's last stage.
        """
        return student

    def watch(self) -> Mapping[str, Tensor]:
        """Numbers of the method's own that the curve keeps, read at each epoch's end, e.g. a learned temperature."""
        return {}

    def warmup(self, share: float) -> float:
        """Linear ramp from near 0 to 1 over the first `share` of the training's epochs, counted from epoch 1."""
        return min(self.epoch / max(share * self.epochs, 1.0), 1.0)

    # How the engine calls the hooks; base classes of other shapes override these, methods do not.

    def members(self) -> tuple[str, ...]:
        """Which networks train together, all from scratch: `"student"`, `"teacher"` (that architecture), `"assistant"`
        (the pair's next one, in its order) or `"student*0.8"` (the student with 0.8 times its channels).

        The first is ranked.
        """
        return ("student",)

    def bind(self, students: Sequence[Network], teachers: Sequence[Network]) -> None:
        """Check what the pair offers against `needs`, then `build`."""
        self.check_taps([*students, *(teachers if self.uses_teacher else ())])
        self.build(students[0], teachers[0] if self.uses_teacher else None)

    def compute(self, batch: Batch, students: Sequence[Output], teachers: Sequence[Output]) -> dict[str, Tensor]:
        return self.loss(batch, self.respond(students[0]), teachers[0] if self.uses_teacher else None)

    def deployed(self, students: Sequence[Network]) -> nn.Module:
        return self.deploy(students[0])

    def check_taps(self, networks: Sequence[Network]) -> None:
        name = type(self).info.name
        for network in networks:
            features = network.shapes.features
            if self.reads_logits and network.shapes.num_classes < 2:
                raise NotApplicable(
                    f"{name} reads logits of one choice among classes, but network {network.name!r} answers otherwise"
                )
            lacking = sorted(self.needs - TAPS - network.offers)
            if lacking:
                needs = ", ".join(lacking).replace("_", " ")
                raise NotApplicable(f"{name} needs {needs}, which network {network.name!r} does not offer")
            if self.needs & {"features", "maps", "unpooled"} and not features:
                raise NotApplicable(f"{name} needs stage features, but network {network.name!r} offers none")
            read = (*features, network.shapes.unpooled) if "unpooled" in self.needs else features
            if "maps" in self.needs and any(len(shape) != 3 for shape in read):
                raise NotApplicable(f"{name} needs feature maps [C, H, W], but network {network.name!r} has none")
            if "preactivations" in self.needs and not network.shapes.preactivations:
                raise NotApplicable(f"{name} needs pre-activation maps, but network {network.name!r} offers none")
        self._check_places(networks)

    def _check_places(self, networks: Sequence[Network]) -> None:
        """Refuse networks that read other tokens where maps are compared: their places are other words.

        Relations between samples are each network's own.
        """
        parts: Sequence[type[Method]] = getattr(self, "parts", None) or (type(self),)
        if not any(part.needs & {"features", "maps"} and part.info.family != "relations" for part in parts):
            return
        first = networks[0]
        for other in networks[1:]:
            if getattr(first, "vocabulary", None) != getattr(other, "vocabulary", None):
                raise NotApplicable(
                    f"{type(self).info.name} compares maps place by place, but networks {first.name!r} and "
                    f"{other.name!r} read other tokens: give them one tokenizer, or use a method on logits or on [CLS]"
                )


class MutualMethod(Method):
    """Several networks that train together; `build`, `loss` and `deploy` see the whole list of students.

    The first student starts from the same weights as every other method's student and is the one that is ranked.
    `teacher` is None unless `uses_teacher`.
    """

    uses_teacher: ClassVar[bool] = False

    def members(self) -> tuple[str, ...]:
        return ("student", "student")

    def bind(self, students: Sequence[Network], teachers: Sequence[Network]) -> None:
        self.check_taps([*students, *(teachers if self.uses_teacher else ())])
        self.build(students, teachers[0] if self.uses_teacher else None)  # type: ignore[arg-type]

    def compute(self, batch: Batch, students: Sequence[Output], teachers: Sequence[Output]) -> dict[str, Tensor]:
        return self.loss(batch, students, teachers[0] if self.uses_teacher else None)

    def deploy(self, student: Any) -> nn.Module:
        return student[0]

    def deployed(self, students: Sequence[Network]) -> nn.Module:
        return self.deploy(students)


class MultiTeacherMethod(Method):
    """One student and a pool of teachers; `build` and `loss` see the whole list of teachers."""

    min_teachers: ClassVar[int] = 2

    def bind(self, students: Sequence[Network], teachers: Sequence[Network]) -> None:
        if len(teachers) < self.min_teachers:
            raise NotApplicable(
                f"{type(self).info.name} needs at least {self.min_teachers} teachers, but this pair's pool has "
                f"{len(teachers)}: name more in the pair's `pool`"
            )
        self.check_taps([*students, *teachers])
        self.build(students[0], teachers)

    def compute(self, batch: Batch, students: Sequence[Output], teachers: Sequence[Output]) -> dict[str, Tensor]:
        return self.loss(batch, self.respond(students[0]), teachers)
