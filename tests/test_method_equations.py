"""Methods without golden vectors against their papers' equations, written again as plain loops over samples.

All in float64: values, and gradients by autograd through the loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    dataset,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    mutual_by_loops,
    network,
    output,
    probabilities,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, NotApplicable, Output, registry
from kdbench.tasks.image.networks import create

# ---------------------------------------------------------------------------------------------- student


def test_student_is_cross_entropy_with_smoothed_labels() -> None:
    z, data = logits(), batch()

    def smoothed(i: int) -> Tensor:
        log_p = [torch.log(p) for p in probabilities(z[i])]
        return -0.9 * log_p[int(data.targets[i])] - 0.1 * mean(log_p)

    terms = registry.create("student", {"label_smoothing": 0.1}).loss(data, output(z), None)
    agree(terms, {"ce": mean(smoothed(i) for i in range(BATCH))}, [z])


# ---------------------------------------------------------------------------------------------- dkd


def decoupled(student: Tensor, teacher: Tensor, target: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Equation 7 of the paper for one sample: b = (p_t, 1 - p_t), p-hat = softmax over the other classes."""
    ours, theirs = probabilities(student, temperature), probabilities(teacher, temperature)
    binary = divergence(*([p[target], sum(p[:target] + p[target + 1 :])] for p in (theirs, ours)))
    others = [torch.cat([z[:target], z[target + 1 :]]) for z in (teacher, student)]
    rest = divergence(*(probabilities(z, temperature) for z in others))
    return temperature**2 * binary, temperature**2 * rest


def test_dkd_is_the_papers_equation() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    method = registry.create("dkd")
    method.epoch, method.epochs = 240, 240
    parts = [decoupled(z[i], teacher[i], int(data.targets[i]), 4.0) for i in range(BATCH)]
    expected = {
        "ce": mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)),
        "tckd": mean(part[0] for part in parts),
        "nckd": 8 * mean(part[1] for part in parts),
    }
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def test_dkd_with_equal_weights_of_the_classical_form_is_kd() -> None:
    """KD = TCKD + (1 - p_t of the teacher) NCKD, for each sample."""
    z, teacher = logits(size=1), logits(size=1).detach()
    data = batch(size=1)
    method = registry.create("dkd", {"beta": 1.0})
    terms = method.loss(data, output(z), output(teacher))
    share = 1 - F.softmax(teacher / 4, dim=1)[0, data.targets[0]]
    close(terms["tckd"] + share * terms["nckd"], kl(z[0], teacher[0], 4.0))


def test_dkds_second_term_masks_the_target_with_minus_1000_as_mdistiller_does() -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    mask = 1000.0 * F.one_hot(data.targets, CLASSES)
    target = F.softmax(teacher / 4 - mask, dim=1)
    expected = F.kl_div(F.log_softmax(z / 4 - mask, dim=1), target, reduction="sum") * 16 / BATCH
    close(registry.create("dkd").loss(data, output(z), output(teacher))["nckd"], 8 * expected)


@pytest.mark.parametrize("epoch", [1, 7, 19, 20, 21, 240])
def test_dkd_warms_up_as_the_paper_does_over_240_epochs(epoch: int) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    method = registry.create("dkd")
    full = method.loss(data, output(z), output(teacher))
    method.epoch, method.epochs = epoch, 240
    terms = method.loss(data, output(z), output(teacher))
    ramp = min(epoch / 20, 1.0)
    assert torch.equal(terms["ce"], full["ce"])
    close(terms["tckd"], ramp * full["tckd"])
    close(terms["nckd"], ramp * full["nckd"])


def test_dkd_with_two_classes_has_nothing_within_the_rest_and_finite_gradients() -> None:
    z, teacher, data = logits(2), logits(2).detach(), batch(2)
    terms = registry.create("dkd").loss(data, output(z), output(teacher))
    assert terms["nckd"] == 0
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_dkd_stays_finite_for_very_confident_networks() -> None:
    z = (500 * torch.eye(CLASSES, dtype=torch.float32)).requires_grad_()
    teacher = 500 * torch.eye(CLASSES, dtype=torch.float32).flip(0)
    terms = registry.create("dkd").loss(batch(size=CLASSES), output(z), output(teacher))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


# ---------------------------------------------------------------------------------------------- crd


SAMPLES, WIDTH, TAU = 12, 6, 0.07


def crd(**hyperparameters: Any) -> Any:
    method = registry.create("crd", {"width": WIDTH, "negatives": 7, **hyperparameters})
    method.build(network(embedding=3), network(embedding=5))
    method.prepare(dataset(torch.arange(SAMPLES) % CLASSES), [])
    return method


