"""Knowledge Distillation with Adversarial Samples Supporting Decision Boundary (Heo, Lee, Yun, Choi, AAAI 2019).

Samples that were moved just across the teacher's decision boundary show where it runs; there, too, the student imitates
the teacher.

    L = CE(z_s, y) + r H(x) + a H(x'),  H = -mean_b sum_c softmax(z_t / T)_c log softmax(z_s / T)_c
    r = kd_weight + kd_extra (1 - e / E),  a = max(attack_weight (1 - e / (attack_share E)), 0),  epoch e of E
    base samples: right in both networks, at most attack_size, those of the largest sum_{c != y} (p_t - p_s)^2
    k drawn from the teacher's other classes with probability ~ p_t
    x' = clamp(x' + eta (z_top - z_k + 1e-4) g / |g|, -bound, bound),  g = gradient of z_k - z_top of the teacher,
        at most attack_steps times and only while the teacher still says top

CIFAR-10: T 3, r from 4 to 1, a from 2 to 0 at three quarters of the training, 64 samples of a batch of 256, 10 steps of
eta 0.3, bound 2.5 in normalised pixels. The authors' code has no other data set. H has no T^2, as there.

Deviations:
- min(attack_size, B) samples are always moved, so that an accelerator need not tell how many there are: where base
  samples are fewer, they are taken again, each for a class of its own, and only the first time counts in H.
- A base sample that is alone in its batch counts for nothing: BatchNorm cannot train on it (the official code breaks
  there). The student then runs on the batch's images as they are, which moves its running statistics a little.
- 64 is not scaled with the batch, so that at a batch of 64 every base sample is moved.
- The attack runs in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Dataset, KDBenchError, Method, Network, Output, Paper, Step, register
from kdbench.connectors import require_images
from kdbench.losses import sample_norms, soft_cross_entropy, wide


def base_samples(student: Tensor, teacher: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions of `min(size, B)` samples that start an attack, and which count, from both networks' logits `[B, K]`.

    Where there are fewer base samples, they stand there again and again, so that BatchNorm sees no others; only the
    first time counts. Where there are not two, nothing counts.
    """
    right = (student.argmax(1) == targets) & (teacher.argmax(1) == targets)
    gaps = (teacher.softmax(1) - student.softmax(1)).pow(2)
    score = gaps.sum(1) - gaps.gather(1, targets[:, None]).flatten()  # not below 0, but for rounding
    chosen = score.masked_fill(~right, -1.0).topk(min(size, len(score))).indices
    places, base = torch.arange(len(chosen), device=score.device), right.sum()
    enough = base >= 2
    again = torch.where(enough, places % base.clamp(min=1), places)
    return chosen[again], (places < base) & enough


def draw_classes(logits: Tensor) -> Tensor:
    """A class other than the top one for each row of `[B, K]`, with probability in proportion to its softmax: `[B]`."""
    gumbel = -torch.empty_like(logits).exponential_().log()  # the largest log p + Gumbel noise is a draw from p
    return (logits + gumbel).scatter(1, logits.argmax(1, keepdim=True), -torch.inf).argmax(1)


def cross_boundary(
    teacher: Network, inputs: Tensor, classes: Tensor, steps: int = 10, eta: float = 0.3, bound: float = 2.5
) -> Tensor:
    """Move images `[B, C, H, W]` towards `classes` `[B]` until the teacher leaves its first answer."""
    moved = wide(inputs).detach()
    top: Tensor | None = None
    with torch.autocast(moved.device.type, enabled=False):
        for _ in range(steps):
            x = moved.clone().requires_grad_()
            logits = teacher(x).logits
            answer = logits.argmax(1)
            top = answer if top is None else top
            gap = logits.gather(1, top[:, None]) - logits.gather(1, classes[:, None])  # [B, 1]
            (g,) = torch.autograd.grad(-gap.sum(), x)
            x = x.detach() + eta * (gap.detach()[..., None, None] + 1e-4) * g / sample_norms(g)
            stays = (answer == top)[:, None, None, None]  # what has crossed is not moved on
            moved = torch.where(stays, x.clamp(-bound, bound), moved)
    return moved


@register(
    "bss",
    family="inputs",
    paper=Paper(
        title="Knowledge Distillation with Adversarial Samples Supporting Decision Boundary",
        authors="Heo et al.",
        year=2019,
        venue="AAAI",
        arxiv="1805.05532",
        code="bhheo/BSS_distillation",
    ),
    fidelity="official-code",
)
class BSS(Method):
    def __init__(
        self,
        temperature: float = 3.0,
        kd_weight: float = 1.0,
        kd_extra: float = 3.0,
        attack_weight: float = 2.0,
        attack_share: float = 0.75,
        attack_size: int = 64,
        attack_steps: int = 10,
        eta: float = 0.3,
        bound: float = 2.5,
    ) -> None:
        super().__init__()
        if min(attack_size, attack_steps) < 1 or attack_share <= 0:
            raise KDBenchError(
                f"bss's attack_size, attack_steps and attack_share are {attack_size}, {attack_steps} and "
                f"{attack_share}: give at least 1, 1 and more than 0 (attack_weight=0 turns the attack off)"
            )
        self.temperature, self.kd_weight, self.kd_extra = temperature, kd_weight, kd_extra
        self.attack_weight, self.attack_share, self.attack_size = attack_weight, attack_share, attack_size
        self.attack_steps, self.eta, self.bound = attack_steps, eta, bound

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_images("bss", teachers[0], data)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        weight = self.kd_weight + self.kd_extra * (1 - self.epoch / self.epochs)
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": weight * soft_cross_entropy(student.logits, teacher.logits, self.temperature).mean(),
        }

    def step(self, step: Step) -> Mapping[str, Tensor]:
        student, teacher = step.forward(), step.teacher_outputs[0]
        terms = self.loss(step.batch, student, teacher)
        weight = self.attack_weight * (1 - self.epoch / (self.attack_share * self.epochs))
        if weight > 0:
            terms["boundary"] = weight * self.boundary_term(step, student.logits.detach(), teacher.logits)
        step.update(terms)
        return terms

    def boundary_term(self, step: Step, student: Tensor, teacher: Tensor) -> Tensor:
        """H on the boundary supporting samples of the batch, from both networks' logits; 0 where there are none."""
        base, counts = base_samples(student, teacher, step.batch.targets, self.attack_size)
        classes = draw_classes(teacher[base])
        inputs = step.batch.inputs[base]
        moved = cross_boundary(step.teachers[0], inputs, classes, self.attack_steps, self.eta, self.bound)
        moved = torch.where(counts.any(), moved, inputs)
        with torch.no_grad():
            theirs = step.teachers[0](moved).logits
        losses = soft_cross_entropy(step.forward(inputs=moved).logits, theirs, self.temperature)  # [min(size, B)]
        return (losses * counts).sum() / counts.sum().clamp(min=1)
