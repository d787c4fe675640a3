"""dml's students learn from each other, at once or one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    Fixed,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    mutual_by_loops,
    output,
    probabilities,
    total,
)
from torch import Tensor, nn

from kdbench import Batch, KDBenchError, Output, registry


@pytest.mark.equation
@pytest.mark.parametrize("n_students", [2, 3])
def test_dml_is_cross_entropy_and_the_mean_divergence_from_the_peers(n_students: int) -> None:
    method = registry.create("dml", {"n_students": n_students})
    students, data = [output() for _ in range(n_students)], batch()
    expected = {}
    for i in range(n_students):
        expected[f"ce_{i}"], expected[f"mutual_{i}"] = mutual_by_loops(students, data, i, 1.0)
    assert method.members() == ("student",) * n_students
    agree(method.loss(data, students, None), expected, [student.logits for student in students])


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


def test_mutual_methods_deploy_the_first_student_or_the_mean_of_the_students_probabilities() -> None:
    networks = [Fixed(output(logits())) for _ in registry.create("dml").members()]
    assert registry.create("dml").deployed(networks) is networks[0]
    ensemble = registry.create("dml", {"deployment": "ensemble"}).deployed(networks)(torch.zeros(BATCH, 1))
    for i in range(BATCH):
        first, second = (probabilities(each.said.logits[i]) for each in networks[:2])
        close(ensemble[i], torch.stack([torch.log((p + q) / 2) for p, q in zip(first, second, strict=True)]))


@pytest.mark.parametrize("option", [{"n_students": 1}, {"update": "both"}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^dml.*{next(iter(option.values()))}"):
        registry.create("dml", option)
