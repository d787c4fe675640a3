"""cross_kd sends the student's maps through the rest of the teacher's head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import goldens
from support.detectors import batch, detector, imitation, method, run
from support.loops import float64  # noqa: F401  (a fixture for every test here)
from torch import Tensor, nn

from kdbench import NotApplicable, registry
from kdbench.methods.detection.cross_kd import align_scale, edges_kl, iou_loss, quality_focal
from kdbench.tasks.detection.networks.fcos import FCOSForm
from kdbench.tasks.detection.networks.gfl import GFLForm

GROUPS = 4  # of the vectors' norms
FORMS = ("fcos", "retinanet", "gfl")


class AuthorsFCOS(FCOSForm):
    """The authors' code of boxes: exp(scale * x), in pixels from points."""

    scale: Tensor

    def predict(self, branch: str, hidden: Tensor, level: int) -> tuple[Tensor, ...]:
        if branch == "classes":
            return super().predict(branch, hidden, level)
        return ((self.layers.regression_head.bbox_reg(hidden) * self.scale).exp(),)


def side(golden: dict[str, Tensor], which: str) -> Any:
    """The student's or the teacher's head of a vector."""
    start = f"param__{which}_head."
    given = {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}
    if "gfl_cls.weight" in given:
        head: Any = GFLForm(8, 5, 4, (8,), bins=6)
        towers, names = {"cls": head.classification, "reg": head.regression}, ("gfl_cls", "gfl_reg")
        head.scales.data = given["scales.0.scale"][None]
    else:
        head = AuthorsFCOS(8, 5, 4, (8,))
        layers = head.layers
        towers, names = {"cls": layers.classification_head, "reg": layers.regression_head}, ("conv_cls", "conv_reg")
        head.scale = given["scales.0.scale"]
    for branch, tower in towers.items():
        for place in range(4):
            conv, norm = tower.conv[3 * place], nn.GroupNorm(GROUPS, 8)
            conv.weight.data = given[f"{branch}_convs.{place}.conv.weight"]
            conv.bias.data.zero_()
            norm.weight.data, norm.bias.data = (given[f"{branch}_convs.{place}.gn.{n}"] for n in ("weight", "bias"))
            tower.conv[3 * place + 1] = norm
    for layer, name in ((towers["cls"].cls_logits, names[0]), (towers["reg"].bbox_reg, names[1])):
        layer.weight.data, layer.bias.data = given[f"{name}.weight"], given[f"{name}.bias"]
    return head


def crossed(golden: dict[str, Tensor], convolutions: int) -> tuple[Any, list[Tensor], list[Tensor], list[Tensor]]:
    """The method on a vector's heads: classes and boxes of p^, and the teacher's own."""
    student, teacher = side(golden, "student"), side(golden, "teacher")
    made: Any = registry.create("cross_kd", {"convolutions": convolutions})
    made.head, made.bridges = teacher, nn.ModuleDict({branch: nn.Identity() for branch in ("classes", "boxes")})
    goldens.require(golden["fpn_s"])
    said = []
    for branch in ("classes", "boxes"):
        ours, theirs = student.holds(branch, golden["fpn_s"]), teacher.holds(branch, golden["fpn_t"])
        said.append(made.crossed(branch, (ours,), (theirs,))[0])
    own = [teacher.enter(branch, golden["fpn_t"], 0, 0)[0].detach() for branch in ("classes", "boxes")]
    return made, said, own, [student.holds("classes", golden["fpn_s"])[3], teacher.holds("classes", golden["fpn_t"])[3]]


@pytest.mark.equation
def test_gfls_cross_heads_agree_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("crosskd_gfl")
    made, (classes, boxes), own, (ours, theirs) = crossed(golden, 3)
    goldens.close(ours, golden["out_hold_cls_s"])
    goldens.close(align_scale(ours, theirs), golden["out_aligned_cls"])
    goldens.close(classes, golden["out_cls_cross"])
    goldens.close(boxes, golden["out_reg_cross"])
    goldens.close(own[0], golden["out_cls_t"])
    weights = golden["label_weights"].flatten()
    flat, flat_t = (made.head.flat([each], 5).flatten(0, 1) for each in (classes, own[0]))
    cls = quality_focal(flat, flat_t, weights, golden["avg_factor"])
    edges = [made.head.flat([each], 28).reshape(-1, 4, 7) for each in (boxes, own[1])]
    box = 4 * edges_kl(*edges, weights * flat_t.sigmoid().amax(1))
    goldens.close(cls, golden["loss_cls_kd"])
    goldens.close(box, golden["loss_reg_kd"])
    goldens.gradients_agree(cls + box, {"fpn_s": golden["fpn_s"]}, {}, golden)


