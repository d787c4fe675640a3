"""lshfm, uhkd and semckd: against the authors' code where vectors of it exist, else against loops over samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import goldens
import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
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
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry
from kdbench.method import Network
from kdbench.tasks.image.networks import create
from kdbench.training.cost import deployed_cost


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


# ---------------------------------------------------------------------------------------------- lshfm


def made_lshfm(student: int = 6, teacher: int = 6, **hyperparameters: Any) -> Any:
    method = registry.create("lshfm", {"n_hash": 7, "std": 0.5, **hyperparameters})
    sides = [network(embedding=width, classifier=nn.Linear(width, 4)) for width in (student, teacher)]
    method.build(*sides)
    if "hash_bias" in dict(method.named_buffers()):
        method.hash_bias.copy_(torch.randn(7))
    return method


def mimicry(method: Any, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """One sample's squared distance and binary cross-entropy, from embeddings `[D]`."""
    squares = mean((ours[d] - theirs[d]) ** 2 for d in range(len(ours)))
    bits = []
    for weight, bias in zip(method.hash_weight, method.hash_bias, strict=True):
        h_s, h_t = sum(weight * ours) + bias, sum(weight * theirs) + bias
        probability = 1 / (1 + torch.exp(-h_s))
        bits.append(-torch.log(probability if h_t > 0 else 1 - probability))
    return squares, mean(bits)


@pytest.mark.parametrize("variant", ["l2", "lsh", "lshl2"])
def test_lshfms_variants_are_means_over_all_samples(variant: str) -> None:
    method, hashed = made_lshfm(variant=variant), made_lshfm()
    if variant != "l2":
        hashed = method
    z, ours, theirs, data = logits(), tensor(BATCH, 6), torch.randn(BATCH, 6), batch()
    parts = [mimicry(hashed, ours[i], theirs[i]) for i in range(BATCH)]
    used = {"l2": (0,), "lsh": (1,), "lshl2": (0, 1)}[variant]
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "feature": 6 * mean(sum(part[u] for u in used) for part in parts),
    }
    terms = method.loss(data, output(z, embedding=ours), output(embedding=theirs))
    agree(terms, expected, [z, ours])


def test_lshfm_mimics_where_the_teacher_is_right() -> None:
    method, data = made_lshfm(), batch()
    z, ours, theirs, z_t = logits(), tensor(BATCH, 6), torch.randn(BATCH, 6), logits().detach()
    right = [i for i in range(BATCH) if z_t[i].argmax() == data.targets[i]]
    assert 0 < len(right) < BATCH
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "feature": 6 * mean(sum(mimicry(method, ours[i], theirs[i])) for i in right),
    }
    agree(method.loss(data, output(z, embedding=ours), output(z_t, embedding=theirs)), expected, [z, ours])


def test_lshfm_adds_nothing_where_the_teacher_is_never_right() -> None:
    method, data = made_lshfm(), batch()
    ours = tensor(BATCH, 6)
    wrong = output(F.one_hot((data.targets + 1) % 4, 4).double(), embedding=torch.randn(BATCH, 6))
    feature = method.loss(data, output(embedding=ours), wrong)["feature"]
    assert feature == 0
    assert not torch.autograd.grad(feature, ours)[0].any()


def test_lshfms_labels_and_kl_reach_a_student_of_another_width_through_both_layers() -> None:
    method, data = made_lshfm(student=3, teacher=6, kd_weight=0.5), batch()
    ours, theirs, z_t, unused = tensor(BATCH, 3), torch.randn(BATCH, 6), logits().detach(), logits()
    lifted = [method.feat_fc.weight @ ours[i] + method.feat_fc.bias for i in range(BATCH)]
    z = [method.fc.weight @ f + method.fc.bias for f in lifted]
    right = [i for i in range(BATCH) if z_t[i].argmax() == data.targets[i]]
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "feature": 6 * mean(sum(mimicry(method, lifted[i], theirs[i])) for i in right),
        "kd": 0.5 * mean(kl(z[i], z_t[i], 4.0) for i in range(BATCH)),
    }
    terms = method.loss(data, output(unused, embedding=ours), output(z_t, embedding=theirs))
    agree(terms, expected, [ours, *method.parameters()])
    assert torch.autograd.grad(total(terms), unused, allow_unused=True) == (None,)


