"""ldrld is the authors' code: pairs of the student's first classes, and the rest as a whole."""

from __future__ import annotations

from itertools import combinations
from math import exp

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    output,
)
from torch import Tensor

from kdbench import KDBenchError, registry


@pytest.mark.equation
def test_ldrld_agrees_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("ldrld")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    goldens.require(student.logits)
    terms = registry.create("ldrld", {"k": 4}).loss(goldens.batch(golden["target"]), student, teacher)
    goldens.close(terms["local"], 10.5 * golden["loss_local"])
    goldens.close(terms["rest"], 7 * golden["loss_rntk"])
    total = sum(terms.values(), torch.zeros(()))
    goldens.close(total, golden["loss"])
    goldens.gradients_agree(total, {"logits_s": student.logits}, {}, golden)


@pytest.mark.equation
def test_ldrld_with_the_repositorys_seven_classes_agrees_with_the_authors_code() -> None:
    golden = goldens.load("ldrld")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    terms = registry.create("ldrld").loss(goldens.batch(golden["target"]), student, teacher)
    goldens.close(terms["local"], 10.5 * golden["loss_local_k7"])
    goldens.close(terms["rest"], 7 * golden["loss_rntk_k7"])


def test_ldrld_weighs_pairs_of_ranks_as_the_authors_code_does() -> None:
    from kdbench.methods.logits.ldrld import rank_weights

    table = goldens.load("ldrld")["out_adw"]
    first, second = torch.triu_indices(7, 7, 1)
    goldens.close(rank_weights(7, table), table[first, second])


def by_loops(z: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor, int]:
    """Both terms of one sample, the first as a sum of so many."""
    order = sorted(range(len(z)), key=lambda c: -float(z.detach()[c]))
    terms = [kl(z[order[:k]], teacher[order[:k]], 4.0)]
    for i, j in combinations(range(1, k + 1), 2):
        pair = [order[i - 1], order[j - 1]]
        terms.append(2 * exp(-0.05 * (i + j)) / (1.5 + j - i) * kl(z[pair], teacher[pair], 4.0))
    return sum(terms, torch.zeros(())), kl(z[order[k:]], teacher[order[k:]], 4.0), len(terms)


@pytest.mark.equation
@pytest.mark.parametrize("average", [True, False], ids=["the code's mean", "the paper's sum"])
def test_ldrld_compares_each_pair_of_the_students_first_classes_and_the_rest(average: bool) -> None:
    z, teacher, data = logits(9), logits(9).detach(), batch(9)
    parts = [by_loops(z[n], teacher[n], 3) for n in range(BATCH)]
    expected = {
        "ce": labels(z, data),
        "local": 2 * mean(local / (count if average else 1) for local, _, count in parts),
        "rest": 5 * mean(rest for _, rest, _ in parts),
    }
    method = registry.create("ldrld", {"alpha": 2.0, "beta": 5.0, "k": 3, "average": average})
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def test_ldrlds_defaults_are_those_of_the_readmes_resnet32x4_to_resnet8x4() -> None:
    method = registry.create("ldrld")
    assert (method.alpha, method.beta, method.k, method.temperature) == (10.5, 7.0, 7, 4.0)
    assert (method.ce_weight, method.average) == (1.0, True)


@pytest.mark.parametrize(("classes", "k"), [(9, 7), (8, 6), (4, 2), (3, 2), (2, 2)])
def test_ldrld_with_few_classes_leaves_two_to_the_rest_where_a_pair_remains(classes: int, k: int) -> None:
    z, teacher, data = logits(classes), logits(classes).detach(), batch(classes)
    terms = registry.create("ldrld", {"alpha": 1.0, "beta": 1.0}).loss(data, output(z), output(teacher))
    parts = [by_loops(z[n], teacher[n], k) for n in range(BATCH)]
    close(terms["local"], mean(local / count for local, _, count in parts))
    close(terms["rest"], mean(rest for _, rest, _ in parts))


def test_ldrld_of_equal_logits_is_the_cross_entropy() -> None:
    z = torch.zeros(BATCH, CLASSES, requires_grad=True)
    terms = registry.create("ldrld").loss(batch(), output(z), output(z.detach()))
    assert terms["local"] == terms["rest"] == 0
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_ldrld_stays_finite_for_very_confident_networks() -> None:
    z = (500 * torch.eye(CLASSES, dtype=torch.float32)).requires_grad_()
    teacher = 500 * torch.eye(CLASSES, dtype=torch.float32).flip(0)
    terms = registry.create("ldrld").loss(batch(size=CLASSES), output(z), output(teacher))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_an_impossible_option_is_refused_in_a_sentence_that_names_it() -> None:
    with pytest.raises(KDBenchError, match=r"^ldrld's k is 1"):
        registry.create("ldrld", {"k": 1})
