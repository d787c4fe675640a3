"""What the tests of hints from several teachers share: a method in its second epoch, and its hint losses by hand."""

from __future__ import annotations

from typing import Any

import torch
from support.loops import BATCH, mean, network, output
from torch import Tensor, nn

from kdbench import Output, registry


def embedded(conv: nn.Module, norm: nn.Module, feature: Tensor) -> Tensor:
    """ReLU(BN(conv1x1(map))), BatchNorm with the batch's statistics."""
    u = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], feature) + conv.bias[:, None, None]
    centred = u - u.mean((0, 2, 3), keepdim=True)
    u = centred / torch.sqrt((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5)
    return torch.relu(u * norm.weight[:, None, None] + norm.bias[:, None, None])


def hinted(name: str, **options: Any) -> tuple[Any, Output, list[Output], list[Tensor]]:
    """A method with hints in its second epoch, networks' outputs, and the hint losses by hand."""
    method = registry.create(name, options)
    shapes = ((3, 4, 4), (2, 2, 2)), ((5, 4, 4), (4, 2, 2)), ((5, 4, 4), (6, 2, 2))
    method.build(network(*shapes[0]), [network(*each) for each in shapes[1:]])
    method.epoch = 2
    student = output(features=[torch.randn(BATCH, *shape).requires_grad_() for shape in shapes[0]])
    teachers = [output(features=[torch.rand(BATCH, *shape) for shape in each]) for each in shapes[1:]]
    maps = [embedded(part.hint.conv, part.hint.bn, student.features[1]) for part in method.hints]
    losses = [
        mean(((u[i] - t.features[1][i]) ** 2).mean() for i in range(BATCH)) for u, t in zip(maps, teachers, strict=True)
    ]
    return method, student, teachers, losses
