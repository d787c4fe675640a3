"""ssl_kd is the authors' imitation of rotated views, of what the teacher answers and of what it takes them for."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import goldens
from support.inputs import images, ready, same, state, step_on, teacher_and_student, trains_in_bf16_and_resumes, whole
from support.loops import (
    agree,
    batch,
    close,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    labels,
    logits,
    mean,
    network,
    output,
)
from torch import Tensor

from kdbench import NotApplicable, registry
from kdbench.methods.relations import ssl_kd


def golden_ssl_kd(**options: Any) -> tuple[Any, dict[str, Tensor], Any]:
    """The method, the vectors, and the function that gives the terms for the student's embeddings."""
    golden = goldens.load("ssl_kd")
    method: Any = registry.create("ssl_kd", options)
    method.build(*(goldens.network([], embedding=golden[f"feat_{side}"]) for side in "st"))
    method.double()
    goldens.load_parameters(method.head_student, golden, "s_head.")
    goldens.load_parameters(method.head_teacher, golden, "t_head.")

    def terms() -> dict[str, Tensor]:
        student, teacher = (
            output(
                golden[f"feat_{side}"] @ golden[f"param__{side}_fc.weight"].T + golden[f"param__{side}_fc.bias"],
                embedding=golden[f"feat_{side}"],
            )
            for side in "st"
        )
        return method.loss(goldens.batch(golden["target"]), student, teacher)

    return method, golden, terms


@pytest.mark.equation
@pytest.mark.parametrize(("options", "suffix"), [({}, ""), ({"rotated_ratio": 0.75}, "_tf75")])
def test_ssl_kd_agrees_with_the_authors_code_in_value_and_gradient(options: dict[str, float], suffix: str) -> None:
    _, golden, terms = golden_ssl_kd(**options)
    goldens.require(golden["feat_s"])
    found = terms()
    weights = {"ce": (0.1, "ce"), "kd": (0.9, "kd"), "rotated": (2.7, "tf"), "similarity": (10, "ss")}
    assert found.keys() == weights.keys()
    for name, (weight, theirs) in weights.items():
        goldens.close(found[name] / weight, golden[f"loss_{theirs}{suffix}"])
    total = sum(found.values())
    goldens.close(total, golden[f"loss{suffix}"])
    goldens.gradients_agree(total, {f"feat_s{suffix}": golden["feat_s"]}, {}, golden)


@pytest.mark.equation
def test_ssl_kds_teacher_head_has_the_authors_loss() -> None:
    method, golden, _ = golden_ssl_kd()
    goldens.close(method.head_loss(golden["feat_t"]), golden["loss_ssp_head"])


@pytest.mark.parametrize(("kind", "ratio"), [("ss", 0.75), ("tf", 1.0), ("tf_tf75", 0.75)])
def test_ssl_kd_counts_the_rows_that_the_authors_code_keeps(kind: str, ratio: float) -> None:
    golden = goldens.load("ssl_kd")
    chosen = ssl_kd.counted(golden[f"out_rank_{kind.split('_')[0]}"].long(), ratio)
    assert chosen.nonzero().flatten().tolist() == sorted(golden[f"out_index_{kind}"].long().tolist())


def row_of(places: list[Tensor], upright: list[Tensor]) -> list[Tensor]:
    """Cosines of one vector with others."""
    return torch.stack([sum(places * u) / torch.sqrt(sum(places**2) * sum(u**2)) for u in upright])


def kept_by_loops(ranking: list[int], ratio: float) -> list[int]:
    wrong = sorted((rank, n) for n, rank in enumerate(ranking) if rank)
    return [n for n, rank in enumerate(ranking) if not rank] + [n for _, n in wrong[: int(ratio * len(wrong))]]


def place(row: Tensor, right: int) -> int:
    return sum(bool(value > row[right]) for value in row)


