"""ScaleKD: Strong Vision Transformers Could Be Excellent Teachers (Fan, Li, Liu, Yao, NeurIPS 2024).

Queries at the teacher's positions gather by cross attention what the student's map holds for them; two views are
compared, the plain one and the one without each channel's mean, which else drowns the rest. An earlier stage's
projection runs through the teacher's own last stage and is compared there.

    L = CE(z_s, y) + spatial D(T(P(F_s')), F_t) + frequency D'(T(P'(F_s')), F_t)
        + last_spatial D(P(F_s), F_t) + last_frequency D'(P'(F_s), F_t)
    D(a, b) = sum |l2norm(a) - l2norm(b)|^2, mean over the batch, l2norm over the channels of each position
    D' = D of the maps less their means over the positions;  F_s' the map before the last;  T the teacher's last stage
    F_s, F_t = the maps that the heads take, after a last norm
    P: x = ReLU(BN(conv3x3(F))) + position,  q = ReLU(conv1x1(queries)),  h = LN(attention(q, x, x)),  h + FFN(h)

All four projectors are their own; those of the last map take the others' results behind T as queries. Attention logits
are multiplied by 5 / sqrt(width of a head), FFN has 4 times the width and a ReLU. ImageNet (the resnet50 student):
0.08, 0.06, 0.08, 0; without a KL, which `scalekd+kd(kd.kd_weight=0.5)` adds. CIFAR-100: no value known; ImageNet's are
the defaults.

Deviations:
- T is left out with `perception=False`, for teachers that cannot be entered before their last stage (ViT, Swin): the
  last map alone is compared, with the first two weights and queries that are learned.
- That a projector which takes queries passes them through its convolution, 8 heads (or the largest power of two below
  that divides the width), and the first values of positions and queries, are inferred.
- The paper's second view goes through a DCT, takes its constant term out and goes back, which is the same.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Around, Batch, Method, Network, NotApplicable, Output, Paper, Space, register
from kdbench.connectors import Shape, evaluating, norm, stages_to_pool
from kdbench.losses import wide

SHARPNESS = 5.0


def tokens(feature: Tensor) -> Tensor:
    """`[B, C, H, W]` to `[B, H W, C]`."""
    return feature.flatten(2).transpose(1, 2)


def distance(student: Tensor, teacher: Tensor, centred: bool) -> Tensor:
    """D, or `centred` D', of maps `[B, C, H, W]`, mean over the batch."""
    pair = [wide(feature) for feature in (student, teacher)]
    if centred:
        pair = [feature - feature.mean((2, 3), keepdim=True) for feature in pair]
    ours, theirs = (F.normalize(feature, dim=1) for feature in pair)
    return (ours - theirs).pow(2).sum() / len(ours)


