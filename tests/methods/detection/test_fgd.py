"""fgd: focal and global imitation, held against the equations place by place."""

from __future__ import annotations

import math

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, imitation, method, run
from support.loops import float64  # noqa: F401  (a fixture for every test here)
from torch import Tensor

from kdbench.methods.detection.fgd import FGD, attention, box_masks


def softmax(values: list[Tensor]) -> list[Tensor]:
    exponentials = [value.exp() for value in values]
    return [value / sum(exponentials) for value in exponentials]


def by_loops(
    level: FGD, made: object, ours: Tensor, theirs: Tensor, boxes: list[Tensor], cell: float
) -> dict[str, Tensor]:
    """The four sums of one level from the paper's equations."""
    size, channels, height, width = ours.shape
    found = {name: torch.zeros(()) for name in ("fg", "bg", "attention", "global")}
    for b in range(size):
        strengths = {}
        for name, feature in (("s", ours[b]), ("t", theirs[b])):
            cells = [(y, x) for y in range(height) for x in range(width)]
            at = softmax([feature[:, y, x].abs().sum() / channels / 0.5 for y, x in cells])
            of = softmax([feature[c].abs().sum() / (height * width) / 0.5 for c in range(channels)])
            strengths[name] = (
                {place: height * width * value for place, value in zip(cells, at, strict=True)},
                [channels * value for value in of],
            )
        fg = {}
        for y in range(height):
            for x in range(width):
                best = 0.0
                for x0, y0, x1, y1 in (boxes[b] / cell).tolist():
                    left, right, top, bottom = math.floor(x0), math.ceil(x1), math.floor(y0), math.ceil(y1)
                    if left <= x <= right and top <= y <= bottom:
                        best = max(best, 1 / ((bottom - top + 1) * (right - left + 1)))
                fg[y, x] = best
        rest = sum(value == 0 for value in fg.values())
        for (y, x), weight in fg.items():
            for c in range(channels):
                gap = strengths["t"][0][y, x] * strengths["t"][1][c] * (ours[b, c, y, x] - theirs[b, c, y, x]) ** 2
                found["fg"] = found["fg"] + weight * gap / size
                found["bg"] = found["bg"] + (gap / rest / size if not weight else 0)
            found["attention"] = found["attention"] + (strengths["s"][0][y, x] - strengths["t"][0][y, x]).abs() / size
        for c in range(channels):
            found["attention"] = found["attention"] + (strengths["s"][1][c] - strengths["t"][1][c]).abs() / size
    contexts = []
    for block, feature in ((made.student, ours), (made.teacher, theirs)):  # type: ignore[attr-defined]
        rows = []
        for b in range(size):
            score = softmax([
                sum(block.mask.weight[0, c, 0, 0] * feature[b, c, y, x] for c in range(channels)) + block.mask.bias[0]
                for y in range(height) for x in range(width)
            ])  # fmt: skip
            flat = feature[b].reshape(channels, -1)
            mean = sum(score[n] * flat[:, n] for n in range(height * width))
            first, norm, _, last = block.add
            x = first.weight[:, :, 0, 0] @ mean + first.bias
            x = (x - x.mean()) / (x.var(correction=0) + norm.eps).sqrt() * norm.weight[:, 0, 0] + norm.bias[:, 0, 0]
            rows.append(feature[b] + (last.weight[:, :, 0, 0] @ x.relu() + last.bias)[:, None, None])
        contexts.append(torch.stack(rows))
    found["global"] = ((contexts[0] - contexts[1]) ** 2).sum() / size
    return found


