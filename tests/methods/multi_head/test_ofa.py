"""ofa's heads learn the official enhanced loss from maps and from tokens."""

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
    float64,  # noqa: F401  (a fixture for every test here)
    labels,
    logits,
    mean,
    network,
    output,
    probabilities,
)
from torch import Tensor, nn

from kdbench import Batch, registry


@pytest.mark.equation
@pytest.mark.parametrize(("eps", "name"), [(1.5, "loss"), (1.0, "loss_eps1")])
def test_ofas_loss_agrees_with_the_official_code(eps: float, name: str) -> None:
    golden = goldens.load("ofa")
    goldens.require(golden["logits_s"])
    maps = [torch.rand(8, 4, 4, 4), torch.rand(8, 8, 2, 2)]
    method = registry.create("ofa", {"eps": eps})
    method.build(goldens.network(maps), goldens.network(maps))
    terms = method.loss(
        goldens.batch(golden["target"]), goldens.output(golden["logits_s"], maps), goldens.output(golden["logits_t"])
    )
    goldens.close(terms["kd"], golden[name])
    if name == "loss":
        goldens.gradients_agree(terms["kd"], {"logits_s": golden["logits_s"]}, {}, golden)


def enhanced(z: Tensor, teacher: Tensor, data: Batch, eps: float, temperature: float) -> Tensor:
    costs = []
    for n in range(len(z)):
        theirs, ours = (probabilities(each[n], temperature) for each in (teacher, z))
        label = [float(c == int(data.targets[n])) for c in range(CLASSES)]
        costs.append(-sum(((theirs[c] + label[c]) ** eps - label[c]) * torch.log(ours[c]) for c in range(CLASSES)))
    return mean(costs)


@pytest.mark.equation
@pytest.mark.parametrize("options", [{}, {"eps": 1.5, "head_weight": 1.0, "kd_weight": 0.5, "temperature": 2.0}])
def test_ofas_heads_and_final_logits_learn_the_teachers_prediction_with_the_labels_share_enhanced(
    options: dict[str, float],
) -> None:
    given = {"eps": 1.0, "head_weight": 0.1, "kd_weight": 1.0, "temperature": 1.0, **options}
    maps = [torch.randn(BATCH, 4, 8, 8), torch.randn(BATCH, 6, 4, 4), torch.randn(BATCH, 8, 2, 2)]
    shapes = [tuple(each.shape[1:]) for each in maps]
    method = registry.create("ofa", options)
    method.build(network(*shapes, embedding=8), network(*shapes, embedding=12))
    z, teacher, data = logits(), logits().detach(), batch()
    terms = method.loss(data, output(z, maps), output(teacher))
    said = [head(each) for head, each in zip(method.heads, maps, strict=True)]
    costs = [enhanced(each, teacher, data, given["eps"], given["temperature"]) for each in (z, *said)]
    expected = {
        "ce": labels(z, data),
        "kd": given["kd_weight"] * costs[0],
        "heads": given["head_weight"] * (costs[1] + costs[2] + costs[3]),
    }
    agree(terms, expected, [z, method.heads[0][-1].weight, method.heads[2][0].weight])


def test_ofas_heads_halve_a_map_once_for_each_later_stage_and_end_at_the_wider_embedding() -> None:
    method = registry.create("ofa")
    method.build(
        network((16, 16, 16), (32, 8, 8), (64, 4, 4), embedding=64), network((32, 4, 4), embedding=128, classes=CLASSES)
    )
    first, second, third = method.heads
    assert [type(layer).__name__ for layer in first] == [*["Separable"] * 2, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert [block(x).shape[1:] for block, x in ((first[0], torch.rand(2, 16, 16, 16)),)] == [(32, 8, 8)]
    assert second[0](torch.rand(2, 32, 8, 8)).shape[1:] == (128, 4, 4)
    assert isinstance(third[0], nn.Conv2d)
    assert [head[-1].in_features for head in method.heads] == [128] * 3


def test_ofa_merges_tokens_to_a_7x7_grid_and_gives_earlier_stages_more_blocks() -> None:
    method = registry.create("ofa")
    shapes = [(8, 14, 14)] * 4
    method.build(network(*shapes, embedding=8), network((4, 7, 7), embedding=32))
    assert [len(head.blocks) for head in method.heads] == [3, 2, 1, 1]
    assert [len(head.merges) for head in method.heads] == [1] * 4
    seen: list[torch.Size] = []
    method.heads[0].blocks.register_forward_hook(lambda module, inputs, result: seen.append(result.shape))
    assert method.heads[0](torch.rand(2, 8, 14, 14)).shape == (2, CLASSES)
    assert seen == [(2, 49, 8)]


def test_ofas_token_heads_read_a_neighbourhood_as_one_patch() -> None:
    method = registry.create("ofa")
    method.build(network(*[(8, 14, 14)] * 2, embedding=8), network((4, 7, 7), embedding=8))
    merge = method.heads[0].merges[0]
    x = torch.randn(1, 8, 14, 14)
    whole = method.heads[0]
    tokens: list[Tensor] = []
    whole.blocks.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    whole(x)
    patch = torch.stack([x[0, c, 2 + i, 4 + j] for c in range(8) for i in range(2) for j in range(2)])
    close(tokens[0][0, 7 * 1 + 2], merge(patch))
