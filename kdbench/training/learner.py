"""A learner: one cell while it trains, with its student(s), method, optimizer, schedule and random stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from kdbench.errors import NotApplicable
from kdbench.hardware import memory
from kdbench.hardware.clock import Clock
from kdbench.hardware.numerics import Numerics
from kdbench.method import Batch, Method, Network, Output, answer_of, both_views
from kdbench.reads import declared, taps_of
from kdbench.registry import applies
from kdbench.seeding import seed_all
from kdbench.suites.grid import Cell, Recipe
from kdbench.tasks import Task, TrainingSet
from kdbench.training.cost import deployed_cost, latencies
from kdbench.training.hooks import (
    Calling,
    Misbehaved,
    NonFinite,
    check_deployed,
    check_gradient,
    check_numbers,
    check_output,
    check_phases,
    check_scored,
    check_scores,
    check_terms,
)
from kdbench.training.members import created, members
from kdbench.training.stopping import Stopping


class _Step:
    """One update of one learner: what `Method.step` works with (see `kdbench.method.Step`)."""

    def __init__(self, learner: Learner, batch: Batch, teachers: Sequence[Network], outputs: Sequence[Output]) -> None:
        self._learner = learner
        self.batch = batch
        self.students: Sequence[Network] = learner.students
        self.teachers = teachers
        self.teacher_outputs = outputs
        self.optimizer = learner.optimizer
        self.checked: object = None  # the terms of the last update

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        if inputs is not None:
            return self._run(student, inputs)
        strong = self.batch.strong if self._learner.wants_strong_view else None
        return both_views(partial(self._run, student), self.batch.inputs, strong)

    def _run(self, student: int, inputs: Tensor) -> Output:
        learner = self._learner
        return declared(learner.calls[student](inputs), learner.taps[student], learner.cell.method.name)

    def update(self, terms: Mapping[str, Tensor]) -> None:
        learner = self._learner
        self.checked = terms
        check_terms(learner.name, terms)
        check_gradient(learner.name, terms)
        with learner.numerics.autocast(enabled=False):
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack([term.float() for term in terms.values()]).sum().backward()
            if learner.recipe.clip_grad:
                torch.nn.utils.clip_grad_norm_(learner.trained_parameters(), learner.recipe.clip_grad)
            self.optimizer.step()
        torch.clear_autocast_cache()  # autocast's bf16 copies are of the weights before this update


class Learner:
    """Trains one cell epoch by epoch; its state is complete at every epoch's end.

    Where the recipe counts updates, an epoch is a part of the training (`Recipe.length`), not a pass over the data.

    Attributes:
        epoch: how many epochs are done.
        curve: one dict per epoch.
        clock: this learner's own time, without the shared batch and teacher.
        seconds: what the clock has counted in all epochs, and the learner's part in the shared work.
        joules: the energy of that, where the device counts it.
        kept: what the task keeps of the predictions after the last epoch (`Task.keeps`).
        step_times: of the phases so far, its steps beside a plain student's (`kdbench.training.pace`).
        unordered: what of it adds in no fixed order on CUDA (`kdbench.hardware.determinism`).
        held_out: the task on whose score the training may stop early (`kdbench.training.stopping`), if it may.
        uncaptured: why its steps are no graphs where graphs were asked for (`kdbench.training.graphs`).
        sums, steps: of this epoch: of each loss term, and how many.
    """

    def __init__(
        self,
        cell: Cell,
        task: Task,
        data: TrainingSet,
        numerics: Numerics,
        teachers: Sequence[Network],
        held_out: Task | None = None,
    ) -> None:
        self.cell, self.task, self.data, self.numerics = cell, task, data, numerics
        self.recipe: Recipe = cell.recipe
        self.held_out = held_out
        self.stopping = Stopping(cell.recipe, task.metrics.primary) if held_out else None
        self.name = cell.method.name
        if cell.fault:
            raise Misbehaved(cell.fault)
        self.method: Method = created(cell)
        with Calling(self.name, "members"):
            self.roles = self.method.members()
        self.students = members(cell, task, self.roles)
        self.teachers = teachers
        if teachers or cell.role == "teacher":  # a student that is only timed has none
            for student in self.students:
                student.inherit(teachers)
        applies.check(type(self.method), cell.dataset.task)
        self._seed("build")
        with Calling(self.name, "build"):
            self.method.bind(self.students, teachers)
        numerics.place(self.method)
        self._seed("prepare")
        with numerics.autocast(), Calling(self.name, "prepare"):
            self.method.prepare(data, teachers)
        numerics.place(self.method)
        self._method_trains = {name for name, p in self.method.named_parameters() if p.requires_grad}
        with Calling(self.name, "reads"):
            self.taps = [taps_of(self.method, student) for student in self.students]
        self.compile_students()
        with Calling(self.name, "phases"):
            self.phases = check_phases(self.name, self.method.phases())
        self.bounds = self._phase_bounds()
        self.epoch = 0
        self.curve: list[dict[str, Any]] = []
        self.clock = Clock(numerics.device)
        self.seconds = {"own": 0.0, "alone": 0.0}
        self.joules: float | None = None
        self.kept: dict[str, Any] | None = None
        self.peak_memory_mb: float | None = None
        self.step_times: list[dict[str, Any]] = []
        self.unordered: set[str] = set()
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.uncaptured = ""
        self._tried = False
        self._enter_phase(0)

    @property
    def wants_strong_view(self) -> bool:
        return "strong_view" in self.method.needs

    # ------------------------------------------------------------------------------------------ building

    def _seed(self, *parts: int | str) -> None:
        """The same streams for every method of one seed: common random numbers."""
        seed_all(self.cell.role, self.cell.seed, *parts)

    def _phase_bounds(self) -> list[int]:
        """The epoch at which each phase ends."""
        done = [sum(phase.share for phase in self.phases[: i + 1]) for i in range(len(self.phases))]
        bounds = [round(share * self.recipe.length) for share in done]
        if any(end <= start for start, end in zip([0, *bounds[:-1]], bounds, strict=True)):
            raise NotApplicable(
                f"{self.cell.method.name} has {len(self.phases)} phases, which do not fit into {self.recipe.span}: "
                f"give the recipe more {self.recipe.unit}"
            )
        return bounds

    def compile_students(self) -> None:
        """Make `calls`, by which the students run: compiled where the numerics say so."""
        self.calls: list[Callable[..., Output]] = [
            self.numerics.compiled(student, self.recipe.batch_size, taps)
            for student, taps in zip(self.students, self.taps, strict=True)
        ]

    # ------------------------------------------------------------------------------------------ phases

    def _enter_phase(self, index: int) -> None:
        """Choose what trains, and start the optimizer and the schedule anew."""
        phase = self.phases[index]
        self.phase_index = index
        self.method.phase = phase.name
        for place, student in enumerate(self.students):
            trains = phase.members is None or place in phase.members
            for name, parameter in student.named_parameters():
                parameter.requires_grad_(trains and (phase.student is None or name in phase.student))
        for name, parameter in self.method.named_parameters():
            chosen = phase.modules is None or any(name.startswith(prefix) for prefix in phase.modules)
            parameter.requires_grad_(chosen and name in self._method_trains)
        recipe, start = self.recipe, self._phase_start(index)
        options = _kernels(recipe.optimizer, self.numerics.device)
        self.optimizer = create_optimizer_v2(
            nn.ModuleList([*self.students, self.method]),
            opt="momentum" if recipe.optimizer == "sgd" and not recipe.nesterov else recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=not recipe.decay_norm_and_bias,
            **options,
        )
        if options.get("fused") and recipe.optimizer == "sgd" and recipe.momentum:
            # torch's own start in numbers; its fused kernel wants all weights to have their first gradient at once
            for parameter in self.trained_parameters():
                self.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        epochs = self.bounds[index] - start
        milestones = phase.milestones if phase.milestones is not None else recipe.milestones
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="multistep" if phase.milestones is not None else recipe.schedule,
            num_epochs=epochs,
            # timm drops the rate one epoch before the milestone it is given; the literature drops it after
            decay_milestones=[round(share * epochs) + 1 for share in milestones],
            decay_rate=recipe.decay_rate,
            warmup_epochs=min(recipe.warmup(epochs), epochs - 1),
            warmup_lr=recipe.learning_rate / (recipe.warmup(epochs) + 1),
            min_lr=recipe.min_learning_rate,
        )

    def _phase_start(self, index: int) -> int:
        return self.bounds[index - 1] if index else 0

    @property
    def phase_epochs(self) -> int:
        """How long the phase is that it is in."""
        return self.bounds[self.phase_index] - self._phase_start(self.phase_index)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    # ------------------------------------------------------------------------------------------ training

    def begin_epoch(self) -> None:
        """Set phase, learning rate and train mode for epoch number `self.epoch + 1`."""
        index = next(i for i, end in enumerate(self.bounds) if self.epoch < end)
        if index != self.phase_index:
            self._enter_phase(index)
        self.method.epoch, self.method.epochs = self.epoch + 1, self.recipe.length
        if self.scheduler is not None:
            self.scheduler.step(self.epoch - self._phase_start(index))
        self._set_modes()
        self.sums, self.steps = {}, 0

    def _set_modes(self) -> None:
        self.method.train()
        members = self.phases[self.phase_index].members
        for place, student in enumerate(self.students):
            student.train(members is None or place in members)
            _freeze_norms(student)
        _freeze_norms(self.method)
        for teacher in self.teachers:  # where a method holds one as its own, it is still everybody's
            teacher.eval()

    def train_step(self, number: int, batch: Batch, outputs: Sequence[Output]) -> None:
        """One update on batch `number` of the epoch, in a random stream of its own."""
        self.seed_step(number)
        self.compute(batch, outputs)
        self.steps += 1
        if not self._tried:
            self._try_deployed(batch.inputs[:1])

    def seed_step(self, number: int) -> None:
        self._seed("step", self.epoch, number)

    def compute(self, batch: Batch, outputs: Sequence[Output]) -> None:
        """What a step is to the device: forward, losses, backward, update, and the sums of the terms."""
        step = _Step(self, batch, self.teachers, outputs)
        with self.numerics.autocast(), self._memory_measured(), Calling(self.name, "step"):
            terms = self.method.step(step)
        if terms is not step.checked:
            check_terms(self.name, terms)
        for name, term in terms.items():
            value = term.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    @torch.no_grad()
    def _try_deployed(self, example: Tensor) -> None:
        """Find out after the first step, and not after an epoch, if nothing can be scored."""
        self._tried = True
        with self.numerics.autocast(), Calling(self.name, "deploy"):
            outputs = [answer_of(network.eval()(example)) for network in (self.deployed(), self.students[0])]
        check_output(self.name, *outputs)
        self._set_modes()

    @contextmanager
    def _memory_measured(self) -> Iterator[None]:
        """Keep what the first step needs at most; on CUDA the second, since a compiler works within the first."""
        if self.peak_memory_mb is not None or (self.numerics.device.type == "cuda" and not self._tried):
            yield
            return
        modules = nn.ModuleList([*self.students, self.method])
        with memory.peak(modules, self.optimizer, self.numerics.device) as measured:
            yield
        self.peak_memory_mb = measured.mb

    def end_epoch(self, teacher_predictions: Any, shared_seconds: float, watts: float | None = None) -> None:
        """Check the losses, evaluate what would be deployed, and extend the curve.

        Args:
            teacher_predictions: the first teacher's on the test set; None without one.
            shared_seconds: what this epoch's batches and (where the method uses them) teachers cost the cohort, and
                would cost this learner if it trained alone.
            watts: what the device used in this epoch's work, on average.

        Raises:
            NonFinite: if a loss term, an output, a score or a watched number was NaN or infinite.
        """
        terms = {name: float(total) / self.steps for name, total in self.sums.items()}
        for name, value in terms.items():
            if not math.isfinite(value):
                raise NonFinite(f"loss term {name!r} became {value} in epoch {self.epoch + 1}")
        last = self.epoch + 1 == self.recipe.length
        due = last or (self.epoch + 1) % self.recipe.evaluate_every == 0
        watched_score: dict[str, float] = {}
        if self.stopping and self.held_out and due and self.phase_index == len(self.phases) - 1:
            watched_score = {"held_out": self._score_held_out(self.held_out)}
            self.stopping.look(watched_score["held_out"], self.epoch + 1, [*self.students, self.method], last)
        if self.stopping:
            due = last = self.stopping.ended
        scores: Mapping[str, float | None] = {}
        if due:
            predictions = self._predictions(self.task)
            scores = self.task.scores(predictions, teacher_predictions)
            check_scores(f"what {self.name} deploys", scores, self.epoch + 1)
            self.kept = dict(self.task.keeps(predictions)) if last else None
        own = self.clock.read()
        self.seconds = {"own": self.seconds["own"] + own, "alone": self.seconds["alone"] + own + shared_seconds}
        if watts is not None:
            self.joules = (self.joules or 0.0) + watts * (own + shared_seconds)
        self.epoch += 1
        loss, seconds = sum(terms.values()), own + shared_seconds
        point: dict[str, Any] = {"epoch": self.epoch, "loss": loss, "terms": terms, "seconds": seconds}
        if self.recipe.updates:
            point["updates"] = self.recipe.part(self.epoch - 1)[1]
        with Calling(self.name, "watch"):
            watched = check_numbers(f"watched number of {self.name}", self.method.watch(), self.epoch)
        if watched:
            point["watched"] = watched
        self.curve.append({**point, "learning_rate": self.optimizer.param_groups[0]["lr"], **watched_score, **scores})

    def _predictions(self, task: Task) -> Any:
        """What would be deployed now says of a task's test set."""
        with Calling(self.name, "deploy"):
            predictions = task.evaluate(self.deployed())
        check_scored(f"what {self.name} deploys", predictions, self.epoch + 1)
        return predictions

    def _score_held_out(self, task: Task) -> float:
        scores = task.scores(self._predictions(task))
        check_scores(f"what {self.name} deploys", scores, self.epoch + 1)
        return float(scores[task.metrics.primary.name] or 0.0)

    def deployed(self) -> nn.Module:
        return check_deployed(self.name, self.method.deployed(self.students))

    @property
    def finished(self) -> bool:
        return self.epoch >= self.recipe.length or (self.stopping is not None and self.stopping.ended)

    # ------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "phase": self.phase_index,
            "students": [student.state_dict() for student in self.students],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.curve,
            "seconds": self.seconds,
            "joules": self.joules,
            "kept": self.kept,
            "peak_memory_mb": self.peak_memory_mb,
            "step_times": self.step_times,
            **({"unordered": sorted(self.unordered)} if self.unordered else {}),
            **({"uncaptured": self.uncaptured} if self.uncaptured else {}),
            **({"stopping": self.stopping.state_dict()} if self.stopping else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._enter_phase(state["phase"])
        for student, weights in zip(self.students, state["students"], strict=True):
            student.load_state_dict(weights)
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.curve, self.seconds = state["epoch"], state["curve"], state["seconds"]
        self.joules, self.kept = state["joules"], state.get("kept")
        self.peak_memory_mb = state["peak_memory_mb"]
        self.step_times = state.get("step_times", [])
        self.unordered |= set(state.get("unordered", ()))
        self.uncaptured = state.get("uncaptured", "")
        if self.stopping:
            self.stopping.load_state_dict(state["stopping"])

    def result(self) -> dict[str, Any]:
        """The record's `result`, from the finished curve."""
        table, last = self.task.metrics, self.curve[-1]
        primary, scored = table.primary, [point for point in self.curve if table.primary.name in point]
        best = max(scored, key=lambda point: primary.sign * point[primary.name])
        if self.kept is None:  # an older kdbench wrote the checkpoint
            self.kept = dict(self.task.keeps(self.task.evaluate(self.deployed())))
        extra: dict[str, float] = {}
        peers = [s for s, role in zip(self.students, self.roles, strict=True) if role == "student"]
        if len(peers) > 1:
            extra = dict(self.task.group([self.task.evaluate(peer) for peer in peers]))
        if self.stopping:
            extra["kept_epoch"] = float(self.stopping.epoch)
        scores = {metric.name: last[metric.name] for metric in table.scores}
        best_of = {table.best_name: best[primary.name], "best_epoch": best["epoch"]}
        return {**scores, **best_of, **self.kept, "extra": extra}

    def cost(self) -> dict[str, Any]:
        """The record's `cost`."""
        students = {id(p) for p in self.students[0].parameters()}  # a method may keep a layer of it as its own
        extra = [p for name, p in self.method.named_parameters() if name in self._method_trains]
        extra += [p for student in self.students[1:] for p in student.parameters()]
        return {
            "seconds_per_epoch": self.seconds["alone"] / max(self.epoch, 1),
            "own_seconds_per_epoch": self.seconds["own"] / max(self.epoch, 1),
            "joules_per_epoch": None if self.joules is None else self.joules / max(self.epoch, 1),
            "peak_memory_mb": self.peak_memory_mb,
            "step_times": self.step_times,
            "extra_parameters": sum({id(p): p.numel() for p in extra if id(p) not in students}.values()),
            "student_parameters": sum(p.numel() for p in self.students[0].parameters()),
            **deployed_cost(self.deployed(), self.task.example()),
            **latencies(self.deployed(), self.task.example(), self.numerics),
        }


def _freeze_norms(network: nn.Module) -> None:
    """Put modules whose own parameters are all frozen into eval mode, so that their running statistics stay."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(p.requires_grad for p in own):
            module.eval()


def _kernels(optimizer: str, device: torch.device) -> dict[str, Any]:
    """How torch's own optimizers treat all weights at once.

    The fused kernels round differently from the plain loop, `foreach` does not: on CPUs, where results were published
    with the loop and little is to be won, it stays with the latter.
    """
    if optimizer not in ("sgd", "adam", "adamw"):
        return {}
    return {"fused": True} if device.type == "cuda" else {"foreach": True}
