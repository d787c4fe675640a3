"""The rest of a network after one of its stages, as a module that shares the network's layers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.method import Output
from kdbench.tasks.image.networks.cifar_base import CifarNet
from kdbench.tasks.image.networks.cifar_vgg import CifarVGG

FRONT = ("conv1", "bn1", "act1", "maxpool", "stem")  # what timm's networks of stages run before the first of them


class Tail(nn.Module):
    """From stage number `stage`'s map `[B, C, H, W]` to an `Output` with the features of the later stages.

    Args:
        network: the adapter whose layers are shared.
        model: its model with everything before that stage's end taken out; None if only the head follows.
    """

    def __init__(self, network: Any, model: nn.Module | None, stage: int) -> None:
        super().__init__()
        self.rest = _with(network, model=network.model if model is None else model, _own_size=None, _scale=None)
        if model is None:  # only the head is used, but a deep copy should not take the body along
            self.rest.model = _only_head(network.model)
        self.head_only = model is None
        # a timm network still lists the maps of the stages that were taken out
        self.skip = 0 if isinstance(network.model, CifarNet) else stage

    def forward(self, x: Tensor) -> Output:
        if self.head_only:
            return replace(self.rest.head(x), final=x)
        output = self.rest(x)
        features = output.features[self.skip :]
        final = output.final if features else output.unpooled
        return Output(output.logits, output.embedding, features, output.preactivations, final=final)


def cut(network: Any, stage: int) -> Tail | None:
    """A tail whose layers are the network's own, or None where its layout is not known."""
    count = len(network.shapes.features)
    model = network.model
    if stage == count and network.shapes.final is None:  # else the head has layers of its own in front of the pooling
        return Tail(network, None, stage)
    if isinstance(model, CifarVGG):
        rest = model.blocks[stage + 1 :]
        return Tail(network, _with(model, blocks=rest, first=stage + 1, big=network.input_size[1] >= 64), stage)
    if isinstance(model, CifarNet):
        return Tail(network, _with(model, stem=nn.Identity(), stages=network.model.stages[stage:]), stage)
    if stage == 0:
        return None
    front = {name: nn.Identity() for name in FRONT if hasattr(model, name)}
    layers = [f"layer{number}" for number in range(1, count + 1)]
    if all(hasattr(model, name) for name in layers):
        return Tail(network, _with(model, **front, **{name: nn.Identity() for name in layers[:stage]}), stage)
    if isinstance(getattr(model, "stages", None), nn.Sequential) and len(model.stages) == count:
        stages = nn.Sequential(*[nn.Identity()] * stage, *list(model.stages)[stage:])
        return Tail(network, _with(model, **front, stages=stages), stage)
    return None


@torch.no_grad()
def fits(network: Any, tail: Tail, stage: int, images: Tensor) -> bool:
    """Whether the tail, given the network's own map, gives the network's own logits."""
    whole = network(images)
    entering = whole.features[stage - 1] if stage else whole.stem
    try:
        logits = tail(entering).logits
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return logits.shape == whole.logits.shape and torch.allclose(logits, whole.logits, rtol=1e-4, atol=1e-5)


def _with(module: Any, **changes: Any) -> Any:
    """A shallow copy that shares all layers and buffers but those given."""
    twin = copy.copy(module)
    twin._modules, twin._buffers = dict(module._modules), dict(module._buffers)
    for name, value in changes.items():
        setattr(twin, name, value)
    return twin


def _only_head(model: nn.Module) -> Any:
    """The model without the layers of its body."""
    body = ("stages", "blocks", "norm", *FRONT, *(f"layer{number}" for number in range(1, 5)))
    return _with(model, **{name: nn.Identity() for name in body if isinstance(getattr(model, name, None), nn.Module)})
