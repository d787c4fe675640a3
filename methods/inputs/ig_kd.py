"""Model compression using knowledge distillation with integrated gradients (Hernandez, Chang, Nordling, 2025).

Some of the student's images are mixed with a map of the pixels that the teacher's answer rests on: its integrated
gradients, computed once before the training.

    a = sum_channels |IG(x, y)|,  IG from the mean image to x, for the label's logit, `[H, W]`, once for each image
    g = minmax(a^u),  u = 2^U(0, 1)
    x' = x / 2 + g / 2  with probability overlay_prob, else x    (in pixels from 0 to 1; g the same in all channels)
    L = (1 - alpha) CE(z_s(x'), y) + alpha KL_T(z_t(x) || z_s(x')) + gamma mean((A_t(x) - A_s(x'))^2)
    A = l2norm(flatten(mean_c F^2)), F of one stage

CIFAR-10: alpha 0.01, T 2.5, gamma 0.8, overlay_prob 0.1 (more than 0.25 hurts). `parts` names the terms that are used,
as in the authors' code: KD (else alpha 0), IG (else overlay_prob 0), AT (else gamma 0); "KD_IG" is the paper's method.

Deviations:
- Maps are those of the images without augmentation, and each follows its image's own crop and flip.
- The teacher sees the augmented image without overlay.
- The official code computes maps, logits and attention once, from augmented images in shuffled order, and then looks
  them up in unshuffled order, so that each sample gets those of another; `aligned=False` does that (from images without
  augmentation; one permutation for the maps, one for the rest).
- Inputs are normalised here, where the official student reads raw pixels.
- Black and white are those of the first 32 batches.
- The attention is that of `stage`, from 1, the larger map pooled; there it is the layer in the middle.
- Images that are streamed from disk tell no crop, so that their maps lie unmoved.
- The maps are kept in float16, in units of their largest value, which min-max undoes: 0.1 GB for CIFAR on the device;
  they are no part of checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import (
    Batch,
    Choice,
    Dataset,
    KDBenchError,
    LogUniform,
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
from kdbench.connectors import pixel_range, pool_to, require_images, require_memory
from kdbench.losses import attention_map, kl, wide

TINY = torch.finfo(torch.float32).tiny
CHUNK = 512  # images on the way from the mean image that the teacher reads at a time


def minmax(maps: Tensor) -> Tensor:
    """Each map of `[B, 1, H, W]` stretched to 0 ... 1; a constant one to 0."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=TINY)


