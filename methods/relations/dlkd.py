"""Dual-Level Knowledge Distillation via Knowledge Alignment and Correlation (Ding, Yang, Hu, Krovi, Luo, TNNLS 2024;
the preprint of 2020 is called Multi-level Knowledge Distillation).

The student sees each image in four rotations. Its embeddings point where the teacher's do, relate rotated to upright
images as the teacher's do, and gather with the teacher's by class.

    L = ce_weight CE(z_s[upright], y) + correlation_weight L_corr + contrast_weight L_sup + align_weight L_align
    L_align = mean over the V B views of 2 - 2 cos(MLP_a(f_s), f_t),  MLP_a: s -> align_mult t -> t, with BN and ReLU
    L_corr = mean over the (V - 1) B rotated views of KL(softmax(T / tau_corr) || softmax(S / tau_corr)),
        S = cos(g[rotated], g[upright]) `[(V - 1) B, B]`, g = MLP_c(f_s): s -> s -> s;  T = the same of f_t
    L_sup = supervised contrast (tau_sup) of all 2 V B embeddings l2norm(linear(f)) of both networks, each with a linear
        layer that is trained; positives are all others of the same class

f = embedding, V = 4. CIFAR: weights 1, 50, 1, 20, tau_corr 0.5, tau_sup 0.07, width 128, align_mult 16; ImageNet:
weights 1, 20, 0.5, 10. No KL of logits. Four times as many samples pass through both networks as in other methods;
`views=1` leaves the rotations out (L_corr is then among the upright images). Tables also call it MLKD, a name that MLLD
shares. MLP_a is larger than most networks for wide teachers (109 M parameters from 1280 to 2048): lower `align_mult`.

Deviations:
- The code is the preprint's; the journal's abstract names two levels, so that L_sup may have gone
  (`contrast_weight=0`).
- The official code rotates the image and then crops each view on its own. Here the batch's own view, which is flipped
  and cropped already, is the upright one; the others are its rotations, moved anew by at most `shift` of the side (an
  eighth: 4 px of 32), so that they may lose more of the rim.
- ImageNet's views are not resized anew.
- What is uncovered is black, as far as the first 32 batches hold it.
- As in the official code, the correlation's softmax runs over the batch, so that its weight is one for batches of 64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import (
    Around,
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
    register,
)
from kdbench.connectors import norm, pixel_range, require_images
from kdbench.losses import log_kl, wide

EPS = 1e-7


def mlp(c_in: int, middle: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(c_in, middle), norm(middle, 0), nn.ReLU(), nn.Linear(middle, c_out))


def correlation(embedding: Tensor, views: int, temperature: float) -> Tensor:
    """Log-softmax of each rotated view's cosines with the B upright ones, `[(V - 1) B, B]`, from `[B V, D]`."""
    unit = F.normalize(embedding, dim=1).unflatten(0, (-1, views))  # [B, V, D]
    upright = unit[:, 0]
    anchors = unit[:, 1:].flatten(0, 1) if views > 1 else upright
    return F.log_softmax(anchors @ upright.T / temperature, dim=1)


