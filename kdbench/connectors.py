"""What several methods build with; features are `[B, C, *space]` with up to two spatial axes.

- Layers that fit a student's feature to a teacher's: pooling, `pointwise`, `Hint`, `Embed`, `ABF`, `Fusion`.
- Phases of staged methods: `init_phases`, `chain_phases`.
- What a method asks of its networks and data, with a sentence where it is not so: `require_...`, `check_...`.
- `pixel_range`, `evaluating` and `Unrolled`, for methods that work on inputs, on frozen copies and on the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.errors import NotApplicable
from kdbench.losses import exact
from kdbench.method import Dataset, Network, Output, Phase, Shapes

Shape = tuple[int, ...]  # (C, *space), without the batch

_POOL: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d}
_CONV = {1: nn.Conv1d, 2: nn.Conv2d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that takes one value per channel too: it has no variance, so running statistics stand in, unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` for vectors and sequences that takes a single one."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` for maps that takes a single one of 1x1."""


_NORM = {0: BatchNorm1d, 1: BatchNorm1d, 2: BatchNorm2d}


def cell_means(old: int, new: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of one axis as a matrix `[new, old]`, of the dtype and on the device of `like`."""
    cells, places = torch.arange(new, device=like.device)[:, None], torch.arange(old, device=like.device)
    start, end = cells * old // new, ((cells + 1) * old + new - 1) // new
    return ((places >= start) & (places < end)).to(like.dtype) / (end - start)


def linear_weights(old: int, new: int, like: Tensor) -> Tensor:
    """Linear interpolation along one axis, corners not aligned, as a matrix `[new, old]`, see `cell_means`."""
    points, places = torch.arange(new, device=like.device)[:, None], torch.arange(old, device=like.device)
    at = (((2 * points + 1) * old - new).to(like.dtype) / (2 * new)).clamp(0, old - 1)
    return (1 - (at - places).abs()).clamp(min=0)


def resampled(x: Tensor, space: Sequence[int], weights: Callable[[int, int, Tensor], Tensor]) -> Tensor:
    """`[B, C, *space]` at another size, each axis multiplied by the matrix of its `weights`.

    For torch's own kernels whose gradient adds in a random order on a GPU; a product's order is fixed.
    """
    with torch.autocast(x.device.type, enabled=False):  # a third is no number of half precision
        y = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        y = y @ weights(x.shape[-1], space[-1], y).T
        if len(space) == 2:
            y = weights(x.shape[2], space[0], y) @ y
    return y.to(x.dtype)


def pool_to(x: Tensor, space: Sequence[int]) -> Tensor:
    """Adaptive average pooling to `space`; a map of that size, or without spatial axes, passes."""
    old, new = tuple(x.shape[2:]), tuple(space)
    if old == new:
        return x
    if all(before % after == 0 for before, after in zip(old, new, strict=True)):  # torch's sums are in order there
        return _POOL[len(new)](x, new)
    return resampled(x, new, cell_means)


def enlarge_to(x: Tensor, space: Sequence[int]) -> Tensor:
    """`F.interpolate(x, space, mode="bilinear")` of `[B, C, H, W]`, and linear of `[B, C, M]`."""
    return resampled(x, space, linear_weights)


def pool_match(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Pool the larger of two maps to the smaller one's size, as the field's code does before comparing maps."""
    if student.dim() == 2 or student.shape[2] >= teacher.shape[2]:
        return pool_to(student, teacher.shape[2:]), teacher
    return student, pool_to(teacher, student.shape[2:])


def global_pool(x: Tensor) -> Tensor:
    """`[B, C, *space]` to `[B, C]` by the mean."""
    return x.flatten(2).mean(2) if x.dim() > 2 else x


@torch.no_grad()
def require_pooled_embedding(method: str, teacher: Network, data: Dataset) -> None:
    """Hold on one batch that the teacher's classifier reads the mean of `unpooled`, for methods that reuse it so.

    Raises:
        NotApplicable: if its embedding is something else, as in a ViT or behind a convolution in the head.
    """
    output = teacher(next(iter(data.batches())).inputs)
    pooled = global_pool(output.unpooled).to(output.embedding.dtype)
    same = pooled.shape == output.embedding.shape
    if not (same and torch.allclose(pooled, output.embedding, rtol=0.02, atol=0.02)):  # room for bfloat16
        raise NotApplicable(f"{method} needs a classifier on the pooled last map, which {teacher.name!r} has not")


def stages_to_pool(said: Output | Shapes) -> list[Any]:
    """The stages' maps (or their shapes), of the last one what the head pools."""
    return [*said.features[:-1], said.unpooled]


def last_of_stages(said: Output | Shapes) -> Any:
    """The last stage's map (or its shape): as the head pools it, or before a convolution that the head begins with."""
    last, unpooled = said.features[-1], said.unpooled
    same = tuple(getattr(last, "shape", last)) == tuple(getattr(unpooled, "shape", unpooled))
    return unpooled if same else last


def pointwise(c_in: int, c_out: int, axes: int, bias: bool = True) -> nn.Module:
    """A 1x1 convolution for features with that many spatial axes (a linear layer for none)."""
    return _CONV[axes](c_in, c_out, 1, bias=bias) if axes else nn.Linear(c_in, c_out, bias=bias)


def norm(channels: int, axes: int) -> nn.Module:
    """BatchNorm for features with that many spatial axes, which takes a batch of one sample too."""
    return _NORM[axes](channels)


class Hint(nn.Module):
    """FitNets' regressor as the field's code has it: ReLU(BN(conv(student's map))) of the teacher's shape.

    Same size: 1x1 convolution; student twice as large: 3x3 with stride 2; half as large: transposed 4x4 with stride 2;
    otherwise larger: an unpadded convolution that just fits; otherwise smaller: 1x1, and the caller pools the teacher.

    Args:
        student, teacher: shapes (C, *space).
        relu: False to leave the ReLU out, for maps before their activation.
    """

    def __init__(self, student: Shape, teacher: Shape, relu: bool = True) -> None:
        super().__init__()
        axes, (c_in, c_out) = len(student) - 1, (student[0], teacher[0])
        ours, theirs = student[1:], teacher[1:]
        if axes and ours == tuple(2 * n for n in theirs):
            self.conv: nn.Module = _CONV[axes](c_in, c_out, 3, stride=2, padding=1)
        elif axes and tuple(2 * n for n in ours) == theirs:
            self.conv = _TRANSPOSED[axes](c_in, c_out, 4, stride=2, padding=1)
        elif axes and ours != theirs and all(s >= t for s, t in zip(ours, theirs, strict=True)):
            kernel = tuple(1 + s - t for s, t in zip(ours, theirs, strict=True))
            self.conv = _CONV[axes](c_in, c_out, kernel)  # type: ignore[arg-type]
        else:
            self.conv = pointwise(c_in, c_out, axes)
        self.bn, self.relu = norm(c_out, axes), relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return torch.relu(x) if self.relu else x


def bottleneck(c_in: int, middle: int, c_out: int) -> list[nn.Module]:
    """Layers 1x1 to `middle`, 3x3, 1x1 to `c_out` without biases, BatchNorm and ReLU after the first two."""
    return [
        nn.Conv2d(c_in, middle, 1, bias=False), norm(middle, 2), nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False), norm(middle, 2), nn.ReLU(),
        nn.Conv2d(middle, c_out, 1, bias=False),
    ]  # fmt: skip


