"""scalekd compares two views of a cross attention's result, and runs one through the teacher's last stage."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    images,
    labels,
    logits,
    maps,
    network,
    output,
    real,
)
from torch import Tensor

from kdbench import NotApplicable, registry
from kdbench.methods.features import scalekd as module

OURS = {  # a projector's layers, and what the authors call them
    "position": "pos_embed", "to_queries": "proj_pos", "body": "proj_student", "queries": "query",
    "q": "pos_attention.q", "k": "pos_attention.k", "v": "pos_attention.v", "out": "pos_attention.proj",
    "ffn.0": "ffn.layers.0.0", "ffn.2": "ffn.layers.1", "norm": "norm",
}  # fmt: skip


def official(name: str) -> str:
    """The authors' name of a projector's parameter."""
    ours = next(each for each in OURS if name == each or name.startswith(f"{each}."))
    return OURS[ours] + name.removeprefix(ours)


@pytest.mark.equation
def test_scalekd_of_one_stage_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("scalekd")
    ours, theirs = golden["feat_s"], golden["feat_t"]
    method: Any = registry.create("scalekd", {"perception": False, "heads": 2})
    method.build(goldens.network([ours]), goldens.network([theirs]))
    method.double()
    parameters = {"grad__feat_s": ours.requires_grad_()}
    for number, projector in enumerate(method.projectors.values()):
        start = f"param__projector_{number}."
        projector.load_state_dict({name: golden[start + official(name)] for name in projector.state_dict()})
        parameters |= {f"gradp__projector_{number}.{official(n)}": p for n, p in projector.named_parameters()}
    terms = method.loss(goldens.batch(), goldens.output(features=[ours]), goldens.output(features=[theirs]))
    goldens.close(terms["spatial"], golden["loss_spat"])
    goldens.close(terms["frequency"], golden["loss_freq"])
    total = terms["spatial"] + terms["frequency"]
    goldens.close(total, golden["loss"])
    wanted = {name: p for name, p in parameters.items() if name in golden}
    assert len(wanted) == 9
    for name, gradient in zip(wanted, torch.autograd.grad(total, list(wanted.values())), strict=True):
        goldens.close(gradient, golden[name], atol=1e-13)  # a bias in front of BatchNorm has none but rounding


def attended(p: Any, feature: Tensor, queries: Tensor) -> Tensor:
    """One sample's result `[M, C]`, head by head and query by query, of keys `[N, C_s]` and queries `[M, C]`."""
    q, k, v = ([layer.weight @ row + layer.bias for row in x] for layer, x in
               ((p.q, queries), (p.k, feature), (p.v, feature)))  # fmt: skip
    width, rows = len(q[0]) // p.heads, []
    for query in q:
        parts = []
        for head in range(p.heads):
            own = slice(head * width, (head + 1) * width)
            scores = torch.stack([5 * sum(query[own] * key[own]) / math.sqrt(width) for key in k])
            shares = torch.exp(scores) / sum(torch.exp(scores))
            parts.append(sum(share * value[own] for share, value in zip(shares, v, strict=True)))
        rows.append(p.out.weight @ torch.cat(parts) + p.out.bias)
    return torch.stack(rows)


def by_loops(p: Any, feature: Tensor, queries: Tensor | None = None) -> Tensor:
    """A projector's result `[B, C, H, W]`."""
    height, width = p.space
    keys = p.body(feature) + p.position
    asked = p.queries.weight if queries is None else None
    results = []
    for n in range(len(feature)):
        places = asked if asked is not None else queries[n].flatten(1).T
        convolution = p.to_queries[0]
        mine = [torch.relu(convolution.weight[:, :, 0, 0] @ row + convolution.bias) for row in places]
        rows = attended(p, keys[n].flatten(1).T, torch.stack(mine))
        h = F.layer_norm(rows, rows.shape[1:], p.norm.weight, p.norm.bias)
        hidden = torch.relu(h @ p.ffn[0].weight.T + p.ffn[0].bias)
        results.append((h + hidden @ p.ffn[2].weight.T + p.ffn[2].bias).T.reshape(-1, height, width))
    return torch.stack(results)


def without_constant(feature: Tensor) -> Tensor:
    """What is left when the constant term of each channel's two-dimensional DCT-II is taken out."""

    def basis(size: int) -> Tensor:
        k, n = torch.arange(size)[:, None], torch.arange(size)[None]
        matrix = torch.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return matrix

    rows, columns = (basis(size) for size in feature.shape[2:])
    spectrum = rows @ feature @ columns.T
    mask = torch.ones_like(spectrum)
    mask[:, :, 0, 0] = 0
    return rows.T @ (spectrum * mask) @ columns


def apart(student: Tensor, teacher: Tensor) -> Tensor:
    total = torch.zeros(())
    pair = (feature.movedim(1, 3).flatten(0, 2) for feature in (student, teacher))  # [B H W, C]
    for s, t in zip(*pair, strict=True):
        total = total + sum((s / torch.sqrt(sum(s**2)) - t / torch.sqrt(sum(t**2))) ** 2)
    return total / len(student)


