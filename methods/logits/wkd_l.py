"""Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation (Lv, Yang, Li, NeurIPS 2024):
WKD-L.

A KL compares class by class. Here the student pays for moving its probability to where the teacher has it, little
between classes that look alike to the teacher and much between others.

    L = CE(z_s, y) - mean p_t[y] log p_s[y] + decay weight W,  p = softmax(z)
    W = sum_ij u_i K_ij v_j c_ij, mean over the batch, of p, q = softmax of z_s / T, z_t / T without the label's class
    K = exp(-c / 0.05), u = 1 / (C - 1), then 10 times v = q / (K^T u + 1e-8), u = p / (K v + 1e-8);  no T^2
    c_ij = max(1 - exp(-kappa d_ij), 0) + 1e-8,  d_ij = 1 - CKA(X_i, X_j)
    decay = 1 to epoch 150 of 240, then half a cosine down to 0

X_i are the positions of the teacher's last map over class i's training images, in their order (`cost` "maps"), or their
logits ("logits", the paper's ImageNet). "classifier" needs no data: d = 1 - cosine of the classifier's rows.
CIFAR-100: weight 600, T 8, kappa 1 (wrn_40_2 -> shufflenetv1: 200, T 6; with WKD-F 200, T 8 and 60, T 4); other pairs'
are not known. ImageNet: weight 30, T 2, decay from the start, kappa 1 (resnet50 -> mobilenetv1: 2).

Deviations:
- The plan is computed for the whole cost matrix with a label of no mass, equal and C^2 numbers instead of B C^2.
- CKA pairs the samples of two classes by their place, as in the authors' code; where classes differ in size, the first
  ones of each count, as many as the smallest class has, and a class without any is unlike all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    NotApplicable,
    Output,
    Paper,
    Space,
    register,
)
from kdbench.connectors import require_memory
from kdbench.losses import wide

COSTS = ("maps", "logits", "classifier")
SMALL = 1e-8
ENTROPY, ROUNDS = 0.05, 10


def late_cosine(method: Method, start: float) -> float:
    """1 up to the share `start` of the training (through its first epoch at least), then half a cosine down to 0."""
    begin = start * method.epochs
    if method.epoch <= max(begin, 1):
        return 1.0
    return (1 + math.cos(math.pi * (method.epoch - begin) / (method.epochs - begin))) / 2


def transport(student: Tensor, teacher: Tensor, label: Tensor, cost: Tensor) -> Tensor:
    """W of each sample, `[B]`, for probabilities `[B, C]` of no mass at the label `[B, 1]` and c `[C, C]`."""
    kernel = torch.exp(-cost / ENTROPY)
    others = torch.ones_like(student).scatter(1, label, 0.0)
    u, v = others / max(student.shape[1] - 1, 1), others
    for _ in range(ROUNDS):
        v = teacher / (u @ kernel + SMALL)
        u = student / (v @ kernel.T + SMALL)
    return (u * (v @ (kernel * cost).T)).sum(1)


def unlikeness(rows: Tensor, places: Tensor, present: Tensor) -> Tensor:
    """1 - linear CKA of each two classes' samples, paired by their place; 1 to a class without any: `[C, C]`.

    Args:
        rows: what is compared of each sample, `[N, P, D]`, P positions of it.
        places: each class's samples, `[C, n]`.
        present: whether it has any, `[C]`.
    """
    alike = rows.new_zeros(len(places), len(places))
    for i in range(len(places)):
        ours = centred(rows, places[i])
        for j in range(i + 1):
            alike[i, j] = alike[j, i] = (ours.T @ centred(rows, places[j])).pow(2).sum()
    own = alike.diagonal().sqrt()
    cka = alike / (own[:, None] * own).clamp(min=torch.finfo(own.dtype).tiny)
    distance = 1 - cka * (present[:, None] & present)
    return distance * (1 - torch.eye(len(places), dtype=rows.dtype, device=rows.device))


def centred(rows: Tensor, chosen: Tensor) -> Tensor:
    """All positions of the chosen samples, `[n P, D]`, less their mean."""
    samples = rows[chosen].flatten(0, 1)
    return samples - samples.mean(0)


def first_places(targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Where the first samples of each class are, `[C, n]`, as many as the smallest class has that has any, and which
    classes have any, `[C]`.
    """
    counts = torch.bincount(targets, minlength=classes)
    order, starts = targets.argsort(stable=True), counts.cumsum(0) - counts
    smallest = int(counts[counts > 0].min())
    places = starts[:, None] + torch.arange(smallest, device=targets.device)
    return order[places.clamp(max=len(order) - 1)], counts > 0


