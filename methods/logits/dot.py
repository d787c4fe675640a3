"""DOT: A Distillation-Oriented Trainer (Zhao, Cui, Song, Liang, ICCV 2023).

Task loss and distillation loss pull in different directions, and the task wins late in training. DOT keeps a momentum
for each and gives the distillation gradient the larger one.

    m_task = (momentum - delta) m_task + (g_task + decay w),  m_kd = (momentum + delta) m_kd + g_kd
    w = w - rate (m_task + m_kd)
    a weight that only one of the two reaches has one momentum: m = momentum m + (g + decay w),  w = w - rate m

CIFAR-100: delta 0.075, base kd, momentum 0.9. ImageNet: delta 0.09, base kd with both weights 0.5 and T 1. It wraps a
method (`base`): its term `ce` is the task, all its other terms are distillation.

Deviations: none. It needs SGD without Nesterov; rate and decay are the recipe's, whose gradient clipping has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdbench import (
    Batch,
    Dataset,
    KDBenchError,
    Method,
    Network,
    NotApplicable,
    Output,
    Paper,
    Space,
    Step,
    Uniform,
    register,
)
from kdbench.methods.logits.dkd import DKD
from kdbench.methods.logits.kd import KD
from kdbench.methods.relations.crd import CRD

BASES: dict[str, type[Method]] = {"kd": KD, "dkd": DKD, "crd": CRD}


@torch.no_grad()
def dot_update(
    parameter: Tensor,
    task: Tensor | None,
    distill: Tensor | None,
    state: dict[str, Tensor],
    *,
    rate: float,
    momentum: float,
    delta: float,
    decay: float,
) -> None:
    """Move one parameter by its two gradients, of which one may be missing; the momenta live in `state`."""
    if task is not None and distill is not None:
        fresh = {
            "momentum_task": (momentum - delta, task + decay * parameter),
            "momentum_kd": (momentum + delta, distill),
        }
    else:
        only = task if distill is None else distill
        assert only is not None
        fresh = {"momentum": (momentum, only + decay * parameter)}
    for name, (keep, gradient) in fresh.items():
        state[name] = keep * state[name] + gradient if name in state else gradient.clone()
        parameter.sub_(rate * state[name])


@register(
    "dot",
    family="logits",
    paper=Paper(
        title="DOT: A Distillation-Oriented Trainer",
        authors="Zhao et al.",
        year=2023,
        venue="ICCV",
        arxiv="2307.08436",
        code="megvii-research/mdistiller",
    ),
    fidelity="official-code",
)
class DOT(Method):
    search_space = Space(delta=Uniform(0.0, 0.1))

    def __init__(self, base: str = "kd", delta: float = 0.075) -> None:
        super().__init__()
        if base not in BASES:
            raise KDBenchError(f"dot's base is {base!r}: give one of {', '.join(BASES)}")
        self.base, self.delta = BASES[base](), delta

    def build(self, student: Network, teacher: Network) -> None:
        self.base.build(student, teacher)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        self.base.prepare(data, teachers)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        self.base.epoch, self.base.epochs = self.epoch, self.epochs
        return self.base.loss(batch, student, teacher)

    def step(self, step: Step) -> Mapping[str, Tensor]:
        groups = step.optimizer.param_groups
        if not isinstance(step.optimizer, torch.optim.SGD) or groups[0]["nesterov"]:
            raise NotApplicable("dot needs SGD without Nesterov in the recipe: it keeps two momenta of its own")
        student = step.forward()
        terms = self.loss(step.batch, student, step.teacher_outputs[0])
        distill = torch.stack([term.float() for name, term in terms.items() if name != "ce"]).sum()
        named = [(p, group) for group in groups for p in group["params"] if p.requires_grad]
        parameters = [p for p, _ in named]
        with torch.autocast(student.logits.device.type, enabled=False):
            task = torch.autograd.grad(terms["ce"].float(), parameters, retain_graph=True, allow_unused=True)
            taught = torch.autograd.grad(distill, parameters, allow_unused=True)
        for (p, group), own, other in zip(named, task, taught, strict=True):
            if own is not None or other is not None:
                options = {"rate": group["lr"], "momentum": group["momentum"], "decay": group["weight_decay"]}
                dot_update(p, own, other, step.optimizer.state[p], delta=self.delta, **options)
        torch.clear_autocast_cache()
        return terms