@pytest.mark.equation
def test_ssl_kd_is_the_papers_equation() -> None:
    options = {"ce_weight": 0.3, "kd_weight": 0.6, "rotated_weight": 2.0, "similarity_weight": 5.0}
    more = {"temperature": 3.0, "tau": 0.4, "rotated_ratio": 0.5, "similarity_ratio": 0.6}
    method: Any = registry.create("ssl_kd", {**options, **more})
    method.build(network(embedding=3), network(embedding=4))
    data, z, teacher = batch(), logits(size=20), logits(size=20).detach()
    ours, theirs = torch.randn(20, 3, requires_grad=True), torch.randn(20, 4)
    upright, rotated = list(range(0, 20, 4)), [n for n in range(20) if n % 4]
    truths = [int(data.targets[n // 4]) for n in rotated]
    answers = kept_by_loops([place(teacher[n], y) for n, y in zip(rotated, truths, strict=True)], 0.5)
    rows = []
    for head, embedding in ((method.head_student, ours), (method.head_teacher, theirs)):
        projected = head(embedding)
        rows.append([row_of(projected[n], [projected[u] for u in upright]) for n in rotated])
    likes = kept_by_loops([place(row, n // 4) for row, n in zip(rows[1], rotated, strict=True)], 0.6)
    expected = {
        "ce": 0.3 * labels(z[upright], data),
        "kd": 0.6 * mean(kl(z[n], teacher[n], 3.0) for n in upright),
        "rotated": 2 * mean(kl(z[rotated[i]], teacher[rotated[i]], 3.0) for i in answers),
        "similarity": 5 * mean(kl(rows[0][i], rows[1][i], 0.4) for i in likes),
    }
    terms = method.loss(data, output(z, embedding=ours), output(teacher, embedding=theirs))
    agree(terms, expected, [z, ours, *method.head_student.parameters()])


def test_a_tie_of_ranks_is_broken_by_place_and_none_counts_where_the_share_is_less_than_one() -> None:
    ranking = torch.tensor([2, 0, 1, 1, 1, 0])
    assert ssl_kd.counted(ranking, 0.5).tolist() == [0, 1, 1, 1, 0, 1]
    assert ssl_kd.counted(torch.tensor([1] * 10), 0.7).sum() == 7
    assert ssl_kd.counted(torch.tensor([3]), 0.75).tolist() == [0]
    assert ssl_kd.chosen_mean(torch.ones(1), torch.tensor([0])) == 0


def test_ssl_kd_shows_all_rotations_and_runs_the_teacher_on_the_new_ones_alone() -> None:
    teacher, student = teacher_and_student()
    inputs = images(5)
    method = ready("ssl_kd", teacher, student, inputs, shift=0.0, head_epochs=1)
    step = step_on(teacher, student, inputs)
    teacher.seen, student.seen, before = [], [], state(teacher)
    method.step(step)
    views = [torch.rot90(inputs, k, (2, 3)) for k in range(4)]
    close(student.seen[-1].unflatten(0, (5, 4)), torch.stack(views, 1))
    close(teacher.seen[-1].unflatten(0, (5, 3)), torch.stack(views[1:], 1))
    assert len(teacher.seen) == 1
    assert same(before, state(teacher))


def test_ssl_kds_step_has_the_terms_of_all_views() -> None:
    teacher, student = teacher_and_student()
    inputs = images(5)
    method = ready("ssl_kd", teacher, student, inputs, shift=0.0, head_epochs=1)
    views = torch.stack([torch.rot90(inputs, k, (2, 3)) for k in range(4)], 1).flatten(0, 1)
    step = step_on(teacher, student, inputs)
    expected = method.loss(step.batch, copy.deepcopy(student)(views), teacher(views))
    for name, term in method.step(step).items():
        close(term, expected[name])
    assert step.updates


def test_preparing_trains_the_teachers_head_and_freezes_it() -> None:
    teacher, student = teacher_and_student()
    inputs = images(8) + 3 * torch.randn(8, 2, 1, 1)  # each image has colours of its own, however it is turned
    losses = []
    for epochs in (0, 60):
        torch.manual_seed(1)
        method = ready("ssl_kd", teacher, student, inputs, head_epochs=epochs)
        views = torch.stack([torch.rot90(inputs, k, (2, 3)) for k in range(4)], 1).flatten(0, 1)
        losses.append(method.head_loss(teacher(views).embedding))
        assert not any(p.requires_grad or p.grad is not None for p in method.head_teacher.parameters())
        assert all(p.requires_grad for p in method.head_student.parameters())
    assert losses[1] < 0.9 * losses[0]


def test_ssl_kd_of_one_image_has_nothing_to_tell_apart_and_is_finite() -> None:
    torch.set_default_dtype(torch.float32)
    method: Any = registry.create("ssl_kd")
    method.build(network(embedding=3, classes=2), network(embedding=4, classes=2))
    z, embedding = logits(2, 4), torch.randn(4, 3, requires_grad=True)
    terms = method.loss(batch(2, 1), output(z, embedding=embedding), output(logits(2, 4), embedding=torch.randn(4, 4)))
    assert terms["similarity"] == 0
    gradients = torch.autograd.grad(sum(terms.values()), [z, embedding])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_ssl_kds_defaults_are_those_of_the_authors_code() -> None:
    method = registry.create("ssl_kd")
    assert (method.ce_weight, method.kd_weight, method.rotated_weight, method.similarity_weight) == (0.1, 0.9, 2.7, 10)
    assert (method.temperature, method.tau, method.rotated_ratio, method.similarity_ratio) == (4.0, 0.5, 1.0, 0.75)
    assert (method.head_epochs, ssl_kd.RATE, ssl_kd.DECAY, ssl_kd.DROPS) == (60, 0.05, 5e-4, (30 / 60, 45 / 60))


def test_images_that_are_not_square_or_too_many_are_refused() -> None:
    teacher, student = teacher_and_student()
    with pytest.raises(NotApplicable, match=r"^ssl_kd rotates images, but those of network 'tiny' are 6x7"):
        ready("ssl_kd", teacher, student, torch.randn(8, 2, 6, 7))
    teacher.shapes = SimpleNamespace(embedding=2**30)
    method: Any = registry.create("ssl_kd")
    with pytest.raises(NotApplicable, match=r"'tiny' reads: head_epochs=0"):
        method.prepare(whole(images(8)), [teacher])


def test_ssl_kd_under_bf16_is_float32_and_a_stop_changes_no_bit(tmp_path: Path) -> None:
    trains_in_bf16_and_resumes(tmp_path, "ssl_kd", head_epochs=2)
