"""Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning (Zhang, Chen, Wang, ICME 2023).

Two small networks weigh the teachers, sample by sample. They learn to weigh them so that a student which followed the
teachers for two steps and then the labels for one would do better on samples that it got wrong.

    w_i = softmax(MLP([z_t1,i, ..., z_tK,i, sg z_s,i])),  v_i = softmax(MLP(row i of [F_t1 F_t1^T, ..., sg F_s F_s^T]))
    L = CE(z_s, y) + kd_weight / B sum_ki w_ki KL_T(z_tk,i || z_s,i)
        + weight / B sum_ki v_ki mean((ReLU(BN(conv1x1_k(F_s,i))) - F_tk,i)^2)
    every meta_freq batches, on a batch of hard samples and from the student as it is:
        inner_steps steps of the optimizer on the last two terms, one on CE, then
        w and v descend d CE(after these steps) / d (their weights); the student is left as it was

T 4, kd_weight 1, weight 100, K 3, SGD with Nesterov momentum. F is the last map, the larger pooled; an MLP has a hidden
layer of half its input. Of 256 hard images (`buffer`; 0: the current batch) the first come from the first batches,
later ones are what the student gets wrong. The meta networks have their own Adam (1e-3, decay 1e-4) for these steps.

Deviations:
- The gradient goes through the optimizer's true update; the official code's forgets Nesterov's part, its steps do not
  (`nesterov_virtual=False` leaves it out of both). Virtual steps are in float32, and plain SGD under
  any other optimizer.
- Batches smaller than the recipe's are used, their Gram matrices' rows filled up with zeros; the official code skips
  them, and on CIFAR the meta step of an epoch's last batch.
- A buffer is cut at its size (there it may grow on), and BatchNorm statistics stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdbench import Batch, Dataset, KDBenchError, MultiTeacherMethod, Network, Output, Paper, Step, register
from kdbench.connectors import Embed, Unrolled, pool_match
from kdbench.losses import weighted_kl, wide


def meta_network(width: int, teachers: int) -> nn.Sequential:
    """`[B, width]` to the teachers' weights `[B, K]`, which sum to 1."""
    return nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, teachers), nn.Softmax(1))


class Distances(nn.ModuleList):
    """mean((ReLU(BN(conv_k(F_s,i))) - F_tk,i)^2), `[K, B]`, of the networks' outputs."""

    def forward(self, student: Output, teacher: Sequence[Output]) -> Tensor:
        pairs = [pool_match(student.features[-1], output.features[-1]) for output in teacher]
        apart = [wide(embed(ours)) - wide(theirs) for embed, (ours, theirs) in zip(self, pairs, strict=True)]
        return torch.stack([each.pow(2).flatten(1).mean(1) for each in apart])


class Pupil(nn.Module):
    """The student with its embeddings: inputs to its `Output` and its distances from the teachers, `[K, B]`."""

    def __init__(self, student: nn.Module, embeds: Distances) -> None:
        super().__init__()
        self.student, self.embeds = student, embeds

    def forward(self, inputs: Tensor, teacher: Sequence[Output]) -> tuple[Output, Tensor]:
        output = self.student(inputs)
        return output, self.embeds(output, teacher)


