"""ofd is the partial distance from the teacher's margin ReLU, with the official margins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    Shape,
    Whole,
    agree,
    batch,
    close,
    convolved,
    float64,  # noqa: F401  (a fixture for every test here)
    halved,
    labels,
    maps,
    normed,
    output,
)
from torch import Tensor

from kdbench import Batch, Shapes, registry
from kdbench.tasks.image.networks import create


def before_relu(*shapes: Shape) -> Any:
    return SimpleNamespace(name="some", shapes=Shapes(CLASSES, 3, shapes, shapes))


def partial_distance(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
    """One value's distance, case by case as in mdistiller."""
    if t > 0:
        return (s - t) ** 2
    if t > margin:
        return (s - t) ** 2 if s > t else 0 * s
    return (s - margin) ** 2 if s > margin else 0 * s


def ofd_by_loops(method: Any, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    result, count = torch.zeros(()), len(student)
    for i, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        conv, bn = method.connectors[i]
        ours, margin = normed(bn, convolved(conv, ours)), getattr(method, f"margin_{i}")
        for b in range(BATCH):
            for c in range(theirs.shape[1]):
                for s, t in zip(ours[b, c].flatten(), theirs[b, c].flatten(), strict=True):
                    result = result + partial_distance(s, t, margin[c]) / 2 ** (count - 1 - i)
    return result / BATCH


def with_margins(method: Any) -> Any:
    for name, margin in method.named_buffers():
        if name.startswith("margin"):
            margin.uniform_(-1.5, -0.2)
    for p in method.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return method


@pytest.mark.equation
def test_ofd_is_the_partial_distance_from_the_teachers_margin_relu_twice_as_heavy_a_stage_deeper() -> None:
    method = registry.create("ofd")
    ours, theirs = ((3, 4, 4), (4, 2, 2)), ((5, 4, 4), (2, 4, 4))
    method.build(before_relu(*ours), before_relu(*theirs))
    with_margins(method)
    student = dataclasses.replace(output(), preactivations=tuple(maps(*ours, trained=True)))
    teacher = dataclasses.replace(output(), preactivations=tuple(maps(*theirs)))
    shown = [teacher.preactivations[0], halved(teacher.preactivations[1])]
    cost = 1e-3 * ofd_by_loops(method, student.preactivations, shown)
    expected = {"ce": labels(student.logits, batch()), "feature": cost}
    tensors = [student.logits, *student.preactivations, *method.parameters()]
    assert len(tensors) == 3 + 2 * 3
    agree(method.loss(batch(), student, teacher), expected, tensors)


def test_ofd_pairs_stages_from_the_deepest_on() -> None:
    method = registry.create("ofd", {"weight": 2.0})
    ours, theirs = ((6, 8, 8), (3, 4, 4), (4, 2, 2)), ((5, 4, 4), (2, 2, 2))
    method.build(before_relu(*ours), before_relu(*theirs))
    with_margins(method)
    student = dataclasses.replace(output(), preactivations=tuple(maps(*ours, trained=True)))
    teacher = dataclasses.replace(output(), preactivations=tuple(maps(*theirs)))
    expected = 2 * ofd_by_loops(method, student.preactivations[1:], teacher.preactivations)
    close(method.loss(batch(), student, teacher)["feature"], expected)


def official_margin(shift: float, scale: float) -> float:
    """get_margin_from_BN of the authors' code, one channel."""
    scale = abs(scale)
    below = (1 + math.erf(-shift / scale / math.sqrt(2))) / 2
    if below <= 0.001:
        return -3 * scale
    return -scale * math.exp(-((shift / scale) ** 2) / 2) / math.sqrt(2 * math.pi) / below + shift


CHANNELS = [(0.0, 1.0), (0.7, 0.5), (-0.4, -0.8), (3.0, 1.0), (3.2, 1.0), (5.0, -0.3), (-4.0, 0.2)]


def test_ofds_margin_is_the_official_one_of_a_batch_norms_shift_and_scale() -> None:
    from kdbench.methods.features.ofd import expected_negative

    shift, scale = (torch.tensor(values) for values in zip(*CHANNELS, strict=True))
    close(expected_negative(shift, scale), torch.tensor([official_margin(*channel) for channel in CHANNELS]))
    assert expected_negative(torch.zeros(1), torch.zeros(1)).isfinite()


def test_ofds_margin_is_the_mean_of_a_normal_variables_negative_values() -> None:
    from kdbench.methods.features.ofd import expected_negative

    x = torch.linspace(-12, 0, 240001)
    density = torch.exp(-(((x - 0.7) / 0.5) ** 2) / 2)
    numeric = torch.trapezoid(x * density, x) / torch.trapezoid(density, x)
    torch.testing.assert_close(expected_negative(torch.tensor(0.7), torch.tensor(0.5)), numeric, rtol=1e-6, atol=0)


def prepared_ofd(teacher: str) -> tuple[Any, Any, Whole]:
    torch.set_default_dtype(torch.float32)
    pair = (teacher, "cifar_resnet8")
    theirs, ours = (create(name, num_classes=CLASSES, in_chans=3, input_size=(3, 16, 16)) for name in pair)
    for name, parameter in theirs.named_parameters():
        if parameter.dim() == 1:
            parameter.data.copy_(torch.randn_like(parameter) + ("weight" in name))
    theirs.eval().requires_grad_(False)
    method = registry.create("ofd")
    method.build(ours, theirs)
    data = Whole(Batch(torch.randn(20, 3, 16, 16), torch.arange(20) % CLASSES, torch.arange(20)))
    method.prepare(data, [theirs])
    return method, theirs, data


def test_ofd_takes_its_margins_from_the_batch_norms_that_a_wide_resnets_stages_end_in() -> None:
    method, teacher, _ = prepared_ofd("cifar_wrn_16_1")
    model = teacher.core
    norms = [next(stage.children()).norm for stage in list(model.stages)[1:]] + [model.norm]
    for i, bn in enumerate(norms):
        margins = [official_margin(float(m), float(s)) for m, s in zip(bn.bias, bn.weight, strict=True)]
        torch.testing.assert_close(getattr(method, f"margin_{i}"), torch.tensor(margins), rtol=1e-4, atol=1e-6)


def test_ofd_measures_its_margins_where_a_residual_sum_ends_a_stage() -> None:
    method, teacher, data = prepared_ofd("cifar_resnet14")
    shown = teacher(data.whole.inputs).preactivations
    for i, before in enumerate(shown):
        for c, margin in enumerate(getattr(method, f"margin_{i}")):
            negative = [float(x) for x in before[:, c].flatten() if x < 0]
            assert float(margin) == pytest.approx(sum(negative) / max(len(negative), 1), rel=1e-4)