@pytest.mark.equation
def test_scalekd_is_the_papers_equation() -> None:
    options = {"spatial": 0.3, "frequency": 0.2, "last_spatial": 0.5, "last_frequency": 0.7, "ce_weight": 0.6}
    method: Any = registry.create("scalekd", {**options, "heads": 2})
    teacher = real("cifar_resnet8", size=8).eval().requires_grad_(False)  # maps 8x8, 4x4, 2x2
    method.build(network((3, 3, 3), (4, 2, 2)), teacher)
    said = teacher(images(8).inputs)
    z, (early, late) = logits(), maps((3, 3, 3), (4, 2, 2), trained=True)
    target, tail = said.features[-1], teacher.tail(2)
    expected = {"ce": 0.6 * labels(z, batch())}
    views = {"spatial": lambda x: x, "frequency": without_constant}
    for name, view in views.items():
        perceived = tail(by_loops(method.projectors[name], early)).features[-1]
        last = by_loops(method.last[name], late, perceived)
        expected[name] = options[name] * apart(view(perceived), view(target))
        expected[f"last_{name}"] = options[f"last_{name}"] * apart(view(last), view(target))
    terms = method.loss(batch(), output(z, [early, late]), said)
    trained = [p for p in method.parameters() if p.requires_grad]
    agree(terms, expected, [z, early, late, *trained])


def scalekd(student: tuple[tuple[int, ...], ...], teacher: Any, **options: Any) -> Any:
    method = registry.create("scalekd", options)
    method.build(network(*student), teacher)
    return method


def test_scalekds_gradient_passes_the_teachers_last_stage_and_leaves_it_as_it_is() -> None:
    teacher = real("cifar_resnet8", size=8).eval().requires_grad_(False)
    method = scalekd(((3, 4, 4), (4, 2, 2)), teacher).train()
    before = {name: value.clone() for name, value in method.last_stage.state_dict().items()}
    student = output(features=maps((3, 4, 4), (4, 2, 2), trained=True))
    term = method.loss(batch(), student, teacher(images(8).inputs))["spatial"]
    assert torch.autograd.grad(term, student.features[0])[0].any()
    assert not any(p.requires_grad for p in method.last_stage.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.last_stage.state_dict().items())


def test_the_view_without_means_is_blind_to_a_channels_mean_and_the_other_is_not() -> None:
    ours, theirs = maps((3, 4, 4), (3, 4, 4))
    shifted = ours + torch.randn(3, 1, 1)
    close(module.distance(shifted, theirs, True), module.distance(ours, theirs, True))
    assert abs(module.distance(shifted, theirs, False) - module.distance(ours, theirs, False)) > 1e-3


def test_a_projector_without_weight_is_not_built() -> None:
    teacher = real("cifar_resnet8", size=8)
    assert set(scalekd(((3, 4, 4), (4, 2, 2)), teacher).last) == {"spatial"}
    method = scalekd(((3, 4, 4), (4, 2, 2)), teacher, spatial=0.0, frequency=0.0)
    assert not method.projectors
    assert method.last["spatial"].queries is not None  # nobody else gives them
    terms = method.loss(batch(), output(features=maps((3, 4, 4), (4, 2, 2))), teacher(images(8).inputs))
    assert terms.keys() == {"ce", "last_spatial"}


@pytest.mark.parametrize(("width", "heads"), [(64, 8), (12, 4), (10, 2), (7, 1)])
def test_a_width_that_8_heads_do_not_divide_has_fewer(width: int, heads: int) -> None:
    projector = module.Projector((3, 2, 2), (width, 2, 2), 8)
    assert projector.heads == heads
    assert projector(torch.randn(2, 3, 2, 2)).shape == (2, width, 2, 2)


def test_a_teacher_that_cannot_be_entered_is_refused_and_one_map_is_offered() -> None:
    said = r"^scalekd runs the teacher's last stage, but network 'test_vit' .*: set perception=False$"
    vit = real("test_vit", size=64)
    with pytest.raises(NotApplicable, match=said):
        scalekd(((3, 4, 4), (4, 2, 2)), vit)
    method = scalekd(((3, 4, 4), (4, 2, 2)), vit, perception=False)
    terms = method.loss(batch(), output(features=maps((3, 4, 4), (4, 2, 2))), vit(images(64).inputs))
    assert terms.keys() == {"ce", "spatial", "frequency"}
    with pytest.raises(NotApplicable, match=r"'some' has one: set perception=False"):
        scalekd(((4, 2, 2),), real("cifar_resnet8", size=8))


def test_scalekds_defaults_are_those_of_the_authors_resnet50_configuration() -> None:
    method = registry.create("scalekd")
    assert method.weights == {"spatial": 0.08, "frequency": 0.06}
    assert method.last_weights == {"spatial": 0.08, "frequency": 0.0}
    assert (module.SHARPNESS, method.ce_weight, method.perception) == (5.0, 1.0, True)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 2)], ids=["one position", "constant"])
def test_scalekd_of_maps_that_say_little_is_finite(shape: tuple[int, ...]) -> None:
    torch.set_default_dtype(torch.float32)
    method = scalekd((shape,), network((4, 1, 1)), perception=False)
    ours = torch.ones(BATCH, *shape, requires_grad=True)
    terms = method.loss(batch(), output(features=[ours]), output(features=[torch.ones(BATCH, 4, 1, 1)]))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), ours)[0].isfinite().all()


def test_scalekd_under_autocast_is_float32() -> None:
    torch.set_default_dtype(torch.float32)
    method = scalekd(((3, 2, 2),), network((4, 2, 2)), perception=False)
    student, teacher = (output(features=[torch.randn(BATCH, c, 2, 2).bfloat16()]) for c in (3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss(batch(), student, teacher)
    assert {term.dtype for term in terms.values()} == {torch.float32}