@register(
    "mmkd",
    family="multi_teacher",
    paper=Paper(
        title="Adaptive Multi-Teacher Knowledge Distillation with Meta-Learning",
        authors="Zhang et al.",
        year=2023,
        venue="ICME",
        arxiv="2306.06634",
        code="Rorozhl/MMKD",
    ),
    fidelity="official-code",
)
class MMKD(MultiTeacherMethod):
    needs = frozenset({"maps"})

    def __init__(
        self,
        weight: float = 100.0,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        meta_freq: int = 5,
        inner_steps: int = 2,
        buffer: int = 256,
        meta_lr: float = 1e-3,
        meta_wd: float = 1e-4,
        nesterov_virtual: bool = True,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.kd_weight = weight, temperature, kd_weight
        self.meta_freq, self.inner_steps, self.size = meta_freq, inner_steps, buffer
        self.meta_lr, self.meta_wd, self.nesterov_virtual = meta_lr, meta_wd, nesterov_virtual
        if min(meta_freq, inner_steps) < 1:
            raise KDBenchError(f"mmkd's meta_freq and inner_steps are at least 1, not {meta_freq} and {inner_steps}")
        self.counted_epoch = self.batches = self.samples = 0  # of the current epoch
        self.held = 0  # hard samples in the buffer

    def build(self, student: Network, teacher: Sequence[Network]) -> None:
        ours, *theirs = (network.shapes.features[-1][0] for network in (student, *teacher))
        self.embeds = Distances(Embed(ours, width) for width in theirs)
        self.weigh_logits = meta_network((len(teacher) + 1) * student.shapes.num_classes, len(teacher))

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        first = next(iter(data.batches()))
        self.full_batch, self.all_samples = len(first), len(data)
        self.weigh_features = meta_network((len(teachers) + 1) * self.full_batch, len(teachers))
        parameters = [*self.weigh_logits.parameters(), *self.weigh_features.parameters()]
        self.adam = torch.optim.Adam(parameters, self.meta_lr, weight_decay=self.meta_wd)
        self.register_buffer("hard_inputs", first.inputs.new_zeros(self.size, *first.inputs.shape[1:]))
        self.register_buffer("hard_targets", first.targets.new_zeros(self.size))

    def get_extra_state(self) -> dict[str, Any]:
        return {"held": self.held, "adam": self.adam.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.held = state["held"]
        self.adam.load_state_dict(state["adam"])

    def loss(self, batch: Batch, student: Output, teacher: Sequence[Output]) -> dict[str, Tensor]:
        with torch.no_grad():  # so that the recipe's optimizer never moves the meta networks
            weights = self.weights(student, teacher)
        terms = self.matching(student, teacher, self.embeds(student, teacher), weights)
        return {"ce": F.cross_entropy(student.logits, batch.targets), **terms}

    def weights(self, student: Output, teacher: Sequence[Output]) -> Tensor:
        """The teachers' weights w and v, `[2, K, B]`; no gradient goes to the student."""
        everyone = (*teacher, student)
        logits = torch.cat([output.logits.detach() for output in everyone], 1)  # [B, (K + 1) classes]
        with torch.autocast(logits.device.type, enabled=False):
            grams = torch.cat([self.gram(output.features[-1].detach()) for output in everyone], 1)
            return torch.stack([self.weigh_logits(logits).T, self.weigh_features(grams).T])

    def gram(self, feature: Tensor) -> Tensor:
        """F F^T of a map `[B, C, H, W]`, filled up to `[B, full batch]`."""
        rows = wide(feature).flatten(1)
        return F.pad(rows @ rows.T, (0, self.full_batch - len(rows)))

    def matching(self, student: Output, teacher: Sequence[Output], apart: Tensor, weights: Tensor) -> dict[str, Tensor]:
        kd = weighted_kl(student.logits, [output.logits for output in teacher], weights[0], self.temperature)
        return {"kd": self.kd_weight * kd, "feature": self.weight * (weights[1] * apart).sum(0).mean()}

    def step(self, step: Step) -> Mapping[str, Tensor]:
        student = step.forward()
        terms = self.loss(step.batch, student, step.teacher_outputs)
        step.update(terms)
        self.remember(step.batch, student.logits)
        if self.epoch != self.counted_epoch:
            self.counted_epoch, self.batches, self.samples = self.epoch, 0, 0
        self.samples += len(step.batch)  # a last batch of one sample is dropped
        if self.batches % self.meta_freq == 0 or self.samples >= self.all_samples - 1:
            self.meta_step(step)
        self.batches += 1
        return terms

    @torch.no_grad()
    def remember(self, batch: Batch, logits: Tensor) -> None:
        """Fill the buffer; once it is full, put what the student got wrong at random places."""
        if self.held < self.size:
            places = torch.arange(self.held, min(self.held + len(batch), self.size), device=logits.device)
            self.held += len(places)
            chosen = torch.ones_like(places, dtype=torch.bool)
        else:
            places = torch.randperm(self.size, device=logits.device)[: len(batch)]
            chosen = (logits.argmax(1) != batch.targets)[: len(places)]
        for held, new in ((self.hard_inputs, batch.inputs), (self.hard_targets, batch.targets)):
            mask = chosen.reshape(-1, *[1] * (new.dim() - 1))
            held[places] = torch.where(mask, new[: len(places)], held[places])

    def meta_step(self, step: Step) -> None:
        batch, teacher = step.batch, step.teacher_outputs
        if self.size:
            chosen = torch.randperm(self.held, device=batch.targets.device)[: self.full_batch]
            batch = Batch(self.hard_inputs[chosen], self.hard_targets[chosen], chosen)
            with torch.no_grad():
                teacher = [network(batch.inputs) for network in step.teachers]
        parameters = self.adam.param_groups[0]["params"]
        # attention has a second derivative in its plain form only
        with torch.autocast(batch.targets.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            gradients = torch.autograd.grad(self.look_ahead(step, batch, teacher), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def look_ahead(self, step: Step, batch: Batch, teacher: Sequence[Output]) -> Tensor:
        """CE after the virtual steps, as a function of the meta networks; nothing real changes."""
        pupil = Unrolled(Pupil(step.students[0], self.embeds), step.optimizer, self.nesterov_virtual)
        for _ in range(self.inner_steps):
            output, apart = pupil(batch.inputs, teacher)
            pupil.descend(sum(self.matching(output, teacher, apart, self.weights(output, teacher)).values()))
        pupil.descend(F.cross_entropy(pupil(batch.inputs, teacher)[0].logits, batch.targets))
        return F.cross_entropy(pupil(batch.inputs, teacher)[0].logits, batch.targets)
