"""Contrastive Representation Distillation (Tian, Krishnan, Isola, ICLR 2020).

Student and teacher embeddings of one image attract each other, those of images of other classes repel; the negatives
come from two memory banks with one slow entry an image.

    e = l2norm(linear_128(embedding))
    L = CE(z_s, y) + weight * (NCE(e_s, bank_t) + NCE(e_t, bank_s))
    NCE(e, bank) = -mean_b [log h(x_0) + sum_k log(1 - h(x_k))],  h(x) = x / (x + K / N),  x_k = exp(e . m_k / tau) / Z

x_0 is the image's own entry and K negatives are drawn from other classes; Z is fixed after the first batch as the
mean of exp times N. CIFAR-100: weight 0.8, K 16384, tau 0.07, bank momentum 0.5. ImageNet: weight 0.8, the same K.

Deviations: none in the loss. The official code draws an image's negatives in the data loader and gathers K entries
of size 128 for each; here they are drawn per step and all scores come from one product with the bank, equal numbers
for less.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Dataset, LogUniform, Method, Network, Output, Paper, Space, register

EPS = 1e-7


def draw_negatives(targets: Tensor, labels: Tensor, count: int, distinct: bool = False) -> Tensor:
    """Indices of `count` samples of other classes for each of `targets` `[B]` among `labels` `[N]`: `[B, count]`.

    Without replacement where a class has that many others, else with.

    Args:
        distinct: whether each class is known to have that many others, so that none need be drawn with replacement.
    """
    others = labels[None, :] != targets[:, None]  # [B, N]
    enough = others.sum(1, keepdim=True) >= count
    keys = torch.rand(others.shape, device=labels.device).masked_fill_(~others, -1.0)
    different = keys.topk(min(count, len(labels)), dim=1).indices
    if distinct:
        return different
    repeated = others.float().multinomial(count, replacement=True)
    return torch.where(enough, different, repeated) if len(labels) >= count else repeated


def nce(scores: Tensor, samples: int) -> Tensor:
    """Noise-contrastive loss of scores `[B, 1 + K]`, the first of each row the positive, with noise 1 / `samples`."""
    noise = (scores.shape[1] - 1) / samples
    positive, negative = scores[:, 0], scores[:, 1:]
    hit = torch.log(positive / (positive + noise + EPS))
    reject = torch.log(noise / (negative + noise + EPS))
    return -(hit.sum() + reject.sum()) / len(scores)


@register(
    "crd",
    family="relations",
    paper=Paper(
        title="Contrastive Representation Distillation",
        authors="Tian et al.",
        year=2020,
        venue="ICLR",
        arxiv="1910.10699",
        code="HobbitLong/RepDistiller",
    ),
    fidelity="official-code",
)
class CRD(Method):
    search_space = Space(weight=Around(), temperature=LogUniform(0.02, 0.3))

    def __init__(
        self,
        weight: float = 0.8,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.weight, self.negatives, self.temperature = weight, negatives, temperature
        self.momentum, self.width = momentum, width

    def build(self, student: Network, teacher: Network) -> None:
        self.embed_student = nn.Linear(student.shapes.embedding, self.width)
        self.embed_teacher = nn.Linear(teacher.shapes.embedding, self.width)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        bound = (self.width / 3) ** -0.5
        for side in ("student", "teacher"):
            bank = torch.rand(len(data), self.width, dtype=self.embed_student.weight.dtype) * 2 * bound - bound
            self.register_buffer(f"bank_{side}", bank.to(data.targets.device))
            self.register_buffer(f"z_{side}", torch.tensor(-1.0, dtype=bank.dtype, device=data.targets.device))
        self.register_buffer("labels", data.targets.clone())
        # found out once and not in each step, where the host would wait for the answer
        self.distinct = len(data) - int(data.targets.bincount().max()) >= self.negatives

    def draw(self, batch: Batch) -> Tensor:
        """Places in the banks, `[B, 1 + K]`: each sample's own, and its negatives."""
        negatives = draw_negatives(batch.targets, self.labels, self.negatives, self.distinct)
        return torch.cat([batch.indices[:, None], negatives], 1)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "contrast": self.weight * self.contrast(student.embedding, teacher.embedding, self.draw(batch)),
        }

    def contrast(self, student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
        """The two NCE terms for embeddings `[B, D]` and bank indices `[B, 1 + K]`; then the banks move."""
        with torch.autocast(student.device.type, enabled=False):
            ours = F.normalize(self.embed_student(student), dim=1)
            theirs = F.normalize(self.embed_teacher(teacher), dim=1)
            loss = nce(self._scores(ours, self.bank_teacher, self.z_student, chosen), len(self.labels))
            loss = loss + nce(self._scores(theirs, self.bank_student, self.z_teacher, chosen), len(self.labels))
        self._remember(self.bank_student, chosen[:, 0], ours)
        self._remember(self.bank_teacher, chosen[:, 0], theirs)
        return loss

    def _scores(self, embedding: Tensor, bank: Tensor, z: Tensor, chosen: Tensor) -> Tensor:
        """exp(e . m / tau) / Z for the chosen entries, `[B, 1 + K]`; sets Z at its first call."""
        # the bank moves in place after the loss, so the backward pass needs its present state
        raw = torch.exp((embedding @ bank.clone().T).gather(1, chosen) / self.temperature)
        with torch.no_grad():
            z.copy_(torch.where(z < 0, raw.mean() * len(bank), z))
        return raw / z.clone()

    @torch.no_grad()
    def _remember(self, bank: Tensor, indices: Tensor, embedding: Tensor) -> None:
        moved = self.momentum * bank[indices] + (1 - self.momentum) * embedding
        bank[indices] = F.normalize(moved, dim=1)
