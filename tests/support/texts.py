"""Small outputs of text networks, real and given, for tests of methods and of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Shapes, registry

HEADS, LENGTHS, CLASSES = 2, (3, 8), 3

Weights = Mapping[str, Tensor]


def network(width: int = 12, layers: int = 2, **more: Any) -> Any:
    """What `build` sees of a text network."""
    told: dict[str, Any] = {"heads": HEADS, "inner": 4 * width, "vocabulary": "v", "has_words": True}
    told |= {"name": f"net{width}x{layers}", "rank": 0, "start": "fresh", **more}
    classes = told.pop("classes", CLASSES)
    return SimpleNamespace(shapes=Shapes(classes, width, ((width, 8),) * layers), **told)


class Given(SimpleNamespace):
    """An output whose parts are given: scores and contexts by layer, from 1."""

    logits: Tensor

    def scores(self, layer: int) -> Tensor:
        return self.given_scores[layer - 1]  # type: ignore[no-any-return]

    def context(self, layer: int) -> Tensor:
        return self.contexts[layer - 1]  # type: ignore[no-any-return]

    def merged(self, name: str, layer: int) -> Tensor:
        return getattr(self, name)[layer - 1].transpose(1, 2).flatten(2)  # type: ignore[no-any-return]

    def matrices(self, layer: int) -> tuple[Tensor, ...]:
        return self.given_matrices[layer - 1]  # type: ignore[no-any-return]

    def supervised(self, batch: Batch, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        if self.logits.shape[1] == 1:
            return {"labels.mse": F.mse_loss(self.logits[:, 0], batch.targets)}
        return {"ce": F.cross_entropy(self.logits, batch.targets)}


def given(seed: int, width: int, layers: int = 2, classes: int = CLASSES, grad: bool = False) -> Given:
    """A random output over sentences of `LENGTHS` tokens, padded to the longest."""
    draws = torch.Generator().manual_seed(seed)
    samples, length = len(LENGTHS), max(LENGTHS)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64).requires_grad_(grad)

    heads = {name: [some(samples, HEADS, length, width // HEADS) for _ in range(layers)] for name in PARTS}
    return Given(
        logits=some(samples, classes),
        mask=torch.arange(length) < torch.tensor(LENGTHS)[:, None],
        hidden=[some(samples, length, width) for _ in range(layers + 1)],
        words=some(samples, length, width),
        contexts=[some(samples, length, width) for _ in range(layers)],
        given_scores=[some(samples, HEADS, length, length) for _ in range(layers)],
        given_matrices=[tuple(some(samples, length, width) for _ in range(6)) for _ in range(layers)],
        **heads,
    )


PARTS = ("queries", "keys", "values")


def padded(output: Given, more: int, fill: float) -> Given:
    """The same sentences with `more` places of padding, and whatever `fill` in all padded places."""
    old, grown = output.mask, F.pad(output.mask, (0, more))

    def put(x: Tensor, axes: Sequence[int]) -> Tensor:
        """`axes` are those that count tokens, from the left."""
        for axis in axes:
            shape = [1] * x.dim()
            shape[0], shape[axis] = old.shape
            x = torch.where(old.reshape(shape), x, fill)
        pads = [n for axis in reversed(range(x.dim())) for n in (0, more if axis in axes else 0)]
        return F.pad(x, pads, value=fill)

    return Given(
        logits=output.logits,
        mask=grown,
        hidden=[put(x, [1]) for x in output.hidden],
        words=put(output.words, [1]),
        contexts=[put(x, [1]) for x in output.contexts],
        given_scores=[put(x, [2, 3]) for x in output.given_scores],
        given_matrices=[tuple(put(x, [1]) for x in each) for each in output.given_matrices],
        **{name: [put(x, [2]) for x in getattr(output, name)] for name in PARTS},
    )


def leaves(output: Given) -> list[Tensor]:
    """All tensors that a gradient may reach."""
    lists = [output.hidden, output.contexts, output.given_scores, *(getattr(output, name) for name in PARTS)]
    return [output.logits, output.words, *(x for each in lists for x in each),
            *(x for each in output.given_matrices for x in each)]  # fmt: skip


def batch(classes: int = CLASSES) -> Batch:
    samples = len(LENGTHS)
    targets = torch.arange(samples) % classes if classes > 1 else torch.tensor([5.0, 0.0], dtype=torch.float64)
    return Batch(torch.zeros(samples, 3, 8, dtype=torch.int64), targets, torch.arange(samples))


def built(name: str, settings: Mapping[str, Any], student: Any, teacher: Any, phase: str = "all") -> Method:
    """A method on a pair, in float64, in one of its phases."""
    torch.manual_seed(0)
    method = registry.create(name, settings)
    method.build(student, teacher)
    method.double()
    method.phase = phase
    return method


def holds_against_padding(
    make: Callable[[], Method], student_width: int = 12, teacher_width: int = 12, tolerance: float = 1e-12
) -> None:
    """A method's terms and gradients at two pad widths, and under whatever fills padded places, are the same."""
    student, teacher = given(1, student_width, grad=True), given(2, teacher_width)
    found = []
    for more, fill in ((0, 0.0), (12, 0.0), (12, 1e4), (4, -1e4)):
        method = make()
        terms = method.loss(batch(), padded(student, more, fill), padded(teacher, more, -3 * fill))
        assert all(term.isfinite() and term > 0 for term in terms.values()), terms
        sources = [*leaves(student), *method.parameters()]
        gradients = torch.autograd.grad(sum(terms.values()), sources, allow_unused=True)  # type: ignore[arg-type]
        found.append((terms, [torch.zeros(()) if g is None else g for g in gradients]))
    assert any(g.any() for g in found[0][1][: len(leaves(student))])
    for terms, gradients in found[1:]:
        for name, term in terms.items():
            torch.testing.assert_close(term, found[0][0][name], rtol=tolerance, atol=tolerance)
        for now, before in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(now, before, rtol=tolerance, atol=tolerance)


def distilled(terms: Mapping[str, Tensor]) -> Tensor:
    """Without the terms of the labels."""
    return sum((t for name, t in terms.items() if name != "ce" and not name.startswith("labels.")), torch.zeros(()))
