"""tekap is distillation from the teacher and from noisy copies of it, of logits and (by CRD) of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import goldens
from support.inputs import trains_in_bf16_and_resumes
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    dataset,
    embedded,
    float64,  # noqa: F401  (a fixture for every test here)
    imitation,
    labels,
    logits,
    network,
    output,
)
from torch import Tensor

from kdbench import KDBenchError, registry


def noise_is(monkeypatch: pytest.MonkeyPatch, *drawn: Tensor) -> None:
    """What the next draws of normal noise give."""
    queue = iter(drawn)
    monkeypatch.setattr(torch, "randn_like", lambda like: next(queue))


@pytest.mark.equation
def test_tekap_l_agrees_with_the_authors_code_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = goldens.load("tekap")
    noise_is(monkeypatch, *golden["noise_logits"])
    goldens.require(golden["logits_s"])
    student, teacher = (goldens.output(golden[f"logits_{side}"]) for side in "st")
    terms = registry.create("tekap", {"weight": 1.0}).loss(goldens.batch(), student, teacher)
    total = terms["kd"] + terms["augmented"]
    goldens.close(total, golden["loss"])
    goldens.gradients_agree(total, {"logits_s": golden["logits_s"]}, {}, golden)


def golden_contrast(**options: Any) -> tuple[Any, dict[str, Tensor], Tensor]:
    """The method with the vector's layers and banks, and the places in them."""
    golden = goldens.load("tekap")
    method: Any = registry.create("tekap", {"feature_weight": 1.0, "negatives": 16, "width": 8, **options})
    method.build(*(goldens.network([], embedding=golden[f"feat_{side}"]) for side in "st"))
    method.prepare(dataset(torch.arange(50) % goldens.CLASSES), [])
    for side, layer, number in (("s", method.crd.embed_student, 1), ("t", method.crd.embed_teacher, 2)):
        goldens.load_parameters(layer, golden, f"embed_{side}.linear.")
        bank = method.crd.bank_student if side == "s" else method.crd.bank_teacher
        bank.copy_(golden[f"param__contrast.memory_v{number}"])
    return method, golden, golden["contrast_idx"]


@pytest.mark.equation
def test_tekap_f_agrees_with_the_authors_code_in_value_gradient_and_banks(monkeypatch: pytest.MonkeyPatch) -> None:
    method, golden, chosen = golden_contrast()
    noise_is(monkeypatch, golden["noise_feat"])
    goldens.require(golden["feat_s"])
    loss = method.contrast(golden["feat_s"], golden["feat_t"], chosen)
    goldens.close(loss, golden["loss_feature"].squeeze())
    layers = [method.crd.embed_student.weight, method.crd.embed_teacher.weight]
    found = torch.autograd.grad(loss, [golden["feat_s"], *layers])
    for gradient, name in zip(found, ("grad__feat_s", "gradp__embed_s_weight", "gradp__embed_t_weight"), strict=True):
        goldens.close(gradient, golden[name])
    goldens.close(method.crd.bank_student, golden["out_memory_v1"])
    goldens.close(method.crd.bank_teacher, golden["out_memory_v2"])
    goldens.close(method.crd.z_student, golden["out_Z_v1"])
    goldens.close(method.crd.z_teacher, golden["out_Z_v2"])


def test_tekap_f_with_an_anchor_of_its_own_is_crd_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    (method, golden, chosen), (twin, _, _) = golden_contrast(official_anchor=False), golden_contrast()
    noise_is(monkeypatch, golden["noise_feat"])
    noisy = 0.9 * golden["feat_t"] + 0.01 * golden["noise_feat"]
    twice = [twin.crd.contrast(golden["feat_s"], theirs, chosen) for theirs in (golden["feat_t"], noisy)]
    close(method.contrast(golden["feat_s"], golden["feat_t"], chosen), sum(twice))


@pytest.mark.equation
def test_tekap_is_the_papers_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"ce_weight": 0.3, "weight": 0.7, "aug_weight": 0.5, "copies": 2, "mix": 0.2, "noise": 3.0}
    method = registry.create("tekap", {**options, "temperature": 2.0})
    z, teacher, noise = logits(), logits().detach(), [torch.randn(BATCH, CLASSES) for _ in range(2)]
    noise_is(monkeypatch, *noise)
    copies = [0.8 * teacher + 0.2 * 3 * n for n in noise]
    expected = {
        "ce": 0.3 * labels(z, batch()),
        "kd": 0.7 * imitation(z, teacher, 2.0),
        "augmented": 0.7 * 0.5 * sum(imitation(z, copy, 2.0) for copy in copies),
    }
    agree(method.loss(batch(), output(z), output(teacher)), expected, [z])


def test_tekaps_noise_is_drawn_anew_for_each_copy_and_step() -> None:
    method, student, teacher = registry.create("tekap"), output(), output(logits().detach())
    steps = [method.loss(batch(), student, teacher)["augmented"] for _ in range(2)]
    assert steps[0] != steps[1]
    draws = torch.stack([method.mixed(teacher.logits, 1.0) - 0.9 * teacher.logits for _ in range(500)])
    assert 0.095 < draws.std() < 0.105


def test_tekap_without_copies_is_kd() -> None:
    student, teacher = output(), output(logits().detach())
    terms = registry.create("tekap", {"copies": 0}).loss(batch(), student, teacher)
    kd = registry.create("kd").loss(batch(), student, teacher)
    assert terms["augmented"] == 0
    close(terms["ce"] + terms["kd"], sum(kd.values()))


def test_tekap_with_features_weighs_the_contrast_and_draws_negatives_of_other_classes() -> None:
    method: Any = registry.create("tekap", {"feature_weight": 0.8, "negatives": 5, "width": 6})
    method.build(network(embedding=3), network(embedding=4))
    method.prepare(dataset(torch.arange(12) % CLASSES), [])
    seen: list[Tensor] = []
    method.contrast = lambda ours, theirs, chosen: seen.append(chosen) or torch.tensor(10.0)
    terms = method.loss(batch(), embedded(3), embedded(4))
    assert terms["contrast"] == 8.0
    classes = method.crd.labels[seen[0]]
    assert torch.equal(seen[0][:, 0], batch().indices)
    assert (classes[:, 1:] != classes[:, :1]).all()


def test_tekap_of_logits_alone_keeps_no_banks() -> None:
    method = registry.create("tekap")
    method.build(network(), network())
    method.prepare(dataset(torch.arange(12)), [])
    assert not method.state_dict()


def test_tekap_with_features_trains_in_bf16_and_resumes_with_its_banks(tmp_path: Path) -> None:
    trains_in_bf16_and_resumes(tmp_path, "tekap", feature_weight=0.8, negatives=5, width=8)


def test_tekaps_defaults_are_those_of_the_authors_code() -> None:
    method = registry.create("tekap")
    assert (method.ce_weight, method.weight, method.feature_weight, method.temperature) == (0.1, 0.9, 0.0, 4.0)
    assert (method.aug_weight, method.copies, method.mix, method.noise) == (0.8, 3, 0.1, 1.0)
    assert (method.feature_noise, method.official_anchor) == (0.1, True)


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^tekap's copies are -1"):
        registry.create("tekap", {"copies": -1})
