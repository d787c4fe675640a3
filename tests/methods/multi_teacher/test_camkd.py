"""camkd is the official loss, whose weights carry gradient, as plain loops have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    network,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry

TEACHER_MAPS = ((6, 4, 4), (5, 2, 2), (6, 8, 8))  # of the same size as the student's, smaller, larger


def camkd(**hyperparameters: Any) -> tuple[Any, Output, list[Output], list[nn.Linear]]:
    heads = [nn.Linear(shape[0], CLASSES) for shape in TEACHER_MAPS]
    teachers = [
        network(shape, embedding=shape[0], classifier=head) for shape, head in zip(TEACHER_MAPS, heads, strict=True)
    ]
    method = registry.create("camkd", hyperparameters)
    method.build(network((3, 4, 4)), teachers)
    method.epoch = 2
    student = output(features=[torch.randn(BATCH, 3, 4, 4, requires_grad=True)])
    outputs = [output(logits().detach(), [torch.rand(BATCH, *shape)]) for shape in TEACHER_MAPS]
    return method, student, outputs, heads


def confidence(errors: Sequence[Tensor]) -> list[Tensor]:
    return [(1 - p) / (len(errors) - 1) for p in probabilities(torch.stack(list(errors)))]


def camkd_by_loops(
    student: Output, teachers: Sequence[Output], heads: Sequence[nn.Linear], maps: Sequence[Tensor], data: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, L_kd and L_f as coded, from the adapted maps u_k."""
    ce, kd, feature = torch.zeros(()), torch.zeros(()), torch.zeros(())
    count = len(teachers)
    for i in range(BATCH):
        target = int(data.targets[i])
        ce = ce + cross_entropy(student.logits[i], target) / BATCH
        w = confidence([cross_entropy(teacher.logits[i], target) for teacher in teachers])
        read = [head(u[i].mean((1, 2))) for head, u in zip(heads, maps, strict=True)]
        v = confidence([cross_entropy(z, target) for z in read])
        for k, teacher in enumerate(teachers):
            kd = kd + w[k] * kl(student.logits[i], teacher.logits[i], 4.0) / (BATCH * count)
            feature = feature + v[k] * ((maps[k][i] - teacher.features[0][i]) ** 2).mean() / (BATCH * count)
    return ce, kd, feature


def adapted(method: Any, feature: Tensor) -> list[Tensor]:
    """u_k = ReLU(BN(conv(resized map))), BatchNorm with the batch's statistics."""
    maps = []
    for embed, shape in zip(method.embeds, TEACHER_MAPS, strict=True):
        if shape[1] == 2:
            sized = (
                feature[..., ::2, ::2] + feature[..., 1::2, ::2] + feature[..., ::2, 1::2] + feature[..., 1::2, 1::2]
            ) / 4
        else:
            sized = F.interpolate(feature, size=shape[1:], mode="bilinear")
        u = torch.einsum("oc,bchw->bohw", embed[0].weight[:, :, 0, 0], sized) + embed[0].bias[:, None, None]
        centred = u - u.mean((0, 2, 3), keepdim=True)
        u = centred / torch.sqrt((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5)
        maps.append(torch.relu(u * embed[1].weight[:, None, None] + embed[1].bias[:, None, None]))
    return maps


@pytest.mark.equation
def test_camkd_is_the_official_loss_with_weights_that_carry_gradient() -> None:
    method, student, teachers, heads = camkd()
    data = batch()
    maps = adapted(method, student.features[0])
    ce, kd, feature = camkd_by_loops(student, teachers, heads, maps, data)
    trained = [p for p in method.parameters() if p.requires_grad]
    assert len(trained) == 4 * 3  # conv and BatchNorm of each adapter; the classifiers are frozen
    terms = method.loss(data, student, teachers)
    agree(terms, {"ce": ce, "kd": kd, "feature": 50 * feature}, [student.logits, student.features[0], *trained])


def test_camkds_unit_scale_makes_the_teachers_weights_sum_to_one() -> None:
    method, student, teachers, _ = camkd()
    unit_method, *_ = camkd(kd_scale="unit")
    unit_method.load_state_dict(method.state_dict())
    data = batch()
    official, unit_scale = (m.loss(data, student, teachers) for m in (method, unit_method))
    close(unit_scale["kd"], 3 * official["kd"])
    close(unit_scale["ce"], official["ce"])
    same = [output(teachers[0].logits)] * 3  # equal teachers: the weighted mean is the divergence itself
    unit_method.epoch = 1
    expected = mean(kl(student.logits[i], teachers[0].logits[i], 4.0) for i in range(BATCH))
    close(unit_method.loss(data, student, same)["kd"], expected)


def test_camkd_leaves_the_feature_term_out_in_the_first_epoch() -> None:
    method, student, teachers, _ = camkd()
    method.epoch = 1
    assert method.loss(batch(), student, teachers).keys() == {"ce", "kd"}


def test_camkd_copies_the_teachers_classifiers() -> None:
    method, _, _, heads = camkd()
    assert all(torch.equal(copy.weight, head.weight) for copy, head in zip(method.classifiers, heads, strict=True))
    assert all(copy is not head for copy, head in zip(method.classifiers, heads, strict=True))
    assert heads[0].weight.requires_grad


def test_a_teacher_whose_classifier_does_not_read_the_pooled_map_is_refused() -> None:
    z = logits(size=8)

    def unpooled(inputs: Tensor) -> Output:
        return output(z[: len(inputs)], [torch.ones(len(inputs), 3, 2, 2)], embedding=torch.zeros(len(inputs), 3))

    unpooled.name = "a_vit"  # type: ignore[attr-defined]
    with pytest.raises(NotApplicable, match="classifier on the pooled last map, which 'a_vit' has not"):
        registry.create("camkd").prepare(dataset(torch.arange(8) % CLASSES), [unpooled])


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    torch.set_default_dtype(torch.float32)
    shape = (4, 4, 4)
    side = network(shape, shape, embedding=4, classifier=nn.Linear(4, CLASSES))
    method = registry.create("camkd")
    method.build(side, [side, side])
    method.epoch = 2
    student, teacher = (output(logits(), [torch.randn(BATCH, *shape).bfloat16() for _ in range(2)]) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss(batch(), student, [teacher, teacher])
    for term in terms.values():
        assert term.dtype == torch.float32
        assert term.isfinite()


def test_a_kd_scale_that_is_none_is_refused() -> None:
    registry.create("camkd", {"kd_scale": "unit"})
    with pytest.raises(KDBenchError, match="camkd's kd_scale is 'half'"):
        registry.create("camkd", {"kd_scale": "half"})


@pytest.mark.parametrize("option", [{"kd_scale": "half"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^camkd.*{next(iter(option.values()))}"):
        registry.create("camkd", option)