@pytest.mark.equation
def test_a_level_agrees_with_the_equations_in_value_and_gradient() -> None:
    made = method("fgd", detector(), detector(seed=1))
    level = made.levels[0]
    for context in (level.student, level.teacher):  # they start from nothing
        torch.nn.init.normal_(context.add[-1].weight)
        torch.nn.init.normal_(context.add[1].weight)
    ours, theirs = torch.randn(2, 8, 3, 4, requires_grad=True), torch.randn(2, 8, 3, 4)
    boxes = [torch.tensor([[4.0, 0.0, 12.0, 12.0], [20.0, 10.0, 31.0, 20.0]]), torch.tensor([[0.0, 0.0, 5.0, 5.0]])]
    terms = made.level(level, ours, theirs, boxes, (8.0, 8.0))
    expected = by_loops(made, level, ours, theirs, boxes, 8.0)
    tensors = [ours, *level.parameters()]
    for name, term in terms.items():
        goldens.close(term, expected[name], atol=1e-12)
        found, wanted = (
            torch.autograd.grad(each, tensors, retain_graph=True, allow_unused=True) for each in (term, expected[name])
        )
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                goldens.close(one, other, atol=1e-12)


def test_terms_are_weighted_sums_over_the_levels() -> None:
    student, teacher = detector(), detector(seed=1)
    given = batch()
    made = method("fgd", student, teacher, fg_weight=0.5)
    terms = imitation(run(made, student, teacher, given))
    pairs = zip(made.levels, student(given.inputs).pyramid, teacher(given.inputs).pyramid, strict=True)
    fg = [made.level(level, a, b, given.boxes, (64 / a.shape[2],) * 2)["fg"] for level, a, b in pairs]
    goldens.close(terms["fg"], 0.5 * sum(fg))
    assert terms.keys() == {"fg", "bg", "attention", "global"}


# a picture 128 px wide and 64 px high on a map 16 wide and 8 high: a box in the upper right corner, the whole picture,
# a box 2 px wide; and an empty picture
CASES = [torch.tensor([[96.0, 0.0, 128.0, 16.0], [0.0, 0.0, 128.0, 64.0], [40.0, 40.0, 42.0, 48.0]]), torch.zeros(0, 4)]


def test_foreground_weights_lie_on_the_boxes_cells() -> None:
    fg, bg = box_masks(CASES[:1], (8, 16), (8.0, 8.0), torch.zeros(()))
    assert fg.shape == (1, 8, 16)
    whole = 1 / (9 * 17)
    corner = 1 / (3 * 5)
    expected = torch.full((8, 16), whole)
    expected[0:3, 12:16] = corner  # rows from the top, columns at the right: the smaller box wins
    expected[5:7, 5:7] = 1 / (2 * 2)
    torch.testing.assert_close(fg[0], expected)
    assert bg.sum() == 0  # the whole picture is covered


def test_an_empty_picture_is_all_background_and_an_edge_is_no_error() -> None:
    fg, bg = box_masks(CASES, (8, 16), (8.0, 8.0), torch.zeros(()))
    assert fg[1].sum() == 0
    assert bg[1].sum() == pytest.approx(1.0)


def test_a_box_as_large_as_the_picture_sums_to_less_than_one_unless_it_is_cut() -> None:
    whole = [torch.tensor([[0.0, 0.0, 64.0, 64.0]])]
    official, cut = (box_masks(whole, (8, 8), (8.0, 8.0), torch.zeros(()), cut)[0].sum() for cut in (False, True))
    assert official == pytest.approx(64 / 81)
    assert cut == pytest.approx(1.0)


def test_attentions_sum_to_the_size_of_what_they_weigh() -> None:
    places, channels = attention(torch.randn(2, 5, 3, 4), 0.5)
    torch.testing.assert_close(places.sum((1, 2)), torch.tensor([12.0, 12.0]))
    torch.testing.assert_close(channels.sum(1), torch.tensor([5.0, 5.0]))


def test_a_batch_without_objects_has_no_foreground_term() -> None:
    student, teacher = detector(), detector(seed=1, width=16)
    terms = run(method("fgd", student, teacher), student, teacher, batch([[], []]))
    assert terms["fg"] == 0
    assert terms["bg"] > 0
    sum(terms.values()).backward()
