"""Detection in the loop: its four properties, what records keep, and the contract of its methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kdbench import registry
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.suites.grid import DatasetSpec, Recipe
from kdbench.suites.parse import load
from kdbench.tasks.detection import toy
from kdbench.tasks.detection.data import coco
from kdbench.tasks.detection.task import DetectionTask
from kdbench.tasks.metrics import of
from kdbench.testing.checks import checks_of, ignores_its_neighbours, in_setting, on_pair
from kdbench.testing.trial import FP32, Bench

METHODS = registry.names("detection")
SLOW = "takes compiled networks"
pytestmark = pytest.mark.xdist_group("detection contract")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.of("detection", tmp_path_factory.mktemp("detection"))


@pytest.fixture(scope="module")
def trained(bench: Bench) -> set[str]:
    """Which cohorts of all methods have been trained already."""
    return set()


def test_the_toy_names_the_methods_that_apply() -> None:
    assert list(toy.METHODS) == METHODS


# cohorts, resume and failures are the loop's: these hold for every method as for images
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "title",
    [pytest.param(t, marks=[pytest.mark.slow] if t == SLOW else []) for t in checks_of("detection") if t != SLOW],
)
def test_a_method_keeps_the_contract(bench: Bench, trained: set[str], title: str, method: str) -> None:
    varied = title.removeprefix("takes ")
    if title not in trained:
        trained.add(title)
        there = (
            on_pair(bench, varied) if varied in toy.PAIRS else in_setting(bench, varied) if varied == "bf16" else bench
        )
        interrupted: dict[str, Any] = {"stop_after": 2, "name": "interrupted"} if "resumes" in title else {}
        there.run([there.cell(name) for name in METHODS], **interrupted)
    check = checks_of("detection")[title]
    if check is ignores_its_neighbours:
        ignores_its_neighbours(bench, method, together="results")
    else:
        check(bench, method)


def test_compiled_detectors_train(bench: Bench) -> None:
    there = in_setting(bench, "compiled networks")
    assert [record["status"] for record in there.run([there.cell("cross_kd")])] == ["done"]


def test_all_methods_start_from_one_student_and_see_the_same_batches(bench: Bench) -> None:
    one, two = (bench.learner(bench.cell(name)) for name in ("student", "cross_kd"))
    for name, tensor in one.students[0].state_dict().items():
        assert torch.equal(tensor, two.students[0].state_dict()[name])
    for ours, theirs in zip(one.data.epoch(3), two.data.epoch(3), strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)


def test_a_learner_fails_alone_and_a_method_of_the_logits_does_not_apply(bench: Bench) -> None:
    cells = [bench.cell("student"), bench.cell("pkd", weight=1e300), bench.cell("kd")]
    fine, broken, strange = bench.run(cells, name="failing")
    assert (fine["status"], broken["status"], strange["status"]) == ("done", "failed", "not_applicable")
    assert "became nan in epoch 1" in broken["reason"] or "became inf" in broken["reason"]
    assert "kd reads logits of one choice among classes" in strange["reason"]


def test_a_record_keeps_the_cap_and_the_boxes_that_were_left_out(bench: Bench) -> None:
    (record,) = bench.run([bench.cell("student")])
    assert record["result"]["detections"]["cap"] == 100
    assert record["result"]["boxes_without_area"] == {"train": 0, "test": 0}
    assert record["result"]["ap_large"] is None  # the toy has no large boxes
    assert all(record["result"][metric.name] is not None for metric in of("detection").scores[:3])


def test_what_is_deployed_has_no_bridge(bench: Bench) -> None:
    student, cross = bench.run([bench.cell("student"), bench.cell("cross_kd")])
    assert cross["cost"]["deployed_parameters"] == student["cost"]["deployed_parameters"]
    assert cross["cost"]["extra_parameters"] > 0


@pytest.mark.parametrize(
    ("method", "bridge"), [("cross_kd", "bridges."), ("fgd", "align."), ("fgfi", "adapter."), ("pkd", "bridge.")]
)
def test_what_fits_the_student_to_a_wider_teacher_trains_and_is_saved(bench: Bench, method: str, bridge: str) -> None:
    learner = bench.learner(bench.cell(method))
    before = {name: weight.clone() for name, weight in learner.method.state_dict().items() if bridge in name}
    learner.begin_epoch()
    batch = next(iter(learner.data.epoch(0)))
    with torch.no_grad():
        outputs = [learner.teachers[0](batch.inputs)]
    learner.train_step(0, batch, outputs)
    saved = learner.state_dict()["method"]
    assert before
    assert all(not torch.equal(weight, saved[name]) for name, weight in before.items())
    assert not any(bridge in name for name in learner.deployed().state_dict())


class Sizes(torch.nn.Module):
    """Finds one box in each picture, as sure as the picture is bright."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        sure = 0.5 + 0.4 * inputs.mean((1, 2, 3)).tanh()
        box = torch.tensor([4.0, 4.0, 20.0, 20.0]).expand(len(inputs), 4)
        return torch.cat([box, sure[:, None], torch.zeros(len(inputs), 1)], 1)[:, None]


