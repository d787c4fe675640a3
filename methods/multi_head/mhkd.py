"""Multi-head Knowledge Distillation for Model Compression (Wang, Lohit, Jones, Fu, 2020).

Auxiliary classifiers on the middle stages of both networks turn feature maps of any shape into logits, and each of
the student's heads imitates the teacher's head at its stage.

    L = ce_weight CE(z_s, y) + kd_weight KL_T(z_t || z_s)
        + beta sum_k [0.9 KL_T(sg h_t^k(F_t^k) || h_s^k(F_s^k)) + 0.1 CE(h_s^k(F_s^k), y)] + sum_k CE(h_t^k(F_t^k), y)
    h = (conv3x3 to 256, BN, ReLU) x 2, average pooling, n_fc linear layers (ReLU between)

CIFAR-100: T 4, ce_weight 0.1, kd_weight 0.9, beta 0.5. ImageNet: no value known. The teacher's heads
learn from labels only and all heads are dropped at test time. With beta 0 the student learns as with `kd`.

Deviations:
- The paper's head positions and beta are not known; the defaults are all stages but the last, and the value of the
  authors' sister weight.
- n_fc 2 is what others report of the paper (the authors' later code: 1).
- `head_pool` (0: off) pools larger maps before a head, for images of 224 pixels.
- How long the teacher's heads are pre-trained (`teacher_heads="pretrained"` or `"pretrained_fixed"`; ours:
  `pretrain_epochs` of SGD at 0.05 on plain images, all held in memory) is inferred.
- Of the authors' code are left out: freely chosen pairs of layers, orthogonal initialisation of the linear layers, and
  an epoch at which the heads' term stops.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from kdbench.connectors import norm, pool_to
from kdbench.losses import kl


class BranchHead(nn.Module):
    """One auxiliary classifier: a map `[B, C, H, W]` to logits `[B, K]`."""

    def __init__(self, channels: int, num_classes: int, width: int, n_fc: int, pool: int) -> None:
        super().__init__()
        fc = [nn.Linear(width, num_classes)]
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), norm(width, 2), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), norm(width, 2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
            *(fc if n_fc == 1 else [nn.Linear(width, width), nn.ReLU(), *fc]),
        )  # fmt: skip
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        if self.pool and x.shape[2] > self.pool:
            x = pool_to(x, (self.pool, self.pool))
        return self.net(x)


@register(
    "mhkd",
    family="multi_head",
    paper=Paper(
        title="Multi-head Knowledge Distillation for Model Compression",
        authors="Wang et al.",
        year=2020,
        arxiv="2012.02911",
        code="MingSun-Tse/Good-DA-in-KD",
    ),
    fidelity="official-code",
)
class MHKD(Method):
    needs = frozenset({"maps"})
    search_space = Space(beta=Around(), kd_weight=Around(), temperature=Choice(1.0, 2.0, 4.0, 8.0))

    def __init__(
        self,
        beta: float = 0.5,
        temperature: float = 4.0,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        head_kd_weight: float = 0.9,
        head_ce_weight: float = 0.1,
        width: int = 256,
        n_fc: int = 2,
        include_last: bool = False,
        target: str = "t_branch",
        teacher_heads: str = "joint",
        pretrain_epochs: int = 10,
        head_pool: int = 0,
        branch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if target not in ("t_branch", "t_logits") or n_fc not in (1, 2):
            raise KDBenchError(f"mhkd needs target 't_branch' or 't_logits' and n_fc 1 or 2, not {target!r} and {n_fc}")
        if teacher_heads not in ("joint", "pretrained", "pretrained_fixed"):
            raise KDBenchError(f"mhkd's teacher_heads is {teacher_heads!r}: give joint, pretrained or pretrained_fixed")
        self.beta, self.temperature, self.ce_weight, self.kd_weight = beta, temperature, ce_weight, kd_weight
        self.head_kd_weight, self.head_ce_weight = head_kd_weight, head_ce_weight
        self.width, self.n_fc, self.include_last, self.head_pool = width, n_fc, include_last, head_pool
        self.target, self.teacher_heads, self.pretrain_epochs = target, teacher_heads, pretrain_epochs
        self.branch_dropout = branch_dropout

    def build(self, student: Network, teacher: Network) -> None:
        counts = [len(network.shapes.features) for network in (student, teacher)]
        self.stages = range(min(counts) - (not self.include_last))
        if not self.stages:
            short = (student, teacher)[counts[0] > counts[1]]
            raise NotApplicable(f"mhkd needs two stages on both sides, but network {short.name!r} has {min(counts)}")
        self.heads_student = self._heads(student)
        if self.target == "t_branch":
            self.heads_teacher = self._heads(teacher)

    def _heads(self, network: Network) -> nn.ModuleList:
        shapes = network.shapes
        options = (shapes.num_classes, self.width, self.n_fc, self.head_pool)
        return nn.ModuleList(BranchHead(shapes.features[k][0], *options) for k in self.stages)

    def prepare(self, data: Dataset, teachers: Sequence[Network]) -> None:
        if self.target == "t_branch" and self.teacher_heads != "joint":
            self._pretrain(data, teachers[0])
            self.heads_teacher.requires_grad_(self.teacher_heads == "pretrained")

    def _pretrain(self, data: Dataset, teacher: Network) -> None:
        """Train the teacher's heads alone; batches are redrawn, since a training set may lie sorted by class."""
        batches = list(data.batches())
        inputs, targets = (torch.cat([getattr(b, name) for b in batches]) for name in ("inputs", "targets"))
        optimizer = torch.optim.SGD(self.heads_teacher.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        for _ in range(self.pretrain_epochs):
            for chosen in torch.randperm(len(targets)).split(len(batches[0])):
                with torch.no_grad():
                    output = teacher(inputs[chosen])
                optimizer.zero_grad()
                self._teacher_ce(self._run(self.heads_teacher, output), targets[chosen]).backward()
                optimizer.step()
                torch.clear_autocast_cache()  # else autocast would go on with the weights of before the update
        self.heads_teacher.zero_grad()

    def _run(self, heads: nn.ModuleList, output: Output) -> list[Tensor]:
        return [head(output.features[k]).to(output.logits.dtype) for k, head in zip(self.stages, heads, strict=True)]

    @staticmethod
    def _teacher_ce(logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(each, targets) for each in logits]).sum()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * kl(student.logits, teacher.logits, self.temperature),
        }
        ours = self._run(self.heads_student, student)
        theirs = [teacher.logits] * len(ours)
        if self.target == "t_branch":
            if self.teacher_heads == "pretrained_fixed":
                self.heads_teacher.eval()
            theirs = self._run(self.heads_teacher, teacher)
            if self.teacher_heads != "pretrained_fixed":
                terms["teacher_heads"] = self._teacher_ce(theirs, batch.targets)
        losses = torch.stack([self._head_loss(s, t.detach(), batch) for s, t in zip(ours, theirs, strict=True)])
        if self.branch_dropout and self.training:
            kept = torch.rand(len(losses), device=losses.device) >= self.branch_dropout
            first = torch.arange(len(losses), device=losses.device) == 0
            losses = losses * (kept | (first & ~kept.any()))
        return {**terms, "heads": self.beta * losses.sum()}

    def _head_loss(self, ours: Tensor, theirs: Tensor, batch: Batch) -> Tensor:
        imitate = self.head_kd_weight * kl(ours, theirs, self.temperature)
        return imitate + self.head_ce_weight * F.cross_entropy(ours, batch.targets)