@pytest.mark.equation
def test_fcos_cross_heads_agree_with_the_authors_code_in_value_and_gradient() -> None:
    golden = goldens.load("crosskd_fcos")
    made, (classes, boxes), own, _ = crossed(golden, 2)
    goldens.close(classes, golden["out_cls_cross"])
    goldens.close(boxes, golden["out_reg_cross"])
    flat, flat_t = (made.head.flat([each], 5).flatten(0, 1) for each in (classes, own[0]))
    points = golden["points"]
    decoded = []
    for each in (boxes, own[1]):
        distances = made.head.flat([each], 4).flatten(0, 1)
        decoded.append(torch.cat([points - distances[:, :2], points + distances[:, 2:]], 1))
    ones = torch.ones(len(points))
    cls = 0.4 * quality_focal(flat, flat_t, ones, golden["avg_factor"])
    box = 0.75 * iou_loss(*decoded, flat_t.sigmoid().amax(1), golden["avg_factor"])
    goldens.close(cls, golden["loss_cls_kd"])
    goldens.close(box, golden["loss_reg_kd"])
    goldens.gradients_agree(cls + box, {"fpn_s": golden["fpn_s"]}, {}, golden)


@pytest.mark.equation
def test_the_quality_focal_loss_agrees_with_the_authors_code() -> None:
    golden = goldens.load("kd_qfl")
    ours, theirs = golden["logits_s"], golden["logits_t"]
    goldens.require(ours)
    loss = quality_focal(ours, theirs, golden["weight"], golden["avg_factor"])
    goldens.close(loss, golden["loss"])
    goldens.gradients_agree(loss, {"logits_s": ours}, {}, golden)
    count = torch.tensor(float(ours.numel()))
    squared = quality_focal(ours, theirs, torch.ones(len(ours)), count, beta=2.0) * (count + 1.1920929e-07) / count
    goldens.close(squared, golden["loss_beta2_mean"])


