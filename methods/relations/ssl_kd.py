"""Knowledge Distillation Meets Self-Supervision (Xu, Liu, Li, Loy, ECCV 2020).

A contrastive task shows more of the teacher than its answers: which upright image it takes a rotated one for. The
student imitates that, and the answers to rotated images, where the teacher is not too wrong.

    L = ce_weight CE(z_s, y) + kd_weight T^2 KL(z_t || z_s) of the upright views
        + rotated_weight T^2 KL(z_t || z_s) of the rotated views + similarity_weight tau^2 KL(S_t || S_s)
    S `[3 B, B]`: cosines of h(e) of each rotated view with those of the upright ones, softmax(S / tau)
    h = linear, ReLU, linear, one for each network; the teacher's is trained before, by CE(S_t, its own image), no tau

Of the rotated views, all that the teacher gets right count, and of the others the share `ratio` in which the right
answer (label; own image) ranks highest; each term is the mean of what counts. CIFAR-100: weights 0.1, 0.9, 2.7, 10,
T 4, tau 0.5, ratios 1 (rotated) and 0.75 (similarity), 60 epochs for the teacher's head at rate 0.05. ImageNet: no
value known. Four times as many samples pass through both networks as in other methods. Not `sskd`, Gao et al.'s method.

Deviations:
- The teacher's head is trained on embeddings that are computed once, without crops and flips, of all four rotations.
- The authors' code rotates an image and then crops each view on its own. Here the batch's own view, which is flipped
  and cropped already, is the upright one; the others are its rotations, moved anew by at most `shift` of the side.
- Ranks that tie are ordered by place in the batch; in the authors' code by chance.
- The authors' teachers are better ones of their own (`results/reported/ssl_kd.csv`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Choice, Dataset, Method, Network, NotApplicable, Output, Paper, Space, Step, register
from kdbench.connectors import pixel_range, require_images, require_memory
from kdbench.losses import kl, kl_per_sample
from kdbench.methods.relations.dlkd import moved

VIEWS = 4
RATE, DECAY, DROPS = 0.05, 5e-4, (0.5, 0.75)  # of the training of the teacher's head: x 0.1 at these shares


def contrast_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def similarities(projected: Tensor) -> Tensor:
    """Cosines of each rotated view with the B upright ones, `[(V - 1) B, B]`, of all views' `[B V, D]`."""
    unit = F.normalize(projected, dim=1).unflatten(0, (-1, VIEWS))  # [B, V, D]
    return unit[:, 1:].flatten(0, 1) @ unit[:, 0].T


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """At which place the right answer stands, from 0, in each row of scores `[N, M]`: `[N]`."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return (order == right[:, None]).to(torch.int64).argmax(1)


def counted(ranking: Tensor, ratio: float) -> Tensor:
    """1 for rows that count, `[N]`: those of rank 0 and the share `ratio` of the others of the least ranks; else 0."""
    wrong = (ranking > 0).sum()
    kept = len(ranking) - wrong + (wrong * ratio + 1e-4).floor()  # 0.7 of 10 are 7, however that is rounded
    place = ranking.argsort(stable=True).argsort()
    return (place < kept).to(torch.int64)


def chosen_mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of those of `[N]` that count; 0 if none does."""
    return (values * chosen).sum() / chosen.sum().clamp(min=1)