class Embeds(nn.Module):
    """A teacher whose embedding is its input."""

    def forward(self, inputs: Tensor) -> Output:
        return output(torch.zeros(len(inputs), 4), embedding=inputs)


def prepared_bias(bias: str, embeddings: Tensor) -> tuple[Any, Tensor]:
    method = made_lshfm(bias=bias)
    method.hash_bias.zero_()
    data: Any = dataset(torch.zeros(len(embeddings), dtype=torch.int64))
    data.whole = Batch(embeddings, data.targets, torch.arange(len(embeddings)))
    method.prepare(data, [Embeds()])
    return method, method.hash_bias


@pytest.mark.parametrize("chunk", [1, 60, 2**24])
def test_lshfms_hyperplanes_halve_the_training_set_however_it_is_cut(monkeypatch: Any, chunk: int) -> None:
    monkeypatch.setattr("kdbench.methods.features.lshfm.CHUNK", chunk)
    embeddings = torch.rand(20, 6) + 1  # an even number, far from the origin
    method, bias = prepared_bias("median", embeddings)
    lower = [-sorted(float(weight @ f) for f in embeddings)[9] for weight in method.hash_weight]
    close(bias, torch.tensor(lower))


def test_lshfms_bias_may_be_the_mean_or_nothing() -> None:
    embeddings = torch.rand(20, 6) + 1
    method, bias = prepared_bias("mean", embeddings)
    close(bias, -method.hash_weight @ embeddings.mean(0))
    assert not prepared_bias("zero", embeddings)[1].any()


def test_lshfm_refuses_to_hold_embeddings_beyond_reason() -> None:
    class Millions:
        def __len__(self) -> int:
            return 10**9

    teacher = Embeds()
    teacher.name = "some"
    with pytest.raises(NotApplicable, match=r"'some'.*'zero'"):
        made_lshfm().prepare(Millions(), [teacher])
    made_lshfm(bias="zero").prepare(Millions(), [teacher])


def test_lshfm_has_32_hashes_a_dimension_up_to_a_cap() -> None:
    def hashes(width: int, **hyperparameters: Any) -> int:
        method = registry.create("lshfm", hyperparameters)
        side = network(embedding=width, classifier=nn.Linear(width, 4))
        method.build(side, side)
        return len(method.hash_bias)

    assert hashes(64) == 2048
    assert hashes(512) == 8192
    assert hashes(512, max_hash=32768) == 16384
    assert hashes(512, n_hash=2048) == 2048


def test_lshfms_hashes_are_as_wide_as_the_teachers_classifiers_weights() -> None:
    classifier = nn.Linear(64, 10)
    classifier.weight.data.mul_(3)
    side = network(embedding=64, classifier=classifier)
    method = registry.create("lshfm")
    method.build(side, side)
    assert method.hash_weight.std().item() == pytest.approx(classifier.weight.std().item(), rel=0.02)


def small(name: str) -> Network:
    return create(name, num_classes=10, in_chans=3, input_size=(3, 16, 16))


def test_lshfm_deploys_a_student_of_the_plain_students_size_and_the_two_layers_logits() -> None:
    student, teacher, plain = small("cifar_resnet8"), small("cifar_resnet8x4"), small("cifar_resnet8")
    method = registry.create("lshfm")
    method.build(student, teacher)
    student.eval()
    images = torch.randn(3, 3, 16, 16)
    deployed = method.deploy(student)
    close(deployed(images).logits, method.fc(method.feat_fc(student(images).embedding)))
    assert deployed_cost(deployed, images[:1]) == deployed_cost(plain, images[:1])