@pytest.mark.equation
@pytest.mark.parametrize("form", ["retinanet", "fcos"])
def test_forms_with_plain_boxes_agree_with_the_equation_place_by_place(form: str) -> None:
    student, teacher = detector(form), detector(form, seed=1)
    given = batch(sizes=[[64, 64], [64, 40]])
    made = method("cross_kd", student, teacher, convolutions=2, box_weight=1.0)
    with torch.no_grad():
        theirs = teacher.eval()(given.inputs)
    ours = student(given.inputs)
    terms = imitation(made.compute(given, [ours], [theirs]))
    head = teacher.head
    said: list[list[Tensor]] = [[], []]
    for level in range(3):
        for place, (branch, mine, other) in enumerate(
            (("classes", ours.class_holds, theirs.class_holds), ("boxes", ours.box_holds, theirs.box_holds))
        ):
            channels = []
            for c in range(8):
                x, y = mine[level][2][:, c], other[level][2][:, c]
                unit = (x - x.sum() / x.numel()) / (((x - x.mean()) ** 2).sum().div(x.numel() - 1).sqrt() + 1e-6)
                channels.append(unit * ((y - y.mean()) ** 2).sum().div(y.numel() - 1).sqrt() + y.mean())
            x = torch.stack(channels, 1)
            for block in head.tower(branch)[2:]:
                x = block(x.relu())
            said[place].append(head.predict(branch, x.relu(), level)[0])
    matches = head.match(given, theirs.boxes)
    logits, logits_t = head.flat(said[0], 3), head.flat(theirs.classes, 3)
    boxes, boxes_t = head.boxes_of(said[1]), head.boxes_of(theirs.boxes)
    centres = torch.cat(head.anchors(theirs.boxes)).reshape(-1, 2, 2).mean(1)
    total = head.normalizer(given, theirs.boxes, matches).clamp(min=1)
    cls, box = torch.zeros(()), torch.zeros(())
    for b in range(2):
        for n in range(logits.shape[1]):
            counted = form == "fcos" or (
                bool((centres[n] < given.sizes[b].flip(0)).all()) and matches.objects[b, n] != -2
            )
            if not counted:
                continue
            p, q = logits[b, n].sigmoid(), logits_t[b, n].sigmoid()
            cls = cls + (-(q * p.log() + (1 - q) * (1 - p).log()) * (p - q).abs()).sum()
            (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes[b, n], boxes_t[b, n]
            w, h = (torch.min(x1, u1) - torch.max(x0, u0)).clamp(0), (torch.min(y1, v1) - torch.max(y0, v0)).clamp(0)
            union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - w * h
            around = (torch.max(x1, u1) - torch.min(x0, u0)) * (torch.max(y1, v1) - torch.min(y0, v0))
            iou = w * h / union.clamp(min=1e-6)
            away = -iou.clamp(min=1e-6).log() if form == "fcos" else 1 - iou + (around - union) / around
            box = box + q.max() * away
    goldens.close(terms["cross_cls"], cls / (total + 1.1920929e-07), atol=1e-12)
    goldens.close(terms["cross_box"], box / (total + 1.1920929e-07), atol=1e-12)
    wanted = list(student.pyramid.parameters())
    pairs = zip(
        torch.autograd.grad(sum(terms.values()), wanted, retain_graph=True),
        torch.autograd.grad((cls + box) / (total + 1.1920929e-07), wanted),
        strict=True,
    )
    for one, other in pairs:
        goldens.close(one, other, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("convolutions", [0, 1, 3, 4])
def test_the_gradient_reaches_the_pyramid_and_the_first_convolutions_alone(form: str, convolutions: int) -> None:
    student, teacher = detector(form), detector(form, seed=1).requires_grad_(False)
    made = method("cross_kd", student, teacher, convolutions=convolutions)
    sum(imitation(run(made, student, teacher, batch())).values()).backward()
    assert all(parameter.grad is None for network in (teacher, made.head) for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in student.pyramid.parameters())
    reached = {id(p) for p in student.head.parameters() if p.grad is not None}
    expected = {
        id(parameter)
        for branch in ("classes", "boxes")
        for block in student.head.tower(branch)[:convolutions]
        for parameter in block.parameters()
    }
    assert reached == expected


@pytest.mark.parametrize("form", FORMS)
def test_through_the_teachers_head_a_student_that_is_its_teacher_says_the_same(form: str) -> None:
    teacher, given = detector(form).eval(), batch()
    said = teacher(given.inputs)
    made = method("cross_kd", teacher, teacher)
    for branch, held, own in (
        ("classes", said.class_holds, said.classes), ("boxes", said.box_holds, said.boxes)
    ):  # fmt: skip
        for ours, theirs in zip(made.crossed(branch, held, held), own, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)  # a deviation has 1e-6 added
    assert imitation(made.compute(given, [said], [said]))["cross_cls"] < 1e-4


def test_a_student_of_another_form_and_width_goes_through_a_bridge_that_trains_and_is_not_deployed() -> None:
    student, teacher = detector("fcos"), detector("gfl", seed=1, width=16)
    made = method("cross_kd", student, teacher)
    trained = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert sorted(trained) == [f"bridges.{b}.{p}" for b in ("boxes", "classes") for p in ("bias", "weight")]
    optimizer = torch.optim.SGD(made.bridges.parameters(), 0.1)
    before = made.bridges["boxes"].weight.clone()
    sum(imitation(run(made, student, teacher, batch())).values()).backward()
    optimizer.step()
    assert not torch.equal(before, made.bridges["boxes"].weight)
    assert made.deploy(student) is student
    assert "bridges.boxes.weight" in made.state_dict()


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(NotApplicable, match="enters after 5 convolutions, but the towers of network 'fcos_test_resnet"):
        method("cross_kd", detector(), detector(), convolutions=5)
    with pytest.raises(NotApplicable, match="give both the same `levels`"):
        method("cross_kd", detector(), detector(levels=5))