def supervised_contrast(embedding: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over the rows of `[M, D]`, of length 1, of -log of the share of each of the same label among all others."""
    scores = embedding @ embedding.T / temperature
    scores = scores - scores.amax(1, keepdim=True).detach()
    others = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    positive = (labels[:, None] == labels) & others
    log_share = scores - ((scores.exp() * others).sum(1, keepdim=True) + EPS).log()
    return -((log_share * positive).sum(1) / positive.sum(1)).mean()


def moved(images: Tensor, distance: int, background: Tensor) -> Tensor:
    """Each of `[B, C, H, W]` moved by a random -distance to distance px along both axes, before `background`."""
    batch, channels, height, width = images.shape
    canvas = background.expand(batch, channels, height + 2 * distance, width + 2 * distance).clone()
    canvas[:, :, distance : distance + height, distance : distance + width] = images
    top, left = torch.randint(0, 2 * distance + 1, (2, batch), device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [B, W]
    samples, planes = (torch.arange(n, device=images.device) for n in (batch, channels))
    return canvas[samples[:, None, None, None], planes[:, None, None], rows[:, None, :, None], columns[:, None, None]]


@register(
    "dlkd",
    family="relations",
    paper=Paper(
        title="Dual-Level Knowledge Distillation via Knowledge Alignment and Correlation",
        authors="Ding et al.",
        year=2024,
        venue="TNNLS",
        arxiv="2012.00573",
        code="ifding/DLKD",
    ),
    fidelity="official-code",
    aliases=("mlkd_align_corr",),
)
class DLKD(Method):
    black: Tensor
    search_space = Space(
        correlation_weight=Around(), contrast_weight=Around(), align_weight=Around(), tau_corr=Around(4.0)
    )

    def __init__(
        self,
        ce_weight: float = 1.0,
        correlation_weight: float = 50.0,
        contrast_weight: float = 1.0,
        align_weight: float = 20.0,
        tau_corr: float = 0.5,
        tau_sup: float = 0.07,
        width: int = 128,
        views: int = 4,
        align_mult: int = 16,
        shift: float = 0.125,
    ) -> None:
        super().__init__()
        if not 1 <= views <= 4:
            raise KDBenchError(f"dlkd's views are {views}: give 1 to 4, since there are four rotations")
        self.ce_weight, self.correlation_weight = ce_weight, correlation_weight
        self.contrast_weight, self.align_weight = contrast_weight, align_weight
        self.tau_corr, self.tau_sup, self.width = tau_corr, tau_sup, width
        self.views, self.align_mult, self.shift = views, align_mult, shift

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = student.shapes.embedding, teacher.shapes.embedding
        self.align = mlp(ours, self.align_mult * theirs, theirs)
        self.correlate = mlp(ours, ours, ours)
        self.embed_student, self.embed_teacher = nn.Linear(ours, self.width), nn.Linear(theirs, self.width)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        require_images("dlkd", teachers[0], data)
        *_, height, width = next(iter(data.batches())).inputs.shape
        if height != width and self.views > 1:
            raise NotApplicable(
                f"dlkd rotates images, but those of network {teachers[0].name!r} are {height}x{width}: set views=1"
            )
        self.register_buffer("black", pixel_range(data)[0])

    def step(self, step: Step) -> Mapping[str, Tensor]:
        if self.views == 1:
            return super().step(step)
        upright, teacher = step.batch.inputs, step.teacher_outputs[0]
        rotated = self.rotated(upright)  # [B, V - 1, C, H, W]
        student = step.forward(inputs=torch.cat([upright[:, None], rotated], 1).flatten(0, 1))
        with torch.no_grad():  # the engine has run it on the upright views
            theirs = step.teachers[0](rotated.flatten(0, 1)).embedding.unflatten(0, rotated.shape[:2])
        embedding = torch.cat([teacher.embedding[:, None], theirs], 1).flatten(0, 1)  # [B V, D]
        terms = self.loss(step.batch, student, dataclasses.replace(teacher, embedding=embedding))
        step.update(terms)
        return terms

    def rotated(self, images: Tensor) -> Tensor:
        """Rotations by 90, 180, 270 degrees, as many as there are views, each moved: `[B, V - 1, C, H, W]`."""
        views = torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(1, self.views)], 1)
        shifted = moved(views.flatten(0, 1), round(self.shift * images.shape[2]), self.black)
        return shifted.unflatten(0, views.shape[:2])

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        """Outputs of all views, an image's one after the other, the upright one first: embeddings `[B V, D]`."""
        views = len(student.embedding) // len(batch)
        ours, theirs = student.embedding, teacher.embedding
        labels = batch.targets.repeat_interleave(views).repeat(2)
        aligned, related, embedded = (wide(head(ours)) for head in (self.align, self.correlate, self.embed_student))
        both = torch.cat([embedded, wide(self.embed_teacher(theirs))])
        with torch.autocast(ours.device.type, enabled=False):
            relations = (correlation(f, views, self.tau_corr) for f in (related, theirs))
            contrast = supervised_contrast(F.normalize(both, dim=1), labels, self.tau_sup)
            align = 2 - 2 * F.cosine_similarity(aligned, theirs, dim=1).mean()
            return {
                "ce": self.ce_weight * F.cross_entropy(student.logits[::views], batch.targets),
                "correlation": self.correlation_weight * log_kl(*relations).mean(),
                "contrast": self.contrast_weight * contrast,
                "align": self.align_weight * align,
            }