def test_lshfm_merges_its_layers_into_a_classifier_that_is_a_convolution() -> None:
    conv = nn.Conv2d(3, 4, 1)
    student = network(embedding=3, classifier=nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), conv, nn.Flatten(1)))
    method = registry.create("lshfm")
    method.build(student, network(embedding=6, classifier=nn.Linear(6, 4)))
    embedding = torch.randn(5, 3)
    close(method.deploy(student).classifier(embedding), method.fc(method.feat_fc(embedding)))


def test_lshfm_refuses_a_classifier_that_it_cannot_merge_into() -> None:
    student = network(embedding=3, classifier=nn.Linear(3, 4, bias=False))
    with pytest.raises(NotApplicable, match="'some'"):
        registry.create("lshfm").build(student, network(embedding=6, classifier=nn.Linear(6, 4)))


@pytest.mark.parametrize("bad", [{"variant": "l1"}, {"bias": "mode"}, {"n_hash": 0}, {"max_hash": 0}])
def test_lshfm_says_what_it_takes(bad: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match="lshfm"):
        registry.create("lshfm", bad)


# ---------------------------------------------------------------------------------------------- uhkd


def block(x: Tensor, k: int) -> list[Tensor]:
    """The full spectrum of one map `[H, W]` at frequencies of at most k // 2 in both directions, bin by bin."""
    height, width = x.shape
    bins = []
    for u in range(-(height // 2), height - height // 2):
        for v in range(-(width // 2), width - width // 2):
            if (height > k and abs(u) > k // 2) or abs(v) > k // 2:
                continue
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            angle = -2 * math.pi * (u * rows / height + v * columns / width)
            bins.append((x * torch.polar(torch.ones_like(angle), angle)).sum() / math.sqrt(height * width))
    return bins


def compact(x: Tensor, k: int, amplitude: bool) -> Tensor:
    """One sample's map `[C, H, W]` as standardised bins `[C, bins]`."""
    values = torch.stack([torch.stack(block(channel, k)) for channel in x])
    values = values.abs().log1p() if amplitude else values
    values = values - values.mean()
    return values / (values.abs().pow(2).mean() + 1e-6).sqrt()


@pytest.mark.parametrize("amplitude", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (6, 6), (5, 7), (4, 9)])
def test_uhkd_compares_the_low_frequencies_of_the_whole_spectrum(size: tuple[int, int], amplitude: bool) -> None:
    ours, theirs = tensor(BATCH, 2, *size), torch.randn(BATCH, 2, *size)
    method = registry.create("uhkd", {"k": 5, "representation": "amplitude" if amplitude else "complex"})
    found = method.distance(ours, theirs)
    pairs = [[compact(side[i], 5, amplitude) for side in (ours, theirs)] for i in range(BATCH)]
    expected = mean((a - b).abs().pow(2).mean() for a, b in pairs)
    agree({"distance": found}, {"distance": expected}, [ours])


DOMAINS = ("frequency", "space")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 5), (1, 4), (2, 1), (14, 14)])
def test_uhkd_with_all_frequencies_and_as_they_are_is_fitnet_with_its_projector(
    size: tuple[int, int], domain: str
) -> None:
    """Parseval: the orthonormal transform keeps distances; mirrored columns count twice."""
    ours, theirs = tensor(BATCH, 3, *size), torch.randn(BATCH, 3, *size)
    method = registry.create("uhkd", {"k": 15, "standardise": False, "domain": domain})
    expected = {"distance": F.mse_loss(ours, theirs)}
    agree({"distance": method.distance(ours, theirs)}, expected, [ours])


def test_uhkds_amplitudes_do_not_see_where_things_are() -> None:
    theirs = torch.randn(BATCH, 3, 8, 8)
    shifted = theirs.roll((2, 3), (2, 3))
    complex_, amplitude = (registry.create("uhkd", {"k": 9, "representation": r}) for r in ("complex", "amplitude"))
    assert amplitude.distance(shifted, theirs).item() == pytest.approx(0, abs=1e-12)
    assert complex_.distance(shifted, theirs) > 0.5


@pytest.mark.parametrize("domain", DOMAINS)
def test_uhkds_distance_of_unlike_maps_is_two(domain: str) -> None:
    method = registry.create("uhkd", {"domain": domain})
    distance = method.distance(torch.randn(9, 64, 12, 12), 7 + 5 * torch.randn(9, 64, 12, 12))
    assert distance.item() == pytest.approx(2, rel=0.05)


def test_uhkd_is_cross_entropy_kl_and_the_mean_over_its_stages() -> None:
    shapes = ((2, 8, 8), (3, 4, 4), (4, 2, 2)), ((3, 20, 20), (2, 4, 4))
    method = registry.create("uhkd", {"weight": 3.0, "kd_weight": 2.0, "temperature": 2.0})
    method.build(network(*shapes[0]), network(*shapes[1]))
    assert len(method.projectors) == 2
    ours, theirs = [tensor(BATCH, *s) for s in shapes[0]], [torch.randn(BATCH, *s) for s in shapes[1]]
    z, z_t, data = logits(), logits().detach(), batch()
    projected = [project(x) for project, x in zip(method.projectors, ours, strict=False)]
    sides = [
        (F.adaptive_avg_pool2d(projected[0], 14), F.adaptive_avg_pool2d(theirs[0], 14)),
        (projected[1], theirs[1]),
    ]
    costs = []
    for pair in sides:
        samples = [[compact(side[i], 7, amplitude=False) for side in pair] for i in range(BATCH)]
        costs.append(mean((a - b).abs().pow(2).mean() for a, b in samples))
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "kd": 2 * mean(kl(z[i], z_t[i], 2.0) for i in range(BATCH)),
        "feature": 3 * mean(costs),
    }
    agree(method.loss(data, output(z, ours), output(z_t, theirs)), expected, [z, *ours[:2]])


