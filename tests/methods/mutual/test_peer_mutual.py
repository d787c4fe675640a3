"""peer_mutual joins dml and kd, with a teacher that is trained beside or before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    Fixed,
    agree,
    batch,
    close,
    cross_entropy,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    mutual_by_loops,
    output,
    probabilities,
    total,
)

from kdbench import KDBenchError, registry


@pytest.mark.equation
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


@pytest.mark.equation
def test_peer_mutual_with_three_students_takes_the_mean_over_each_ones_peers() -> None:
    options = {"n_students": 3, "ce_weight": 0.2, "kd_weight": 0.3, "mutual_weight": 0.5, "temperature": 3.0}
    method = registry.create("peer_mutual", options)
    assert method.members() == ("student", "student", "student", "teacher")
    members, data = [output() for _ in range(4)], batch()
    expected = {"ce_teacher": labels(members[3].logits, data)}
    for i in range(3):
        ce, mutual = mutual_by_loops(members[:3], data, i, 3.0)
        kd = mean(kl(members[i].logits[b], members[3].logits[b], 3.0) for b in range(BATCH))
        expected |= {f"ce_{i}": 0.2 * ce, f"kd_{i}": 0.3 * kd, f"mutual_{i}": 0.5 * mutual}
    agree(method.loss(data, members, None), expected, [member.logits for member in members])


def test_mutual_methods_deploy_the_first_student_or_the_mean_of_the_students_probabilities() -> None:
    networks = [Fixed(output(logits())) for _ in registry.create("peer_mutual").members()]
    assert registry.create("peer_mutual").deployed(networks) is networks[0]
    ensemble = registry.create("peer_mutual", {"deployment": "ensemble"}).deployed(networks)(torch.zeros(BATCH, 1))
    for i in range(BATCH):
        first, second = (probabilities(each.said.logits[i]) for each in networks[:2])  # never the online teacher
        close(ensemble[i], torch.stack([torch.log((p + q) / 2) for p, q in zip(first, second, strict=True)]))


@pytest.mark.parametrize("option", [{"n_students": 1}, {"deployment": "both"}, {"teacher_mode": "offline"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^peer_mutual.*{next(iter(option.values()))}"):
        registry.create("peer_mutual", option)