def unit(linear: nn.Linear, embedding: Tensor) -> list[Tensor]:
    """The linear embedding of one sample on the unit sphere."""
    projected = [sum(linear.weight[d] * embedding) + linear.bias[d] for d in range(WIDTH)]
    length = torch.sqrt(sum(value**2 for value in projected))
    return [value / length for value in projected]


def half(linear: nn.Linear, embedding: Tensor, bank: Tensor, chosen: Tensor, z: float | None) -> tuple[Tensor, float]:
    """One anchor's side of RepDistiller's ContrastLoss, and its normalisation constant."""
    count, noise = chosen.shape[1] - 1, (chosen.shape[1] - 1) / SAMPLES
    rows = [
        [torch.exp(sum(v * m for v, m in zip(unit(linear, embedding[i]), bank[n], strict=True)) / TAU) for n in row]
        for i, row in enumerate(chosen)
    ]
    if z is None:
        z = sum(float(score.detach()) for row in rows for score in row) / (BATCH * (count + 1)) * SAMPLES
    loss = torch.zeros(())
    for row in rows:
        positive, *negatives = [score / z for score in row]
        loss = loss - torch.log(positive / (positive + noise + 1e-7))
        for negative in negatives:
            loss = loss - torch.log(noise / (negative + noise + 1e-7))
    return loss / BATCH, z


def test_crd_is_the_two_sided_nce_of_the_official_code_with_z_of_the_first_batch() -> None:
    method = crd()
    constants: list[float | None] = [None, None]
    for seed in range(2):  # the second batch meets moved banks and the first batch's constants
        ours, theirs = torch.randn(BATCH, 3, requires_grad=True), torch.randn(BATCH, 5)
        chosen = torch.stack([torch.randperm(SAMPLES)[:8] for _ in range(BATCH)])
        chosen[:, 0] = torch.arange(BATCH) + 3 * seed
        student_bank, teacher_bank = method.bank_student.clone(), method.bank_teacher.clone()
        left, constants[0] = half(method.embed_student, ours, teacher_bank, chosen, constants[0])
        right, constants[1] = half(method.embed_teacher, theirs, student_bank, chosen, constants[1])
        loss = method.contrast(ours, theirs, chosen)
        agree({"contrast": loss}, {"contrast": left + right}, [ours, *method.parameters()])


def test_crds_loss_weighs_the_contrast_by_0_8_and_adds_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    method, z, data = crd(), logits(), batch()
    monkeypatch.setattr(method, "contrast", lambda *_: torch.tensor(10.0))
    terms = method.loss(data, output(z, embedding=torch.randn(BATCH, 3)), output(embedding=torch.randn(BATCH, 5)))
    assert terms["contrast"] == 8.0
    close(terms["ce"], mean(cross_entropy(z[i], int(data.targets[i])) for i in range(BATCH)))


def test_crds_banks_move_by_momentum_onto_the_unit_sphere_after_the_loss() -> None:
    method = crd()
    before = {side: getattr(method, f"bank_{side}").clone() for side in ("student", "teacher")}
    embeddings = {"student": torch.randn(2, 3), "teacher": torch.randn(2, 5)}
    seen = [4, 9]
    chosen = torch.tensor([[4, 1, 2], [9, 0, 3]])
    method.contrast(embeddings["student"], embeddings["teacher"], chosen)
    for side, bank in before.items():
        for i, n in enumerate(seen):
            new = unit(getattr(method, f"embed_{side}"), embeddings[side][i])
            mixed = [0.5 * old + 0.5 * value for old, value in zip(bank[n], new, strict=True)]
            length = torch.sqrt(sum(value**2 for value in mixed))
            bank[n] = torch.stack([value / length for value in mixed]).detach()
        close(getattr(method, f"bank_{side}"), bank)  # and the others stay


def test_crds_banks_begin_uniform_within_the_official_bounds() -> None:
    bound = 1 / math.sqrt(WIDTH / 3)
    for bank in (crd().bank_student, crd().bank_teacher):
        assert bank.shape == (SAMPLES, WIDTH)
        assert bank.abs().max() <= bound
        assert bank.abs().max() > 0.8 * bound
        assert bank.min() < 0


def drawn(labels: Tensor, targets: Tensor, count: int) -> Tensor:
    from kdbench.methods.relations.crd import draw_negatives

    chosen = draw_negatives(targets, labels, count)
    assert chosen.shape == (len(targets), count)
    assert (labels[chosen] != targets[:, None]).all()
    return chosen