def test_uhkd_takes_the_stages_it_is_given() -> None:
    side = network((2, 8, 8), (3, 4, 4), (4, 2, 2))
    method = registry.create("uhkd", {"stages": [1, 3]})
    method.build(side, side)
    assert method.indices == [0, 2]
    with pytest.raises(NotApplicable, match="'some'"):
        registry.create("uhkd", {"stages": [4]}).build(side, side)


def test_uhkd_sees_a_vits_tokens_as_a_grid() -> None:
    vit = create("test_vit", num_classes=4, in_chans=3, input_size=(3, 64, 64))
    cnn = create("cifar_resnet8", num_classes=4, in_chans=3, input_size=(3, 64, 64))
    assert [shape[1:] for shape in vit.shapes.features] == [(4, 4)] * len(vit.shapes.features)
    method = registry.create("uhkd")
    method.build(cnn, vit)
    inputs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = vit(inputs)
    terms = method.loss(batch(size=2), cnn(inputs), theirs)
    assert all(term.isfinite() for term in terms.values())


def test_uhkds_flat_maps_have_finite_gradients() -> None:
    ours = torch.ones(2, 3, 8, 8).requires_grad_()
    method = registry.create("uhkd", {"representation": "amplitude"})
    gradient = torch.autograd.grad(method.distance(ours, torch.zeros(2, 3, 8, 8)), ours)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [{"representation": "phase"}, {"domain": "time"}, {"k": 6}, {"k": -1}])
def test_uhkd_says_what_it_takes(bad: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match="uhkd"):
        registry.create("uhkd", bad)


# ---------------------------------------------------------------------------------------------- semckd


def made_semckd(student: Sequence[Tensor], teacher: Sequence[Tensor], batch_size: int = 8, **options: Any) -> Any:
    method = registry.create("semckd", options)
    method.build(goldens.network(student), goldens.network(teacher))
    method.prepare(dataset(torch.zeros(2 * batch_size, dtype=torch.int64)[:batch_size]), [])
    return method


