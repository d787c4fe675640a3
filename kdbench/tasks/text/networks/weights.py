"""First weights of a student: another network's layers, and low-rank factors of its matrices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError
from kdbench.tasks.text.networks.taps import list_of_layers


def keep_layers(model: Any, picked: Sequence[int]) -> None:
    """Leave only these layers of an encoder, from 1, in this order."""
    layers = list_of_layers(model)
    assert layers is not None
    for parent in model.base_model.modules():
        for name, child in parent.named_children():
            if child is layers:
                setattr(parent, name, nn.ModuleList(layers[number - 1] for number in picked))
    model.config.num_hidden_layers = len(picked)


_FACTORS: WeakKeyDictionary[nn.Module, dict[tuple[str, int], tuple[Tensor, Tensor]]] = WeakKeyDictionary()


def factorise(model: Any, rank: int, name: str, keep: bool = True) -> None:
    """Cut every weight matrix of the layers to a rank: each linear layer becomes `down` and `up` (with its bias).

    Args:
        keep: whether the factors are those of the weights there are; else random ones, which others will replace.

    Raises:
        KDBenchError: if a matrix has no such rank.
    """
    for layer in list_of_layers(model) or ():
        linear = [(path, module) for path, module in layer.named_modules() if isinstance(module, nn.Linear)]
        for path, module in linear:
            least = min(module.weight.shape)
            if not 1 <= rank <= least:
                raise KDBenchError(f"network {name!r} has a matrix of rank {least} at most: give a rank from 1 to it")
            down = nn.Linear(module.in_features, rank, bias=False)
            up = nn.Linear(rank, module.out_features, bias=module.bias is not None)
            with torch.no_grad():
                for half, weight in zip((down, up), factors(module.weight, rank) if keep else (), strict=False):
                    half.weight.copy_(weight)
                if module.bias is not None:
                    up.bias.copy_(module.bias)
            pair = nn.Sequential(OrderedDict(down=down, up=up))
            layer.set_submodule(path, pair)


def factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best `down` `[r, d_in]` and `up` `[d_out, r]` of a matrix `[d_out, d_in]`, singular values shared evenly.

    On the CPU in float64, so that they are the same beside any device.
    """
    u, s, v = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]).to(weight), (u[:, :rank] * root).to(weight)


def taken(student: Any, teacher: Any, picked: Sequence[int], student_name: str, teacher_name: str) -> dict[str, Tensor]:
    """The weights that a student takes from a teacher: its embeddings and head, and the picked layers, from 1.

    Raises:
        KDBenchError: if a weight is of another shape or not there.
    """
    theirs, ours = teacher.state_dict(), student.state_dict()
    start = next((name for name, m in student.named_modules() if m is list_of_layers(student)), "")
    halves = _FACTORS.setdefault(teacher, {})  # a frozen teacher's are the same for every student beside it
    found: dict[str, Tensor] = {}
    for name, own in ours.items():
        source = _renumbered(name, start, picked)
        whole = source.replace(".down.weight", ".weight").replace(".up.", ".")
        if whole != source and source not in theirs:
            if source.endswith(".bias"):
                source = whole
            elif whole in theirs:
                key = whole, _rank(ours, name)
                if key not in halves:
                    halves[key] = factors(theirs[whole], key[1])
                theirs[source] = halves[key][0 if ".down." in source else 1]
        if source not in theirs or theirs[source].shape != own.shape:
            there = f"is of shape {list(theirs[source].shape)}" if source in theirs else "does not exist"
            raise KDBenchError(
                f"network {student_name!r} cannot start from {teacher_name!r}: {source!r} {there} there, and it needs "
                f"{list(own.shape)}; give it the teacher's widths, or start='fresh'"
            )
        found[name] = theirs[source].detach().clone()
    return found


def _rank(weights: dict[str, Tensor], name: str) -> int:
    return weights[name].shape[0 if ".down." in name else 1]


def _renumbered(name: str, start: str, picked: Sequence[int]) -> str:
    """The name of a weight in the network that layers were picked from."""
    if not start or not name.startswith(f"{start}."):
        return name
    number, dot, rest = name[len(start) + 1 :].partition(".")
    return f"{start}.{picked[int(number)] - 1}{dot}{rest}"
