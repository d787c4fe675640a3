"""abkd is the authors' alpha-beta divergence; where an exponent is zero it is the limit that their code misses."""

from __future__ import annotations

import pytest
import torch
from support import goldens
from support.loops import (
    BATCH,
    CLASSES,
    agree,
    batch,
    close,
    divergence,
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    output,
    probabilities,
)
from torch import Tensor

from kdbench import registry

# alpha, beta, and how many times the authors' value the limit of the formula is
VECTORS = {
    "a08_b03": (0.8, 0.3, 1.0),
    "fkl": (1.0, 0.0, 1.0),
    "rkl": (0.0, 1.0, 1.0),
    "zero": (0.0, 0.0, 1.0),
    "opposite": (0.5, -0.5, 2.0),
    "hellinger": (0.5, 0.5, 1.0),
}


@pytest.mark.equation
@pytest.mark.parametrize("official", [False, True], ids=["limit", "official"])
@pytest.mark.parametrize("case", VECTORS)
def test_abkd_agrees_with_the_authors_code_in_value_and_gradient(case: str, official: bool) -> None:
    alpha, beta, missing = VECTORS[case]
    golden = goldens.load("abkd")
    student, teacher = goldens.output(golden["logits_s"]), goldens.output(golden["logits_t"])
    goldens.require(student.logits)
    method = registry.create("abkd", {"alpha": alpha, "beta": beta, "weight": 1.0, "official_limits": official})
    term = method.loss(goldens.batch(golden["target"]), student, teacher)["divergence"]
    factor = 1.0 if official else missing
    goldens.close(term, factor * golden[f"loss_{case}"])
    (gradient,) = torch.autograd.grad(term, student.logits)
    goldens.close(gradient, factor * golden[f"grad__logits_s_{case}"])


def by_loops(z: Tensor, teacher: Tensor, a: float, b: float) -> Tensor:
    """The paper's general formula at temperature 4, class by class."""
    samples = []
    for n in range(len(z)):
        q, p = probabilities(z[n], 4.0), probabilities(teacher[n], 4.0)
        bracket = sum(
            x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b) for x, y in zip(p, q, strict=True)
        )
        samples.append(-bracket / (a * b))
    return mean(samples)


@pytest.mark.equation
@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (1.2, -0.3), (-0.3, 1.2)])
def test_abkd_is_the_papers_formula_beside_the_cross_entropy(alpha: float, beta: float) -> None:
    z, teacher, data = logits(), logits().detach(), batch()
    method = registry.create("abkd", {"alpha": alpha, "beta": beta})
    expected = {"ce": labels(z, data), "divergence": 32 * by_loops(z, teacher, alpha, beta)}
    agree(method.loss(data, output(z), output(teacher)), expected, [z])


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.0), (0.0, 0.5), (0.5, -0.5), (0.0, 0.0), (-0.5, 0.0)])
def test_abkd_where_the_formula_divides_by_zero_is_its_limit(alpha: float, beta: float) -> None:
    z, teacher = logits(), logits().detach()
    term = registry.create("abkd", {"alpha": alpha, "beta": beta, "weight": 1.0}).loss(
        batch(), output(z), output(teacher)
    )
    near = by_loops(z, teacher, alpha + 3e-5, beta + 2e-5)
    torch.testing.assert_close(term["divergence"], near, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1 + 0.2, -0.3), (0.3 - 0.1 - 0.2, 0.5), (0.5, 0.3 - 0.1 - 0.2)])
def test_abkd_takes_exponents_that_miss_zero_by_a_rounding_for_zero(alpha: float, beta: float) -> None:
    z, teacher = logits(), logits().detach()
    terms = [
        registry.create("abkd", {"alpha": a, "beta": b}).loss(batch(), output(z), output(teacher))["divergence"]
        for a, b in ((alpha, beta), (round(alpha, 6), round(beta, 6)))
    ]
    close(*terms)


def test_abkd_between_the_two_kls_has_both_at_its_ends() -> None:
    z, teacher = logits(), logits().detach()
    p, q = ([probabilities(x[n], 4.0) for n in range(BATCH)] for x in (teacher, z))
    ends = {
        (1.0, 0.0): mean(divergence(*pair) for pair in zip(p, q, strict=True)),
        (0.0, 1.0): mean(divergence(*pair) for pair in zip(q, p, strict=True)),
    }
    for (alpha, beta), expected in ends.items():
        method = registry.create("abkd", {"alpha": alpha, "beta": beta, "weight": 1.0})
        close(method.loss(batch(), output(z), output(teacher))["divergence"], expected)


def test_abkds_defaults_are_those_of_the_readmes_resnet56_to_resnet20() -> None:
    method = registry.create("abkd")
    assert (method.alpha, method.beta, method.weight) == (0.8, 0.3, 32.0)
    assert (method.temperature, method.ce_weight) == (4.0, 1.0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, -0.5), (0.5, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_abkd_stays_finite_for_very_confident_networks(alpha: float, beta: float) -> None:
    z = (500 * torch.eye(CLASSES, dtype=torch.float32)).requires_grad_()
    teacher = 500 * torch.eye(CLASSES, dtype=torch.float32).flip(0)
    method = registry.create("abkd", {"alpha": alpha, "beta": beta})
    terms = method.loss(batch(size=CLASSES), output(z), output(teacher))
    assert all(term.isfinite() for term in terms.values())
    assert torch.autograd.grad(sum(terms.values()), z)[0].isfinite().all()


def test_abkd_of_equal_logits_is_zero() -> None:
    z = logits().detach().requires_grad_()
    term = registry.create("abkd").loss(batch(), output(z), output(z.detach()))["divergence"]
    close(term, torch.zeros(()))
    close(torch.autograd.grad(term, z)[0], torch.zeros_like(z))