def test_semckd_agrees_with_the_authors_later_code_in_value_and_gradient() -> None:
    golden = goldens.load("semckd_simkdrepo")
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(n)] for side, n in (("s", 2), ("t", 3)))
    goldens.require(*ours)
    method = made_semckd(ours, theirs)
    modules: dict[str, nn.Module] = {}
    for kind, embeds in (("query", method.queries), ("key", method.keys)):
        for k, embed in enumerate(embeds):  # the official module holds its two layers under two names each
            own = {f"param__{kind}_{k}.{name}" for name in embed.state_dict()}
            goldens.load_parameters(embed, {name: golden[name] for name in own}, f"{kind}_{k}.")
            modules[f"{kind}_{k}."] = embed
    for i, row in enumerate(method.projections):
        for j, project in enumerate(row):
            modules[f"regressor{i}{j}.regressor."] = project
            goldens.load_parameters(project, golden, f"regressor{i}{j}.regressor.")
    goldens.close(method.attention(ours, theirs), golden["out_attention"])
    terms = method.loss(goldens.batch(), goldens.output(features=ours), goldens.output(features=theirs))
    loss = terms["semantic"] / 400
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {f"feat_s_{k}": f for k, f in enumerate(ours)}, modules, golden)


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


@pytest.mark.parametrize("size", [8, 3, 2])
def test_semckd_reads_a_last_batch_with_zeros_for_the_missing_samples(size: int) -> None:
    ours = [tensor(size, 2, 4, 4), tensor(size, 3, 2, 2)]
    theirs = [torch.randn(size, 2, 4, 4), torch.randn(size, 3, 4, 4)]
    method = made_semckd(ours, theirs, weight=2.0)
    z, z_t, data = logits(size=size), logits(size=size).detach(), batch(size=size)

    def embedded(embed: Any, feature: Tensor, b: int) -> Tensor:
        row = torch.stack([(feature[b] * feature[c]).sum() for c in range(size)] + [torch.zeros(())] * (8 - size))
        return unit(embed.linear2(torch.relu(embed.linear1(row))))

    costs = []
    for i, (query, ours_i) in enumerate(zip(method.queries, ours, strict=True)):
        projected = [method.projections[i][j](pooled(ours_i, theirs[j])) for j in range(2)]
        for b in range(size):
            q = embedded(query, ours_i, b)
            scores = [torch.exp(q @ embedded(method.keys[j], theirs[j], b)) for j in range(2)]
            for j in range(2):
                distance = (projected[j][b] - pooled(theirs[j], ours_i)[b]).pow(2).mean()
                costs.append(scores[j] / sum(scores) * distance)
    expected = {
        "ce": mean(cross_entropy(z[b], int(data.targets[b])) for b in range(size)),
        "kd": mean(kl(z[b], z_t[b], 4.0) for b in range(size)),
        "semantic": 2 * sum(costs, torch.zeros(())) / (size * 2),
    }
    terms = method.loss(data, output(z, ours), output(z_t, theirs))
    agree(terms, expected, [z, *ours, *method.parameters()])


def pooled(x: Tensor, other: Tensor) -> Tensor:
    """A map at the smaller of two sizes."""
    return F.adaptive_avg_pool2d(x, min(x.shape[2], other.shape[2]))


def test_semckds_attention_is_a_distribution_over_the_teachers_stages() -> None:
    ours, theirs = [torch.randn(5, 2, 4, 4)], [torch.randn(5, c, 4, 4) for c in (2, 3, 4)]
    attention = made_semckd(ours, theirs, batch_size=5).attention(ours, theirs)
    assert attention.shape == (5, 1, 3)
    close(attention.sum(2), torch.ones(5, 1))


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_semckds_embeddings_are_as_wide_as_the_training_sets_batches(batch_size: int) -> None:
    feature = torch.randn(batch_size, 2, 4, 4)
    method = made_semckd([feature], [feature], batch_size)
    assert method.queries[0].linear1.weight.shape == (2 * max(batch_size // 4, 1), batch_size)


def test_semckds_kl_can_be_left_out() -> None:
    feature = torch.randn(BATCH, 2, 4, 4)
    method = made_semckd([feature], [feature], kd_weight=0.0)
    assert method.loss(batch(), output(features=[feature]), output(features=[feature]))["kd"] == 0
