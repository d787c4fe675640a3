"""Methods on features that have no golden vectors, against their equations as plain loops, in float64.

Where the authors' code states an equation in a form of its own, the loops follow that form.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    CLASSES,
    Whole,
    agree,
    batch,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    network,
    output,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, Shapes, registry
from kdbench.tasks.image.networks import create

Shape = tuple[int, ...]


def maps(*shapes: Shape, size: int = BATCH, trained: bool = False) -> list[Tensor]:
    return [torch.randn(size, *shape, requires_grad=trained) for shape in shapes]


def label_term(student: Output, data: Batch) -> Tensor:
    return mean(cross_entropy(student.logits[b], int(data.targets[b])) for b in range(len(data)))


def halved(x: Tensor) -> Tensor:
    """Means of 2x2 squares."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution without bias, channel by channel."""
    weight = conv.weight[:, :, 0, 0]
    return torch.stack([sum(weight[o, c] * x[:, c] for c in range(x.shape[1])) for o in range(len(weight))], 1)


def normed(bn: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm with the batch's statistics, channel by channel."""
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        centred = values - values.sum() / values.numel()
        deviation = torch.sqrt((centred**2).sum() / values.numel() + bn.eps)
        channels.append(bn.weight[c] * centred / deviation + bn.bias[c])
    return torch.stack(channels, 1)


# ---------------------------------------------------------------------------------------------- cat_kd


def activation_maps(feature: Tensor, weight: Tensor, normalise: bool) -> list[Tensor]:
    """The value of each class at each of 2x2 regions, for each sample."""
    values = []
    while feature.shape[2] > 2:
        feature = halved(feature)
    for b in range(len(feature)):
        for k in range(len(weight)):
            cam = sum(weight[k, c] * feature[b, c] for c in range(feature.shape[1])).flatten()
            values += list(cam / torch.sqrt(sum(value**2 for value in cam)) if normalise else cam)
    return values


@pytest.mark.parametrize("normalise", [False, True])
def test_cat_kd_matches_the_class_activation_maps_in_each_region(normalise: bool) -> None:
    heads = [nn.Linear(c, CLASSES) for c in (3, 5)]
    method = registry.create("cat_kd", {"normalise": normalise, "weight": 7.0})
    method.build(
        network((2, 8, 8), (3, 4, 4), classifier=heads[0]), network((5, 8, 8), embedding=5, classifier=heads[1])
    )
    student = output(features=maps((2, 8, 8), (3, 4, 4), trained=True))
    teacher = output(features=maps((5, 8, 8)))
    ours = activation_maps(student.features[-1], heads[0].weight, normalise)
    theirs = activation_maps(teacher.features[-1], heads[1].weight.detach(), normalise)
    attention = 7 * mean((s - t) ** 2 for s, t in zip(ours, theirs, strict=True))
    expected = {"ce": label_term(student, batch()), "attention": attention}
    tensors = [student.logits, student.features[1], heads[0].weight]  # the classifier learns from its maps too
    agree(method.loss(batch(), student, teacher), expected, tensors)
    assert not list(method.parameters())


def test_cat_kds_defaults_are_those_of_resnet32x4_to_resnet8x4() -> None:
    method = registry.create("cat_kd")
    assert (method.weight, method.resolution, method.normalise) == (15.0, 2, False)


def test_cat_kd_keeps_the_teachers_classifier_as_it_was_at_the_start() -> None:
    heads = [nn.Linear(3, CLASSES) for _ in range(2)]
    method = registry.create("cat_kd")
    method.build(*(network((3, 4, 4), classifier=head) for head in heads))
    before = heads[1].weight.detach().clone()
    heads[1].weight.data.zero_()
    assert torch.equal(method.state_dict()["weight_teacher"], before)


@pytest.mark.parametrize("side", [0, 1])
def test_cat_kd_refuses_a_classifier_that_does_not_read_the_last_maps_channels(side: int) -> None:
    pair = [network((3, 4, 4), classifier=nn.Linear(3, CLASSES)) for _ in range(2)]
    pair[side] = network((3, 4, 4), embedding=6, classifier=nn.Linear(6, CLASSES))
    with pytest.raises(NotApplicable, match="cat_kd needs a linear classifier on the last map, which 'some' has not"):
        registry.create("cat_kd").build(*pair)


# ---------------------------------------------------------------------------------------------- ofd


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


def test_ofd_is_the_partial_distance_from_the_teachers_margin_relu_twice_as_heavy_a_stage_deeper() -> None:
    method = registry.create("ofd")
    ours, theirs = ((3, 4, 4), (4, 2, 2)), ((5, 4, 4), (2, 4, 4))
    method.build(before_relu(*ours), before_relu(*theirs))
    with_margins(method)
    student = dataclasses.replace(output(), preactivations=tuple(maps(*ours, trained=True)))
    teacher = dataclasses.replace(output(), preactivations=tuple(maps(*theirs)))
    shown = [teacher.preactivations[0], halved(teacher.preactivations[1])]
    cost = 1e-3 * ofd_by_loops(method, student.preactivations, shown)
    expected = {"ce": label_term(student, batch()), "feature": cost}
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


# ---------------------------------------------------------------------------------------------- vid


def test_vid_is_the_gaussians_negative_log_likelihood_with_a_trained_variance_for_each_channel() -> None:
    method = registry.create("vid")
    ours, theirs = ((3, 4, 4), (2, 4, 4), (4, 2, 2)), ((5, 4, 4), (3, 2, 2), (2, 4, 4))
    method.build(network(*ours), network(*theirs))
    for stage in method.stages:
        stage.log_scale.data.add_(torch.randn_like(stage.log_scale))
    student, teacher = output(features=maps(*ours, trained=True)), output(features=maps(*theirs))
    s, t = student.features, teacher.features
    information = torch.zeros(())
    for stage, x, y in zip(method.stages, (s[0], halved(s[1]), s[2]), (t[0], t[1], halved(t[2])), strict=True):
        first, _, second, _, third = stage.regressor
        hidden = convolved(second, torch.relu(convolved(first, x)))
        predicted = convolved(third, torch.relu(hidden))
        costs = []
        for c in range(y.shape[1]):
            variance = torch.log(1 + torch.exp(stage.log_scale[c])) + 1e-5
            for b in range(BATCH):
                for error in (predicted[b, c] - y[b, c]).flatten():
                    costs.append((error**2 / variance + torch.log(variance)) / 2)
        information = information + mean(costs)
    expected = {"ce": label_term(student, batch()), "information": information}
    agree(method.loss(batch(), student, teacher), expected, [student.logits, *s, *method.parameters()])


def test_vids_variances_begin_at_5_and_are_trained() -> None:
    method = registry.create("vid")
    method.build(network((3, 4, 4)), network((5, 4, 4)))
    (stage,) = method.stages
    close(F.softplus(stage.log_scale) + 1e-5, torch.full((5,), 5.0))
    assert {name.removeprefix("stages.0.") for name, _ in method.named_parameters()} == {
        "log_scale", "regressor.0.weight", "regressor.2.weight", "regressor.4.weight"
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- sp


def similarity_rows(feature: Tensor) -> list[Tensor]:
    """Rows of the Gram matrix, each of unit length."""
    rows = [torch.stack([(a * b).sum() for b in feature]) for a in feature]
    return [row / torch.sqrt((row**2).sum()) for row in rows]


def sp_by_loops(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(similarity_rows(student), similarity_rows(teacher), strict=True)
    return sum((((ours - theirs) ** 2).sum() for ours, theirs in pairs), torch.zeros(())) / len(student) ** 2


def test_sp_is_the_difference_of_row_normalised_gram_matrices_over_the_batch_squared() -> None:
    from kdbench.methods.relations.sp import similarity_loss

    student = output(features=maps((2, 4, 4), (3, 2, 2), trained=True))
    teacher = output(features=maps((2, 4, 4), (5, 4, 4)))
    raw = sp_by_loops(student.features[-1], teacher.features[-1])
    close(similarity_loss(student.features[-1], teacher.features[-1]), raw)
    expected = {"ce": label_term(student, batch()), "similarity": 3000 * BATCH / 64 * raw}
    agree(registry.create("sp").loss(batch(), student, teacher), expected, [student.logits, student.features[-1]])


# ---------------------------------------------------------------------------------------------- pkt


def similarity_probabilities(embedding: Tensor) -> list[list[Tensor]]:
    """Cosines moved to [0, 1], as probabilities given each sample."""
    unit = [e / (torch.sqrt((e**2).sum()) + 1e-7) for e in embedding]
    rows = [[((a * b).sum() + 1) / 2 for b in unit] for a in unit]
    return [[value / sum(row) for value in row] for row in rows]


def pkt_by_loops(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = similarity_probabilities(student), similarity_probabilities(teacher)
    return mean(
        t * torch.log((t + 1e-7) / (s + 1e-7))
        for row, other in zip(theirs, ours, strict=True)
        for t, s in zip(row, other, strict=True)
    )


def embedded(width: int, size: int = BATCH, trained: bool = False) -> Output:
    return output(logits(size=size), embedding=torch.randn(size, width, requires_grad=trained))


def test_pkt_is_the_mean_divergence_of_the_cosines_read_as_probabilities() -> None:
    from kdbench.methods.relations.pkt import similarity_loss

    student, teacher = embedded(3, trained=True), embedded(5)
    raw = pkt_by_loops(student.embedding, teacher.embedding)
    close(similarity_loss(student.embedding, teacher.embedding), raw)
    expected = {"ce": label_term(student, batch()), "transfer": 30000 * BATCH / 64 * raw}
    agree(registry.create("pkt").loss(batch(), student, teacher), expected, [student.logits, student.embedding])


@pytest.mark.parametrize(("name", "term", "weight"), [("sp", "similarity", 3000), ("pkt", "transfer", 30000)])
def test_weights_that_the_paper_ties_to_its_batch_of_64_are_the_papers_there(name: str, term: str, weight: int) -> None:
    student, teacher = (output(logits(size=64), maps((2, 3, 3), size=64), torch.randn(64, 4)) for _ in range(2))
    raw = {"sp": lambda: sp_by_loops(student.features[-1], teacher.features[-1]),
           "pkt": lambda: pkt_by_loops(student.embedding, teacher.embedding)}[name]()  # fmt: skip
    close(registry.create(name).loss(batch(size=64), student, teacher)[term], weight * raw)


@pytest.mark.parametrize(("name", "term"), [("sp", "similarity"), ("pkt", "transfer")])
def test_the_same_weight_means_the_same_at_other_batches(name: str, term: str) -> None:
    ours, theirs = torch.randn(256, 8), torch.randn(256, 8)

    def at(size: int) -> Tensor:
        parts = zip(ours.split(size), theirs.split(size), strict=True)
        pairs = [[output(logits(size=size), [e[:, :, None, None]], e) for e in part] for part in parts]
        return mean(registry.create(name).loss(batch(size=size), *pair)[term] for pair in pairs)

    assert float(at(32) / at(64)) == pytest.approx(1, abs=0.15)
    assert float(at(128) / at(64)) == pytest.approx(1, abs=0.15)


# ---------------------------------------------------------------------------------------------- rkd


def huber(x: Tensor) -> Tensor:
    return x**2 / 2 if x.abs() < 1 else x.abs() - 0.5


def pair_distances(embedding: Tensor) -> list[Tensor]:
    """All B^2 distances over the mean of the positive ones; between two samples at least 1e-6."""
    size = len(embedding)
    lengths = [
        torch.zeros(()) if i == j else ((embedding[i] - embedding[j]) ** 2).sum().clamp(min=1e-12).sqrt()
        for i in range(size)
        for j in range(size)
    ]
    positive = [length for length in lengths if length > 0]
    return [length / (sum(positive) / len(positive)) for length in lengths]


def triple_angles(embedding: Tensor) -> list[Tensor]:
    """All B^3 cosines at sample i; zero where j or k is i."""
    size, found = len(embedding), []
    for i in range(size):
        ways = [embedding[j] - embedding[i] for j in range(size)]
        ways = [way / (way**2).sum().sqrt() if bool(way.any()) else 0 * way for way in ways]
        found += [(ways[j] * ways[k]).sum() for j in range(size) for k in range(size)]
    return found


@pytest.mark.parametrize("twins", [False, True])
def test_rkd_matches_all_distances_and_all_angles_of_the_batch(twins: bool) -> None:
    student, teacher = embedded(3, trained=True), embedded(5)
    if twins:  # two samples that the teacher cannot tell apart
        teacher.embedding[1] = teacher.embedding[0]
    ours, theirs = student.embedding, teacher.embedding
    expected = {"ce": label_term(student, batch())}
    for name, weight, values in (("distance", 25, pair_distances), ("angle", 50, triple_angles)):
        expected[name] = weight * mean(huber(s - t) for s, t in zip(values(ours), values(theirs), strict=True))
    assert len(triple_angles(ours)) == BATCH**3
    agree(registry.create("rkd").loss(batch(), student, teacher), expected, [student.logits, student.embedding])


def test_rkds_weights_multiply_its_terms() -> None:
    student, teacher = embedded(3, trained=True), embedded(5)
    plain = registry.create("rkd").loss(batch(), student, teacher)
    options = {"weight": 2.0, "distance_weight": 50.0, "angle_weight": 25.0}
    terms = registry.create("rkd", options).loss(batch(), student, teacher)
    close(terms["distance"], 4 * plain["distance"])
    close(terms["angle"], plain["angle"])


@pytest.mark.parametrize("name", ["sp", "pkt", "rkd"])
def test_relations_of_one_sample_or_of_equal_ones_are_finite(name: str) -> None:
    for size in (1, 3):
        value = torch.ones(size, 4, 1, 1, requires_grad=True)
        student = output(logits(size=size), [value], value.flatten(1))
        terms = registry.create(name).loss(batch(size=size), student, embedded(5, size) if name != "sp" else student)
        gradient = torch.autograd.grad(total(terms), [student.logits, value], allow_unused=True)[1]
        assert all(term.isfinite() for term in terms.values())
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", ["sp", "pkt", "rkd"])
def test_relations_are_computed_in_full_precision_under_autocast(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    sides = [torch.randn(16, 8) for _ in range(2)]
    student, teacher = (output(logits(size=16).float(), [e[:, :, None, None]], e) for e in sides)
    method, data = registry.create(name), batch(size=16)
    plain = method.loss(data, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = method.loss(data, student, teacher)
    for term in plain.keys() - {"ce"}:
        assert torch.equal(plain[term], cast[term])


# ---------------------------------------------------------------------------------------------- srrl


def test_srrl_fits_the_pooled_map_and_what_the_teachers_classifier_reads_from_it() -> None:
    head = nn.Linear(4, CLASSES)
    method = registry.create("srrl")
    method.build(network((2, 8, 8), (3, 4, 4)), network((5, 8, 8), (4, 2, 2), embedding=4, classifier=head))
    conv, bn, _ = method.transfer
    bn.weight.data.uniform_(0.5, 2)
    bn.bias.data.normal_()
    student = output(features=maps((2, 8, 8), (3, 4, 4), trained=True))
    last = torch.rand(BATCH, 4, 2, 2)
    teacher = output(logits().detach(), [*maps((5, 8, 8)), last], last.mean((2, 3)))
    g = torch.relu(normed(bn, convolved(conv, student.features[-1])))
    pooled = [[g[b, c].sum() / 16 for c in range(4)] for b in range(BATCH)]
    feature = mean((pooled[b][c] - last[b, c].sum() / 4) ** 2 for b in range(BATCH) for c in range(4))
    weight, bias = head.weight.detach(), head.bias.detach()
    read = [[sum(weight[k] * torch.stack(p)) + bias[k] for k in range(CLASSES)] for p in pooled]
    regression = mean((read[b][k] - teacher.logits[b, k]) ** 2 for b in range(BATCH) for k in range(CLASSES))
    expected = {"ce": label_term(student, batch()), "feature": feature, "regression": regression}
    trained = [p for p in method.parameters() if p.requires_grad]
    assert len(trained) == 3  # the classifier is frozen
    agree(method.loss(batch(), student, teacher), expected, [student.logits, student.features[-1], *trained])


# ---------------------------------------------------------------------------------------------- unikd and reviewkd


def gaussian_divergence(m: Tensor, s: Tensor, n: Tensor, t: Tensor) -> Tensor:
    """KL(N(m, e^s) || N(n, e^t)) of one variable."""
    return (t - s + (torch.exp(s) + (m - n) ** 2) / torch.exp(t) - 1) / 2


def test_unikds_closed_form_is_the_divergence_of_the_two_gaussians() -> None:
    from kdbench.methods.features.unikd import gaussian_kl

    tensors = [torch.randn(BATCH, CLASSES, requires_grad=True) for _ in range(4)]
    expected = mean(sum(gaussian_divergence(*(x[b, k] for x in tensors)) for k in range(CLASSES)) for b in range(BATCH))
    agree({"kl": gaussian_kl((tensors[0], tensors[1]), (tensors[2], tensors[3]))}, {"kl": expected}, tensors)
    normals = [torch.distributions.Normal(m, (s / 2).exp()) for m, s in (tensors[:2], tensors[2:])]
    close(expected, torch.distributions.kl_divergence(*normals).sum(1).mean())


def fused(name: str, **options: Any) -> tuple[Any, Output, Output]:
    """A method on pairs of maps, ready to be called."""
    shapes = ((3, 8, 8), (4, 4, 4)), ((5, 8, 8), (6, 4, 4))
    method = registry.create(name, options)
    method.build(network(*shapes[0], embedding=4), network(*shapes[1], embedding=6))
    student = output(features=maps(*shapes[0], trained=True), embedding=torch.randn(BATCH, 4))
    return method, student, output(logits().detach(), maps(*shapes[1]), torch.randn(BATCH, 6))


def test_unikd_may_compare_the_gaussians_themselves() -> None:
    method, student, teacher = fused("unikd", fdp="gaussian_kl")
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
    method, student, teacher = fused("unikd")
    other, *_ = fused("unikd", alpha=2.0, beta=16.0, weight=3.0)
    other.load_state_dict(method.state_dict())
    terms = []
    for each in (method, other):
        each.epoch, each.epochs = 240, 240
        torch.manual_seed(3)
        terms.append(each.loss(batch(), student, teacher))
    for name, factor in {"ce": 1, "logits": 2, "feature": 3, "unify": 3}.items():
        close(terms[1][name], factor * terms[0][name])


def test_unikd_fuses_the_teachers_maps_only_when_asked() -> None:
    plain, *_ = fused("unikd")
    assert not hasattr(plain, "fusion_teacher")
    method, student, teacher = fused("unikd", fuse_teacher=True, fdp="gaussian_kl")
    terms = method.loss(batch(), student, teacher)
    assert method.fusion_teacher(teacher.features, teacher.embedding)[0].shape == teacher.features[0].shape
    gradients = torch.autograd.grad(terms["feature"], list(method.fusion_teacher.parameters()), allow_unused=True)
    assert sum(bool(gradient.any()) for gradient in gradients if gradient is not None) > 3


@pytest.mark.parametrize(("name", "term"), [("reviewkd", "review"), ("unikd", "logits")])
@pytest.mark.parametrize(
    ("epoch", "epochs", "ramp"), [(1, 240, 1 / 20), (7, 240, 7 / 20), (20, 240, 1), (240, 240, 1), (1, 24, 1 / 2)]
)
def test_reviewkd_and_unikd_warm_up_over_20_of_240_epochs(
    name: str, term: str, epoch: int, epochs: int, ramp: float
) -> None:
    method, student, teacher = fused(name)
    method.epoch, method.epochs = epochs, epochs
    torch.manual_seed(3)
    full = method.loss(batch(), student, teacher)
    method.epoch = epoch
    torch.manual_seed(3)
    terms = method.loss(batch(), student, teacher)
    close(terms[term], ramp * full[term])
    assert all(torch.equal(terms[other], full[other]) for other in terms if other != term)


# ---------------------------------------------------------------------------------------------- options of mhkd, sskd


def mhkd(*shapes: Shape, **options: Any) -> tuple[Any, Output, Output]:
    method = registry.create("mhkd", {"width": 4, **options})
    method.build(network(*shapes), network(*shapes))
    return method, output(features=maps(*shapes, trained=True)), output(logits().detach(), maps(*shapes))


def test_mhkds_weights_and_temperature_belong_to_their_terms() -> None:
    shapes, data = ((3, 4, 4), (4, 2, 2)), batch()
    options = {"ce_weight": 0.3, "kd_weight": 0.7, "head_kd_weight": 0.6, "head_ce_weight": 0.4}
    method, student, teacher = mhkd(*shapes, beta=2.0, temperature=3.0, **options)
    terms = method.loss(data, student, teacher)
    ours, theirs = method.heads_student[0](student.features[0]), method.heads_teacher[0](teacher.features[0])
    expected = {
        "ce": 0.3 * label_term(student, data),
        "kd": 0.7 * mean(kl(student.logits[b], teacher.logits[b], 3.0) for b in range(BATCH)),
        "teacher_heads": label_term(output(theirs), data),
        "heads": 2
        * (0.6 * mean(kl(ours[b], theirs[b], 3.0) for b in range(BATCH)) + 0.4 * label_term(output(ours), data)),
    }
    agree(terms, expected, [student.logits, student.features[0], *method.heads_teacher.parameters()])


def test_mhkd_drops_each_head_with_the_given_probability_while_it_trains() -> None:
    shapes = ((3, 4, 4), (4, 2, 2), (5, 2, 2))
    method, student, teacher = mhkd(*shapes, branch_dropout=0.5, include_last=True)
    seen = []
    for _ in range(40):
        gradients = torch.autograd.grad(
            method.loss(batch(), student, teacher)["heads"], student.features, allow_unused=True
        )
        seen.append(tuple(bool(gradient.any()) for gradient in gradients))
    assert len(set(seen)) == 7  # every choice of heads but none
    whole, *_ = mhkd(*shapes, include_last=True)
    whole.load_state_dict(method.state_dict())
    for each in (method, whole):
        each.eval()
    assert torch.equal(*(each.loss(batch(), student, teacher)["heads"] for each in (method, whole)))


def test_mhkd_names_the_network_that_has_no_stage_before_its_last() -> None:
    short, long = network((3, 4, 4)), network((3, 4, 4), (4, 2, 2))
    short.name, long.name = "short", "long"
    for pair in ((short, long), (long, short)):
        with pytest.raises(NotApplicable, match="mhkd needs two stages on both sides, but network 'short' has 1"):
            registry.create("mhkd").build(*pair)


def test_sskds_head_gets_the_share_that_is_asked_for_and_the_stages_the_rest() -> None:
    method = registry.create("sskd", {"head_share": 0.4})
    stages = [frozenset({"a"}), frozenset({"b"}), frozenset({"head"})]
    method.build(network((3, 4, 4), (2, 2, 2), stage_parameters=lambda: stages), network((3, 4, 4), (2, 2, 2)))
    assert [phase.share for phase in method.phases()] == pytest.approx([0.3, 0.3, 0.4])


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_simkds_factor_divides_the_projectors_width(factor: int) -> None:
    method = registry.create("simkd", {"factor": factor})
    method.build(network((3, 4, 4)), network((8, 4, 4), embedding=8, classifier=nn.Linear(8, CLASSES)))
    convolutions = [m for m in method.transfer.modules() if isinstance(m, nn.Conv2d)]
    middle = 8 // factor
    assert [tuple(conv.weight.shape) for conv in convolutions] == [
        (middle, 3, 1, 1), (middle, middle, 3, 3), (8, middle, 1, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cat_kd", {"resolution": 0}),
        ("vid", {"initial_variance": 0.0}),
        ("srrl", {"variant": "mean"}),
        ("unikd", {"fdp": "closed"}),
        ("sskd", {"head_share": 1.0}),
        ("mhkd", {"n_fc": 3}),
    ],
)
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^{name}.*{next(iter(option.values()))}"):
        registry.create(name, option)
