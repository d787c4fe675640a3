"""lshfm mimics the teacher's embedding through hyperplanes and squares, where the teacher is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.loops import (
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


@pytest.mark.equation
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


@pytest.mark.equation
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


@pytest.mark.equation
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


def test_lshfm_has_32_hashes_a_dimension_up_to_the_memory_that_is_named_for_them() -> None:
    def hashes(width: int, **hyperparameters: Any) -> int:
        method = registry.create("lshfm", hyperparameters)
        side = network(embedding=width, classifier=nn.Linear(width, 4))
        method.build(side, side)
        return len(method.hash_bias)

    assert hashes(64) == 2048
    assert hashes(512) == 16384
    assert hashes(64, max_hash_mb=0.25) == 2**16 // 65
    assert hashes(64, max_hash_mb=0.25, n_hash=2048) == 2048
    assert hashes(64, max_hash_mb=1e-9) == 1
    # D of a ResNet-50, of VGG's two linear layers, and one that passes the default
    assert [registry.create("lshfm").hashes(width) for width in (2048, 4000, 8192)] == [65536, 128000, 65528]


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


@pytest.mark.parametrize(
    "bad", [{"variant": "l1"}, {"bias": "mode"}, {"n_hash": 0}, {"max_hash_mb": 0}, {"max_hash_mb": -1.0}]
)
def test_lshfm_says_what_it_takes(bad: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match="lshfm"):
        registry.create("lshfm", bad)
