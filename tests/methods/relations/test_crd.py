"""crd is the official two-sided contrast against memory banks of other classes' samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    cross_entropy,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    logits,
    mean,
    network,
    output,
)
from torch import Tensor, nn

from kdbench import registry

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


@pytest.mark.equation
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