class Embed(nn.Sequential):
    """1x1 convolution with bias, BatchNorm, ReLU: the multi-teacher methods' adapter for `[B, C, H, W]`."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, 1), norm(c_out, 2), nn.ReLU())


class Ensemble(nn.Module):
    """Networks deployed together: the log of the mean of their softmax probabilities, `[B, K]`."""

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = torch.stack([network(inputs).logits for network in self.networks])  # [N, B, K]
        return logits.log_softmax(2).logsumexp(0) - torch.tensor(float(len(logits))).log().to(logits)


def stage_pairs(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The stages' maps side by side from the shallowest on, the larger of each pooled to the smaller."""
    return [pool_match(*pair) for pair in zip(student, teacher, strict=False)]


def init_phases(epochs: int, share: float = 30 / 240) -> tuple[Phase, Phase]:
    """An initialisation of 30 of 240 epochs, of one epoch at least and at a constant rate, and then the training."""
    share = max(share, 1 / epochs)
    return Phase("init", share, milestones=()), Phase("train", 1 - share)


def chain_phases(assistants: int) -> tuple[Phase, ...]:
    """Equal phases in which the assistants 1, 2, ... (their places in `Method.members`) and then the student train."""
    share = 1 / (assistants + 1)
    links = [Phase(f"assistant_{k}", share, members=(k,)) for k in range(1, assistants + 1)]
    return (*links, Phase("student", share, members=(0,)))


