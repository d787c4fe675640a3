"""dot moves each weight by two momenta, in the official trajectory and in the engine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    batch,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    output,
    total,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, Output, registry
from kdbench.testing.trial import Bench


def test_dots_parameter_takes_the_official_trajectory() -> None:
    from kdbench.methods.logits.dot import dot_update

    golden = goldens.load("dot")
    parameter, state = golden["p0"].clone(), {}
    for task, distill, expected in zip(golden["grads_task"], golden["grads_kd"], golden["out_traj"], strict=True):
        dot_update(parameter, task, distill, state, rate=0.05, momentum=0.9, delta=0.075, decay=5e-4)
        goldens.close(parameter, expected)


@pytest.mark.parametrize("missing", ["task", "distill"])
def test_dot_moves_a_parameter_that_one_loss_reaches_as_sgd_does(missing: str) -> None:
    from kdbench.methods.logits.dot import dot_update

    golden = goldens.load("dot")
    ours, theirs = golden["p0"].clone(), nn.Parameter(golden["p0"].clone())
    sgd, state = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, weight_decay=5e-4), {}
    for gradient in golden["grads_kd"]:
        given = (None, gradient) if missing == "task" else (gradient, None)
        dot_update(ours, *given, state, rate=0.05, momentum=0.9, delta=0.075, decay=5e-4)
        theirs.grad = gradient.clone()
        sgd.step()
        goldens.close(ours, theirs.detach())


class LinearStep:
    """What `Method.step` sees of the engine, with one linear student."""

    def __init__(self, rate: float, momentum: float, decay: float) -> None:
        self.data = batch()
        self.inputs, self.teacher = torch.randn(BATCH, 3), logits().detach()
        self.student = nn.Linear(3, CLASSES)
        self.students, self.batch = [self.student], self.data
        self.teacher_outputs = [output(self.teacher)]
        self.optimizer = torch.optim.SGD(self.student.parameters(), rate, momentum, weight_decay=decay)

    def forward(self, student: int = 0, inputs: Tensor | None = None) -> Output:
        return output(self.students[student](self.inputs))

    def update(self, terms: Mapping[str, Tensor]) -> None:
        raise AssertionError("dot has an update of its own")


@pytest.mark.equation
def test_dots_steps_with_kd_move_each_weight_by_two_momenta_of_its_two_gradients() -> None:
    rate, momentum, delta, decay = 0.1, 0.9, 0.075, 0.01
    step = LinearStep(rate, momentum, decay)
    weights = {name: p.detach().clone() for name, p in step.student.named_parameters()}
    task_momenta: dict[str, Tensor] = {}
    kd_momenta: dict[str, Tensor] = {}
    method = registry.create("dot", {"delta": delta})
    for _ in range(3):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        z = torch.stack([
            torch.stack([sum(leaves["weight"][c] * x) + leaves["bias"][c] for c in range(CLASSES)]) for x in step.inputs
        ])  # fmt: skip
        task = 0.1 * labels(z, step.data)
        taught = 0.9 * mean(kl(z[b], step.teacher[b], 4.0) for b in range(BATCH))
        gradients = [torch.autograd.grad(loss, list(leaves.values()), retain_graph=True) for loss in (task, taught)]
        for name, own, other in zip(leaves, *gradients, strict=True):
            own = own + decay * weights[name]
            task_momenta[name] = (momentum - delta) * task_momenta[name] + own if name in task_momenta else own
            kd_momenta[name] = (momentum + delta) * kd_momenta[name] + other if name in kd_momenta else other
            weights[name] = weights[name] - rate * (task_momenta[name] + kd_momenta[name])
        terms = method.step(step)
        close(terms["ce"], task)
        close(terms["kd"], taught)
        for name, parameter in step.student.named_parameters():
            close(parameter.detach(), weights[name])


def test_dots_steps_in_the_engine_are_those_of_the_equation(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    bench = Bench(tmp_path)
    learner = bench.learner(bench.cell("dot"))
    recipe, student = learner.recipe, learner.students[0].double()
    (teacher,) = learner.teachers
    momenta: dict[str, list[Tensor]] = {}
    learner.begin_epoch()
    for number, data in enumerate(learner.data.epoch(0)):
        twin = copy.deepcopy(student)
        wide = dataclasses.replace(data, inputs=data.inputs.double())
        taught_by = teacher.double()(wide.inputs)
        z, count = twin(wide.inputs).logits, len(data)
        losses = (
            0.1 * mean(cross_entropy(z[b], int(data.targets[b])) for b in range(count)),
            0.9 * mean(kl(z[b], taught_by.logits[b], 4.0) for b in range(count)),
        )
        gradients = [torch.autograd.grad(loss, list(twin.parameters()), retain_graph=True) for loss in losses]
        learner.train_step(number, wide, [taught_by])
        for name, before, after, *pair in zip(*_named(twin, student), *gradients, strict=True):
            for k, keep in enumerate((recipe.momentum - 0.075, recipe.momentum + 0.075)):
                pair[k] = pair[k] + keep * momenta[name][k] if name in momenta else pair[k]
            momenta[name] = pair
            close(after, before - recipe.learning_rate * (pair[0] + pair[1]))
    assert number >= 1  # the second step meets momenta


def _named(twin: nn.Module, student: nn.Module) -> tuple[list[str], list[Tensor], list[Tensor]]:
    names = [name for name, _ in twin.named_parameters()]
    return names, list(twin.parameters()), list(student.parameters())


def test_dot_without_a_difference_of_momenta_is_sgd() -> None:
    once, apart = (LinearStep(0.1, 0.9, 0.01) for _ in range(2))
    apart.student.load_state_dict(once.student.state_dict())
    apart.inputs, apart.teacher_outputs = once.inputs, once.teacher_outputs
    method, kd = registry.create("dot", {"delta": 0.0}), registry.create("kd")
    for _ in range(3):
        method.step(once)
        apart.optimizer.zero_grad()
        total(kd.loss(apart.batch, apart.forward(), apart.teacher_outputs[0])).backward()
        apart.optimizer.step()
    for one, other in zip(once.student.parameters(), apart.student.parameters(), strict=True):
        close(one, other)


def test_dot_refuses_an_optimizer_whose_momentum_it_cannot_split() -> None:
    step = LinearStep(0.1, 0.9, 0.01)
    step.optimizer = torch.optim.AdamW(step.student.parameters())
    with pytest.raises(NotApplicable, match="dot needs SGD without Nesterov"):
        registry.create("dot").step(step)


@pytest.mark.parametrize("option", [{"base": "dist"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^dot.*{next(iter(option.values()))}"):
        registry.create("dot", option)
