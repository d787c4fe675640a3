"""Detectors: names, halves of heads, places and objects, and the losses of the labels."""

from __future__ import annotations

import copy

import pytest
import torch
from support.detectors import SIZE, batch, detector
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from kdbench.errors import KDBenchError
from kdbench.tasks.detection.detections import detections
from kdbench.tasks.detection.networks import create
from kdbench.tasks.detection.networks.atss import matched
from kdbench.training.layouts import fitted

FORMS = ("fcos", "retinanet", "gfl")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("convolutions", range(5))
def test_a_head_entered_after_any_convolution_says_what_it_says_as_a_whole(form: str, convolutions: int) -> None:
    network = detector(form).eval()
    said = network(batch().inputs)
    for level in range(3):
        for branch, held, whole in (("classes", said.class_holds, said.classes), ("boxes", said.box_holds, said.boxes)):
            rest = network.head.enter(branch, held[level][convolutions], convolutions, level)
            assert torch.equal(rest[0], whole[level])
    assert [tuple(level.shape) for level in said.pyramid] == [(2, 8, side, side) for side in (8, 4, 2)]


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_finite_with_and_without_objects_and_train_every_layer(form: str) -> None:
    for given in (batch(), batch([[], []]), batch([[(0.0, 0.0, 64.0, 64.0)], [(63.0, 10.0, 64.0, 10.4)]])):
        network = detector(form)
        terms = network(given.inputs).supervised(given)
        assert all(name.startswith("labels.") and term.isfinite() for name, term in terms.items())
        sum(terms.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_the_losses_of_a_batch_of_two_are_those_of_the_two_twice(form: str) -> None:
    from support.detectors import twice

    network = detector(form).eval()
    one, two = (network(each.inputs).supervised(each) for each in (batch(), twice(batch())))
    for name, term in one.items():
        torch.testing.assert_close(two[name], term)


def test_fcos_learns_and_finds_what_torchvisions_own_does() -> None:
    network = detector("fcos").eval()
    torch.nn.init.constant_(network.head.layers.regression_head.bbox_reg.bias, 3.0)  # no box without area
    given = batch([[(4.0, 6.0, 40.0, 30.0)]])
    sizes = tuple((stride,) for stride in network.head.strides)
    whole = FCOS(
        _Backbone(network), 3, SIZE, SIZE, [0.0], [1.0], AnchorGenerator(sizes, ((1.0,),) * 3), network.head.layers,
        score_thresh=0.05, detections_per_img=100,
    )  # fmt: skip
    targets = [{"boxes": given.boxes[0], "labels": given.labels[0]}]
    theirs = whole.train()(list(given.inputs), targets)
    ours = network(given.inputs).supervised(given)
    for name, other in (("cls", "classification"), ("box", "bbox_regression"), ("centerness", "bbox_ctrness")):
        torch.testing.assert_close(ours[f"labels.{name}"], theirs[other])
    whole.eval()  # and the network's layers, which are its own
    with torch.no_grad():
        found = detections(network(given.inputs).answer, given.sizes, torch.ones(1))[0]
        wanted = whole(list(given.inputs))[0]
    assert len(found["scores"]) == len(wanted["scores"]) > 0
    torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["scores"], wanted["scores"])
    assert torch.equal(found["labels"], wanted["labels"])


