"""fcfd makes every path through layers of both networks say what the teacher says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.loops import (
    Whole,
    agree,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    images,
    imitation,
    labels,
    maps,
    normed,
    real,
    squares,
    total,
)
from torch import Tensor, nn

from kdbench import KDBenchError, Network, NotApplicable, registry
from kdbench.methods.features.fcfd import Bridge


def fcfd(student: str, teacher: str, **options: Any) -> tuple[Any, Network, Network]:
    ours, theirs = real(student), real(teacher, seed=1).requires_grad_(False).eval()
    method = registry.create("fcfd", options)
    method.build(ours, theirs)
    return method, ours.train(), theirs


@contextmanager
def normalised_by_the_batch(module: nn.Module) -> Iterator[nn.Module]:
    """A copy, with parameters shared, in which BatchNorm has no running statistics at all."""
    memo = {id(p): p for p in module.parameters()}
    twin = copy.deepcopy(module, memo)
    for layer in twin.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            layer.track_running_stats = False
            layer.train()
    yield twin


@pytest.mark.equation
def test_fcfd_makes_every_mixed_path_say_what_the_teacher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    method, student, teacher = fcfd("cifar_resnet8", "cifar_resnet8x4", paths=3, path_weight=0.2, temperature=2.0)
    method.epoch, method.epochs = 5, 240
    # after stage 1 the student's map into the teacher, after stage 2 the same, after stage 1 the teacher's into ours
    monkeypatch.setattr(torch, "randperm", lambda count: torch.tensor([0, 2, 1, 3]))
    method.prepare(Whole(images()), [teacher])
    data = images()
    ours, theirs = student(data.inputs), teacher(data.inputs)
    terms = method.loss(data, ours, theirs)

    ours = student(data.inputs)  # once more, for a graph of its own
    bridged = [bridge(f) for bridge, f in zip(method.to_teacher, ours.features, strict=True)]
    appearance = [[each] for each in bridged]
    paths = []
    for stage in (1, 2):
        with normalised_by_the_batch(teacher.tail(stage)) as tail:
            said = tail(bridged[stage - 1])
        paths.append(said.logits)
        for k, feature in enumerate(said.features, start=stage):
            appearance[k].append(feature)
    with normalised_by_the_batch(student.tail(1)) as tail:
        paths.append(tail(method.to_student[0](theirs.features[0])).logits)
    costs = [squares(each, theirs.features[k]) for k, group in enumerate(appearance) for each in group]
    pooled = theirs.features[-1].relu().mean((2, 3))
    costs += [squares(each.relu().mean((2, 3)), pooled) for each in appearance[-1]]
    assert len(costs) == 1 + 2 + 3 + 3
    expected = {
        "ce": labels(ours.logits, data),
        "kd": imitation(ours.logits, theirs.logits, 2.0),
        "paths": 0.2 * sum(imitation(z, theirs.logits, 2.0) for z in paths),
        "appearance": 5 / 20 * 5.0 * sum(costs),
    }
    trained = [
        next(iter(student.parameters())), student.classifier.weight,
        method.to_teacher[0].conv.weight, method.to_teacher[2].conv.weight, method.to_student[0].bn.weight,
    ]  # fmt: skip
    agree(terms, expected, trained)


def test_fcfds_mixed_paths_leave_the_running_statistics_of_both_networks_alone() -> None:
    method, student, teacher = fcfd("cifar_resnet8", "cifar_resnet8x4", paths=4)
    data = images()
    ours, theirs = student(data.inputs), teacher(data.inputs)
    before = {
        name: value.clone() for name, value in (*student.state_dict().items(), *method.teacher_tails.named_buffers())
    }
    total(method.loss(data, ours, theirs)).backward()
    after = dict((*student.state_dict().items(), *method.teacher_tails.named_buffers()))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    modules = [*student.modules(), *method.teacher_tails.modules()]
    assert all(m.track_running_stats for m in modules if isinstance(m, nn.BatchNorm2d))


def test_fcfds_paths_train_the_students_own_layers_and_no_copy_of_them() -> None:
    method, student, teacher = fcfd("cifar_resnet8", "cifar_resnet8x4", paths=4)
    own = set(student.parameters())
    assert not own & set(method.parameters())
    assert not any(p.requires_grad for p in method.teacher_tails.parameters())
    assert not set(method.teacher_tails.parameters()) & set(teacher.parameters())
    data = images()
    with torch.no_grad():
        ours = student(data.inputs)
    method.loss(data, ours, teacher(data.inputs))["paths"].backward()
    reached = {name for name, p in student.named_parameters() if p.grad is not None}
    assert any("classifier" in name for name in reached)
    assert all("stages.0" not in name and "stem" not in name for name in reached)


def test_fcfds_tails_of_the_teacher_share_one_copy_of_its_layers() -> None:
    method, _, teacher = fcfd("cifar_resnet8", "cifar_resnet14")
    longest = set(teacher.tail(1).parameters())
    assert len(set(method.teacher_tails.parameters())) == len(longest)


def test_fcfd_draws_two_different_paths_for_each_batch_from_torchs_stream() -> None:
    method, student, teacher = fcfd("cifar_resnet8", "cifar_resnet14")
    data = images()
    ours, theirs = student(data.inputs), teacher(data.inputs)
    taken: list[int] = []
    for index, tail in enumerate(method.teacher_tails):
        tail.register_forward_hook(lambda module, inputs, result, index=index: taken.append(2 * index))
    for index, tail in enumerate(method._student[1:]):
        tail.register_forward_hook(lambda module, inputs, result, index=index: taken.append(2 * index + 1))
    draws = set()
    for seed in range(12):
        torch.manual_seed(seed)
        for _ in range(2):
            method.loss(data, ours, theirs)
        torch.manual_seed(seed)
        method.loss(data, ours, theirs)
        first, _, again = taken[:2], taken[2:4], taken[4:]
        assert first == again
        assert len(set(first)) == 2
        draws.update(first)
        taken.clear()
    assert draws == {0, 1, 2, 3}


def test_fcfd_without_paths_and_appearance_is_cross_entropy_and_kd() -> None:
    method, student, teacher = fcfd("cifar_resnet8", "cifar_resnet14", paths=0, weight=0.0)
    data = images()
    ours, theirs = student(data.inputs), teacher(data.inputs)
    kd = registry.create("kd", {"ce_weight": 1.0, "kd_weight": 1.0}).loss(data, ours, theirs)
    close(total(method.loss(data, ours, theirs)), total(kd))


def test_fcfds_bridges_are_leaky_where_the_maps_to_imitate_have_no_negative_values() -> None:
    ours, theirs = real("cifar_mobilenetv2", 32), real("cifar_vgg8", 32, seed=1)
    method = registry.create("fcfd")
    method.build(ours, theirs)
    method.prepare(Whole(images(32)), [theirs])
    assert [float(bridge.slope) for bridge in method.to_teacher] == pytest.approx([0.1] * 4)
    assert [float(bridge.slope) for bridge in method.to_student] == [1.0] * 3  # linear bottlenecks
    assert ours.training
    x = torch.tensor([[[[-2.0]], [[3.0]]]])
    bridge = method.to_teacher[0]
    bridge.conv, bridge.bn = nn.Identity(), nn.Identity()
    close(bridge(x), torch.tensor([[[[-0.2]], [[3.0]]]]))


def test_fcfds_bridges_change_the_size_by_a_strided_or_transposed_convolution() -> None:
    method = registry.create("fcfd")
    method.build(real("cifar_mobilenetv2", 32), real("cifar_vgg8", 32))
    sizes = [(type(b.conv).__name__, b.conv.stride[0]) for b in method.to_teacher]
    assert sizes == [("Conv2d", 1), ("Conv2d", 1), ("Conv2d", 1), ("ConvTranspose2d", 2)]
    assert method.to_teacher[3](torch.rand(2, 1280, 2, 2)).shape[2:] == (4, 4)


def spread(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution, or a transposed one, tap by tap."""
    height, width = x.shape[2:]
    weight, bias = conv.weight, torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    if isinstance(conv, nn.Conv2d):
        stride, rim = conv.stride[0], nn.functional.pad(x, (1, 1, 1, 1))
        taps = []
        for i in range(3):
            for j in range(3):
                seen = rim[:, :, i : i + height : stride, j : j + width : stride]
                taps.append(torch.einsum("oc,bchw->bohw", weight[:, :, i, j], seen))
        return sum(taps, torch.zeros(())) + bias[:, None, None]
    whole = torch.zeros(len(x), conv.out_channels, 2 * height + 2, 2 * width + 2)  # with the rim that is cut off
    for i in range(4):
        for j in range(4):
            tap = torch.einsum("co,bchw->bohw", weight[:, :, i, j], x)
            whole[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += tap
    return whole[:, :, 1:-1, 1:-1] + bias[:, None, None]


@pytest.mark.equation
@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("sides", [(4, 4), (4, 2), (2, 4)], ids=["same", "down", "up"])
def test_fcfds_bridge_is_a_convolution_batch_norm_and_a_leaky_relu(sides: tuple[int, int], slope: float) -> None:
    bridge = Bridge((3, sides[0], sides[0]), (2, sides[1], sides[1]))
    bridge.slope.fill_(slope)
    bridge.bn.weight.data.uniform_(0.5, 2)
    bridge.bn.bias.data.normal_()
    (x,) = maps((3, sides[0], sides[0]), trained=True)
    before = normed(bridge.bn, spread(bridge.conv, x))
    assert (before < 0).any()
    expected, target = torch.where(before > 0, before, slope * before), torch.randn(before.shape)
    found = bridge(x)
    close(found, expected)
    costs = [{"cost": ((y - target) ** 2).sum()} for y in (found, expected)]
    agree(*costs, [x, *bridge.parameters()])


@pytest.mark.parametrize(
    ("student", "teacher", "sentence"),
    [("cifar_mobilenetv2", "cifar_resnet8", "differ twofold"), ("test_vit", "test_vit", "cannot be entered")],
)
def test_fcfd_says_which_pair_it_cannot_bridge(student: str, teacher: str, sentence: str) -> None:
    with pytest.raises(NotApplicable, match=sentence):
        registry.create("fcfd").build(real(student, 32), real(teacher, 32))


def test_fcfd_refuses_a_negative_number_of_paths() -> None:
    with pytest.raises(KDBenchError, match="paths is -1"):
        registry.create("fcfd", {"paths": -1})
