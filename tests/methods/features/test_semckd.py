"""semckd is the authors' attention over all pairs of stages, for batches that are not full too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import goldens
from support.loops import (
    BATCH,
    agree,
    batch,
    close,
    cross_entropy,
    dataset,
    float64,  # noqa: F401  (a fixture for every test here)
    kl,
    logits,
    mean,
    output,
)
from torch import Tensor, nn

from kdbench import registry


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def made_semckd(student: Sequence[Tensor], teacher: Sequence[Tensor], batch_size: int = 8, **options: Any) -> Any:
    method = registry.create("semckd", options)
    method.build(goldens.network(student), goldens.network(teacher))
    method.prepare(dataset(torch.zeros(2 * batch_size, dtype=torch.int64)[:batch_size]), [])
    return method


@pytest.mark.equation
def test_semckd_agrees_with_the_authors_later_code_in_value_and_gradient() -> None:
    golden = goldens.load("semckd_simkdrepo")
    ours, theirs = ([golden[f"feat_{side}_{k}"] for k in range(n)] for side, n in (("s", 2), ("t", 3)))
    goldens.require(*ours)
    method = made_semckd(ours, theirs)
    modules: dict[str, nn.Module] = {}
    for kind, embeds in (("query", method.queries), ("key", method.keys)):
        for k, embed in enumerate(embeds):  # the official module holds its two layers under two names each
            own = {f"param__{kind}_{k}.{name}" for name in embed.state_dict()}
            goldens.load_parameters(embed, {name: golden[name] for name in own}, f"{kind}_{k}.")
            modules[f"{kind}_{k}."] = embed
    for i, row in enumerate(method.projections):
        for j, project in enumerate(row):
            modules[f"regressor{i}{j}.regressor."] = project
            goldens.load_parameters(project, golden, f"regressor{i}{j}.regressor.")
    goldens.close(method.attention(ours, theirs), golden["out_attention"])
    terms = method.loss(goldens.batch(), goldens.output(features=ours), goldens.output(features=theirs))
    loss = terms["semantic"] / 400
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {f"feat_s_{k}": f for k, f in enumerate(ours)}, modules, golden)


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


@pytest.mark.equation
@pytest.mark.parametrize("size", [8, 3, 2])
def test_semckd_reads_a_last_batch_with_zeros_for_the_missing_samples(size: int) -> None:
    ours = [tensor(size, 2, 4, 4), tensor(size, 3, 2, 2)]
    theirs = [torch.randn(size, 2, 4, 4), torch.randn(size, 3, 4, 4)]
    method = made_semckd(ours, theirs, weight=2.0)
    z, z_t, data = logits(size=size), logits(size=size).detach(), batch(size=size)

    def embedded(embed: Any, feature: Tensor, b: int) -> Tensor:
        row = torch.stack([(feature[b] * feature[c]).sum() for c in range(size)] + [torch.zeros(())] * (8 - size))
        return unit(embed.linear2(torch.relu(embed.linear1(row))))

    costs = []
    for i, (query, ours_i) in enumerate(zip(method.queries, ours, strict=True)):
        projected = [method.projections[i][j](pooled(ours_i, theirs[j])) for j in range(2)]
        for b in range(size):
            q = embedded(query, ours_i, b)
            scores = [torch.exp(q @ embedded(method.keys[j], theirs[j], b)) for j in range(2)]
            for j in range(2):
                distance = (projected[j][b] - pooled(theirs[j], ours_i)[b]).pow(2).mean()
                costs.append(scores[j] / sum(scores) * distance)
    expected = {
        "ce": mean(cross_entropy(z[b], int(data.targets[b])) for b in range(size)),
        "kd": mean(kl(z[b], z_t[b], 4.0) for b in range(size)),
        "semantic": 2 * sum(costs, torch.zeros(())) / (size * 2),
    }
    terms = method.loss(data, output(z, ours), output(z_t, theirs))
    agree(terms, expected, [z, *ours, *method.parameters()])


def pooled(x: Tensor, other: Tensor) -> Tensor:
    """A map at the smaller of two sizes."""
    return F.adaptive_avg_pool2d(x, min(x.shape[2], other.shape[2]))


def test_semckds_attention_is_a_distribution_over_the_teachers_stages() -> None:
    ours, theirs = [torch.randn(5, 2, 4, 4)], [torch.randn(5, c, 4, 4) for c in (2, 3, 4)]
    attention = made_semckd(ours, theirs, batch_size=5).attention(ours, theirs)
    assert attention.shape == (5, 1, 3)
    close(attention.sum(2), torch.ones(5, 1))


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_semckds_embeddings_are_as_wide_as_the_training_sets_batches(batch_size: int) -> None:
    feature = torch.randn(batch_size, 2, 4, 4)
    method = made_semckd([feature], [feature], batch_size)
    assert method.queries[0].linear1.weight.shape == (2 * max(batch_size // 4, 1), batch_size)


def test_semckds_kl_can_be_left_out() -> None:
    feature = torch.randn(BATCH, 2, 4, 4)
    method = made_semckd([feature], [feature], kd_weight=0.0)
    assert method.loss(batch(), output(features=[feature]), output(features=[feature]))["kd"] == 0
