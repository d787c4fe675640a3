"""No learner can change another: what a method writes into, sets or returns ends its own cell, and nobody sees it.

`witness` reads everything that learners share, so its weights tell whether any of that was changed.
"""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from kdbench import Batch, Method, Network, Output, register, registry
from kdbench.commands.progress import Display
from kdbench.executors.local import LocalExecutor
from kdbench.hardware.settings import Surroundings, settings
from kdbench.method import Step
from kdbench.records import Record, Store
from kdbench.suites.parse import parse
from kdbench.testing.trial import Bench
from kdbench.training import cost
from kdbench.training.guard import contents


class Plain(Method):
    """Learns the labels; each method below misbehaves in one hook of it."""

    needs = frozenset({"features"})

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        return {"ce": F.cross_entropy(student.logits, batch.targets)}


class Witness(Plain):
    """Its loss depends on all that learners share."""

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        chosen = (batch.indices % 3 == 0).float()
        maps = sum(feature.mean() for feature in teacher.features)
        return {
            "ce": (F.cross_entropy(student.logits, batch.targets, reduction="none") * (1 + chosen)).mean(),
            "kd": F.mse_loss(student.logits, teacher.logits),
            "inputs": student.logits.mean() * (batch.inputs.mean() + teacher.embedding.mean() + maps),
        }


# ------------------------------------------------------------------------------------------------ writes


