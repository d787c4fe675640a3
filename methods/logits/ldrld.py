"""Local Dense Logit Relations for Enhanced Knowledge Distillation (Xu, Liu, Liu, Wang, Xu, Cheng, ICCV 2025).

Among the classes that the student ranks first, each pair is compared on its own, the first and closest ranks most;
the classes that are left are compared as a whole.

    L = CE(z_s, y) + alpha LOCAL + beta T^2 KL(t || s) of the other K - k classes
    LOCAL = mean of w_ij T^2 KL(t || s) of the classes of ranks i < j <= k, each pair's, and of T^2 KL(t || s) of all k
    w_ij = 2 exp(-0.05 (i + j)) / (1.5 + j - i), ranks 1, 2, ... by the student's logits

CIFAR-100: alpha 10.5, beta 7, T 4, k 7 (resnet32x4 -> resnet8x4; those of other pairs are not public). ImageNet: no
value known.

Deviations:
- The paper adds the terms of LOCAL up (`average=False`), the authors' code averages them.
- That code raises the learning rate over 20 epochs and then leaves it at 0.95 of its value until the first decay; the
  recipe's is taken here.
- With K < k + 2 classes k is K - 2, and never below 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Around, Batch, Choice, KDBenchError, Method, Output, Paper, Space, register
from kdbench.losses import kl, kl_per_sample


def rank_weights(k: int, like: Tensor) -> Tensor:
    """w_ij of the pairs (1, 2), (1, 3), ..., (2, 3), ..., `[k (k - 1) / 2]`."""
    first, second = torch.triu_indices(k, k, 1, device=like.device) + 1
    return (2 * torch.exp(-0.05 * (first + second)) / (1.5 + second - first)).to(like.dtype)


def pairs_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL of each two neighbours in rank order, of logits `[B, k]`: `[B, k (k - 1) / 2]`."""
    first, second = torch.triu_indices(student.shape[1], student.shape[1], 1, device=student.device)
    pairs = (torch.stack([z[:, first], z[:, second]], 2).flatten(0, 1) for z in (student, teacher))  # [B * pairs, 2]
    return kl_per_sample(*pairs, temperature).reshape(len(student), -1)


@register(
    "ldrld",
    family="logits",
    paper=Paper(
        title="Local Dense Logit Relations for Enhanced Knowledge Distillation",
        authors="Xu et al.",
        year=2025,
        venue="ICCV",
        arxiv="2507.15911",
        code="yema-web/LDRLD",
    ),
    fidelity="official-code",
)
class LDRLD(Method):
    search_space = Space(alpha=Around(), beta=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self,
        alpha: float = 10.5,
        beta: float = 7.0,
        k: int = 7,
        temperature: float = 4.0,
        ce_weight: float = 1.0,
        average: bool = True,
    ) -> None:
        super().__init__()
        if k < 2:
            raise KDBenchError(f"ldrld's k is {k}, but pairs are made of the first k classes: give 2 or more")
        self.alpha, self.beta, self.k, self.temperature = alpha, beta, k, temperature
        self.ce_weight, self.average = ce_weight, average

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        k = max(2, min(self.k, student.logits.shape[1] - 2))
        ranked = student.logits.detach().argsort(dim=1, descending=True, stable=True)  # [B, K]
        ours, theirs = (z.gather(1, ranked) for z in (student.logits, teacher.logits))
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "local": self.alpha * self.local(ours[:, :k], theirs[:, :k]),
            "rest": self.beta * kl(ours[:, k:], theirs[:, k:], self.temperature),
        }

    def local(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The pairs' terms and the whole's, of logits `[B, k]` in rank order."""
        pairs = pairs_kl(student, teacher, self.temperature)
        weighted = (rank_weights(student.shape[1], pairs) * pairs).sum(1)  # [B]
        terms = weighted + kl_per_sample(student, teacher, self.temperature)
        return terms.mean() / (pairs.shape[1] + 1 if self.average else 1)
