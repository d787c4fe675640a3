"""sdd holds a base's loss for each cell of the last map, and counts cells twice that contradict the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Whole,
    agree,
    batch,
    close,
    cross_entropy,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    images,
    kl,
    labels,
    logits,
    maps,
    mean,
    network,
    output,
    probabilities,
    real,
)
from torch import Tensor, nn

from kdbench import KDBenchError, Method, NotApplicable, Output, registry

GRIDS = {"m12": 2, "m124": 4}
VECTORS = {"kd": {}, "dkd": {"beta": 8.0}, "nkd": {"temperature": 1.0, "beta": 1.5}}


def golden_case(base: str, finest: int) -> tuple[Method, Output, Output, dict[str, Tensor]]:
    """A method that knows the vectors' classifiers, both outputs, and the vectors."""
    golden = goldens.load("sdd")
    heads, outputs = [], []
    for side in "st":
        weight = golden[f"fc_{side}_weight"]
        heads.append(nn.Linear(weight.shape[1], len(weight)))
        goldens.load_parameters(
            heads[-1], {"param__weight": weight, "param__bias": golden[f"fc_{side}_bias"]}, prefix=""
        )
        outputs.append(goldens.output(features=[golden[f"feat_{side}"]]))
    method = registry.create(
        "sdd", {"base": base, "finest": finest, "weight": 1.0, "warmup_share": 0.0, **VECTORS[base]}
    )
    method.build(*(goldens.network(o.features, head) for o, head in zip(outputs, heads, strict=True)))
    return method, *outputs, golden


@pytest.mark.equation
@pytest.mark.parametrize("base", VECTORS)
@pytest.mark.parametrize("grids", GRIDS)
def test_sdd_agrees_with_the_authors_code_in_value_and_gradient(grids: str, base: str) -> None:
    method, student, teacher, golden = golden_case(base, GRIDS[grids])
    goldens.require(student.features[0])
    term = method.loss(goldens.batch(golden["target"]), student, teacher)["cells"]
    goldens.close(term, golden[f"loss_{base}_{grids}"])
    if grids == "m124":  # the only one that the vectors have gradients of
        (gradient,) = torch.autograd.grad(term, student.features[0])
        goldens.close(gradient, golden[f"grad__feat_s_{base}"])


@pytest.mark.parametrize("grids", GRIDS)
def test_sdd_counts_twice_the_cells_that_the_authors_code_counts_twice(grids: str) -> None:
    from kdbench.methods.logits.sdd import cells

    method, _, teacher, golden = golden_case("kd", GRIDS[grids])
    theirs: Any = method
    predicted = theirs.classifier(cells(teacher.features[0], GRIDS[grids]))
    goldens.close(theirs.weights(predicted, golden["target"]), golden[f"out_weight_{grids}"])


def regions(feature: Tensor, finest: int) -> list[Tensor]:
    """Means of one sample's map `[C, 8, 8]`: of all of it, of its quarters, of its sixteenths."""
    found = []
    for size in (s for s in (1, 2, 4) if s <= finest):
        side = feature.shape[1] // size
        for i in range(size):
            for j in range(size):
                square = feature[:, i * side : (i + 1) * side, j * side : (j + 1) * side]
                found.append(sum(square.flatten(1).unbind(1)) / side**2)
    return found


def base_loss(base: str, z: Tensor, teacher: Tensor, y: int, official: bool) -> Tensor:
    """At temperature 3, alpha 2, beta (or gamma) 5."""
    if base == "kd":
        return kl(z, teacher, 3.0)
    others = [c for c in range(len(z)) if c != y]
    if base == "dkd":
        p, q = (probabilities(x, 3.0)[y] for x in (teacher, z))
        return 2 * 9 * divergence([p, 1 - p], [q, 1 - q]) + 5 * kl(z[others], teacher[others], 3.0)
    kept = list(range(len(z))) if official else others
    soft, hard = probabilities(teacher[kept], 3.0), probabilities(z[kept], 3.0)
    rest = -sum(t * torch.log(s) for t, s in zip(soft, hard, strict=True))
    return probabilities(teacher)[y] * cross_entropy(z, y) + 5 * 9 * rest


