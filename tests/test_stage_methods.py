"""Methods that read the student's stages through heads, through the other network, or through layers merged later: OFA,
FCFD, NORM, and KD++ beside them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import goldens
import pytest
import torch
from loops import (
    BATCH,
    CLASSES,
    Whole,
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
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Network, NotApplicable, Output, registry
from kdbench.registry.composition import split
from kdbench.tasks.image.networks import create
from kdbench.training.cost import deployed_cost


def labels(z: Tensor, data: Batch) -> Tensor:
    return mean(cross_entropy(z[n], int(data.targets[n])) for n in range(len(z)))


def imitation(z: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return mean(kl(z[n], teacher[n], temperature) for n in range(len(z)))


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference, sample by sample."""
    return mean(((x - y) ** 2).sum() / x.numel() for x, y in zip(a, b, strict=True))


def real(name: str, size: int = 16, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return create(name, num_classes=CLASSES, in_chans=3, input_size=(3, size, size))


def images(size: int = 16, count: int = BATCH) -> Batch:
    data = batch(size=count)
    return Batch(torch.randn(count, 3, size, size), data.targets, data.indices)


# ---------------------------------------------------------------------------------------------- ofa


@pytest.mark.parametrize(("eps", "name"), [(1.5, "loss"), (1.0, "loss_eps1")])
def test_ofas_loss_agrees_with_the_official_code(eps: float, name: str) -> None:
    golden = goldens.load("ofa")
    goldens.require(golden["logits_s"])
    maps = [torch.rand(8, 4, 4, 4), torch.rand(8, 8, 2, 2)]
    method = registry.create("ofa", {"eps": eps})
    method.build(goldens.network(maps), goldens.network(maps))
    terms = method.loss(
        goldens.batch(golden["target"]), goldens.output(golden["logits_s"], maps), goldens.output(golden["logits_t"])
    )
    goldens.close(terms["kd"], golden[name])
    if name == "loss":
        goldens.gradients_agree(terms["kd"], {"logits_s": golden["logits_s"]}, {}, golden)


def enhanced(z: Tensor, teacher: Tensor, data: Batch, eps: float, temperature: float) -> Tensor:
    costs = []
    for n in range(len(z)):
        theirs, ours = (probabilities(each[n], temperature) for each in (teacher, z))
        label = [float(c == int(data.targets[n])) for c in range(CLASSES)]
        costs.append(-sum(((theirs[c] + label[c]) ** eps - label[c]) * torch.log(ours[c]) for c in range(CLASSES)))
    return mean(costs)


@pytest.mark.parametrize("options", [{}, {"eps": 1.5, "head_weight": 1.0, "kd_weight": 0.5, "temperature": 2.0}])
def test_ofas_heads_and_final_logits_learn_the_teachers_prediction_with_the_labels_share_enhanced(
    options: dict[str, float],
) -> None:
    given = {"eps": 1.0, "head_weight": 0.1, "kd_weight": 1.0, "temperature": 1.0, **options}
    maps = [torch.randn(BATCH, 4, 8, 8), torch.randn(BATCH, 6, 4, 4), torch.randn(BATCH, 8, 2, 2)]
    shapes = [tuple(each.shape[1:]) for each in maps]
    method = registry.create("ofa", options)
    method.build(network(*shapes, embedding=8), network(*shapes, embedding=12))
    z, teacher, data = logits(), logits().detach(), batch()
    terms = method.loss(data, output(z, maps), output(teacher))
    said = [head(each) for head, each in zip(method.heads, maps, strict=True)]
    costs = [enhanced(each, teacher, data, given["eps"], given["temperature"]) for each in (z, *said)]
    expected = {
        "ce": labels(z, data),
        "kd": given["kd_weight"] * costs[0],
        "heads": given["head_weight"] * (costs[1] + costs[2] + costs[3]),
    }
    agree(terms, expected, [z, method.heads[0][-1].weight, method.heads[2][0].weight])


def test_ofas_heads_halve_a_map_once_for_each_later_stage_and_end_at_the_wider_embedding() -> None:
    method = registry.create("ofa")
    method.build(
        network((16, 16, 16), (32, 8, 8), (64, 4, 4), embedding=64), network((32, 4, 4), embedding=128, classes=CLASSES)
    )
    first, second, third = method.heads
    assert [type(layer).__name__ for layer in first] == [*["Separable"] * 2, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert [block(x).shape[1:] for block, x in ((first[0], torch.rand(2, 16, 16, 16)),)] == [(32, 8, 8)]
    assert second[0](torch.rand(2, 32, 8, 8)).shape[1:] == (128, 4, 4)
    assert isinstance(third[0], nn.Conv2d)
    assert [head[-1].in_features for head in method.heads] == [128] * 3


def test_ofa_merges_tokens_to_a_7x7_grid_and_gives_earlier_stages_more_blocks() -> None:
    method = registry.create("ofa")
    shapes = [(8, 14, 14)] * 4
    method.build(network(*shapes, embedding=8), network((4, 7, 7), embedding=32))
    assert [len(head.blocks) for head in method.heads] == [3, 2, 1, 1]
    assert [len(head.merges) for head in method.heads] == [1] * 4
    seen: list[torch.Size] = []
    method.heads[0].blocks.register_forward_hook(lambda module, inputs, result: seen.append(result.shape))
    assert method.heads[0](torch.rand(2, 8, 14, 14)).shape == (2, CLASSES)
    assert seen == [(2, 49, 8)]


def test_ofas_token_heads_read_a_neighbourhood_as_one_patch() -> None:
    method = registry.create("ofa")
    method.build(network(*[(8, 14, 14)] * 2, embedding=8), network((4, 7, 7), embedding=8))
    merge = method.heads[0].merges[0]
    x = torch.randn(1, 8, 14, 14)
    whole = method.heads[0]
    tokens: list[Tensor] = []
    whole.blocks.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    whole(x)
    patch = torch.stack([x[0, c, 2 + i, 4 + j] for c in range(8) for i in range(2) for j in range(2)])
    close(tokens[0][0, 7 * 1 + 2], merge(patch))


# ---------------------------------------------------------------------------------------------- fcfd


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
    assert method.to_teacher[3](torch.rand(2, 160, 2, 2)).shape[2:] == (4, 4)


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


# ---------------------------------------------------------------------------------------------- norm


class Pooled(nn.Module):
    """A student that is a classifier on a pooled map of 3 channels."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.name, self.shapes = "pooled", network((3, 4, 4), embedding=3, classes=classes).shapes
        self.classifier = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Output:
        embedding = x.mean((2, 3))
        return Output(self.classifier(embedding), embedding, (x,))


def norm(options: dict[str, Any], teacher: tuple[int, ...] = (2, 4, 4), classes: int = CLASSES) -> tuple[Any, Pooled]:
    student = Pooled(classes)
    method = registry.create("norm", options)
    method.build(student, network(teacher, embedding=2, classes=classes))
    for layers in (method.transform.expand, method.transform.contract):
        nn.init.normal_(layers[1].weight, 1, 0.3)
        nn.init.normal_(layers[1].bias)
    return method, student


def by_channel(x: Tensor, layers: nn.Sequential) -> Tensor:
    """1x1 convolution, then BatchNorm by the batch's statistics, channel by channel."""
    convolution, bn = layers
    channels = []
    for c, weight in enumerate(convolution.weight.flatten(1)):
        values = sum(weight[i] * x[:, i] for i in range(x.shape[1]))  # [B, H, W]
        centred = values - values.mean()
        channels.append(centred / (centred.pow(2).mean() + bn.eps).sqrt() * bn.weight[c] + bn.bias[c])
    return torch.stack(channels, 1)


@pytest.mark.parametrize("scale", [2.5, 0.0])
def test_norm_matches_each_segment_of_the_expanded_map_with_the_teachers_whole_map(scale: float) -> None:
    method, student = norm({"n": 3, "weight": 2.0, "ce_weight": 0.5, "scale": scale})
    method.epoch, method.epochs = 15, 240
    x, target, data = torch.randn(BATCH, 3, 4, 4), torch.randn(BATCH, 2, 4, 4), batch()
    terms = method.compute(data, [student(x)], [output(features=[target])])
    expanded = by_channel(x, method.transform.expand)
    z = student.classifier((x + by_channel(expanded, method.transform.contract)).mean((2, 3)))
    if scale:
        rows = [(row - row.mean()) / ((row - row.mean()).pow(2).mean() + 1e-7).sqrt() * scale for row in z]
        z = torch.stack(rows)
    matches = [squares(expanded[:, 2 * n : 2 * n + 2], target) for n in range(3)]
    expected = {"ce": 0.5 * labels(z, data), "match": 2.0 * 0.5 * sum(matches)}
    first, second = method.transform.expand[0].weight, method.transform.contract[0].weight
    agree(terms, expected, [first, second, student.classifier.weight])


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(1, 0.1), (10, 0.1), (11, 0.5), (20, 0.5), (21, 1.0), (180, 1.0), (181, 0.5), (211, 0.1), (240, 0.1)],
)
def test_norms_matching_term_rises_and_falls_over_the_training(epoch: int, factor: float) -> None:
    method, student = norm({"n": 2})
    method.epoch, method.epochs = epoch, 240
    x, target = torch.randn(BATCH, 3, 4, 4), torch.randn(BATCH, 2, 4, 4)
    term = method.compute(batch(), [student(x)], [output(features=[target])])["match"]
    expanded = by_channel(x, method.transform.expand)
    close(term, factor * (squares(expanded[:, :2], target) + squares(expanded[:, 2:], target)))