def test_every_test_picture_is_answered_once_and_in_order() -> None:
    """In shorter last batches, which training leaves out, too."""
    found = [[each["scores"].item() for each in toy.toy(FP32, 9, size).evaluate(Sizes())] for size in (4, 9)]
    task = toy.toy(FP32, 9, 4)
    alone = [Sizes()(batch.inputs)[0, 0, 4].item() for batch in toy.toy(FP32, 9, 1)._test.test_batches()]
    assert len(found[0]) == len(task.data.test) == 9 > 4 * task.training_set(0, False).steps_per_epoch
    assert found[0] == pytest.approx(alone)
    assert found[1] == pytest.approx(alone)


def test_a_detector_that_learns_finds_things() -> None:
    torch.manual_seed(0)
    task = toy.toy(FP32, samples=32, batch_size=16)
    network = task.network("fcos_test_resnet(levels=3, width=16)")
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    before = task.scores(task.evaluate(network))["ap50"]
    for epoch in range(25):
        network.train()
        for batch in task.training_set(0, False).epoch(epoch):
            optimizer.zero_grad()
            sum(network(batch.inputs).supervised(batch).values()).backward()
            optimizer.step()
    after = task.scores(task.evaluate(network))["ap50"]
    assert before is not None
    assert after is not None
    assert before < 5
    assert after > 20


def test_one_picture_is_answered_in_its_own_pixels_and_names(tmp_path: Path) -> None:
    from PIL import Image

    torch.manual_seed(0)
    task = toy.toy(FP32)
    network = task.network("fcos_test_resnet(levels=3, width=16)")
    torch.nn.init.constant_(network.head.layers.classification_head.cls_logits.bias, 3.0)  # it is sure of everything
    torch.nn.init.constant_(network.head.layers.regression_head.bbox_reg.bias, 1.0)
    Image.new("L", (128, 64)).save(tmp_path / "wide.png")
    found = task.detect(network, tmp_path / "wide.png")
    assert 0 < len(found) <= 100
    assert {box["name"]: box["category"] for box in found}.items() <= {"a": 1, "b": 2, "c": 4}.items()
    for x0, y0, x1, y1 in (box["box"] for box in found):
        assert 0 <= x0 < x1 <= 128
        assert 0 <= y0 < y1 <= 64
    assert max(box["box"][2] for box in found) > 64
    assert [box["score"] for box in found] == sorted((box["score"] for box in found), reverse=True)
    with pytest.raises(KDBenchError, match=r"absent\.png' cannot be read"):
        task.detect(network, tmp_path / "absent.png")


def test_a_test_set_with_nothing_to_be_found_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    table: dict[str, Any] = {
        "images": [{"id": k, "width": 64, "height": 64, "file_name": f"{k}.png"} for k in range(2)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 20, 20]}],
    }
    pictures = [Image.new("RGB", (64, 64))] * 2
    coco.write(tmp_path, "train", table, pictures)
    coco.write(tmp_path, "val", {**table, "annotations": []}, pictures)
    spec, recipe = DatasetSpec(f"folder:{tmp_path}", "detection"), Recipe(epochs=1, batch_size=2, image_size=64)
    with pytest.raises(KDBenchError, match=r"no test picture of dataset .* has an object"):
        DetectionTask(spec, recipe, Numerics(torch.device("cpu")), tmp_path)
    coco.write(tmp_path, "val", table, pictures)
    task = DetectionTask(spec, recipe, Numerics(torch.device("cpu")), tmp_path)
    assert task.input_size == (3, 64, 64)
    with pytest.raises(KDBenchError, match="unknown augmentation of detection 'pad_crop:4'"):
        DetectionTask(spec, Recipe(epochs=1, batch_size=2, image_size=64, augment=("pad_crop:4",)), FP32, tmp_path)


def test_coco_without_its_files_is_planned_and_says_what_goes_where(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        app, ["run", "coco", "--dry-run", "--data", str(tmp_path), "--out", str(tmp_path / "runs")]
    )
    assert ran.exit_code == 0, ran.output
    said = " ".join(ran.output.split())
    assert "teacher to train: gfl_resnet101@0 on coco" in said
    assert "put annotations/instances_train2017.json and instances_val2017.json" in said


@pytest.mark.parametrize("name", ["detection_small", "coco"])
def test_the_suites_name_methods_that_apply_and_networks_that_can_be_built(name: str) -> None:
    suite = load(name)
    assert {"student", "cross_kd", "fgfi", "fgd", "pkd", "ld", "pred_mimic"} <= {spec.name for spec in suite.methods}
    assert len(suite.seeds) >= 3
    names = {part for spec in suite.methods for part in spec.name.split("+")}
    assert names <= {*METHODS}
