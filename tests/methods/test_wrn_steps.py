"""Single steps of the field's code on Wide ResNets: mdistiller's, RepDistiller's, Factor-Transfer-pytorch's.

Weights, batches and directions are drawn again by the rules of these vectors; stored are the results alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import float64  # noqa: F401  (a fixture for every test here)
from torch import Tensor, nn

from kdbench import Batch, Network, Output, registry
from kdbench.tasks.image.networks import create

TOLERANCE = 1e-9
TINY = 1e-6  # of a step's largest gradient: below that a gradient is zero but for rounding
PAIRS = {  # networks and the seeds of their weights
    "A": (("cifar_wrn_16_2", 101), ("cifar_wrn_16_1", 102)),
    "B": (("cifar_wrn_16_2", 101), ("cifar_shufflenetv1", 103)),
    "C": (("cifar_wrn_16_1", 104), ("cifar_wrn_16_1", 102)),
}


def fill(tensors: Sequence[tuple[str, Tensor]], seed: int) -> None:
    """Draw named parameters and buffers one after the other."""
    rng = np.random.default_rng(seed)
    for name, tensor in tensors:
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            continue
        normal = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
        if kind == "weight" and normal.dim() > 1:
            values = normal * math.sqrt(2 / math.prod(normal.shape[1:]))
        elif kind in ("weight", "running_var"):
            values = 1 + 0.1 * (normal.abs() if kind == "running_var" else normal)
        else:  # bias, running_mean
            values = 0.1 * normal
        with torch.no_grad():
            tensor.copy_(values)


def state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.state_dict().items())


def networks(pair: str) -> tuple[Network, Network]:
    """The filled student, in train mode, and the frozen teacher."""
    found = []
    for name, seed in PAIRS[pair]:
        network = create(name, num_classes=100, in_chans=3, input_size=(3, 32, 32))
        fill(state(network.core), seed)
        found.append(network)
    teacher, student = found
    return student.train(), teacher.requires_grad_(False).eval()


def batch(size: int) -> Batch:
    rng = np.random.default_rng(1001)
    for count in (8, size) if size != 8 else (8,):
        images, targets = np.round(rng.standard_normal((count, 3, 32, 32)) * 16) / 16, rng.integers(0, 100, count)
    return Batch(torch.from_numpy(images), torch.from_numpy(targets), torch.arange(size))


def agree(parameters: Sequence[nn.Parameter], loss: Tensor, golden: dict[str, Tensor], kind: str, seed: int) -> None:
    """Every parameter's gradient: its norm, and its product with a random direction."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    norms, dots = golden[f"{kind}_norm"], golden[f"{kind}_dot"]
    smallest = TINY * norms.max()
    rng = np.random.default_rng(seed)
    for gradient, norm, dot in zip(gradients, norms, dots, strict=True):
        direction = torch.from_numpy(rng.standard_normal(tuple(gradient.shape)))
        scale = max(norm, smallest)
        assert abs(gradient.norm() - norm) <= TOLERANCE * scale
        assert abs((gradient * direction).sum() - dot) <= TOLERANCE * scale * direction.norm()
    if kind == "grad":
        stem = golden["grad_stem"]
        assert (gradients[0] - stem).norm() <= TOLERANCE * stem.norm()


def built(name: str, student: Network, teacher: Network, **hyperparameters: Any) -> Any:
    method = registry.create(name, hyperparameters)
    method.bind([student], [teacher])
    method.epoch, method.epochs = 240, 240
    return method.train()


Term = tuple[Tensor, list[nn.Parameter]]  # what the code adds to the loss, and the extra parameters that train