@register(
    "ssl_kd",
    family="relations",
    paper=Paper(
        title="Knowledge Distillation Meets Self-Supervision",
        authors="Xu et al.",
        year=2020,
        venue="ECCV",
        arxiv="2006.07114",
        code="xuguodong03/SSKD",
    ),
    fidelity="official-code",
)
class SSLKD(Method):
    black: Tensor
    search_space = Space(
        kd_weight=Around(), rotated_weight=Around(), similarity_weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0)
    )

    def __init__(
        self,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        rotated_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        tau: float = 0.5,
        rotated_ratio: float = 1.0,
        similarity_ratio: float = 0.75,
        head_epochs: int = 60,
        shift: float = 0.125,
    ) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.rotated_weight, self.similarity_weight = rotated_weight, similarity_weight
        self.temperature, self.tau, self.head_epochs, self.shift = temperature, tau, head_epochs, shift
        self.rotated_ratio, self.similarity_ratio = rotated_ratio, similarity_ratio

    def build(self, student: Network, teacher: Network) -> None:
        self.head_student = contrast_head(student.shapes.embedding)
        self.head_teacher = contrast_head(teacher.shapes.embedding)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        teacher = teachers[0]
        require_images("ssl_kd", teacher, data)
        *_, height, width = next(iter(data.batches())).inputs.shape
        if height != width:
            raise NotApplicable(
                f"ssl_kd rotates images, but those of network {teacher.name!r} are {height}x{width}: give square ones"
            )
        self.register_buffer("black", pixel_range(data)[0])
        if self.head_epochs:
            size = 4 * VIEWS * len(data) * teacher.shapes.embedding
            require_memory("ssl_kd", teacher, size, "head_epochs=0 leaves the teacher's head at its first weights")
            self.train_head(data, teacher)
        self.head_teacher.requires_grad_(False)

    def train_head(self, data: Dataset, teacher: Network) -> None:
        """Phase one: the teacher's head learns which upright image a rotated one is."""
        with torch.no_grad():
            views = (torch.stack([torch.rot90(b.inputs, k, (2, 3)) for k in range(VIEWS)], 1) for b in data.batches())
            embeddings = torch.cat([teacher(v.flatten(0, 1)).embedding.unflatten(0, v.shape[:2]) for v in views])
        size = len(next(iter(data.batches())))
        optimizer = torch.optim.SGD(self.head_teacher.parameters(), RATE, momentum=0.9, weight_decay=DECAY)
        for epoch in range(self.head_epochs):
            drops = sum(epoch >= share * self.head_epochs for share in DROPS)
            optimizer.param_groups[0]["lr"] = RATE * 0.1**drops
            for chosen in torch.randperm(len(embeddings)).to(embeddings.device).split(size):
                optimizer.zero_grad()
                self.head_loss(embeddings[chosen].flatten(0, 1)).backward()
                optimizer.step()
        self.head_teacher.zero_grad()

    def head_loss(self, embedding: Tensor) -> Tensor:
        """CE of the teacher's similarities without temperature, of all views' embeddings `[B V, D]`."""
        with torch.autocast(embedding.device.type, enabled=False):
            scores = similarities(self.head_teacher(embedding))
        return F.cross_entropy(scores, own_images(scores))

    def step(self, step: Step) -> Mapping[str, Tensor]:
        upright, teacher = step.batch.inputs, step.teacher_outputs[0]
        turned = torch.stack([torch.rot90(upright, turns, (2, 3)) for turns in range(1, VIEWS)], 1)
        rotated = moved(turned.flatten(0, 1), round(self.shift * upright.shape[2]), self.black)
        views = torch.cat([upright[:, None], rotated.unflatten(0, turned.shape[:2])], 1)
        student = step.forward(inputs=views.flatten(0, 1))
        with torch.no_grad():  # the engine has run it on the upright views
            other = step.teachers[0](rotated)
        logits, embedding = (
            torch.cat([mine[:, None], theirs.unflatten(0, (-1, VIEWS - 1))], 1).flatten(0, 1)
            for mine, theirs in ((teacher.logits, other.logits), (teacher.embedding, other.embedding))
        )
        terms = self.loss(step.batch, student, dataclasses.replace(teacher, logits=logits, embedding=embedding))
        step.update(terms)
        return terms

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        """Outputs of all views, an image's one after the other, the upright one first: logits `[B V, K]`."""
        (ours, ours_rotated), (theirs, theirs_rotated) = (split(output.logits) for output in (student, teacher))
        labels = batch.targets.repeat_interleave(VIEWS - 1)
        rotated = kl_per_sample(ours_rotated, theirs_rotated, self.temperature)
        rotated = chosen_mean(rotated, counted(ranks(theirs_rotated, labels), self.rotated_ratio))
        return {
            "ce": self.ce_weight * F.cross_entropy(ours, batch.targets),
            "kd": self.kd_weight * kl(ours, theirs, self.temperature),
            "rotated": self.rotated_weight * rotated,
            "similarity": self.similarity_weight * self.similarity(student.embedding, teacher.embedding),
        }

    def similarity(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The last term without its weight, of all views' embeddings `[B V, D]`."""
        with torch.autocast(student.device.type, enabled=False):
            ours = similarities(self.head_student(student))
            theirs = similarities(self.head_teacher(teacher))
        chosen = counted(ranks(theirs, own_images(theirs)), self.similarity_ratio)
        return chosen_mean(kl_per_sample(ours, theirs, self.tau), chosen)


def own_images(scores: Tensor) -> Tensor:
    """Which upright view is each rotated one's image, `[(V - 1) B]`."""
    return torch.arange(scores.shape[1], device=scores.device).repeat_interleave(VIEWS - 1)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The rows `[B, D]` of upright views and those `[(V - 1) B, D]` of the others, of all `[B V, D]`."""
    views = x.unflatten(0, (-1, VIEWS))
    return views[:, 0], views[:, 1:].flatten(0, 1)