def attribution_maps(teacher: Network, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    """a of images `[B, C, H, W]`: `[B, H, W]`."""
    from captum.attr import IntegratedGradients  # imported where it is used: it takes seconds

    explain = IntegratedGradients(lambda images: teacher(images).logits)
    chunk = max(CHUNK, len(inputs))
    with torch.autocast(inputs.device.type, enabled=False):
        found = explain.attribute(inputs, 0.0, target=targets, n_steps=steps, internal_batch_size=chunk)
    return found.abs().sum(1)


@register(
    "ig_kd",
    family="inputs",
    paper=Paper(
        title="Model compression using knowledge distillation with integrated gradients",
        authors="Hernandez et al.",
        year=2025,
        arxiv="2506.14440",
        code="nordlinglab/ModelCompression-IntegratedGradients",
    ),
    fidelity="official-code",
)
class IGKD(Method):
    low: Tensor
    high: Tensor
    maps: Tensor
    teacher_logits: Tensor
    teacher_attention: Tensor
    search_space = Space(alpha=LogUniform(0.005, 0.9), temperature=Choice(1.0, 2.5, 4.0, 8.0), gamma=Uniform(0.1, 0.9))

    def __init__(
        self,
        parts: str = "KD_IG",
        alpha: float = 0.01,
        temperature: float = 2.5,
        gamma: float = 0.8,
        overlay_prob: float = 0.1,
        ig_steps: int = 50,
        stage: int = 2,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        used = parts.split("_")
        if not set(used) <= {"KD", "IG", "AT"} or len(set(used)) < len(used):
            raise KDBenchError(f"ig_kd's parts are {parts!r}: give KD, IG and AT, or some of them, joined by '_'")
        self.alpha, self.temperature = alpha if "KD" in used else 0.0, temperature
        self.gamma, self.stage = gamma if "AT" in used else 0.0, stage
        self.overlay_prob, self.ig_steps, self.aligned = overlay_prob if "IG" in used else 0.0, ig_steps, aligned
        if "AT" in used:
            self.needs = frozenset({"maps"})  # type: ignore[misc]  # of this object

    def build(self, student: Network, teacher: Network) -> None:
        if self.gamma:
            for network in (student, teacher):
                if not 1 <= self.stage <= (count := len(network.shapes.features)):
                    raise NotApplicable(
                        f"ig_kd's stage is {self.stage}, but network {network.name!r} has {count} stages"
                    )
            sizes = (network.shapes.features[self.stage - 1][1:] for network in (student, teacher))
            self.space = tuple(map(min, zip(*sizes, strict=True)))

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_images("ig_kd", teachers[0], data)
        for name, value in zip(("low", "high"), pixel_range(data), strict=True):
            self.register_buffer(name, value)
        # what is computed anew whenever training starts or goes on is no part of a checkpoint
        if self.overlay_prob:
            self.register_buffer("maps", self.all_maps(data, teachers[0]), persistent=False)
        if not self.aligned:
            for name, value in self.all_answers(data, teachers[0]).items():
                self.register_buffer(f"teacher_{name}", value, persistent=False)

    def all_maps(self, data: Dataset, teacher: Network) -> Tensor:
        """The training set's maps, each in units of its largest value: `[N, H, W]`, float16."""
        height, width = next(iter(data.batches())).inputs.shape[2:]
        require_memory("ig_kd", teacher, 2 * len(data) * height * width, "leave IG out of its parts")
        maps = torch.empty(len(data), height, width, dtype=torch.float16, device=data.targets.device)
        for batch in data.batches():
            found = attribution_maps(teacher, wide(batch.inputs), batch.targets, self.ig_steps)
            maps[batch.indices] = (found / found.amax((1, 2), keepdim=True).clamp(min=TINY)).to(maps.dtype)
        return maps if self.aligned else maps[torch.randperm(len(maps), device=maps.device)]

    @torch.no_grad()
    def all_answers(self, data: Dataset, teacher: Network) -> dict[str, Tensor]:
        """The teacher's logits `[N, K]` and, where used, attention maps `[N, M]`, of the whole training set."""
        answers: dict[str, list[Tensor]] = {"logits": []}
        for batch in data.batches():
            output = teacher(batch.inputs)
            answers["logits"].append(output.logits)
            if self.gamma:
                answers.setdefault("attention", []).append(self.attention(output))
        order = torch.randperm(len(data), device=data.targets.device)
        return {name: torch.cat(values)[order] for name, values in answers.items()}

    def attention(self, output: Output) -> Tensor:
        return attention_map(pool_to(output.features[self.stage - 1], self.space))

    def reads(self, stages: int) -> tuple[int, ...]:
        return (self.stage,)

    def step(self, step: Step) -> Mapping[str, Tensor]:
        student = step.forward(inputs=self.overlay(step.batch)) if self.overlay_prob else step.forward()
        terms = self.loss(step.batch, student, step.teacher_outputs[0])
        step.update(terms)
        return terms

    def overlay(self, batch: Batch) -> Tensor:
        """x' `[B, C, H, W]`."""
        inputs = batch.inputs
        maps = self.maps[batch.indices, None].to(self.low.dtype)  # [B, 1, H, W]
        if self.aligned and batch.follow is not None:
            maps = batch.follow(maps)
        power, lot = torch.rand(2, len(batch), 1, 1, 1, device=maps.device, dtype=maps.dtype)
        painted = self.low + (self.high - self.low) * minmax(maps ** (2**power))  # [B, C, H, W]
        return torch.where(lot < self.overlay_prob, (inputs + painted) / 2, inputs)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {"ce": (1 - self.alpha) * F.cross_entropy(student.logits, batch.targets)}
        if self.alpha:
            theirs = teacher.logits if self.aligned else self.teacher_logits[batch.indices]
            terms["kd"] = self.alpha * kl(student.logits, theirs, self.temperature)
        if self.gamma:
            theirs = self.attention(teacher) if self.aligned else self.teacher_attention[batch.indices]
            terms["attention"] = self.gamma * F.mse_loss(self.attention(student), theirs)
        return terms