@register(
    "wkd_l",
    family="logits",
    paper=Paper(
        title="Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
        authors="Lv et al.",
        year=2024,
        venue="NeurIPS",
        arxiv="2412.08139",
        code="JiamingLv/WKD",
    ),
    fidelity="official-code",
)
class WKDL(Method):
    cost: Tensor
    search_space = Space(weight=Around(), temperature=Choice(2.0, 4.0, 6.0, 8.0))

    def __init__(
        self,
        weight: float = 600.0,
        temperature: float = 8.0,
        ce_weight: float = 1.0,
        target_weight: float = 1.0,
        kappa: float = 1.0,
        cost: str = "maps",
        decay_start: float = 150 / 240,
    ) -> None:
        super().__init__()
        if cost not in COSTS:
            raise KDBenchError(f"wkd_l's cost is {cost!r}: give maps, logits or classifier")
        self.weight, self.temperature, self.kappa, self.source = weight, temperature, kappa, cost
        self.ce_weight, self.target_weight, self.decay_start = ce_weight, target_weight, decay_start

    def build(self, student: Network, teacher: Network) -> None:
        classes = teacher.shapes.num_classes
        self.register_buffer("cost", torch.ones(classes, classes) - torch.eye(classes))

    @torch.no_grad()
    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        teacher = teachers[0]
        with torch.autocast(data.targets.device.type, enabled=False):
            distance = rows_apart(teacher) if self.source == "classifier" else self.classes_apart(data, teacher)
        self.cost.copy_((1 - torch.exp(-self.kappa * distance)).clamp(min=0) + SMALL)

    def classes_apart(self, data: Dataset, teacher: Network) -> Tensor:
        """d of each two classes by what the teacher makes of their images: `[C, C]`."""
        shapes = teacher.shapes
        if self.source == "maps" and not shapes.features:
            raise NotApplicable(f"wkd_l compares maps, which {teacher.name!r} has not: set cost='classifier'")
        width, *space = shapes.features[-1] if self.source == "maps" else (shapes.num_classes,)
        positions = math.prod(space)
        size = 4 * len(data) * positions * width
        require_memory("wkd_l", teacher, size, "set cost='logits' or cost='classifier'")
        rows = self.cost.new_zeros(len(data), positions, width)
        for batch in data.batches():
            rows[batch.indices] = self.rows(teacher(batch.inputs)).to(rows.dtype)
        return unlikeness(rows, *first_places(data.targets, shapes.num_classes))

    def rows(self, output: Output) -> Tensor:
        """What is compared of a batch, `[B, P, D]`, P positions a sample."""
        if self.source == "logits":
            return output.logits[:, None]
        return wide(output.features[-1]).flatten(2).transpose(1, 2)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        weight = self.weight * late_cosine(self, self.decay_start)
        label, log_p = batch.targets[:, None], F.log_softmax(student.logits, dim=1)
        target = -(teacher.logits.softmax(1).gather(1, label) * log_p.gather(1, label)).mean()
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "target": self.target_weight * target,
            "transport": weight * self.distance(student.logits, teacher.logits, label),
        }

    def distance(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """W of logits `[B, C]` and labels `[B, 1]`, mean over the batch."""
        ours, theirs = ((z / self.temperature).scatter(1, label, -torch.inf).softmax(1) for z in (student, teacher))
        with torch.autocast(student.device.type, enabled=False):
            return transport(ours, theirs, label, self.cost).mean()


def rows_apart(network: Network) -> Tensor:
    """1 - cosine of each two rows of the classifier's weight: `[C, C]`."""
    like, width = next(network.classifier.parameters()), network.shapes.embedding
    units = torch.eye(width, dtype=like.dtype, device=like.device)
    rows = F.normalize((network.classifier(units) - network.classifier(torch.zeros_like(units))).T, dim=1)
    return 1 - rows @ rows.T
