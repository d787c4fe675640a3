"""One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation (Hao, Guo, Han, Tang, Hu,
Wang, Xu, NeurIPS 2023).

Each of the student's stages goes through a head into the space of the logits, where networks of any kind compare, and
learns the teacher's prediction with the label's share made larger.

    L = CE(z_s, y) + kd_weight O(z_s) + head_weight sum_k O(h_k(F_s^k))
    O(z) = -mean_b sum_c ((p_t + 1_y)^eps - 1_y)_c log p_c,  p = softmax(z / T), p_t the teacher's

eps 1 makes O a cross-entropy with the teacher's probabilities; above 1 it stresses the label. CIFAR-100: eps 1, T 1,
kd_weight 1, head_weight 0.1 (the arguments that the authors published; the code's default is 1). ImageNet: eps 1.5,
all weights 1. There is no KL in the recipe: the final logits learn by O too. The heads are dropped at test time.

    a hierarchical student's h_k: K - k separable blocks, which halve the map and double its channels (the last: to the
        wider of both embeddings); a 1x1 convolution for the last stage; average pooling, a linear layer
    a student of equal blocks: 2x2 patches merged down to a 7x7 grid, K - k transformer blocks (at least one) of 4
        attention heads, the tokens' mean, a linear layer

Deviations:
- Stages are as many as the student has (four in the paper). The last one's map is what the head pools, as in the
  official code (MobileNetV2's after its last convolution), but for a student of equal blocks what its last block gives.
- Students whose maps all have one shape count as made of equal blocks; the official code treats a Swin so too.
- Tokens come without the class token, so their mean is read where the official code reads the class token.
- Attention has biases, which the official queries, keys and values have not.
- Grids that are odd are merged no further.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Method, Network, Output, Paper, Space, Uniform, register
from kdbench.connectors import norm, stages_to_pool
from kdbench.losses import wide

GRID, ATTENTION_HEADS = 7, 4


def enhanced_cross_entropy(
    student: Tensor, teacher: Tensor, targets: Tensor, eps: float, temperature: float = 1.0
) -> Tensor:
    """-mean_b sum_c ((p_t + 1_y)^eps - 1_y)_c log p_s,c of logits `[B, K]`."""
    label = F.one_hot(targets, student.shape[1]).to(student.dtype)
    wanted = (F.softmax(teacher / temperature, dim=1) + label).pow(eps) - label
    return -(wanted * F.log_softmax(student / temperature, dim=1)).sum(1).mean()


class Separable(nn.Sequential):
    """Depthwise 3x3 and 1x1 twice, each pair with BatchNorm and ReLU; the first halves the map `[B, C, H, W]`."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_in, 3, 2, 1, groups=c_in, bias=False), nn.Conv2d(c_in, c_in, 1, bias=False),
            norm(c_in, 2), nn.ReLU(),
            nn.Conv2d(c_in, c_in, 3, 1, 1, groups=c_in, bias=False), nn.Conv2d(c_in, c_out, 1, bias=False),
            norm(c_out, 2), nn.ReLU(),
        )  # fmt: skip


class TokenHead(nn.Module):
    """A map of tokens `[B, C, H, W]` to logits `[B, K]`: patches merged, transformer blocks, mean, linear layer."""

    def __init__(self, shape: tuple[int, ...], depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        channels, *space = shape
        self.merges = nn.ModuleList()
        while min(space) >= 2 * GRID and not any(side % 2 for side in space):
            activation = nn.Identity() if self.merges and min(space) < 4 * GRID else nn.GELU()
            linear = nn.Linear(4 * channels, width, bias=False)
            self.merges.append(nn.Sequential(nn.LayerNorm(4 * channels), linear, activation))
            channels, space = width, [side // 2 for side in space]
        heads = ATTENTION_HEADS if channels % ATTENTION_HEADS == 0 else 1
        self.blocks = nn.Sequential(*(
            nn.TransformerEncoderLayer(
                channels, heads, 4 * channels, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ))  # fmt: skip
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for merge in self.merges:
            x = merge(F.pixel_unshuffle(x, 2).movedim(1, 3)).movedim(3, 1)
        return self.linear(self.blocks(x.flatten(2).transpose(1, 2)).mean(1))


@register(
    "ofa",
    family="multi_head",
    paper=Paper(
        title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        authors="Hao et al.",
        year=2023,
        venue="NeurIPS",
        arxiv="2310.19444",
        code="Hao840/OFAKD",
    ),
    fidelity="official-code",
)
class OFA(Method):
    needs = frozenset({"maps", "unpooled"})
    search_space = Space(eps=Uniform(1.0, 1.6), head_weight=Around(), kd_weight=Around())

    def __init__(
        self, eps: float = 1.0, head_weight: float = 0.1, kd_weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.eps, self.head_weight, self.kd_weight, self.temperature = eps, head_weight, kd_weight, temperature

    def build(self, student: Network, teacher: Network) -> None:
        shapes, classes = list(student.shapes.features), student.shapes.num_classes
        later = range(len(shapes) - 1, -1, -1)  # how many stages follow each
        self.equal_blocks = len(set(shapes)) == 1 < len(shapes)
        if self.equal_blocks:
            width = student.shapes.embedding
            heads: list[nn.Module] = [
                TokenHead(s, max(n, 1), width, classes) for s, n in zip(shapes, later, strict=True)
            ]
        else:
            shapes = stages_to_pool(student.shapes)
            width = max(student.shapes.embedding, teacher.shapes.embedding)
            heads = [map_head(s[0], n, width, classes) for s, n in zip(shapes, later, strict=True)]
        self.heads = nn.ModuleList(heads).apply(initialise)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        maps = student.features if self.equal_blocks else stages_to_pool(student)
        costs = [self._cost(wide(h(f)), teacher, batch) for h, f in zip(self.heads, maps, strict=True)]
        return {
            "ce": F.cross_entropy(student.logits, batch.targets),
            "kd": self.kd_weight * self._cost(student.logits, teacher, batch),
            "heads": self.head_weight * torch.stack(costs).sum(),
        }

    def _cost(self, logits: Tensor, teacher: Output, batch: Batch) -> Tensor:
        return enhanced_cross_entropy(logits, teacher.logits, batch.targets, self.eps, self.temperature)


def map_head(channels: int, depth: int, width: int, num_classes: int) -> nn.Sequential:
    """A map `[B, C, H, W]` to logits `[B, K]`: separable blocks (if none: a 1x1 convolution), mean, linear layer."""
    blocks: list[nn.Module] = [Separable(*pair) for pair in pairwise([*(channels * 2**k for k in range(depth)), width])]
    body = blocks or [nn.Conv2d(channels, width, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def initialise(module: nn.Module) -> None:
    """Kaiming normal over the fan-out for convolutions, truncated normal of 0.02 and zero bias for linear layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):  # its first projection is no linear layer
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
