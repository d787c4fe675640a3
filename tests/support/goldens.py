"""Loading golden vectors and holding a method's values and gradients against them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench import Batch, Output, Shapes

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CLASSES = 10


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(np.array(file[key])) for key in file.files if key != "meta"}


def network(
    features: Iterable[Tensor],
    classifier: nn.Module | None = None,
    *,
    preactivations: Iterable[Tensor] = (),
    embedding: Tensor | None = None,
) -> Any:
    """What `build` sees of a network: its shapes, and its classifier where a method reuses it."""
    shapes, before = (tuple(tuple(x.shape[1:]) for x in maps) for maps in (features, preactivations))
    width = embedding.shape[1] if embedding is not None else shapes[-1][0] if shapes else 1
    return SimpleNamespace(name="golden", shapes=Shapes(CLASSES, width, shapes, before), classifier=classifier)


def output(
    logits: Tensor | None = None,
    features: Iterable[Tensor] = (),
    *,
    preactivations: Iterable[Tensor] = (),
    embedding: Tensor | None = None,
    strong: Output | None = None,
) -> Output:
    features, before = tuple(features), tuple(preactivations)
    size = len((*features, *before, torch.zeros(8))[0])
    logits = torch.zeros(size, CLASSES).double() if logits is None else logits
    embedding = torch.zeros(size, 1).double() if embedding is None else embedding
    return Output(logits, embedding, features, before, strong=strong)


def batch(targets: Tensor | None = None) -> Batch:
    targets = torch.zeros(8, dtype=torch.int64) if targets is None else targets
    return Batch(torch.zeros(len(targets), 1), targets, torch.arange(len(targets)))


def load_parameters(module: nn.Module, golden: dict[str, Tensor], prefix: str) -> None:
    """Fill a module from the vectors `param__<prefix><name>`, all of them and nothing else."""
    start = f"param__{prefix}"
    module.load_state_dict({key.removeprefix(start): golden[key] for key in golden if key.startswith(start)})


def close(actual: Tensor, expected: Tensor, atol: float = 1e-14) -> None:
    # a bias in front of BatchNorm has gradient zero up to rounding, hence the absolute part
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=atol)


def gradients_agree(
    loss: Tensor, inputs: dict[str, Tensor], modules: dict[str, nn.Module], golden: Any, atol: float = 1e-14
) -> None:
    """Compare d loss / d input with `grad__<name>` and d loss / d parameter with `gradp__<prefix><name>`."""
    wanted = {f"grad__{name}": tensor for name, tensor in inputs.items()}
    for prefix, module in modules.items():
        wanted |= {f"gradp__{prefix}{name}": p for name, p in module.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(wanted.values()))
    for key, gradient in zip(wanted, found, strict=True):
        close(gradient, golden[key], atol)


def require(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.requires_grad_()


def sides(golden: dict[str, Tensor], stages: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """The student's maps, which require gradients, and the teacher's."""
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(stages)] for side in "st")
    require(*ours)
    return ours, theirs


def named(tensors: list[Tensor], name: str = "feat_s") -> dict[str, Tensor]:
    return {f"{name}_{k}": tensor for k, tensor in enumerate(tensors)}


def teachers_of(golden: dict[str, Tensor], count: int) -> list[Output]:
    return [output(golden[f"logits_t_{k}"], [golden[f"feat_t_{k}"]]) for k in range(count)]