def at(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    return built("at", student, teacher, weight=1000.0).loss(data, *outputs)["attention"], []


def sp(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    return built("sp", student, teacher, weight=3000.0).loss(data, *outputs)["similarity"], []


def reviewkd(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    method = built("reviewkd", student, teacher)
    parts = []
    for abf in method.fusion.abfs:
        gate = [] if abf.att_conv is None else state(abf.att_conv)
        parts += [*state(abf.conv1), *state(abf.conv2), *gate]
    fill(parts, 203)
    named = dict(method.named_parameters())
    order = [p for tensor in parts for p in named.values() if p.data_ptr() == tensor[1].data_ptr()]
    return method.loss(data, *outputs)["review"], order


def fsp(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    method = built("fsp", student, teacher, weight=1.0)
    method.phase = "init"
    return sum(method.loss(data, *outputs).values()), []  # type: ignore[return-value]


def factors(student: Output, teacher: Output, batch_norm: bool) -> Term:
    """Factor transfer as its authors have it: the whole factor of a sample is one unit vector."""

    def convolutions(*widths: int, norms: bool = False) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            norm = [nn.BatchNorm2d(c_out)] if norms else []
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), *norm, nn.LeakyReLU(0.1)]
        return nn.Sequential(*layers)

    encoder, translator = convolutions(128, 128, 64, 64), convolutions(64, 64, 64, 64, norms=batch_norm)
    fill(state(encoder), 201)
    fill(state(translator), 202)
    ours, theirs = translator(student.features[-1]), encoder(teacher.features[-1]).detach()
    pair = [F.normalize(factor.flatten(1), dim=1) for factor in (ours, theirs)]
    return 500 * (pair[0] - pair[1]).abs().mean(), list(translator.parameters())


def ft_paper(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    return factors(*outputs, batch_norm=False)


def ft_paper_bn(data: Batch, student: Network, teacher: Network, outputs: tuple[Output, Output]) -> Term:
    return factors(*outputs, batch_norm=True)


STEPS: dict[str, tuple[int, Callable[..., Term]]] = {
    "A/at": (8, at),
    "A/sp": (64, sp),
    "A/ft_paper": (8, ft_paper),
    "A/ft_paper_bn": (8, ft_paper_bn),
    "A/reviewkd": (8, reviewkd),
    "B/at": (8, at),
    "C/fsp": (8, fsp),
}


@pytest.mark.equation
@pytest.mark.parametrize("name", STEPS)
def test_a_step_on_wide_resnets_is_the_fields(name: str) -> None:
    vectors, (size, term_of) = goldens.load("wrn_steps"), STEPS[name]
    golden = {key.removeprefix(f"{name}/"): value for key, value in vectors.items() if key.startswith(f"{name}/")}
    student, teacher = networks(name[0])
    data = batch(size)
    outputs = student(data.inputs), teacher(data.inputs)
    for side, said in zip(("student", "teacher"), outputs, strict=True):
        norms, firsts = (vectors[f"{name[0]}/{size}/{side}_tap_{what}"] for what in ("norm", "first"))
        taps = (said.stem, *said.features, said.embedding, said.logits)
        for tap, norm, first in zip(taps, norms, firsts, strict=True):
            assert tap is not None
            assert abs(tap.norm() - norm) <= TOLERANCE * norm
            assert (tap.flatten()[:16] - first).abs().max() <= TOLERANCE * first.abs().max()
    term, extra = term_of(data, student, teacher, outputs)
    assert abs(term - golden["kd"]) <= TOLERANCE * golden["kd"]
    if "ce" in golden:
        assert abs(F.cross_entropy(outputs[0].logits, data.targets) - golden["ce"]) <= TOLERANCE * golden["ce"]
    agree(list(student.parameters()), term, golden, "grad", 901)
    if extra:
        agree(extra, term, golden, "extra_grad", 902)
    assert bool(extra) == ("extra_grad_norm" in golden)


def test_these_vectors_are_drawn_by_this_numpy_too() -> None:
    drawn = torch.from_numpy(np.random.default_rng(101).standard_normal(8))
    assert torch.equal(drawn, goldens.load("wrn_steps")["fill_check"])
