"""takd's networks learn one after the other, each from the one above, as the authors' code has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import goldens
from support.chains import learner, networks_that_move, watched
from support.loops import (
    BATCH,
    agree,
    batch,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
    total,
)

from kdbench import KDBenchError, NotApplicable, registry


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"kd_weight": 0.04, "temperature": 10.0}])
def test_takd_learns_from_labels_and_from_the_class_mean_of_the_divergence_from_the_network_above(
    options: dict[str, float],
) -> None:
    share, temperature = {"kd_weight": 0.5, "temperature": 5.0, **options}.values()
    z, above, data = logits(), logits().detach(), batch()
    parts = []
    for n in range(BATCH):
        theirs, ours = probabilities(above[n], temperature), probabilities(z[n], temperature)
        parts += [t * torch.log(t / s) for t, s in zip(theirs, ours, strict=True)]
    expected = {"ce": (1 - share) * labels(z, data), "kd": share * temperature**2 * mean(parts)}
    terms = registry.create("takd", options).loss(data, output(z), [output(above)])
    agree(terms, expected, [z])


def test_chains_of_assistants_agree_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("takd_dgkd")
    goldens.require(golden["logits_s"])
    method = registry.create("takd", {"kd_weight": 0.7, "temperature": 5.0})
    teacher = goldens.output(golden["logits_t"])
    terms = method.loss(goldens.batch(golden["target"]), goldens.output(golden["logits_s"]), [teacher])
    goldens.close(total(terms), golden["loss_takd"])


def test_takd_may_sum_over_classes_as_kd_does() -> None:
    z, guide, data = logits(), logits().detach(), batch()
    terms = registry.create("takd", {"reduction": "classes", "kd_weight": 0.9, "temperature": 4.0}).loss(
        data, output(z), [output(guide)]
    )
    kd = registry.create("kd").loss(data, output(z), output(guide))
    agree(terms, kd, [z])


def test_takds_networks_learn_from_the_one_above() -> None:
    assert watched("takd", "assistant_1", assistants=2) == (1, [(1, True)])
    assert watched("takd", "assistant_2", assistants=2) == (1, [(1, False), (2, True)])
    assert watched("takd", "student", assistants=2) == (1, [(2, False), (0, True)])


def test_in_a_chain_one_network_trains_after_the_other_and_the_rest_stays(tmp_path: Path) -> None:
    moves = networks_that_move(learner(tmp_path, "takd", assistants=2))
    assert moves == [[1], [2], [2], [0]]  # the norms' statistics of the others stay too


def test_a_frozen_member_is_in_eval_mode_and_starts_to_train_in_its_own_phase(tmp_path: Path) -> None:
    chain = learner(tmp_path, "takd")
    chain.begin_epoch()
    assert [network.training for network in chain.students] == [False, True]
    assert [any(p.requires_grad for p in network.parameters()) for network in chain.students] == [False, True]
    chain.epoch = 2
    chain.begin_epoch()
    assert [network.training for network in chain.students] == [True, False]
    assert all(p.requires_grad for p in chain.students[0].parameters())


def test_a_pair_with_too_few_assistants_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"takd needs 3 assistants .* the pair names 2: add `assistants"):
        learner(tmp_path, "takd", assistants=3)


@pytest.mark.parametrize("option", [{"assistants": 0}, {"reduction": "mean"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^takd.*{next(iter(option.values()))}"):
        registry.create("takd", option)
