"""rld teaches the teacher's confidence on the label, and the classes that the teacher ranks below it."""

from __future__ import annotations

import pytest
import torch
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import Method, Output, registry


def at_the_end(**options: object) -> Method:
    """Behind the warm-up."""
    method = registry.create("rld", options)
    method.epoch, method.epochs = 240, 240
    return method


def teacher_logits(classes: int = CLASSES) -> Tensor:
    """Of a teacher that is right in the first sample, ranks the label last in the second, between in the others."""
    z = logits(classes).detach()
    for n in range(BATCH):
        place = [classes - 1, 0, *[classes // 2] * BATCH][n]
        order = z[n].argsort().tolist()
        taken = order[place]
        label = n % classes
        z[n, label], z[n, taken] = z[n, taken].clone(), z[n, label].clone()
    return z


def z_scores(z: Tensor) -> Tensor:
    rows = []
    for row in z:
        centre = sum(row) / len(row)
        rows.append((row - centre) / (torch.sqrt(sum((value - centre) ** 2 for value in row) / (len(row) - 1)) + 1e-7))
    return torch.stack(rows)


def confidence(z: Tensor, teacher: Tensor, label: int, temperature: float) -> Tensor:
    p, top = probabilities(z, temperature)[label], max(probabilities(teacher, temperature))
    return temperature**2 * divergence([top, 1 - top], [p, 1 - p])


def correlation(z: Tensor, teacher: Tensor, label: int, temperature: float) -> Tensor:
    kept = [c for c in range(len(z)) if teacher[c] < teacher[label]]
    return kl(z[kept], teacher[kept], temperature) if kept else torch.zeros(())


@pytest.mark.equation
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"confidence_temperature": 4.0, "alpha": 2.0},
        {"standardise": True, "alpha": 9.0, "beta": 72.0, "temperature": 2.0, "confidence_temperature": 2.0},
    ],
    ids=["defaults", "one temperature", "standardised"],
)
def test_rld_is_the_papers_equation(options: dict[str, float]) -> None:
    z, teacher, data = logits(6), teacher_logits(6), batch(6)
    ours, theirs = (z_scores(z), z_scores(teacher)) if "standardise" in options else (z, teacher)
    chosen = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "confidence_temperature": 1.0, **options}
    samples = [(ours[n], theirs[n], int(data.targets[n])) for n in range(BATCH)]
    expected = {
        "ce": labels(z, data),
        "confidence": chosen["alpha"] * mean(confidence(*s, chosen["confidence_temperature"]) for s in samples),
        "correlation": chosen["beta"] * mean(correlation(*s, chosen["temperature"]) for s in samples),
    }
    agree(at_the_end(**options).loss(data, output(z), output(teacher)), expected, [z])


def test_rld_of_a_teacher_that_is_right_is_dkd() -> None:
    z, data = logits(), batch()
    teacher = logits().detach()
    teacher[torch.arange(BATCH), data.targets] = 10.0
    terms = at_the_end(confidence_temperature=4.0).loss(data, output(z), output(teacher))
    dkd = registry.create("dkd")
    dkd.epoch, dkd.epochs = 240, 240
    expected = dkd.loss(data, output(z), output(teacher))
    agree(terms, dict(zip(terms, expected.values(), strict=True)), [z])


def one(teacher: list[float]) -> tuple[Tensor, Output]:
    return logits(len(teacher), 1), output(torch.tensor([teacher]))


def test_rld_where_the_label_is_the_teachers_last_class_teaches_none_of_the_others() -> None:
    z, teacher = one([-5.0, 2.0, 1.0, 0.0])
    term = at_the_end().loss(batch(size=1), output(z), teacher)["correlation"]
    assert term == 0
    assert not torch.autograd.grad(term, z)[0].any()


def test_rld_leaves_out_a_class_that_the_teacher_ranks_beside_the_label() -> None:
    z, teacher = one([1.0, 1.0, 0.5, -2.0])
    term = at_the_end(beta=1.0).loss(batch(size=1), output(z), teacher)["correlation"]
    close(term, kl(z[0, 2:], teacher.logits[0, 2:], 4.0))


@pytest.mark.parametrize("epoch", [1, 19, 20, 21, 240])
def test_rld_warms_up_over_20_of_240_epochs(epoch: int) -> None:
    z, teacher = logits(), output(teacher_logits())
    full, method = at_the_end().loss(batch(), output(z), teacher), at_the_end()
    method.epoch = epoch
    terms = method.loss(batch(), output(z), teacher)
    for name, share in {"ce": 1.0, "confidence": min(epoch / 20, 1.0), "correlation": min(epoch / 20, 1.0)}.items():
        close(terms[name], share * full[name])


def test_rlds_defaults_are_those_of_the_authors_code() -> None:
    method = registry.create("rld")
    assert (method.alpha, method.beta, method.temperature, method.confidence_temperature) == (1.0, 8.0, 4.0, 1.0)
    assert (method.ce_weight, method.warmup_share, method.standardise) == (1.0, 20 / 240, False)


@pytest.mark.parametrize("scale", [0.0, 500.0], ids=["equal logits", "very confident"])
def test_rld_stays_finite(scale: float) -> None:
    z = (scale * torch.eye(CLASSES, dtype=torch.float32)).requires_grad_()
    teacher = scale * torch.eye(CLASSES, dtype=torch.float32).flip(0)
    terms = at_the_end().loss(batch(size=CLASSES), output(z), output(teacher))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()