def chain_link(phase: str, assistants: int) -> tuple[int, int]:
    """Who trains in a phase of `chain_phases`, as a place in `Method.members`, and who is above: 0 is the teacher."""
    pupil = 0 if phase == "student" else int(phase.removeprefix("assistant_"))
    return pupil, pupil - 1 if pupil else assistants


def check_pooled_student(method: str, student: Network, data: Dataset) -> None:
    """`require_pooled_embedding` for a student, whose running statistics stay as they are."""
    training = student.training
    student.eval()
    require_pooled_embedding(method, student, data)
    student.train(training)


def in_full(module: nn.Module, x: Tensor) -> Tensor:
    """What a module says to `x`, computed in the numbers of `kdbench.losses.exact`; its parameters stay as they are."""
    return functional_call(module, {name: exact(p) for name, p in module.named_parameters()}, exact(x))  # type: ignore[no-any-return]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards each of its modules is back in the mode that it had."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def require_images(method: str, network: Network, data: Dataset) -> None:
    """Hold that the data are images, for methods that change what a network reads.

    Raises:
        NotApplicable: if a batch's inputs are not real numbers `[B, C, H, W]`.
    """
    inputs = next(iter(data.batches())).inputs
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.dim() == 4):
        raise NotApplicable(f"{method} changes images, which network {network.name!r} does not read")


@torch.no_grad()
def pixel_range(data: Dataset, batches: int = 32) -> tuple[Tensor, Tensor]:
    """Black and white as networks read them: the extremes of each channel in the first batches, `[C, 1, 1]` each."""
    first = [(x.amin((0, 2, 3)), x.amax((0, 2, 3))) for x in (b.inputs for b in islice(data.batches(), batches))]
    low, high = (torch.stack(extremes) for extremes in zip(*first, strict=True))  # [batches, C]
    return low.amin(0)[:, None, None], high.amax(0)[:, None, None]


def require_memory(method: str, network: Network, size: int, instead: str) -> None:
    """Hold that `size` bytes, which a method would keep for the whole training set, are not beyond reason.

    Raises:
        NotApplicable: with what to do `instead`, if they are more than 4 GiB.
    """
    if size > 4 * 2**30:
        raise NotApplicable(
            f"{method} would keep {size / 2**30:.1f} GiB for what network {network.name!r} reads: {instead}"
        )


class Unrolled:
    """A module on its way through a few steps of an optimizer, as a function of the losses that it descends.

    It starts with the module's weights and running statistics and the optimizer's rates and momenta, none of which
    change. SGD's update is followed exactly; another optimizer's is replaced by plain SGD at its rates.

    Args:
        nesterov: whether Nesterov's part of the update is followed, where the optimizer has it.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, nesterov: bool = True) -> None:
        self._module, self._nesterov = module, nesterov
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().requires_grad_() for name, p in trained.items()}
        self._buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self._groups: dict[str, dict[str, Any]] = {name: groups[p] for name, p in trained.items()}
        self._momenta = {name: optimizer.state[p].get("momentum_buffer") for name, p in trained.items()}
        if not isinstance(optimizer, torch.optim.SGD):
            plain = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
            self._groups = {name: plain | {"lr": group["lr"]} for name, group in self._groups.items()}

    def __call__(self, *args: Any) -> Any:
        return functional_call(self._module, {**self.weights, **self._buffers}, args)

    def descend(self, loss: Tensor) -> None:
        """One step; the new weights are a function of the loss's inputs, its other parameters among them."""
        gradients = torch.autograd.grad(loss, list(self.weights.values()), create_graph=True, allow_unused=True)
        for name, gradient in zip(list(self.weights), gradients, strict=True):
            if gradient is None:
                continue
            group, kept = self._groups[name], self._momenta[name]
            step = gradient + group["weight_decay"] * self.weights[name]
            if group["momentum"]:
                kept = step if kept is None else group["momentum"] * kept + (1 - group["dampening"]) * step
                step = step + group["momentum"] * kept if self._nesterov and group["nesterov"] else kept
            self.weights[name], self._momenta[name] = self.weights[name] - group["lr"] * step, kept


