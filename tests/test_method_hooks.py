"""What methods do around their equations: heads, updates, preparation, deployment, options, precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loops import (
    BATCH,
    CLASSES,
    Whole,
    batch,
    close,
    cross_entropy,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mutual_by_loops,
    network,
    output,
    probabilities,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry

# ---------------------------------------------------------------------------------------------- mutual


class Linears:
    """Two linear students behind the interface of one update."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.students = [nn.Linear(3, CLASSES) for _ in range(2)]
        data = batch()
        self.batch = Batch(torch.randn(BATCH, 3), data.targets, data.indices)
        self.teacher_outputs: list[Output] = []
        self.optimizer = torch.optim.SGD([p for s in self.students for p in s.parameters()], lr=0.5)

    def forward(self, student: int = 0) -> Output:
        return output(self.students[student](self.batch.inputs).to(torch.get_default_dtype()))

    def update(self, terms: Mapping[str, Tensor]) -> None:
        with torch.autocast("cpu", enabled=False):
            self.optimizer.zero_grad()
            total(terms).backward()
            self.optimizer.step()

    def weights(self) -> list[Tensor]:
        return [student.weight.detach().clone() for student in self.students]


def test_dmls_sequential_update_lets_the_second_student_see_the_first_ones_update() -> None:
    sequential, by_hand = Linears(), Linears()
    registry.create("dml", {"update": "sequential"}).step(sequential)
    for i in range(2):
        outputs = [by_hand.forward(j) for j in range(2)]
        by_hand.update(dict(zip("ab", mutual_by_loops(outputs, by_hand.batch, i, 1.0), strict=True)))
    for one, other in zip(sequential.weights(), by_hand.weights(), strict=True):
        close(one, other)
    simultaneous = Linears()
    registry.create("dml").step(simultaneous)
    assert not torch.allclose(simultaneous.weights()[1], sequential.weights()[1])
    close(simultaneous.weights()[0], sequential.weights()[0])


