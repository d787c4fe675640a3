"""A frozen teacher as it is fastest: BatchNorms folded into the convolutions before them, and weights in bf16.

Rounding differs where BatchNorms are folded, so this is done in bf16 only (where it rounds less often than before),
never in fp32. Weights in bf16 are what autocast would make of them in each pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdbench.hardware.numerics import Numerics
from kdbench.method import Network, Output

Pair = tuple[nn.BatchNorm2d, nn.Conv2d]


class Folded(NamedTuple):
    """A network as it is called, and what the record says of that: how many BatchNorms stand behind a convolution
    (`foldable`), and how many of these are folded into it (`folded`); nothing where none was to be."""

    network: Network
    about: dict[str, int]


def light(network: Network, example: Tensor, numerics: Numerics) -> Folded:
    """A network to be called under autocast: folded, and with the weights in bf16 that autocast would cast.

    Args:
        example: as for `folded`.
    """
    found = folded(network, example, numerics)
    if found.network is not network:
        for module in found.network.modules():
            if type(module) in (nn.Conv2d, nn.Linear):  # no subclass, which may do more than its name says
                module.to(torch.bfloat16)
    return found


@torch.no_grad()
def folded(network: Network, example: Tensor, numerics: Numerics) -> Folded:
    """A copy of a network in eval mode that gives the same and has fewer layers.

    Args:
        example: one input, `[1, ...]`; noise of its shape shows which BatchNorm reads which convolution, and that the
            copy gives what the network does. In fp32, or with other inputs than images, the network comes back.
    """
    if numerics.precision != "bf16" or example.dim() != 4 or not example.is_floating_point():
        return Folded(network, {})
    draws = torch.Generator().manual_seed(0)
    inputs = numerics.place_inputs(torch.randn(2, *example.shape[1:], generator=draws))
    clone = copy.deepcopy(network)
    expected = network(inputs)
    pairs = _pairs(clone, inputs)
    count = len(pairs)
    if not _fold(clone, pairs, inputs, expected):  # some map is read by others too: find out whose
        count = sum(_fold(clone, [pair], inputs, expected) for pair in pairs)
    numerics.place(clone.requires_grad_(False))
    return Folded(clone, {"folded": count, "foldable": len(pairs)})


def _fold(network: Network, pairs: Sequence[Pair], inputs: Tensor, expected: Output) -> bool:
    """Fold these pairs if the network then still gives what it should."""
    before = [(conv, conv.weight, conv.bias) for _, conv in pairs]
    identities = [nn.Identity() for _ in pairs]
    for (norm, conv), identity in zip(pairs, identities, strict=True):
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
        _replace(network, norm, identity)
    if _close(network(inputs), expected):
        return True
    for (norm, _), identity, (conv, weight, bias) in zip(pairs, identities, before, strict=True):
        conv.weight, conv.bias = weight, bias
        _replace(network, identity, norm)
    return False


def _pairs(network: nn.Module, inputs: Tensor) -> list[Pair]:
    """BatchNorms whose input is one convolution's output; each of the two runs once in a forward pass."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # keeps the tensors alive, so that no id comes back
    found: list[Pair] = []
    calls: dict[nn.Module, int] = {}

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = module, output, output._version
        elif isinstance(module, nn.BatchNorm2d) and id(args[0]) in outputs:
            conv, _, version = outputs[id(args[0])]
            if args[0]._version == version:  # nothing was done to it in place
                found.append((module, conv))

    # not their subclasses, which do more than their names say
    layers = [module for module in network.modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(after) for module in layers]
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in found if all(calls[module] == 1 for module in pair)]


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def _close(ours: Output, theirs: Output, tolerance: float = 1e-3) -> bool:
    """Whether all tensors of two outputs agree, relative to each tensor's norm: a map read before its norm does not."""
    pairs = zip(ours.tensors(), theirs.tensors(), strict=True)
    return all(bool((a - b).norm() <= tolerance * b.norm()) for a, b in pairs)
