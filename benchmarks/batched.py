"""Several students of one architecture as one computation: two ways that cohorts could have been built instead.

Both train with BatchNorm in train mode: each student normalises by its own batch statistics. Both leave the running
statistics out: `vmap` refuses to change them in place, and neither way should lose time to what the other leaves out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from kdbench.hardware.numerics import Numerics

Step = Callable[[Tensor, Tensor], list[Tensor]]


def one_by_one(networks: Sequence[nn.Module], numerics: Numerics) -> Step:
    """Forward and backward of one network after the other; gives all gradients."""

    def step(inputs: Tensor, targets: Tensor) -> list[Tensor]:
        gradients: list[Tensor] = []
        for network in networks:
            with numerics.autocast():
                loss = F.cross_entropy(network(inputs), targets)
            gradients += torch.autograd.grad(loss, list(network.parameters()))
        return gradients

    return step


def mapped(networks: Sequence[nn.Module], numerics: Numerics) -> Step:
    """The same by `torch.func`: `vmap` over stacked weights.

    Autocast does not reach convolutions under `vmap`, so all weights are cast here, those of BatchNorm too (mixed types
    would not pass through it): at most an advantage to this way.
    """
    weights, _ = stack_module_state(list(networks))
    skeleton = copy.deepcopy(networks[0]).to("meta")
    dtype = torch.bfloat16 if numerics.precision == "bf16" else torch.float32

    def loss(own: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        cast = {name: weight.to(dtype) for name, weight in own.items()}
        return F.cross_entropy(functional_call(skeleton, cast, (inputs.to(dtype),)).float(), targets)

    losses = vmap(loss, in_dims=(0, None, None))

    def step(inputs: Tensor, targets: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(losses(weights, inputs, targets).sum(), list(weights.values())))

    return step


def grouped(networks: Sequence[nn.Module], numerics: Numerics) -> Step:
    """The same by one network whose convolutions have a group for each student, its channels side by side."""
    wide = numerics.place(_grouped(networks))
    parameters = list(wide.parameters())
    count = len(networks)

    def step(inputs: Tensor, targets: Tensor) -> list[Tensor]:
        with numerics.autocast():
            logits = wide(inputs.repeat(1, count, 1, 1)).unflatten(1, (count, -1))  # [B, students, K]
            losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(count), reduction="sum")
            loss = losses / len(targets)
        return list(torch.autograd.grad(loss, parameters))

    return step


def _grouped(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that does what each of these does on its share of the channels."""
    first = modules[0]
    if isinstance(first, nn.Conv2d):
        return _wide_conv(modules)  # type: ignore[arg-type]
    if isinstance(first, nn.Linear):
        return _GroupedLinear(modules)  # type: ignore[arg-type]
    result = copy.deepcopy(first)
    if isinstance(first, nn.BatchNorm2d):
        result = nn.BatchNorm2d(first.num_features * len(modules), track_running_stats=False)
    for name, _ in first.named_parameters(recurse=False):
        joined = torch.cat([getattr(module, name).detach() for module in modules])
        setattr(result, name, nn.Parameter(joined))
    for name, _ in first.named_children():
        setattr(result, name, _grouped([getattr(module, name) for module in modules]))
    return result


def _wide_conv(convs: Sequence[nn.Conv2d]) -> nn.Conv2d:
    first, count = convs[0], len(convs)
    conv = nn.Conv2d(
        first.in_channels * count, first.out_channels * count, first.kernel_size,  # type: ignore[arg-type]
        first.stride, first.padding, groups=first.groups * count, bias=first.bias is not None,  # type: ignore[arg-type]
    )  # fmt: skip
    conv.weight = nn.Parameter(torch.cat([conv.weight.detach() for conv in convs]))
    if first.bias is not None:
        conv.bias = nn.Parameter(torch.cat([conv.bias.detach() for conv in convs if conv.bias is not None]))
    return conv


class _GroupedLinear(nn.Module):
    """`[B, students * D]` to `[B, students * K]`."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))  # [students, D, K]
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        own = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)  # [students, B, D]
        return torch.baddbmm(self.bias[:, None], own, self.weight).transpose(0, 1).flatten(1)


WAYS: dict[str, Callable[[Sequence[nn.Module], Numerics], Step]] = {
    "one by one": one_by_one,
    "vmap": mapped,
    "grouped convolutions": grouped,
}