def test_dmls_sequential_update_sees_the_update_under_autocast_too() -> None:
    torch.set_default_dtype(torch.float32)
    once, apart = Linears(), Linears()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        registry.create("dml", {"update": "sequential"}).step(once)
    for i in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = [apart.forward(j) for j in range(2)]
            terms = registry.create("dml").loss(apart.batch, outputs, None)
        apart.update({name: terms[name] for name in (f"ce_{i}", f"mutual_{i}")})
    for one, other in zip(once.weights(), apart.weights(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["dml", "peer_mutual"])
def test_mutual_methods_deploy_the_first_student_or_the_mean_of_the_students_probabilities(name: str) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = logits()

        def forward(self, inputs: Tensor) -> Output:
            return output(self.z)

    networks = [Fixed() for _ in registry.create(name).members()]
    assert registry.create(name).deployed(networks) is networks[0]
    ensemble = registry.create(name, {"deployment": "ensemble"}).deployed(networks)(torch.zeros(BATCH, 1))
    for i in range(BATCH):
        first, second = (probabilities(each.z[i]) for each in networks[:2])  # never the online teacher
        close(ensemble[i], torch.stack([torch.log((p + q) / 2) for p, q in zip(first, second, strict=True)]))


# ---------------------------------------------------------------------------------------------- mhkd


MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


def mhkd(**hyperparameters: Any) -> tuple[Any, Output, Output]:
    method = registry.create("mhkd", {"width": 4, **hyperparameters})
    method.build(network(*MAPS), network(*MAPS))
    student = output(features=[torch.randn(BATCH, *shape, requires_grad=True) for shape in MAPS])
    return method, student, output(logits().detach(), [torch.randn(BATCH, *shape) for shape in MAPS])


def test_mhkd_without_its_heads_is_kd_to_the_bit() -> None:
    method, student, teacher = mhkd(beta=0.0)
    terms = method.loss(batch(), student, teacher)
    kd = registry.create("kd").loss(batch(), student, teacher)
    assert terms["heads"] == 0
    assert all(torch.equal(terms[name], term) for name, term in kd.items())
    wanted = [student.logits, *student.features]
    found = torch.autograd.grad(total(terms), wanted, allow_unused=True)
    assert torch.equal(found[0], torch.autograd.grad(total(kd), student.logits)[0])
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


def test_mhkds_teacher_heads_learn_from_labels_only() -> None:
    method, student, teacher = mhkd()
    terms = method.loss(batch(), student, teacher)
    heads = list(method.heads_teacher.parameters())
    from_labels = torch.autograd.grad(terms["teacher_heads"], heads, retain_graph=True)
    for one, other in zip(torch.autograd.grad(total(terms), heads), from_labels, strict=True):
        assert torch.equal(one, other)


def test_mhkd_puts_heads_on_all_stages_but_the_last_unless_asked() -> None:
    assert len(mhkd()[0].heads_student) == 2
    assert len(mhkd(include_last=True)[0].heads_student) == 3


def test_mhkds_heads_may_imitate_the_teachers_final_logits() -> None:
    method, student, teacher = mhkd(target="t_logits")
    assert not hasattr(method, "heads_teacher")
    terms = method.loss(batch(), student, teacher)
    assert terms.keys() == {"ce", "kd", "heads"}
    expected = torch.zeros(())
    for head, feature in zip(method.heads_student, student.features, strict=False):
        z = head(feature)
        for i in range(BATCH):
            expected = expected + 0.9 * kl(z[i], teacher.logits[i], 4.0) / BATCH
            expected = expected + 0.1 * cross_entropy(z[i], int(batch().targets[i])) / BATCH
    close(terms["heads"], 0.5 * expected)


def test_mhkd_keeps_the_first_head_when_all_are_dropped() -> None:
    method, student, teacher = mhkd(branch_dropout=1.0)
    terms = method.loss(batch(), student, teacher)
    gradients = torch.autograd.grad(terms["heads"], student.features, allow_unused=True)
    reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
    assert reached == [True, False, False]


def test_mhkd_pools_large_maps_before_a_head_only_when_asked() -> None:
    method, student, _ = mhkd(head_pool=4)
    plain, *_ = mhkd()
    plain.load_state_dict(method.state_dict())
    pooled = F.avg_pool2d(student.features[0], 2)
    close(method.heads_student[0](student.features[0]), plain.heads_student[0](pooled))


class MapTeacher(nn.Module):
    """A teacher whose maps show the class plainly."""

    def forward(self, inputs: Tensor) -> Output:
        patterns = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float32)
        shown = patterns[inputs[:, 0].long()].to(inputs.dtype)
        maps = [shown[:, :c, None, None].expand(-1, -1, 4, 4) for c in (3, 4, 5)]
        return Output(torch.zeros(len(inputs), CLASSES), shown, tuple(maps))


@pytest.mark.parametrize("mode", ["pretrained", "pretrained_fixed"])
@pytest.mark.parametrize("autocast", [False, True])
def test_mhkd_pretrains_the_teachers_heads_on_a_set_sorted_by_class(mode: str, autocast: bool) -> None:
    torch.set_default_dtype(torch.float32)
    method, _, _ = mhkd(teacher_heads=mode, width=8)
    targets = torch.arange(64) // 16
    data = Whole(Batch(targets[:, None].float(), targets, torch.arange(64)))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        method.prepare(data, [MapTeacher()])
    method.eval()
    shown = MapTeacher()(data.whole.inputs)
    for k, head in enumerate(method.heads_teacher):
        assert (head(shown.features[k]).argmax(1) == targets).float().mean() > 0.9
    assert all(p.grad is None and p.requires_grad == (mode == "pretrained") for p in method.heads_teacher.parameters())
    assert all(p.requires_grad for p in method.heads_student.parameters())


def test_mhkds_fixed_teacher_heads_neither_learn_nor_move_their_statistics() -> None:
    method, student, teacher = mhkd(teacher_heads="pretrained_fixed")
    method.heads_teacher.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in method.heads_teacher.state_dict().items()}
    assert "teacher_heads" not in method.loss(batch(), student, teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.heads_teacher.state_dict().items())


