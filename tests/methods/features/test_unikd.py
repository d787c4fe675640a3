"""unikd is its repository's unified distillation: maps read as Gaussians over the classes."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    maps,
    mean,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import KDBenchError, Output, registry


@pytest.mark.equation
def test_unikd_agrees_with_the_fork_in_value_and_gradient() -> None:
    golden = goldens.load("unikd")
    ours = [golden[f"feat_s_{k}"] for k in range(3)]
    goldens.require(*ours, golden["pooled_s"], golden["logits_s"])
    # the code compares with the teacher's first map alone; the others only give the fusion its shapes
    theirs = [golden["feat_t"], torch.zeros(8, 24, 4, 4), torch.zeros(8, 48, 2, 2)]
    method = registry.create("unikd")
    method.build(goldens.network(ours), goldens.network([], preactivations=theirs, embedding=torch.zeros(8, 48)))
    method.double()
    abfs = method.fusion.abfs
    goldens.load_parameters(abfs, golden, "abfs.")
    modules: dict[str, nn.Module] = {f"abfs.{k}.conv1.": abf.conv1 for k, abf in enumerate(abfs)}
    modules |= {f"abfs.{k}.att_conv.": abf.att_conv for k, abf in enumerate(abfs) if k}
    modules["abfs.3.conv2."] = abfs[3].conv2  # the other results are not used
    for side, module in (("s", method.predict_student), ("t", method.predict_teacher)):
        goldens.load_parameters(module, golden, f"feat2pro_{side}.")
        modules[f"feat2pro_{side}."] = module
    student = goldens.output(golden["logits_s"], ours, embedding=golden["pooled_s"])
    teacher = goldens.output(golden["logits_t"], preactivations=theirs)
    method.epoch, method.epochs = 20, 240
    with mock.patch("torch.randn_like", side_effect=[golden["eps_s"], golden["eps_t"]]):
        terms = method.loss(goldens.batch(golden["target"]), student, teacher)
    for name, theirs_name in {"ce": "ce", "logits": "logits", "feature": "feature", "unify": "supp_feat2pro"}.items():
        goldens.close(terms[name], golden[f"loss_{theirs_name}"])
    loss = sum(terms.values())
    goldens.close(loss, golden["loss"])
    inputs = {**goldens.named(ours), "pooled_s": golden["pooled_s"], "logits_s": golden["logits_s"]}
    goldens.gradients_agree(loss, inputs, modules, golden)


def gaussian_divergence(m: Tensor, s: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """KL(N(m, e^s) || N(n, e^t)) of one variable."""
    return (t - s + (torch.exp(s) + (m - n) ** 2) / torch.exp(t) - 1) / 2


@pytest.mark.equation
def test_unikds_closed_form_is_the_divergence_of_the_two_gaussians() -> None:
    from kdbench.methods.features.unikd import gaussian_kl

    tensors = [torch.randn(BATCH, CLASSES, requires_grad=True) for _ in range(4)]
    expected = mean(sum(gaussian_divergence(*(x[b, k] for x in tensors)) for k in range(CLASSES)) for b in range(BATCH))
    agree({"kl": gaussian_kl((tensors[0], tensors[1]), (tensors[2], tensors[3]))}, {"kl": expected}, tensors)
    normals = [torch.distributions.Normal(m, (s / 2).exp()) for m, s in (tensors[:2], tensors[2:])]
    close(expected, torch.distributions.kl_divergence(*normals).sum(1).mean())


def fused(**options: Any) -> tuple[Any, Output, Output]:
    """A method on pairs of maps, ready to be called."""
    shapes = ((3, 8, 8), (4, 4, 4)), ((5, 8, 8), (6, 4, 4))
    method = registry.create("unikd", options)
    method.build(network(*shapes[0], embedding=4), network(*shapes[1], embedding=6))
    student = output(features=maps(*shapes[0], trained=True), embedding=torch.randn(BATCH, 4))
    return method, student, output(logits().detach(), maps(*shapes[1]), torch.randn(BATCH, 6))


def test_unikd_may_compare_the_gaussians_themselves() -> None:
    method, student, teacher = fused(fdp="gaussian_kl")
    map_s = method.fusion(student.features, student.embedding)[0]
    sides = []
    for predict, feature in ((method.predict_teacher, teacher.features[0]), (method.predict_student, map_s)):
        pooled = [[feature[b, c].sum() / 64 for c in range(5)] for b in range(BATCH)]
        for linear in (predict.fc_mu, predict.fc_var):
            sides.append([
                [sum(linear.weight[k, c] * p[c] for c in range(5)) + linear.bias[k] for k in range(CLASSES)]
                for p in pooled
            ])  # fmt: skip
    expected = mean(
        sum(gaussian_divergence(*(side[b][k] for side in sides)) for k in range(CLASSES)) for b in range(BATCH)
    )
    close(method.loss(batch(), student, teacher)["feature"], expected)


def test_unikds_weights_and_temperature_belong_to_their_terms() -> None:
    method, student, teacher = fused()
    other, *_ = fused(alpha=2.0, beta=16.0, weight=3.0)
    other.load_state_dict(method.state_dict())
    terms = []
    for each in (method, other):
        each.epoch, each.epochs = 240, 240
        torch.manual_seed(3)
        terms.append(each.loss(batch(), student, teacher))
    for name, factor in {"ce": 1, "logits": 2, "feature": 3, "unify": 3}.items():
        close(terms[1][name], factor * terms[0][name])


def test_unikd_fuses_the_teachers_maps_only_when_asked() -> None:
    plain, *_ = fused()
    assert not hasattr(plain, "fusion_teacher")
    method, student, teacher = fused(fuse_teacher=True, fdp="gaussian_kl")
    terms = method.loss(batch(), student, teacher)
    assert method.fusion_teacher(teacher.features, teacher.embedding)[0].shape == teacher.features[0].shape
    gradients = torch.autograd.grad(terms["feature"], list(method.fusion_teacher.parameters()), allow_unused=True)
    assert sum(bool(gradient.any()) for gradient in gradients if gradient is not None) > 3


@pytest.mark.parametrize(
    ("epoch", "epochs", "ramp"), [(1, 240, 1 / 20), (7, 240, 7 / 20), (20, 240, 1), (240, 240, 1), (1, 24, 1 / 2)]
)
def test_unikd_warms_up_over_20_of_240_epochs(epoch: int, epochs: int, ramp: float) -> None:
    method, student, teacher = fused()
    method.epoch, method.epochs = epochs, epochs
    torch.manual_seed(3)
    full = method.loss(batch(), student, teacher)
    method.epoch = epoch
    torch.manual_seed(3)
    terms = method.loss(batch(), student, teacher)
    close(terms["logits"], ramp * full["logits"])
    assert all(torch.equal(terms[other], full[other]) for other in terms if other != "logits")


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^unikd.*closed"):
        registry.create("unikd", {"fdp": "closed"})