class ABF(nn.Module):
    """Attention-based fusion of a map with the fused deeper one (Chen et al., ReviewKD, 2021).

    The map is brought to `middle` channels, the deeper residual is enlarged to its size, and a gate of two channels
    weighs the sum. Each convolution is followed by BatchNorm, or by ReLU for UniKD's variant.

    Args:
        c_in, middle, c_out: channels of the map, inside, and of the result.
        fuse: False for the deepest map, which has nothing to be fused with.
    """

    def __init__(self, c_in: int, middle: int, c_out: int, fuse: bool, relu: bool = False) -> None:
        super().__init__()
        after = (lambda width: nn.ReLU()) if relu else BatchNorm2d
        self.conv1 = nn.Sequential(nn.Conv2d(c_in, middle, 1, bias=False), after(middle))
        self.conv2 = nn.Sequential(nn.Conv2d(middle, c_out, 3, padding=1, bias=False), after(c_out))
        self.att_conv: nn.Module | None = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuse else None
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d) and conv.bias is None:  # the gate keeps torch's initial weights
                nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, space: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`[B, C, H, W]` and the deeper residual to the result at size `space` and this level's residual."""
        x = self.conv1(x)
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=x.shape[2:], mode="nearest")
            gate = self.att_conv(torch.cat([x, deeper], 1))
            x = x * gate[:, :1] + deeper * gate[:, 1:]
        out = x if tuple(x.shape[2:]) == tuple(space) else F.interpolate(x, size=tuple(space), mode="nearest")
        return self.conv2(out), x


class Fusion(nn.Module):
    """A chain of `ABF` from a network's pooled embedding to its shallowest map.

    Args:
        student: shapes (C, H, W) of the maps, shallow to deep, and the embedding's width last.
        teacher: the same of what the results are compared with.
    """

    def __init__(self, student: Sequence[Shape], teacher: Sequence[Shape], relu: bool = False) -> None:
        super().__init__()
        middle = min(512, student[-1][0])
        pairs = list(zip(student, teacher, strict=True))[::-1]
        self.abfs = nn.ModuleList(ABF(s[0], middle, t[0], bool(i), relu) for i, (s, t) in enumerate(pairs))
        self.spaces = [tuple(t[1:]) or (1, 1) for _, t in pairs]

    def forward(self, maps: Sequence[Tensor], embedding: Tensor) -> list[Tensor]:
        """Fused maps, shallow to deep, the embedding's (`[B, C, 1, 1]`) last."""
        levels = [embedding[:, :, None, None], *reversed(maps)]
        results, residual = [], None
        for abf, level, space in zip(self.abfs, levels, self.spaces, strict=True):
            result, residual = abf(level, residual, space)
            results.append(result)
        return results[::-1]


def require_same_tokens(method: str, student: Any, teacher: Any) -> None:
    """Hold that two text networks read the same tokens, for methods that compare them place by place.

    Raises:
        NotApplicable: if their vocabularies differ, in size or in order.
    """
    if student.vocabulary != teacher.vocabulary:
        raise NotApplicable(
            f"{method} compares tokens place by place, but networks {student.name!r} and {teacher.name!r} read other "
            "tokens: give them one tokenizer, or use a method on logits or on [CLS]"
        )


def require_same_heads(method: str, student: Any, teacher: Any) -> None:
    """Hold that two text networks have as many attention heads.

    Raises:
        NotApplicable: if not; nothing is broadcast.
    """
    if student.heads != teacher.heads:
        raise NotApplicable(
            f"{method} compares head by head, but network {student.name!r} has {student.heads} heads and "
            f"{teacher.name!r} {teacher.heads}: give the student `heads={teacher.heads}`"
        )


def uniform_layers(method: str, student: Network, teacher: Network) -> list[int]:
    """The teacher's layer that each of a student's layers meets, from layer 1 on: k meets k * L_T / L_S.

    Raises:
        NotApplicable: if the student's number of layers does not divide the teacher's.
    """
    ours, theirs = len(student.shapes.features), len(teacher.shapes.features)
    if not ours or theirs % ours:
        raise NotApplicable(
            f"{method} maps the layers of {student.name!r} evenly onto those of {teacher.name!r}, but {ours} does not "
            f"divide {theirs}"
        )
    return [theirs // ours * k for k in range(1, ours + 1)]


def width_of(network: Network) -> int:
    """The width D of a text network's hidden states."""
    return network.shapes.features[-1][0]


def fitted(student: int, teacher: int) -> nn.Module:
    """A linear layer between two widths; none where they agree."""
    return nn.Identity() if student == teacher else nn.Linear(student, teacher)