def test_crds_negatives_are_distinct_while_there_are_enough_samples_of_other_classes() -> None:
    labels = torch.arange(12) % 4
    for row in drawn(labels, torch.tensor([0, 1, 2, 3, 0]), 9):
        assert len(set(row.tolist())) == 9


def test_crds_negatives_repeat_where_there_are_too_few_others() -> None:
    drawn(torch.arange(12) % 2, torch.tensor([0, 1, 1]), 50)


def test_crd_decides_class_by_class_whether_negatives_repeat() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3)
    rare, frequent = drawn(labels, torch.tensor([1, 0]), 5)  # 9 others, 3 others
    assert len(set(rare.tolist())) == 5
    assert set(frequent.tolist()) <= {9, 10, 11}


def test_crds_negatives_are_uniform_over_the_others() -> None:
    labels = torch.arange(8) % 4
    for count in (3, 20):  # without and with replacement
        chosen = drawn(labels, torch.zeros(4000, dtype=torch.int64), count)
        shares = torch.bincount(chosen.flatten(), minlength=8) / chosen.numel()
        torch.testing.assert_close(shares[labels != 0], torch.full((6,), 1 / 6), atol=0.01, rtol=0)


# ---------------------------------------------------------------------------------------------- camkd


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


# ---------------------------------------------------------------------------------------------- sskd


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


# ---------------------------------------------------------------------------------------------- mutual


@pytest.mark.parametrize("n_students", [2, 3])
def test_dml_is_cross_entropy_and_the_mean_divergence_from_the_peers(n_students: int) -> None:
    method = registry.create("dml", {"n_students": n_students})
    students, data = [output() for _ in range(n_students)], batch()
    expected = {}
    for i in range(n_students):
        expected[f"ce_{i}"], expected[f"mutual_{i}"] = mutual_by_loops(students, data, i, 1.0)
    assert method.members() == ("student",) * n_students
    agree(method.loss(data, students, None), expected, [student.logits for student in students])


def test_peer_mutual_adds_the_teacher_to_each_student_and_only_labels_to_the_teacher() -> None:
    method = registry.create("peer_mutual")
    assert method.members() == ("student", "student", "teacher")
    assert not method.uses_teacher
    members, data = [output() for _ in range(3)], batch()
    expected = {"ce_teacher": mean(cross_entropy(members[2].logits[n], int(data.targets[n])) for n in range(BATCH))}
    for i in range(2):
        ce, mutual = mutual_by_loops(members[:2], data, i, 2.0)
        kd = mean(kl(members[i].logits[n], members[2].logits[n], 2.0) for n in range(BATCH))
        expected |= {f"ce_{i}": 0.1 * ce, f"kd_{i}": 0.45 * kd, f"mutual_{i}": 0.45 * mutual}
    agree(method.loss(data, members, None), expected, [member.logits for member in members])


def test_peer_mutual_with_a_pretrained_teacher_asks_for_it_and_trains_only_students() -> None:
    method = registry.create("peer_mutual", {"teacher_mode": "pretrained"})
    assert method.uses_teacher
    assert method.members() == ("student", "student")
    assert not registry.create("peer_mutual").uses_teacher  # a property of the object, not of the class
    terms = method.loss(batch(), [output(), output()], output(logits().detach()))
    assert terms.keys() == {"ce_0", "kd_0", "mutual_0", "ce_1", "kd_1", "mutual_1"}


def test_peer_mutual_without_peers_is_kd() -> None:
    options = {"teacher_mode": "pretrained", "mutual_weight": 0.0, "kd_weight": 0.9, "temperature": 4.0}
    students, teacher, data = [output(), output()], output(logits().detach()), batch()
    terms = registry.create("peer_mutual", options).loss(data, students, teacher)
    kd = registry.create("kd")
    for i, student in enumerate(students):
        alone = sum(kd.loss(data, student, teacher).values())
        close(sum(term for name, term in terms.items() if name.endswith(f"_{i}")), alone)
        close(*(torch.autograd.grad(loss, student.logits)[0] for loss in (total(terms), alone)))


def test_peer_mutual_without_a_teacher_is_dml() -> None:
    options = {"ce_weight": 1.0, "kd_weight": 0.0, "mutual_weight": 1.0, "temperature": 1.0, "n_students": 3}
    members, data = [output() for _ in range(4)], batch()
    terms = registry.create("peer_mutual", options).loss(data, members, None)
    dml = registry.create("dml", {"n_students": 3}).loss(data, members[:3], None)
    assert all(torch.equal(terms[name], term) for name, term in dml.items())
    ours, theirs = (torch.autograd.grad(total(each), [m.logits for m in members[:3]]) for each in (terms, dml))
    for one, other in zip(ours, theirs, strict=True):
        close(one, other)
