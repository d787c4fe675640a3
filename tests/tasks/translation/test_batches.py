"""Batches of sentences: the losses of their tokens, and their order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kdbench import registry
from kdbench.hardware.numerics import Numerics
from kdbench.losses import kl
from kdbench.method import Batch, Output
from kdbench.tasks.translation import toy
from kdbench.tasks.translation.batches import collate, examples_of
from kdbench.tasks.translation.data.pairs import Pair
from kdbench.tasks.translation.vocabulary import END

pytestmark = pytest.mark.xdist_group("text")
CPU = torch.device("cpu")


def test_gradients_of_parts_with_unlike_tokens_add_up_to_the_batchs_by_their_tokens() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 7, generator=draws, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (64,), generator=draws)

    def loss(rows: slice) -> torch.Tensor:
        batch = Batch(torch.zeros(1, 4, 8), targets[rows], torch.zeros(1))
        return sum(Output(logits[rows], logits[rows]).supervised(batch, 0.1).values())  # type: ignore[return-value]

    whole = torch.autograd.grad(loss(slice(None)), logits)[0]
    parts = [slice(0, 4), slice(4, 64)]
    weighted = torch.autograd.grad(sum(len(targets[p]) / 64 * loss(p) for p in parts), logits)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(weighted, whole)
    evenly = torch.autograd.grad(sum(loss(p) / 2 for p in parts), logits)[0]  # type: ignore[arg-type]
    assert not torch.allclose(evenly, whole)


def test_where_student_is_teacher_the_divergence_is_zero_and_ends_count_and_padding_does_not() -> None:
    task = toy.toy(Numerics(CPU))
    network = task.network(toy.TEACHER).eval()
    batch = next(iter(task.training_set(0, False).epoch(0)))
    output = network(batch.inputs)
    assert kl(output.logits, output.logits).item() == pytest.approx(0.0, abs=1e-7)
    assert (batch.targets == END).sum() == len(batch)
    assert len(batch.targets) == batch.inputs[:, 3].sum() == len(output.logits)
    assert F.cross_entropy(output.logits, batch.targets) > 0


def test_no_batch_is_without_tokens_since_each_sentence_has_its_end() -> None:
    task = toy.toy(Numerics(CPU))
    empty = examples_of([Pair("", "", "backwards")] * 2, task.data.vocabulary, 16)
    batch = collate(empty, range(2), CPU)
    assert batch.targets.tolist() == [END, END]
    network = task.network(toy.TEACHER).eval()
    method = registry.create("word_kd")
    output = network(batch.inputs)
    terms = method.loss(batch, output, output)
    assert terms["kd"] == 0
    assert terms["ce"].isfinite()


def test_an_epochs_order_is_its_seeds_and_its_numbers_and_indices_are_places() -> None:
    task = toy.toy(Numerics(CPU))

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([batch.indices for batch in task.training_set(seed, False).epoch(epoch)]).tolist()

    assert sorted(order(0, 0)) == list(range(21))
    assert order(0, 0) == order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    found = examples_of(task.data.train, task.data.vocabulary, 16)
    for batch in task.training_set(3, False).epoch(0):
        for place, row in zip(batch.indices.tolist(), batch.inputs, strict=True):
            assert row[0][row[1].bool()].tolist() == list(found[place].source)


def test_what_is_too_long_is_cut_before_its_end() -> None:
    data = toy.data(longest=16)
    cut = examples_of(data.train, data.vocabulary, 3)
    assert max(len(each.source) for each in cut) == 3
    assert {each.source[-1] for each in cut} == {END}
    assert collate(cut[:2], [0, 1], CPU).inputs.shape == (2, 4, 8)