@pytest.mark.equation
@pytest.mark.parametrize(("base", "official"), [("kd", True), ("dkd", True), ("nkd", True), ("nkd", False)])
@pytest.mark.parametrize("finest", [1, 2, 4])
def test_sdd_is_the_papers_equation(finest: int, base: str, official: bool) -> None:
    heads = [nn.Linear(3, CLASSES), nn.Linear(2, CLASSES)]
    student = output(features=maps((3, 8, 8), trained=True))
    teacher = output(features=[3 * feature for feature in maps((2, 8, 8))])
    options = {"base": base, "finest": finest, "temperature": 3.0, "alpha": 2.0, "beta": 5.0, "complementary": 4.0}
    method = registry.create("sdd", {**options, "ce_weight": 0.5, "weight": 0.7, "official_mask": official})
    method.epoch, method.epochs = 240, 240
    method.build(network((3, 8, 8), classifier=heads[0]), network((2, 8, 8), embedding=2, classifier=heads[1]))
    data, losses, counted = batch(), [], 0
    for n in range(BATCH):
        y = int(data.targets[n])
        theirs = [heads[1](v).detach() for v in regions(teacher.features[0][n], finest)]
        ours = [heads[0](v) for v in regions(student.features[0][n], finest)]
        right = [int(t.argmax()) == y for t in theirs]
        counted += sum(each != right[0] for each in right)
        losses += [
            (4 if each != right[0] else 1) * base_loss(base, z, t, y, official)
            for z, t, each in zip(ours, theirs, right, strict=True)
        ]
    assert finest == 1 or 0 < counted < len(losses)
    expected = {"ce": 0.5 * labels(student.logits, data), "cells": 0.7 * mean(losses)}
    tensors = [student.logits, student.features[0], *heads[0].parameters()]  # the classifier learns from its cells too
    agree(method.loss(data, student, teacher), expected, tensors)
    assert not [parameter for parameter in method.parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("base", "ce_weight", "weight", "share"),
    [("kd", 0.1, 0.9, 0.0), ("dkd", 1.0, 1.0, 20 / 240), ("nkd", 1.0, 1.0, 20 / 240)],
)
def test_sdds_defaults_are_those_of_the_authors_configurations(
    base: str, ce_weight: float, weight: float, share: float
) -> None:
    method = registry.create("sdd", {"base": base})
    assert (method.ce_weight, method.weight, method.warmup_share) == (ce_weight, weight, share)
    assert (method.finest, method.temperature, method.alpha, method.beta) == (2, 4.0, 1.0, 8.0)
    assert (method.complementary, method.official_mask) == (2.0, True)
    assert registry.create("sdd").base == "kd"


@pytest.mark.parametrize("base", ["kd", "dkd", "nkd"])
def test_sdd_warms_dkd_and_nkd_up_over_20_of_240_epochs(base: str) -> None:
    method, student, teacher, golden = golden_case(base, 2)
    method.warmup_share = registry.create("sdd", {"base": base}).warmup_share
    method.epoch, method.epochs = 5, 240
    term = method.loss(goldens.batch(golden["target"]), student, teacher)["cells"]
    goldens.close(term, (1.0 if base == "kd" else 0.25) * golden[f"loss_{base}_m12"])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sdd_repeats_the_positions_of_a_map_that_is_smaller_than_its_grid(size: int) -> None:
    from kdbench.methods.logits.sdd import cells

    feature = torch.randn(2, 3, size, size)
    repeated = feature.repeat_interleave(4 // size, 2).repeat_interleave(4 // size, 3)
    close(cells(feature, 4)[:, 5:], repeated.flatten(2).transpose(1, 2))


def test_sdds_whole_is_the_networks_own_prediction() -> None:
    from kdbench.methods.logits.sdd import cells

    student = real("cifar_resnet8")
    said = student(images().inputs)
    close(student.classifier(cells(said.features[-1], 4)[:, 0]), said.logits)


@pytest.mark.parametrize("side", [0, 1])
def test_sdd_refuses_a_classifier_that_does_not_read_the_last_maps_channels(side: int) -> None:
    pair = [network((3, 4, 4), classifier=nn.Linear(3, CLASSES)) for _ in range(2)]
    pair[side] = network((3, 4, 4), embedding=6, classifier=nn.Linear(6, CLASSES))
    with pytest.raises(NotApplicable, match="sdd needs a classifier on the last map, which 'some' has not"):
        registry.create("sdd").build(*pair)


@pytest.mark.parametrize("side", [0, 1])
def test_sdd_refuses_a_head_that_is_more_than_the_mean_of_the_last_map(side: int) -> None:
    class Normed(nn.Module):
        """The mean, doubled, before the classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = real("cifar_resnet8")
            self.name, self.shapes, self.classifier = "doubled", self.inner.shapes, self.inner.classifier

        def forward(self, inputs: Tensor) -> Output:
            said = self.inner(inputs)
            return output(said.logits, said.features, 2 * said.embedding)

    pair: list[Any] = [real("cifar_resnet8"), real("cifar_resnet8")]
    pair[side] = Normed()
    method = registry.create("sdd")
    method.build(*pair)
    with pytest.raises(NotApplicable, match=r"sdd needs .*'doubled'"):
        method.prepare(Whole(images()), [pair[1].eval()])


@pytest.mark.parametrize("base", ["kd", "dkd", "nkd"])
@pytest.mark.parametrize("scale", [0.0, 500.0], ids=["equal logits", "very confident"])
@pytest.mark.parametrize(("classes", "size"), [(4, 4), (2, 2), (4, 1)])
def test_sdd_stays_finite(base: str, scale: float, classes: int, size: int) -> None:
    torch.set_default_dtype(torch.float32)
    heads = [nn.Linear(3, classes) for _ in range(2)]
    with torch.no_grad():
        for head in heads:
            head.weight.mul_(scale)
    method = registry.create("sdd", {"base": base})
    method.build(*(network((3, 4, 4), classifier=head, classes=classes) for head in heads))
    student, teacher = (output(logits(classes, size), maps((3, 4, 4), size=size, trained=True)) for _ in range(2))
    terms = method.loss(batch(classes, size), student, output(teacher.logits, [teacher.features[0].detach()]))
    assert all(term.isfinite() for term in terms.values())
    found = torch.autograd.grad(sum(terms.values()), [student.features[0], *heads[0].parameters()])
    assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize(("option", "culprit"), [({"base": "crd"}, "crd"), ({"finest": 3}, "3")])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any], culprit: str) -> None:
    with pytest.raises(KDBenchError, match=rf"^sdd's .*{culprit}"):
        registry.create("sdd", option)