@pytest.mark.parametrize(("ours", "theirs"), [(4, 8), (8, 4)])
def test_norm_max_pools_the_larger_map(ours: int, theirs: int) -> None:
    method, student = norm({"n": 1})
    method.epochs = 1
    x, target = torch.randn(BATCH, 3, ours, ours), torch.randn(BATCH, 2, theirs, theirs)
    term = method.compute(batch(), [student(x)], [output(features=[target])])["match"]
    expanded = by_channel(x, method.transform.expand)
    pooled = [nn.functional.max_pool2d(each, each.shape[2] // 4) for each in (expanded, target)]
    close(term, 0.1 * squares(*pooled))


def test_norm_deploys_one_linear_layer_that_says_what_the_transformed_student_says() -> None:
    student, teacher = real("cifar_resnet8"), real("cifar_resnet8x4", seed=1)
    method = registry.create("norm")
    method.build(student, teacher)
    method.train()
    for _ in range(3):  # so that the running statistics are no longer those of the start
        method.respond(student(images(count=8).inputs))
    deployed = method.deploy(student).eval()
    x = images().inputs
    assert method.transform.training
    close(deployed(x), method.eval().respond(student.eval()(x)).logits)
    assert deployed_cost(deployed, x[:1])["deployed_parameters"] == sum(p.numel() for p in student.parameters())


def test_norm_leaves_the_logits_of_two_classes_as_they_are() -> None:
    method, student = norm({"n": 1}, classes=2)
    x = torch.randn(BATCH, 3, 4, 4)
    contracted = x + by_channel(by_channel(x, method.transform.expand), method.transform.contract)
    close(method.respond(student(x)).logits, student.classifier(contracted.mean((2, 3))))


def test_the_other_parts_of_a_composition_see_the_transformed_student() -> None:
    method = registry.create("norm+kd", {"norm.n": 2})
    student = Pooled()
    method.build(student, network((2, 4, 4), embedding=2))
    x, theirs, data = torch.randn(BATCH, 3, 4, 4), output(features=[torch.randn(BATCH, 2, 4, 4)]), batch()
    terms = method.compute(data, [student(x)], [theirs])
    transformed = method.methods[0].respond(student(x))
    assert not torch.allclose(transformed.logits, student(x).logits)
    close(terms["kd"], 0.9 * imitation(transformed.logits, theirs.logits, 4.0))
    close(terms["ce"], 0.1 * labels(transformed.logits, data))


def test_norm_transforms_the_second_view_too() -> None:
    method, student = norm({"n": 1})
    x = torch.randn(BATCH, 3, 4, 4)
    whole = Output(**{**vars(student(x)), "strong": student(2 * x)})
    strong = method.respond(whole).strong
    assert strong is not None
    close(strong.logits, method.respond(student(2 * x)).logits)


def test_norm_refuses_a_student_with_a_convolution_in_its_head() -> None:
    with pytest.raises(NotApplicable, match="'cifar_mobilenetv2' has not"):
        registry.create("norm").build(real("cifar_mobilenetv2", 32), real("cifar_resnet8", 32))


def test_norm_refuses_to_expand_to_nothing() -> None:
    with pytest.raises(KDBenchError, match="n is 0"):
        registry.create("norm", {"n": 0})


# ---------------------------------------------------------------------------------------------- kd++


def test_kd_plus_plus_points_the_embedding_to_the_teachers_class_mean_and_makes_it_long() -> None:
    method = registry.create("kd++")
    method.build(network(embedding=6), network(embedding=6))
    method.epoch, method.epochs = 6, 240
    method.directions.copy_(nn.functional.normalize(torch.randn(CLASSES, 6), dim=1))
    z, teacher, data = logits(), logits().detach(), batch()
    lengths = torch.tensor([0.2, 0.5, 1.0, 3.0, 9.0])[:, None]  # shorter and longer than the teacher's
    ours, theirs = (lengths * torch.randn(BATCH, 6)).requires_grad_(), torch.randn(BATCH, 6)
    terms = method.loss(data, output(z, embedding=ours), output(teacher, embedding=theirs))
    costs = []
    for n in range(BATCH):
        ours_long, theirs_long = ours[n].pow(2).sum().sqrt(), theirs[n].pow(2).sum().sqrt()
        direction = method.directions[int(data.targets[n])]
        longer = ours_long if bool(ours_long > theirs_long) else theirs_long
        costs.append(1 - sum(a * b for a, b in zip(ours[n], direction, strict=True)) / longer)
    assert 0 < sum(float(o.norm() > t.norm()) for o, t in zip(ours, theirs, strict=True)) < BATCH
    expected = {
        "ce": labels(z, data),
        "kd": 5 / 20 * imitation(z, teacher, 4.0),
        "nd": 2.0 * mean(costs),
    }
    agree(terms, expected, [z, ours])


@pytest.mark.parametrize(("epoch", "ramp"), [(1, 0.0), (2, 0.05), (21, 1.0), (240, 1.0)])
def test_kd_plus_plus_starts_without_kd(epoch: int, ramp: float) -> None:
    method = registry.create("kd++", {"kd_weight": 3.0})
    method.build(network(), network())
    method.epoch, method.epochs = epoch, 240
    z, teacher = logits(), logits().detach()
    embedding = torch.rand(BATCH, 3)
    term = method.loss(batch(), output(z, embedding=embedding), output(teacher, embedding=embedding))["kd"]
    close(term, 3 * ramp * imitation(z, teacher, 4.0))


def test_kd_plus_pluss_directions_are_the_teachers_class_means_of_length_one() -> None:
    data = dataset(torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 0]))
    embeddings = torch.randn(len(data), 5)
    taught = iter(embeddings.split(8))

    def teacher(inputs: Tensor) -> Output:
        return output(torch.zeros(len(inputs), CLASSES), embedding=next(taught))

    method = registry.create("kd++")
    method.build(network(embedding=5), network(embedding=5))
    method.prepare(data, [teacher])  # type: ignore[list-item]
    for c in range(3):
        average = mean(embeddings[n] for n in range(len(data)) if int(data.targets[n]) == c)
        close(method.directions[c], average / average.pow(2).sum().sqrt())
    assert torch.equal(method.directions[3], torch.zeros(5))  # a class without samples


def test_kd_plus_plus_brings_a_student_of_another_width_to_the_teachers() -> None:
    method = registry.create("kd++")
    method.build(network(embedding=6), network(embedding=4))
    assert [type(layer) for layer in method.transfer][1:] == [nn.Dropout, nn.Linear]
    assert isinstance(method.transfer[0], nn.BatchNorm1d)
    assert not method.transfer[2].bias.any()
    method.build(network(embedding=4), network(embedding=4))
    assert isinstance(method.transfer, nn.Identity)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("kd++", ["kd++"]),
        ("crd+kd", ["crd", "kd"]),
        ("dkd+kd++", ["dkd", "kd++"]),
        ("kd+++crd", ["kd++", "crd"]),
        ("crd+kd+++at", ["crd", "kd++", "at"]),
    ],
)
def test_a_name_may_end_in_pluses(name: str, parts: list[str]) -> None:
    assert split(name) == parts
    assert registry.get(name).info.name == name