# ---------------------------------------------------------------------------------------------- reused classifiers


@pytest.mark.parametrize("name", ["simkd", "camkd"])
def test_a_teacher_whose_classifier_does_not_read_the_pooled_map_is_refused(name: str) -> None:
    z = logits(size=8)

    def unpooled(inputs: Tensor) -> Output:
        return output(z[: len(inputs)], [torch.ones(len(inputs), 3, 2, 2)], embedding=torch.zeros(len(inputs), 3))

    unpooled.name = "a_vit"  # type: ignore[attr-defined]
    method = registry.create(name)
    with pytest.raises(NotApplicable, match="classifier on the pooled last map, which 'a_vit' has not"):
        method.prepare(dataset(torch.arange(8) % CLASSES), [unpooled])


# ---------------------------------------------------------------------------------------------- connectors and options


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((3, 12), (6, 12)), ((3, 12), (6, 6)), ((3, 6), (6, 12)), ((3, 7), (6, 5)), ((3, 2), (6, 12)), ((3,), (6,))],
    ids=["same", "down", "up", "valid", "much smaller", "no space"],
)
def test_fitnet_fits_features_with_one_spatial_axis_or_none(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    method = registry.create("fitnet", {"stage": 1})
    method.build(network(ours), network(theirs))
    student = torch.randn(BATCH, *ours, requires_grad=True)
    terms = method.loss(batch(), output(features=[student]), output(features=[torch.randn(BATCH, *theirs)]))
    gradients = torch.autograd.grad(terms["feature"], [student, *method.parameters()])
    assert all(gradient.isfinite().all() and gradient.shape for gradient in gradients)


def test_fitnet_says_which_network_lacks_the_hints_stage() -> None:
    with pytest.raises(NotApplicable, match="fitnet's stage is 3, but network 'some' has 1 stages"):
        registry.create("fitnet", {"stage": 3}).build(network((3, 4, 4)), network((3, 4, 4)))


def test_at_pairs_stages_from_the_shallowest_on_where_their_numbers_differ() -> None:
    maps = [torch.rand(BATCH, 3, size, size) for size in (8, 4, 2)]
    at = registry.create("at")
    longer = at.loss(batch(), output(features=maps), output(features=[m.flip(0) for m in maps[:2]]))
    equal = at.loss(batch(), output(features=maps[:2]), output(features=[m.flip(0) for m in maps[:2]]))
    close(longer["attention"], equal["attention"])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("dml", {"n_students": 1}),
        ("dml", {"update": "both"}),
        ("peer_mutual", {"teacher_mode": "offline"}),
        ("camkd", {"kd_scale": "half"}),
        ("mhkd", {"target": "labels"}),
        ("mhkd", {"teacher_heads": "none"}),
    ],
)
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(name: str, option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^{name}.*{next(iter(option.values()))}"):
        registry.create(name, option)


def _bf16(make: Callable[[], tuple[Any, Any, Any]]) -> dict[str, Tensor]:
    method, student, teacher = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return method.loss(batch(), student, teacher)


def _maps(name: str) -> tuple[Any, Any, Any]:
    torch.set_default_dtype(torch.float32)
    shape = (4, 4, 4)
    side = network(shape, shape, embedding=4, classifier=nn.Linear(4, CLASSES))
    method = registry.create(name, {"width": 8} if name == "mhkd" else {})
    many = name == "camkd"
    method.build(side, [side, side] if many else side)
    method.epoch = 2
    student, teacher = (output(logits(), [torch.randn(BATCH, *shape).bfloat16() for _ in range(2)]) for _ in range(2))
    return method, student, [teacher, teacher] if many else teacher


@pytest.mark.parametrize("name", ["fitnet", "at", "simkd", "camkd", "mhkd"])
def test_losses_on_bfloat16_maps_are_float32_and_finite(name: str) -> None:
    for term in _bf16(lambda: _maps(name)).values():
        assert term.dtype == torch.float32
        assert term.isfinite()
