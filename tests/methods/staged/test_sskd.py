"""sskd mimics one stage a phase and learns the labels in the last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    mean,
    network,
    output,
)

from kdbench import KDBenchError, NotApplicable, registry
from kdbench.tasks.image.networks import create


def sskd(student: str = "cifar_resnet8", teacher: str = "cifar_wrn_16_2", **hyperparameters: Any) -> tuple[Any, Any]:
    torch.set_default_dtype(torch.float32)
    pair = [create(name, num_classes=CLASSES, in_chans=3, input_size=(3, 16, 16)) for name in (student, teacher)]
    method = registry.create("sskd", hyperparameters)
    method.build(*pair)
    return method, pair[0]


def test_sskds_phases_share_the_training_and_train_each_parameter_once() -> None:
    method, student = sskd()
    phases = method.phases()
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    assert phases[-1].share == pytest.approx(40 / 240)
    assert len({phase.share for phase in phases[:-1]}) == 1
    names = [name for phase in phases for name in phase.student]
    assert sorted(names) == sorted(dict(student.named_parameters()))
    assert all(phase.milestones == (0.6, 0.8) for phase in phases)


def test_sskds_adapters_train_each_in_its_own_stage_and_never_with_the_head() -> None:
    method, _ = sskd()
    for name, _ in method.named_parameters():
        training = [phase.name for phase in method.phases() if any(name.startswith(p) for p in phase.modules)]
        assert len(training) == 1
        assert training[0] != method.phases()[-1].name


def test_sskd_needs_no_adapter_where_the_channels_agree() -> None:
    method, _ = sskd("cifar_resnet8", "cifar_resnet14")
    assert not list(method.parameters())


def test_sskd_may_train_everything_with_the_head() -> None:
    method, _ = sskd(unfreeze_head_stage=True)
    assert method.phases()[-1].student is None


@pytest.mark.equation
def test_sskd_mimics_one_stage_a_phase_and_learns_the_labels_in_the_last() -> None:
    method = registry.create("sskd")
    stages = [frozenset({"a"}), frozenset({"b"}), frozenset({"head"})]
    method.build(network((3, 4, 4), (2, 2, 2), stage_parameters=lambda: stages), network((6, 4, 4), (2, 4, 4)))
    student = output(features=[torch.randn(BATCH, *shape, requires_grad=True) for shape in ((3, 4, 4), (2, 2, 2))])
    teacher = output(features=[torch.randn(BATCH, *shape) for shape in ((6, 4, 4), (2, 4, 4))])
    data, phases = batch(), method.phases()
    adapter = method.adapters[0]
    first = torch.zeros(())
    for i in range(BATCH):
        for o in range(6):
            u = sum(adapter.weight[o, c, 0, 0] * student.features[0][i, c] for c in range(3)) + adapter.bias[o]
            first = first + ((u - teacher.features[0][i, o]) ** 2).sum() / (BATCH * 6 * 16)
    pooled = teacher.features[1].reshape(BATCH, 2, 2, 2, 2, 2).mean((3, 5))
    expected = [
        ({"feature": first}, [student.features[0], *adapter.parameters()]),
        ({"feature": ((student.features[1] - pooled) ** 2).sum() / pooled.numel()}, [student.features[1]]),
        ({"ce": mean(cross_entropy(student.logits[i], int(data.targets[i])) for i in range(BATCH))}, [student.logits]),
    ]
    for phase, (terms, tensors) in zip(phases, expected, strict=True):
        method.phase = phase.name
        agree(method.loss(data, student, teacher), terms, tensors)


def test_sskd_refuses_a_pair_with_unequal_numbers_of_stages() -> None:
    with pytest.raises(NotApplicable, match="as many stages on both sides"):
        sskd("cifar_resnet8", "cifar_vgg8")


def test_sskds_head_gets_the_share_that_is_asked_for_and_the_stages_the_rest() -> None:
    method = registry.create("sskd", {"head_share": 0.4})
    stages = [frozenset({"a"}), frozenset({"b"}), frozenset({"head"})]
    method.build(network((3, 4, 4), (2, 2, 2), stage_parameters=lambda: stages), network((3, 4, 4), (2, 2, 2)))
    assert [phase.share for phase in method.phases()] == pytest.approx([0.3, 0.3, 0.4])


@pytest.mark.parametrize("option", [{"head_share": 1.0}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^sskd.*{next(iter(option.values()))}"):
        registry.create("sskd", option)
