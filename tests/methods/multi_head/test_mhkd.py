"""mhkd's heads agree with the first author's code, and each option does what its name says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    Shape,
    Whole,
    agree,
    batch,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    maps,
    mean,
    network,
    output,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, NotApplicable, Output, registry

MAPS = ((3, 8, 8), (4, 4, 4), (5, 2, 2))


def mhkd(shapes: Sequence[Shape] = MAPS, **hyperparameters: Any) -> tuple[Any, Output, Output]:
    method = registry.create("mhkd", {"width": 4, **hyperparameters})
    method.build(network(*shapes), network(*shapes))
    return method, output(features=maps(*shapes, trained=True)), output(logits().detach(), maps(*shapes))


@pytest.mark.equation
@pytest.mark.parametrize("n_fc", [1, 2])
def test_mhkd_agrees_with_the_first_authors_code_in_value_and_gradient(n_fc: int) -> None:
    golden = goldens.load("mhkd")
    name = f"nfc{n_fc}"
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(3)] for side in "st")
    goldens.require(golden["logits_s"], *ours)
    method = registry.create("mhkd", {"n_fc": n_fc, "width": 16, "include_last": True})
    method.build(goldens.network(ours), goldens.network(theirs))
    method.double()
    goldens.load_parameters(method.heads_student, golden, f"{name}_s.")
    goldens.load_parameters(method.heads_teacher, golden, f"{name}_t.")
    student, teacher = goldens.output(golden["logits_s"], ours), goldens.output(golden["logits_t"], theirs)
    terms = method.loss(goldens.batch(golden["target"]), student, teacher)
    goldens.close(terms["ce"] + terms["kd"], golden[f"loss_{name}_final"])
    goldens.close(terms["heads"] / 0.5, golden[f"loss_{name}_heads"])
    goldens.close(terms["teacher_heads"], golden[f"loss_{name}_teacher_heads_ce"])
    total = sum(terms.values())
    goldens.close(total, golden[f"loss_{name}_total"])
    inputs = {f"{name}_feat_s_{k}": feature for k, feature in enumerate(ours)}
    inputs[f"{name}_logits_s"] = golden["logits_s"]
    modules = {f"{name}_s.": method.heads_student, f"{name}_t.": method.heads_teacher}
    goldens.gradients_agree(total, inputs, modules, golden)


@pytest.mark.equation
def test_mhkds_weights_and_temperature_belong_to_their_terms() -> None:
    shapes, data = ((3, 4, 4), (4, 2, 2)), batch()
    options = {"ce_weight": 0.3, "kd_weight": 0.7, "head_kd_weight": 0.6, "head_ce_weight": 0.4}
    method, student, teacher = mhkd(shapes, beta=2.0, temperature=3.0, **options)
    terms = method.loss(data, student, teacher)
    ours, theirs = method.heads_student[0](student.features[0]), method.heads_teacher[0](teacher.features[0])
    expected = {
        "ce": 0.3 * labels(student.logits, data),
        "kd": 0.7 * mean(kl(student.logits[b], teacher.logits[b], 3.0) for b in range(BATCH)),
        "teacher_heads": labels(theirs, data),
        "heads": 2 * (0.6 * mean(kl(ours[b], theirs[b], 3.0) for b in range(BATCH)) + 0.4 * labels(ours, data)),
    }
    agree(terms, expected, [student.logits, student.features[0], *method.heads_teacher.parameters()])


def test_mhkd_drops_each_head_with_the_given_probability_while_it_trains() -> None:
    shapes = ((3, 4, 4), (4, 2, 2), (5, 2, 2))
    method, student, teacher = mhkd(shapes, branch_dropout=0.5, include_last=True)
    seen = []
    for _ in range(40):
        gradients = torch.autograd.grad(
            method.loss(batch(), student, teacher)["heads"], student.features, allow_unused=True
        )
        seen.append(tuple(bool(gradient.any()) for gradient in gradients))
    assert len(set(seen)) == 7  # every choice of heads but none
    whole, *_ = mhkd(shapes, include_last=True)
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


def test_losses_on_bfloat16_maps_are_float32_and_finite() -> None:
    torch.set_default_dtype(torch.float32)
    shape = (4, 4, 4)
    side = network(shape, shape, embedding=4, classifier=nn.Linear(4, CLASSES))
    method = registry.create("mhkd", {"width": 8})
    method.build(side, side)
    method.epoch = 2
    student, teacher = (output(logits(), [torch.randn(BATCH, *shape).bfloat16() for _ in range(2)]) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss(batch(), student, teacher)
    for term in terms.values():
        assert term.dtype == torch.float32
        assert term.isfinite()


@pytest.mark.parametrize("option", [{"target": "labels"}, {"teacher_heads": "none"}, {"n_fc": 3}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^mhkd.*{next(iter(option.values()))}"):
        registry.create("mhkd", option)
