"""Improved knowledge distillation by utilizing backward pass knowledge in neural networks (Jafari, Rezagholizadeh,
Ghodsi, 2023; a first version was submitted to ICLR 2021).

Besides the data, the student imitates the teacher on auxiliary samples: data moved along the gradient of the two
networks' difference, to where they differ most.

    x' = x, then n_steps times: x' = clamp(x' + eta sqrt(D) g / |g|),  g = gradient of d(z_s(x'), z_t(x')) to x' `[D]`
    d = mean_c (z_s - z_t)^2  (div "mse")  or  KL(softmax(z_t) || softmax(z_s))  ("kl")
    L = (1 - lam) CE(z_s(x), y) + lam KL_T(z_t(x) || z_s(x)) + mu KL_T(z_t(x') || z_s(x'))

n_steps 5, eta 0.02 (root mean square in normalised pixels), T 4, lam 0.9, mu 0.9; x' has no label. Both networks are in
eval mode and in float32 while x' is made, so that no BatchNorm statistic moves.

Deviations: reconstructed from the abstract, which fixes the idea alone: move along the gradient of the difference,
augment the training set with the result. Inferred is all the rest.
- `mode="online"`: x' is made anew from every fourth batch (`every`). `"offline"`: when a `cycle` (10 of 240 epochs)
  begins, x' is made from every training image without augmentation and kept in float16 with the teacher's logits, for
  CIFAR 0.3 GB on the device and in each checkpoint; a batch then meets the x' of its own images. The first cycle is a
  warm-up without x' in both modes: a student that knows nothing differs everywhere.
- `equal_updates=True` adds the last term to the batch's own update, so that there are as many updates as in KD; False
  makes an update of its own of it.
- `norm="sign"` takes g's signs, `"none"` g itself; `radius` > 0 keeps x' in that L-infinity ball around x. The range of
  valid pixels, to which x' is clamped, is that of the first 32 batches.
- `control="noise"` replaces x' - x by noise of the same root mean square for each sample (before the clamp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import (
    Around,
    Batch,
    Choice,
    Dataset,
    KDBenchError,
    Method,
    Network,
    Output,
    Paper,
    Space,
    Step,
    Uniform,
    register,
)
from kdbench.connectors import evaluating, pixel_range, require_images, require_memory
from kdbench.losses import kl, kl_per_sample, sample_norms, wide

CHOICES = {
    "div": ("mse", "kl"), "mode": ("online", "offline"), "norm": ("l2", "sign", "none"), "control": ("grad", "noise")
}  # fmt: skip


@register(
    "backward_kd",
    family="inputs",
    paper=Paper(
        title="Improved knowledge distillation by utilizing backward pass knowledge in neural networks",
        authors="Jafari et al.",
        year=2023,
        arxiv="2301.12006",
    ),
    fidelity="reconstructed",
)
class BackwardKD(Method):
    low: Tensor
    high: Tensor
    samples: Tensor
    logits: Tensor
    search_space = Space(eta=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0), lam=Uniform(0.1, 0.95))

    def __init__(
        self,
        n_steps: int = 5,
        eta: float = 0.02,
        div: str = "mse",
        mode: str = "online",
        every: int = 4,
        cycle: float = 10 / 240,
        mu: float = 0.9,
        lam: float = 0.9,
        temperature: float = 4.0,
        norm: str = "l2",
        radius: float = 0.0,
        control: str = "grad",
        equal_updates: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("div", div), ("mode", mode), ("norm", norm), ("control", control)):
            if value not in CHOICES[name]:
                raise KDBenchError(f"backward_kd's {name} is {value!r}: give {' or '.join(map(repr, CHOICES[name]))}")
        if min(n_steps, every) < 1:
            raise KDBenchError(f"backward_kd's n_steps and every are {n_steps} and {every}: give at least 1")
        self.n_steps, self.eta, self.div, self.norm, self.radius = n_steps, eta, div, norm, radius
        self.mode, self.every, self.cycle, self.equal_updates = mode, every, cycle, equal_updates
        self.mu, self.lam, self.temperature, self.control = mu, lam, temperature, control
        self._seen = (0, 0)  # epoch, batches of it; training goes on from whole epochs, so that it is no state

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_images("backward_kd", teachers[0], data)
        low, high = pixel_range(data)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        if self.mode == "offline":
            self._data = data
            shape, device = next(iter(data.batches())).inputs.shape[1:], data.targets.device
            require_memory(
                "backward_kd", teachers[0], 2 * len(data) * shape.numel(), "use mode='online', which keeps nothing"
            )
            self.register_buffer("samples", torch.zeros(len(data), *shape, dtype=torch.float16, device=device))
            self.register_buffer("logits", torch.zeros(len(data), data.num_classes, device=device))

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": (1 - self.lam) * F.cross_entropy(student.logits, batch.targets),
            "kd": self.lam * kl(student.logits, teacher.logits, self.temperature),
        }

    def step(self, step: Step) -> Mapping[str, Tensor]:
        extra = self.auxiliary(step)
        terms = self.loss(step.batch, step.forward(), step.teacher_outputs[0])
        if extra is None or not self.equal_updates:
            step.update(terms)
        if extra is None:
            return terms
        inputs, logits = extra
        last = {"auxiliary": self.mu * kl(step.forward(inputs=inputs).logits, logits, self.temperature)}
        step.update({**terms, **last} if self.equal_updates else last)
        return {**terms, **last}

    def auxiliary(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """x' `[B, C, H, W]` and the teacher's logits for it `[B, K]`, or None where this batch has none."""
        epoch, number = self._seen
        number = number + 1 if epoch == self.epoch else 0
        self._seen = (self.epoch, number)
        length = max(round(self.cycle * self.epochs), 1)
        if self.epoch <= length:
            return None
        networks = step.students[0], step.teachers[0]
        if self.mode == "online":
            if number % self.every:
                return None
            inputs = self.ascend(step.batch.inputs, *networks)
            with torch.no_grad():
                return inputs, networks[1](inputs).logits
        if number == 0 and (self.epoch - 1) % length == 0:
            self.rebuild(*networks)
        indices = step.batch.indices
        return self.samples[indices].to(step.batch.inputs.dtype), self.logits[indices]

    def rebuild(self, student: Network, teacher: Network) -> None:
        """Make x' of the whole training set, and keep it with the teacher's logits."""
        for batch in self._data.batches():
            self.samples[batch.indices] = self.ascend(batch.inputs, student, teacher).to(self.samples.dtype)
            kept = self.samples[batch.indices].to(batch.inputs.dtype)
            with torch.no_grad():
                self.logits[batch.indices] = teacher(kept).logits.to(self.logits.dtype)

    def ascend(self, inputs: Tensor, student: Network, teacher: Network) -> Tensor:
        """x' of images `[B, C, H, W]`."""
        start = wide(inputs)
        x = start
        with torch.autocast(x.device.type, enabled=False), evaluating(student):
            for _ in range(self.n_steps):
                x = x.detach().requires_grad_()
                difference = self.divergence(student(x).logits, teacher(x).logits)
                (g,) = torch.autograd.grad(difference.sum(), x)
                x = self.clamp(x.detach() + self.eta * self.direction(g), start)
        if self.control == "noise":
            noise = torch.randn_like(start)
            x = self.clamp(start + noise * sample_norms(x - start) / sample_norms(noise), start)
        return x

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """d of each sample, `[B]`, with a gradient for both sides."""
        return (student - teacher).pow(2).mean(1) if self.div == "mse" else kl_per_sample(student, teacher)

    def direction(self, g: Tensor) -> Tensor:
        if self.norm == "l2":
            return g * g[0].numel() ** 0.5 / sample_norms(g)
        return g.sign() if self.norm == "sign" else g

    def clamp(self, x: Tensor, start: Tensor) -> Tensor:
        if self.radius:
            x = torch.clamp(x, start - self.radius, start + self.radius)
        return torch.clamp(x, self.low, self.high)