class Projector(nn.Module):
    """A student's map `[B, C, H, W]` to the teacher's shape, by attention from queries at the teacher's positions.

    Args:
        student, teacher: shapes (C, H, W).
        learned: whether the queries are the projector's own, or given with each map.
    """

    def __init__(self, student: Shape, teacher: Shape, heads: int, learned: bool = True) -> None:
        super().__init__()
        (c_in, *_), (c_out, *self.space) = student, teacher
        self.heads = math.gcd(heads, c_out)
        self.queries = nn.Embedding(math.prod(self.space), c_out) if learned else None
        self.to_queries = nn.Sequential(nn.Conv2d(c_out, c_out, 1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(c_in, c_in, 3, padding=1), norm(c_in, 2), nn.ReLU())
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, *student), std=0.02))
        self.q, self.k, self.v = nn.Linear(c_out, c_out), nn.Linear(c_in, c_out), nn.Linear(c_in, c_out)
        self.out, self.norm = nn.Linear(c_out, c_out), nn.LayerNorm(c_out)
        self.ffn = nn.Sequential(nn.Linear(c_out, 4 * c_out), nn.ReLU(), nn.Linear(4 * c_out, c_out))

    def forward(self, feature: Tensor, queries: Tensor | None = None) -> Tensor:
        """With `queries` `[B, C_t, H_t, W_t]` where they are not learned."""
        if self.queries is not None:
            queries = self.queries.weight.T.unflatten(1, self.space)[None]
        q = self.q(tokens(self.to_queries(queries))).expand(len(feature), -1, -1)
        x = tokens(self.body(feature) + self.position)
        h = self.norm(self.out(self.attend(q, self.k(x), self.v(x))))
        return (h + self.ffn(h)).transpose(1, 2).unflatten(2, self.space)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of `[B, M, C]` to `[B, N, C]`: `[B, M, C]`."""
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = (q @ k.mT * (SHARPNESS * q.shape[3] ** -0.5)).softmax(3)
        return (weights @ v).transpose(1, 2).flatten(2)


@register(
    "scalekd",
    family="features",
    paper=Paper(
        title="ScaleKD: Strong Vision Transformers Could Be Excellent Teachers",
        authors="Fan et al.",
        year=2024,
        venue="NeurIPS",
        arxiv="2411.06786",
        code="deep-optimization/ScaleKD",
    ),
    fidelity="official-code",
)
class ScaleKD(Method):
    needs = frozenset({"maps", "unpooled"})
    search_space = Space(spatial=Around(), frequency=Around(), last_spatial=Around())

    def __init__(
        self,
        spatial: float = 0.08,
        frequency: float = 0.06,
        last_spatial: float = 0.08,
        last_frequency: float = 0.0,
        ce_weight: float = 1.0,
        heads: int = 8,
        perception: bool = True,
    ) -> None:
        super().__init__()
        self.weights = {"spatial": spatial, "frequency": frequency}
        self.last_weights = {"spatial": last_spatial, "frequency": last_frequency}
        self.ce_weight, self.heads, self.perception = ce_weight, heads, perception

    def build(self, student: Network, teacher: Network) -> None:
        ours, theirs = stages_to_pool(student.shapes), stages_to_pool(teacher.shapes)
        stage = -1
        if self.perception:
            self.last_stage = last_stage(student, teacher)
            stage = -2
            self.last = nn.ModuleDict({
                view: Projector(ours[-1], theirs[-1], self.heads, learned=not self.weights[view])
                for view, weight in self.last_weights.items() if weight
            })  # fmt: skip
        self.projectors = nn.ModuleDict(
            {view: Projector(ours[stage], theirs[stage], self.heads) for view, weight in self.weights.items() if weight}
        )

    def reads(self, stages: int) -> tuple[int, ...]:
        return (stages - 1,) if self.perception else ()

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        terms = {"ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets)}
        target, feature = teacher.unpooled, student.features[-2] if self.perception else student.unpooled
        perceived = {view: project(feature) for view, project in self.projectors.items()}
        if self.perception:
            with evaluating(self.last_stage):
                perceived = {view: self.last_stage(feature).unpooled for view, feature in perceived.items()}
            for view, project in self.last.items():
                projected = project(student.unpooled, perceived.get(view))
                terms[f"last_{view}"] = self.last_weights[view] * distance(projected, target, view == "frequency")
        for view, feature in perceived.items():
            terms[view] = self.weights[view] * distance(feature, target, view == "frequency")
        return terms


def last_stage(student: Network, teacher: Network) -> nn.Module:
    """A frozen copy of the teacher's layers from its last stage on.

    Raises:
        NotApplicable: if it cannot be entered there, or a network has one stage only.
    """
    for network in (student, teacher):
        if len(network.shapes.features) < 2:
            raise NotApplicable(f"scalekd reads two stages, but {network.name!r} has one: set perception=False")
    try:
        tail = teacher.tail(len(teacher.shapes.features) - 1)
    except NotApplicable as error:
        raise NotApplicable(f"scalekd runs the teacher's last stage, but {error}: set perception=False") from error
    return copy.deepcopy(tail).requires_grad_(False)