class DividesLogits(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        return {"kd": F.mse_loss(student.logits, teacher.logits.div_(4.0))}


class CentresMaps(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        teacher.features[-1].sub_(teacher.features[-1].mean())
        return super().loss(batch, student, teacher)


class DividesEmbedding(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        teacher.embedding.div_(2.0)
        return super().loss(batch, student, teacher)


class MixesInputs(Plain):
    def step(self, step: Step) -> Any:
        step.batch.inputs.mul_(0.7).add_(0.3 * step.batch.inputs.flip(0))
        return super().step(step)


class Relabels(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        batch.targets[:] = teacher.logits.argmax(1)
        return super().loss(batch, student, teacher)


class ForgetsIndices(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        batch.indices.mul_(0)
        return super().loss(batch, student, teacher)


class CleansLabels(Plain):
    def prepare(self, data: Any, teachers: Any) -> None:
        data.targets[::2] = 0


class ReplacesLabels(Plain):
    def prepare(self, data: Any, teachers: Any) -> None:
        data.targets = torch.zeros_like(data.targets)


class ShufflesLabelsInNumpy(Plain):
    """A sum would be the same; nothing counts the write."""

    def prepare(self, data: Any, teachers: Any) -> None:
        np.random.shuffle(data.targets.numpy())


class TrainsTheTeacher(Plain):
    def build(self, student: Network, teacher: Any) -> None:
        teacher.train()


class TrainsTheTeacherLater(Plain):
    def build(self, student: Network, teacher: Any) -> None:
        self.own = [teacher]

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        self.own[0].train()
        return super().loss(batch, student, teacher)


class TakesTheHead(Plain):
    def build(self, student: Network, teacher: Any) -> None:
        self.head = teacher.classifier.requires_grad_(True)


class WritesTheTeachersWeights(TrainsTheTeacherLater):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        with torch.no_grad():
            next(self.own[0].parameters()).mul_(1.01)
        return Plain.loss(self, batch, student, teacher)


class WritesPastTheCount(TrainsTheTeacherLater):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        next(self.own[0].parameters()).data.mul_(1.01)
        return Plain.loss(self, batch, student, teacher)


class WritesOutputsPastTheCount(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        teacher.logits.data.div_(4.0)
        return super().loss(batch, student, teacher)


class WritesImagesInNumpy(Plain):
    def prepare(self, data: Any, teachers: Any) -> None:
        self.images = [data.images.numpy()]

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        if self.epoch == 2:
            self.images[0][0] += 1
        return super().loss(batch, student, teacher)


class WritesStoredImages(Plain):
    """The same with the loader of real images."""

    def prepare(self, data: Any, teachers: Any) -> None:
        self.images = [data.train_images.numpy()]

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        self.images[0][:] = 0
        return super().loss(batch, student, teacher)


class WritesAndFails(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        batch.inputs.zero_()
        raise RuntimeError("too late")


class WritesWhenDeployed(Plain):
    def prepare(self, data: Any, teachers: Any) -> None:
        self.targets = [data.targets]

    def deploy(self, student: Network) -> nn.Module:
        if self.epoch == 2:
            self.targets[0].data.zero_()
        return student


WRITES = {
    DividesLogits: "the teacher's logits",
    CentresMaps: "the teacher's features[",
    DividesEmbedding: "the teacher's embedding",
    MixesInputs: "the batch's inputs",
    Relabels: "the batch's targets",
    ForgetsIndices: "the batch's indices",
    CleansLabels: "the data set's targets",
    ReplacesLabels: "the data set's targets",
    ShufflesLabelsInNumpy: "the data set's targets",
    TrainsTheTeacher: "the layers of teacher cifar_resnet14@0",
    TrainsTheTeacherLater: "the layers of teacher cifar_resnet14@0",
    TakesTheHead: "the layers of teacher cifar_resnet14@0",
    WritesTheTeachersWeights: "a teacher's weights",
    WritesPastTheCount: "a teacher's weights",
    WritesOutputsPastTheCount: "the teacher's logits",
    WritesImagesInNumpy: "the data set's images",
    WritesAndFails: "the batch's inputs",
    WritesWhenDeployed: "the data set's targets",
}


# ------------------------------------------------------------------------------------------------ harmless


class HoldsTheTeacher(Plain):
    def build(self, student: Network, teacher: Any) -> None:
        self.teacher = teacher


class WantsInputGradients(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        batch.inputs.requires_grad_(True)
        return super().loss(batch, student, teacher)


class Seeds(Plain):
    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        return super().loss(batch, student, teacher)


class Surrounds(Plain):
    """Changes what is put back without a word."""

    def build(self, student: Network, teacher: Any) -> None:
        os.environ["KDBENCH_TEST"] = "1"
        os.environ.pop("HOME", None)

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        os.chdir("/")
        warnings.simplefilter("error")
        np.seterr(all="raise")
        return super().loss(batch, student, teacher)


# ------------------------------------------------------------------------------------------------ settings

SETTINGS: dict[str, tuple[str, Any]] = {
    "set_grad_enabled": ("loss", lambda: torch.set_grad_enabled(False)),
    "set_default_dtype": ("build", lambda: torch.set_default_dtype(torch.float64)),
    "set_num_threads": ("loss", lambda: torch.set_num_threads(2)),
    "set_autocast_enabled": ("loss", lambda: torch.set_autocast_enabled("cpu", True)),
    "use_deterministic_algorithms": ("prepare", lambda: torch.use_deterministic_algorithms(True)),
    "mkldnn.enabled": ("loss", lambda: torch._C._set_mkldnn_enabled(False)),
    "cudnn.allow_tf32": ("loss", lambda: setattr(torch.backends.cudnn, "allow_tf32", False)),
    "cudnn.benchmark": ("deploy", lambda: torch._C._set_cudnn_benchmark(True)),
    "set_default_device": ("loss", lambda: torch.set_default_device("meta")),
    "set_detect_anomaly": ("watch", lambda: torch.autograd.set_detect_anomaly(True)),
}


class Sets(Plain):
    """Changes one of torch's settings in one hook."""

    def __init__(self, setting: str = "") -> None:
        super().__init__()
        self.hook, self.change = SETTINGS[setting]

    def _at(self, hook: str) -> None:
        if hook == self.hook:
            self.change()

    def build(self, student: Network, teacher: Any) -> None:
        self._at("build")

    def prepare(self, data: Any, teachers: Any) -> None:
        self._at("prepare")

    def loss(self, batch: Batch, student: Output, teacher: Output) -> Any:
        self._at("loss")
        return super().loss(batch, student, teacher)

    def deploy(self, student: Network) -> nn.Module:
        self._at("deploy")
        return student

    def watch(self) -> Mapping[str, Tensor]:
        self._at("watch")
        return {}


# ------------------------------------------------------------------------------------------------ the runs


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """Register this file's methods for its tests, and do not wait for latencies."""
    registry.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_METHODS", dict(registry._METHODS))
        patch.setattr(cost, "SECONDS", 0.0)
        patch.setattr(cost, "CALLS", 1)
        for name, cls in list(globals().items()):
            if isinstance(cls, type) and issubclass(cls, Plain):
                register(name.lower(), family="logits")(cls)
        yield


def bench(folder: Path) -> Bench:
    return Bench(folder, epochs=3)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The witness's weights after it trained alone."""
    alone = bench(tmp_path_factory.mktemp("alone"))
    (record,) = alone.run([alone.cell("witness")])
    assert record["status"] == "done", record["reason"]
    return alone.weights["results", record["id"]]


def beside_the_witness(folder: Path, undisturbed: Mapping[str, Tensor], method: str, **hyperparameters: Any) -> Record:
    """Train a method between two others, and hold that these end as if it had not been there.

    Returns:
        the method's record.
    """
    here = bench(folder)
    cells = [here.cell("plain"), here.cell(method, **hyperparameters), here.cell("witness")]
    before, around = settings(), Surroundings.now()
    plain, record, witness = here.run(cells)
    assert settings() == before
    assert Surroundings.now() == around
    assert plain["status"] == witness["status"] == "done", (plain["reason"], witness["reason"])
    for key, tensor in here.weights["results", witness["id"]].items():
        assert torch.equal(tensor, undisturbed[key]), key
    return record


@pytest.mark.parametrize("cls", WRITES, ids=lambda cls: cls.__name__)
def test_a_method_that_writes_in_place_fails_and_no_other_is_changed(
    tmp_path: Path, undisturbed: dict[str, Tensor], cls: type[Method]
) -> None:
    record = beside_the_witness(tmp_path, undisturbed, cls.info.name)
    assert record["status"] == "failed"
    assert record["reason"].startswith(f"method {cls.info.name!r} changed {WRITES[cls]}")
    assert record["reason"].endswith("write on a copy, e.g. `x / 4` for `x.div_(4)`, or `copy.deepcopy` of a layer")


@pytest.mark.parametrize("cls", [HoldsTheTeacher, WantsInputGradients, Seeds, Surrounds], ids=lambda c: c.__name__)
def test_what_changes_nobody_is_allowed(tmp_path: Path, undisturbed: dict[str, Tensor], cls: type[Method]) -> None:
    record = beside_the_witness(tmp_path, undisturbed, cls.info.name)
    assert record["status"] == "done", record["reason"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_method_that_changes_torchs_settings_fails_and_they_are_put_back(
    tmp_path: Path, undisturbed: dict[str, Tensor], setting: str
) -> None:
    record = beside_the_witness(tmp_path, undisturbed, "sets", setting=setting)
    assert record["status"] == "failed"
    assert record["reason"].startswith("method 'sets' changed ")
    assert setting in record["reason"]


def test_a_write_past_the_count_is_found_where_one_method_trains_alone(tmp_path: Path) -> None:
    alone = bench(tmp_path)
    (record,) = alone.run([alone.cell("writesimagesinnumpy")])
    assert record["reason"].startswith("method 'writesimagesinnumpy' changed the data set's images in place")
    assert len(alone.task.test.images) == alone.samples  # the data are there for the next run


def test_a_run_goes_on_with_the_data_loaded_anew(tmp_path: Path) -> None:
    table = {
        "name": "shared",
        "seeds": [0],
        "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 2}}}],
        "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
        "recipe": {"epochs": 2, "batch_size": 16},
        "teacher_recipe": {"epochs": 1},
    }
    results = {}
    for names in (["witness"], ["plain", "writesstoredimages", "witness"]):
        cells = parse({**table, "methods": names}).cells()
        with Display(Console(file=io.StringIO()), len(cells), 0) as display:
            LocalExecutor(tmp_path / str(len(names)), display, device="cpu").run(cells)
        records = [Store(tmp_path / str(len(names)) / "shared").read(cell.id) for cell in cells]
        results[len(names)] = [record["result"] if record["status"] == "done" else None for record in records]
    assert results[3][1] is None
    assert records[1]["reason"].startswith("method 'writesstoredimages' changed the data set's train_images in place")
    assert results[3][2] == results[1][0]


@pytest.mark.usefixtures("saved_each_epoch")
def test_the_innocent_go_on_from_their_last_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose fault it is shows when the epoch is run a second time, with a look at all after each step."""
    epochs: list[int] = []
    real = Witness.loss

    def noted(self: Witness, *arguments: Any) -> dict[str, Tensor]:
        epochs.append(self.epoch)
        return real(self, *arguments)

    monkeypatch.setattr(Witness, "loss", noted)
    here = bench(tmp_path)
    here.run([here.cell("writesimagesinnumpy"), here.cell("witness")])
    assert epochs == [1, 1, 2, 2, 2, 2, 3, 3]


def test_a_checksum_tells_the_places_of_what_it_sums() -> None:
    for tensor in (torch.arange(5000), torch.arange(7, dtype=torch.uint8), torch.tensor([1.0, float("nan"), 2.0])):
        swapped = tensor.clone()
        swapped[[0, -1]] = tensor[[-1, 0]]
        assert contents([tensor]) == contents([tensor.clone()])
        assert contents([tensor]) != contents([swapped])
    channels_last = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    before = contents([channels_last, channels_last])
    assert before[0] == before[1]
    channels_last[1, 2, 3, 3] += 1
    assert contents([channels_last]) != before[:1]
