"""cmkd weighs Pearson's and Spearman's correlation by the teacher's entropy, as plain loops have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import KDBenchError, registry


def correlation(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Pearson's, with DIST's 1e-8 in the denominator."""
    a, b = ([value - sum(values) / len(values) for value in values] for values in (a, b))
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (torch.sqrt(sum(x**2 for x in a)) * torch.sqrt(sum(y**2 for y in b)) + 1e-8)


def cmkd_by_loops(z: Tensor, teacher: Tensor, rank_for: str, softness: float) -> tuple[Tensor, Tensor]:
    """The two correlation terms without their weight."""
    values, order = [], []
    for b in range(BATCH):
        p = probabilities(teacher[b], 4.0)
        difficulty = -sum(x * torch.log(x) for x in p) / math.log(CLASSES)
        hard = difficulty if rank_for == "hard" else 1 - difficulty
        soft = [
            1 + sum(1 / (1 + torch.exp((z[b, j] - z[b, c]) / softness)) for j in range(CLASSES) if j != c)
            for c in range(CLASSES)
        ]
        ranks = [torch.tensor(1.0 + sum(float(teacher[b, j] < x) for j in range(CLASSES))) for x in teacher[b]]
        values.append((1 - hard) * (1 - correlation(probabilities(z[b], 4.0), p)))
        order.append(hard * (1 - correlation(soft, ranks)))
    return mean(values), mean(order)


@pytest.mark.equation
@pytest.mark.parametrize("rank_for", ["hard", "easy"])
@pytest.mark.parametrize("softness", [0.1, 1.0])
def test_cmkd_weighs_the_two_correlations_by_the_teachers_entropy(rank_for: str, softness: float) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    values, order = cmkd_by_loops(z, teacher, rank_for, softness)
    expected = {"ce": labels(z, data), "pearson": 2 * 16 * values, "spearman": 2 * 16 * order}
    method = registry.create("cmkd", {"rank_for": rank_for, "softness": softness})
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


def test_cmkds_soft_ranks_become_the_ranks_as_the_softness_falls() -> None:
    from kdbench.methods.logits.cmkd import soft_ranks

    z = torch.stack([torch.randperm(9).double() for _ in range(3)])
    close(soft_ranks(z, 1e-3), z + 1)


def test_cmkds_soft_ranks_do_not_depend_on_how_many_rows_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.methods.logits import cmkd

    z = logits()
    whole = cmkd.soft_ranks(z, 0.5)
    monkeypatch.setattr(cmkd, "CHUNK", 2 * CLASSES**2)
    assert torch.equal(cmkd.soft_ranks(z, 0.5), whole)


@pytest.mark.parametrize("option", [{"rank_for": "all"}, {"softness": 0.0}])
def test_an_impossible_option_is_refused_in_a_sentence_that_names_it(option: dict[str, Any]) -> None:
    with pytest.raises(KDBenchError, match=f"^cmkd.*{next(iter(option.values()))}"):
        registry.create("cmkd", option)