class _Backbone(torch.nn.Module):
    """A detector's pyramid as torchvision takes it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.pyramid, self.out_channels = network.pyramid, 8

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        return {str(place): level for place, level in enumerate(self.pyramid(pictures))}


def test_gfls_boxes_are_means_of_distributions_in_strides() -> None:
    head = detector("gfl", bins=8).head
    coded = torch.full((1, 4, 9), -50.0)
    for edge, distance in enumerate((1, 2, 3, 4)):
        coded[0, edge, distance] = 50.0
    anchors = torch.tensor([[40.0 - 32, 24.0 - 32, 40.0 + 32, 24.0 + 32]])  # of a cell at (40, 24), stride 8
    torch.testing.assert_close(head.decode(coded.flatten(1), anchors), torch.tensor([[32.0, 8.0, 64.0, 56.0]]))


def test_atss_gives_an_object_the_anchors_above_mean_and_deviation_and_ld_the_others_around_it() -> None:
    middles = torch.arange(0, 64, 8.0)
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    centres = torch.stack([x, y], 2).reshape(-1, 2)
    anchors = torch.cat([centres - 12, centres + 12], 1)
    box = torch.tensor([[18.0, 18.0, 42.0, 42.0]])  # as large as an anchor, middle (30, 30)
    objects, near = matched([anchors], box)
    distance = (centres - 30).abs()
    nine = distance.pow(2).sum(1).topk(9, largest=False).indices
    overlap = (24 - distance).clamp(min=0).prod(1)
    iou = overlap / (2 * 24 * 24 - overlap)
    threshold = iou[nine].mean() + iou[nine].std()
    expected = torch.zeros(64, dtype=torch.bool)
    expected[nine] = iou[nine] >= threshold
    assert objects.tolist() == [0 if own else -1 for own in expected.tolist()]
    assert expected.sum() >= 1
    around = torch.zeros(64)
    for number, (dx, dy) in enumerate(distance.tolist()):
        corners = (24 + dx) ** 2 + (24 + dy) ** 2  # the square of the diagonal of the box around both
        diou = iou[number] - (dx * dx + dy * dy) / corners
        if 0.25 * threshold <= diou < threshold:
            around[number] = iou[number]
    torch.testing.assert_close(near, around)
    assert (around > 0).sum() > 0


def test_of_two_objects_the_better_fit_wins_an_anchor() -> None:
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    objects, _ = matched([anchors], torch.tensor([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 11.0]]))
    assert objects.tolist() == [1]
    objects, near = matched([anchors], torch.zeros(0, 4))
    assert (objects.tolist(), near.tolist()) == ([-1], [0.0])


def test_padding_has_no_weight_in_imitation_but_in_fcos() -> None:
    given = batch(sizes=[[64, 64], [32, 64]])
    for form, expected in (("gfl", 32 + 8 + 2), ("fcos", 64 + 16 + 4)):
        head = detector(form).head
        maps = [torch.zeros(2, head.code, side, side) for side in (8, 4, 2)]
        weights = head.weights(given, maps, head.match(given, maps))
        assert weights.sum(1).tolist() == [84, expected]


def test_detections_are_in_pixels_of_the_picture_as_it_was() -> None:
    rows = [[10.0, 10.0, 30.0, 30.0, 0.9, 1], [11.0, 10.0, 30.0, 30.0, 0.8, 1], [11.0, 10.0, 30.0, 30.0, 0.7, 2],
            [50.0, 60.0, 90.0, 90.0, 0.6, 0], [0.0, 0.0, 9.0, 9.0, 0.01, 0], [5.0, 5.0, 5.0, 9.0, 0.9, 0]]  # fmt: skip
    (found,) = detections(torch.tensor([rows]), torch.tensor([[64, 80]]), torch.tensor([0.5]))
    assert found["labels"].tolist() == [1, 2, 0]  # another class is another object; no area and unsure are none
    assert found["boxes"].tolist() == [[20, 20, 60, 60], [22, 20, 60, 60], [100, 120, 160, 128]]
    assert len(detections(torch.tensor([rows]), torch.tensor([[64, 80]]), torch.ones(1), cap=1)[0]["scores"]) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fcs_resnet18", "unknown detector 'fcs_resnet18': did you mean 'fcos_resnet18'"),
        ("fcos", "unknown detector 'fcos'"),
        ("fcos_resnet19", "unknown backbone 'resnet19': did you mean 'resnet1"),
        ("fcos_test_vit", "has no map at stride 8"),
        ("fcos_test_resnet(levels=4)", "a pyramid of 4 levels"),
        ("fcos_test_resnet(width=0)", "width=0: give a whole number of at least 1"),
        ("fcos_test_resnet(bins=8)", "only gfl's boxes are distributions"),
        ("retinanet_test_resnet(depth=2)", "torchvision's RetinaNet has 4 convolutions"),
        ("fcos_test_resnet(in_chans=3)", "which data and suite decide"),
        ("fcos_test_resnet(levels=3, nonsense=1)", "nonsense"),
    ],
)
def test_a_wrong_name_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(KDBenchError, match=sentence.replace("(", r"\(")):
        create(name, num_classes=3, size=(1, 64, 64))


def test_pictures_that_do_not_fit_are_one_sentence() -> None:
    with pytest.raises(KDBenchError, match="give the recipe an `image_size` that is a multiple of 32"):
        create("fcos_test_resnet(levels=3, width=8)", num_classes=3, size=(1, 80, 80))


def test_a_detector_is_named_in_one_spelling_and_has_weights_of_its_own() -> None:
    network = create("gfl_test_resnet(width=8, bins=4, levels=3)", num_classes=3, size=(1, 64, 64))
    assert network.name == "gfl_test_resnet(bins=4, levels=3, width=8)"
    clone = copy.deepcopy(network)
    assert clone(batch().inputs).head is clone.head
    with pytest.raises(KDBenchError, match="gfl has none: leave it at 0"):
        network(batch().inputs).supervised(batch(), 0.1)


def test_a_checkpoint_of_other_classes_or_without_a_head_is_no_teacher() -> None:
    network = detector("fcos")
    whole = network.core.state_dict()
    for weights, sentence in (
        (detector("fcos", classes=4).core.state_dict(), "cls_logits.weight' is"),
        ({name: tensor for name, tensor in whole.items() if not name.startswith("head.")}, "it lacks 'head"),
    ):
        with pytest.raises(KDBenchError, match=sentence):
            fitted(network, weights)
