"""Every method builds, prepares, trains in each phase and deploys on a GPU that is not there: nothing mixes devices.

Tensors are fake (`support.fake_cuda`): they have shapes and devices, no numbers. What autograd would compute is not
run. `tox -e gpu-sim` does the same with the networks that the suites for GPUs train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.fake_cuda import CUDA, Watch, fake_cuda
from torch import Tensor

from kdbench import Batch, Method, NotApplicable, Output, register, registry
from kdbench.hardware.numerics import Numerics
from kdbench.method import both_views
from kdbench.testing.trial import Bench
from kdbench.training.learner import Learner

NUMERICS = Numerics(CUDA, "bf16")
EPOCHS = 8

# one of each family of networks that the suite cifar100 has
SHALLOW: Mapping[str, Mapping[str, Any]] = {
    "resnet": {"teacher": "cifar_resnet14", "student": "cifar_resnet8", "image_size": 16},
    "wrn": {"teacher": "cifar_wrn_16_2", "student": "cifar_wrn_16_1"},
    "vgg": {"teacher": "cifar_vgg8", "student": "cifar_vgg8"},
    "mobilenet": {"teacher": "cifar_resnet8", "student": "cifar_mobilenetv2"},
    "shufflenet": {"teacher": "cifar_resnet8", "student": "cifar_shufflenetv1"},
}
# these need maps of the same channels or sizes, as many stages, or a student of another width
NOT_THERE: Mapping[str, set[str]] = {
    "wrn": {"fsp", "kdsvd"},
    "mobilenet": {"fcfd", "fsp", "kdsvd", "residual_kd", "sskd"},
    "shufflenet": {"fsp", "kdsvd", "residual_kd"},
}
# a method sees the two deepest families by turns; all of both are `tox -e gpu-sim`
CASES = [
    (method, family)
    for place, method in enumerate(registry.names("image"))
    for family in ("resnet", "wrn", "vgg", ("mobilenet", "shufflenet")[place % 2])
]
# pairs of the suites cifar100 and imagenet, with their assistants
SUITES: Mapping[str, Mapping[str, Any]] = {
    "resnet56 -> 20": {
        "teacher": "cifar_resnet56", "student": "cifar_resnet20", "assistants": ("cifar_resnet44", "cifar_resnet32"),
    },
    "wrn_40_2 -> 16_2": {
        "teacher": "cifar_wrn_40_2", "student": "cifar_wrn_16_2", "assistants": ("cifar_wrn_40_1",) * 2,
    },
    "vgg13 -> vgg8": {"teacher": "cifar_vgg13", "student": "cifar_vgg8", "assistants": ("cifar_vgg11",) * 2},
    "vgg13 -> mobilenetv2": {
        "teacher": "cifar_vgg13", "student": "cifar_mobilenetv2", "assistants": ("cifar_vgg11", "cifar_vgg8"),
    },
    "resnet32x4 -> shufflenetv2": {
        "teacher": "cifar_resnet32x4", "student": "cifar_shufflenetv2", "assistants": ("cifar_wrn_40_2",) * 2,
    },
    "resnet50 -> vgg8": {
        "teacher": "cifar_resnet50", "student": "cifar_vgg8", "assistants": ("cifar_vgg13", "cifar_vgg11"),
    },
    "ImageNet's resnet50 -> mobilenetv1": {
        "teacher": "resnet50", "student": "mobilenetv1_100", "image_size": 224, "assistants": ("resnet34", "resnet18"),
    },
}  # fmt: skip


@contextmanager
def benches(folder: Path, pair: Mapping[str, Any]) -> Iterator[tuple[Bench, Watch]]:
    with fake_cuda() as watch:
        settings = {"image_size": 32, "samples": 20, "batch_size": 8, "epochs": EPOCHS, **pair}
        yield Bench(folder, numerics=NUMERICS, **settings), watch


def trained(folder: Path, pair: Mapping[str, Any], method: str, last: bool = False) -> Watch | str:
    """What was noted of a training's first step in each phase; why the method does not apply, if it does not.

    Args:
        last: also take the first step of each phase's last epoch, where ramps have ended, and evaluate.
    """
    with benches(folder, pair) as (bench, watch):
        try:
            learner = bench.learner(bench.cell(method))
        except NotApplicable as error:
            return str(error)
        learner.peak_memory_mb = 0.0  # counts bytes of a GPU's allocator
        for start, end in zip([0, *learner.bounds], learner.bounds, strict=False):
            for epoch in sorted({start, end - 1} if last else {start}):
                learner.epoch = epoch
                learner.begin_epoch()
                one_step(learner)
        for value in learner.method.watch().values():
            assert isinstance(value, float | int) or value.device == CUDA
        if last:
            assert learner.task.evaluate(learner.deployed()).device == CUDA
    return watch


def one_step(learner: Learner) -> None:
    batch = next(iter(learner.data.epoch(learner.epoch)))
    strong = batch.strong if learner.wants_strong_view else None
    teachers = learner.teachers if learner.method.uses_teacher else ()
    with torch.no_grad(), learner.numerics.autocast():
        outputs = [both_views(teacher, batch.inputs, strong) for teacher in teachers]
    learner.train_step(0, batch, outputs)
    assert all(total.device == CUDA for total in learner.sums.values())


def on_gpu(found: Watch | str, pair: Mapping[str, Any], applies: bool = True) -> None:
    if isinstance(found, str):
        assert not applies, found
        assert any(pair[role] in found for role in ("teacher", "student")), found
    else:
        assert applies
        assert found.mixed == {}
        assert found.on_gpu > 500, "it did not train there"


@pytest.mark.parametrize(("method", "family"), CASES)
def test_a_method_mixes_no_devices_on_a_gpu(tmp_path: Path, method: str, family: str) -> None:
    found = trained(tmp_path, SHALLOW[family], method, last=family == "resnet")
    on_gpu(found, SHALLOW[family], method not in NOT_THERE.get(family, ()))


@pytest.mark.gpu_sim
@pytest.mark.parametrize("family", SHALLOW)
@pytest.mark.parametrize("method", registry.names("image"))
def test_a_method_mixes_no_devices_with_any_shallow_pair(tmp_path: Path, method: str, family: str) -> None:
    found = trained(tmp_path, SHALLOW[family], method, last=True)
    on_gpu(found, SHALLOW[family], method not in NOT_THERE.get(family, ()))


@pytest.mark.gpu_sim
@pytest.mark.parametrize("pair", SUITES)
@pytest.mark.parametrize("method", registry.names("image"))
def test_a_method_mixes_no_devices_with_the_networks_of_the_suites(tmp_path: Path, method: str, pair: str) -> None:
    found = trained(tmp_path, SUITES[pair], method, last=True)
    on_gpu(found, SUITES[pair], applies=isinstance(found, Watch))


def test_what_applies_nowhere_is_no_method() -> None:
    assert set().union(*NOT_THERE.values()) < set(registry.names("image"))
    assert NOT_THERE.keys() < SHALLOW.keys()


# ------------------------------------------------------------------------------------------ what is seen


class Wrong(Method):
    """A loss with a tensor of the host in it."""

    def loss(self, batch: Batch, student: Output, teacher: Output) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch.targets) + self.wrong(student.logits)}

    def wrong(self, logits: Tensor) -> Tensor:
        raise NotImplementedError


WRONG = {
    "a stacked zero": lambda logits: torch.stack([logits.sum(), torch.zeros(())]).sum(),
    "a product with an identity": lambda logits: (logits @ torch.eye(10)).sum(),
    "a sum of two vectors": lambda logits: (logits.float().sum(0) + torch.ones(10)).sum(),
    "a target of the host": lambda logits: F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)),
}


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("name", WRONG)
def test_a_tensor_of_the_host_in_a_loss_is_seen(tmp_path: Path, name: str) -> None:
    kind = type("OfTheHost", (Wrong,), {"wrong": lambda self, logits: WRONG[name](logits)})
    register("of_the_host", family="logits")(kind)
    try:
        found = trained(tmp_path, SHALLOW["resnet"], "of_the_host")
    except Exception as error:  # fake tensors refuse most of it themselves
        seen = "device" in str(error)
    else:
        seen = isinstance(found, Watch) and bool(found.mixed)
    assert seen


def test_numbers_of_the_host_may_be_used() -> None:
    with fake_cuda() as watch:
        logits = torch.ones(4, 10, device=CUDA)
        assert (logits * torch.tensor(2.0)).device == CUDA
        assert logits[torch.arange(2)].device == CUDA
    assert watch.mixed == {}


def test_maps_are_half_and_logits_are_not(tmp_path: Path) -> None:
    with benches(tmp_path, SHALLOW["resnet"]) as (bench, _):
        learner = bench.learner(bench.cell("kd"))
        with learner.numerics.autocast():
            output = learner.students[0](next(iter(learner.data.epoch(0))).inputs)
        assert {feature.dtype for feature in output.features} == {torch.bfloat16}
        assert output.logits.dtype == torch.float32
        assert output.features[0].device == CUDA


def test_all_is_as_before_when_the_gpu_is_gone(tmp_path: Path) -> None:
    place, grad, backward = Numerics.place, torch.autograd.grad, Tensor.backward
    trained(tmp_path, SHALLOW["resnet"], "kd")
    assert (Numerics.place, torch.autograd.grad, Tensor.backward) == (place, grad, backward)
    x = torch.ones(3, requires_grad=True)
    x.square().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
