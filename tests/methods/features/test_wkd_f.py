"""wkd_f is the authors' Wasserstein distance of the cells' Gaussians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    bfloat16_terms,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    maps,
    mean,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.methods.features.wkd_f import moments


def wkd_f(student: tuple[int, ...], teacher: tuple[int, ...], **options: Any) -> Any:
    method = registry.create("wkd_f", options)
    method.build(network(student), network(teacher))
    return method


@pytest.mark.equation
@pytest.mark.parametrize("grid", [1, 4, 3])
def test_wkd_f_agrees_with_the_authors_code_in_value_and_gradient(grid: int) -> None:
    golden = goldens.load("wkd_f")
    ours, theirs = (golden[f"feat_{side}_g{grid}"] for side in "st")
    method = wkd_f(tuple(ours.shape[1:]), tuple(theirs.shape[1:]), grid=grid, weight=1.0)
    goldens.load_parameters(method.embed, golden, f"g{grid}.")
    goldens.require(ours)
    terms = method.loss(goldens.batch(), goldens.output(features=[ours]), goldens.output(features=[theirs]))
    goldens.close(terms["mean"] / 4, golden[f"loss_mean_g{grid}"])
    goldens.close(terms["deviation"], golden[f"loss_cov_g{grid}"])
    total = terms["mean"] + terms["deviation"]
    goldens.close(total, golden[f"loss_g{grid}"])
    # a bias in front of BatchNorm has no gradient but rounding
    goldens.gradients_agree(total, {f"feat_s_g{grid}": ours}, {f"g{grid}.": method.embed}, golden, atol=1e-13)


def gaussian(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    centre = sum(values) / len(values)
    return centre, torch.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1) + 1e-5)


def by_loops(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distances of means and of deviations of each quarter of maps `[C, 4, 4]`."""
    parts = []
    for part in range(2):
        total = torch.zeros(())
        for channel in range(len(ours)):
            for top, left in [(0, 0), (0, 2), (2, 0), (2, 2)]:
                cells = [[m[channel, top + i, left + j] for i in (0, 1) for j in (0, 1)] for m in (ours, theirs)]
                s, t = (gaussian(cell)[part] for cell in cells)
                total = total + (s - t) ** 2 / 4
        parts.append(total)
    return parts[0], parts[1]


@pytest.mark.equation
def test_wkd_f_is_the_papers_equation() -> None:
    method = wkd_f((2, 4, 4), (3, 4, 4), weight=0.5, rho=3.0, grid=2, ce_weight=0.7)
    z, (ours,), (theirs,) = logits(), maps((2, 4, 4), trained=True), maps((3, 4, 4))
    projected = method.embed(ours)
    distances = [by_loops(s, t) for s, t in zip(projected, theirs, strict=True)]
    expected = {
        "ce": 0.7 * labels(z, batch()),
        "mean": 1.5 * mean(d[0] for d in distances),
        "deviation": 0.5 * mean(d[1] for d in distances),
    }
    agree(method.loss(batch(), output(z, [ours]), output(features=[theirs])), expected, [z, ours])


def shares(method: Any, epoch: int, epochs: int) -> list[Tensor]:
    """What each term beside the cross-entropy is of its value in the first epoch."""
    student, teacher = output(features=maps((2, 4, 4))), output(features=maps((3, 4, 4)))
    full = method.loss(batch(), student, teacher)
    method.epoch, method.epochs = epoch, epochs
    terms = method.loss(batch(), student, teacher)
    return [terms[name] / full[name] for name in ("mean", "deviation")]


@pytest.mark.parametrize(("epoch", "share"), [(1, 1.0), (150, 1.0), (180, 0.75), (195, 0.5), (240, 0.0)])
def test_wkd_f_decays_by_half_a_cosine_behind_epoch_150_of_240(epoch: int, share: float) -> None:
    for found in shares(wkd_f((2, 4, 4), (3, 4, 4)), epoch, 240):
        close(found, torch.tensor(share))


def test_wkd_f_with_decay_from_the_start_is_imagenets() -> None:
    for found in shares(wkd_f((2, 4, 4), (3, 4, 4), decay_start=0.0), 50, 100):
        close(found, torch.tensor(0.5))


def test_wkd_fs_cells_are_those_of_adaptive_pooling_where_they_overlap_too() -> None:
    feature = torch.randn(2, 3, 8, 5)
    for grid in (1, 2, 3):
        close(moments(feature, grid)[0], nn.functional.adaptive_avg_pool2d(feature, grid).flatten(2))


def test_a_grid_that_leaves_one_position_a_cell_is_refused() -> None:
    with pytest.raises(NotApplicable, match=r"4x4 cells, but the last map of 'some' is 4x4"):
        wkd_f((2, 8, 8), (3, 4, 4), grid=4)
    wkd_f((2, 8, 8), (3, 8, 4), grid=4)


@pytest.mark.parametrize("space", [(8, 8), (2, 2), (3, 3), (4, 4)])
def test_wkd_f_fits_maps_of_any_size(space: tuple[int, int]) -> None:
    method = wkd_f((2, *space), (3, 4, 4))
    terms = method.loss(batch(), output(features=maps((2, *space))), output(features=maps((3, 4, 4))))
    assert all(term.isfinite() for term in terms.values())


def test_wkd_fs_bottleneck_is_that_of_imagenet() -> None:
    method = wkd_f((2, 4, 4), (3, 4, 4), projector="bottleneck")
    convolutions = [tuple(m.weight.shape) for m in method.embed.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions == [(256, 2, 1, 1), (256, 256, 3, 3), (3, 256, 1, 1)]
    assert isinstance(method.embed[-1], nn.ReLU)


def test_wkd_fs_defaults_are_those_of_the_authors_resnet32x4_configuration() -> None:
    method = registry.create("wkd_f")
    assert (method.weight, method.rho, method.grid, method.ce_weight) == (0.08, 4.0, 1, 1.0)
    assert (method.decay_start, method.projector) == (150 / 240, "convolution")


def test_wkd_f_of_constant_maps_has_finite_gradients() -> None:
    method = wkd_f((2, 4, 4), (3, 4, 4))
    ours = torch.ones(BATCH, 2, 4, 4, requires_grad=True)
    terms = method.loss(batch(), output(features=[ours]), output(features=[torch.ones(BATCH, 3, 4, 4)]))
    assert torch.autograd.grad(terms["mean"] + terms["deviation"], ours)[0].isfinite().all()


def test_wkd_f_under_autocast_is_float32() -> None:
    assert {term.dtype for term in bfloat16_terms("wkd_f").values()} == {torch.float32}


@pytest.mark.parametrize(("options", "said"), [({"grid": 0}, "'convolution' and 0"), ({"projector": "mlp"}, "'mlp'")])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(KDBenchError, match=f"^wkd_f needs projector .* not {said}"):
        registry.create("wkd_f", options)
