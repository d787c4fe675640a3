"""What the machine does wrong stops a run with a sentence or is tried again; no method is blamed, nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.seeding import seeded
from kdbench.suites.grid import Cell
from kdbench.suites.parse import parse
from kdbench.tasks.image.data.workers import InOrder, Workers
from kdbench.testing import trial
from kdbench.testing.trial import Bench
from kdbench.training import learner
from kdbench.training.learner import Learner
from kdbench.training.machine_faults import MachineFault, explained, is_machines
from kdbench.training.pace import Pace

pytestmark = pytest.mark.usefixtures("saved_each_epoch")
SUITE = {
    "seeds": [0],
    "methods": ["student", "kd"],
    "datasets": [{"name": "digits", "protocol": {"subset": {"per_class": 4}}}],
    "recipe": {"epochs": 2, "batch_size": 32},
    "teacher_recipe": {"epochs": 1},
    "pairs": [{"teacher": "cifar_resnet8", "student": "cifar_resnet8"}],
}
WORKER = RuntimeError("DataLoader worker (pid 4269) is killed by signal: Killed.")
DEVICE = RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")
FAULTS = {
    "killed worker": WORKER,
    "lost worker": RuntimeError("DataLoader worker (pid(s) 4269) exited unexpectedly"),
    "device": DEVICE,
    "driver": RuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error encountered"),
    "illegal access": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "Triton": RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    "assert": RuntimeError("device-side assert triggered"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`"),
    "cuBLAS handle": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    "cuFFT": RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
    "accelerator": getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: unspecified launch failure"),
    "disk": OSError(errno.EIO, "Input/output error", "/data/x.png"),
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "threads": RuntimeError("Resource temporarily unavailable"),
    "files": OSError(errno.EMFILE, "Too many open files"),
}
OTHERS = {
    "GPU memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "driver's memory": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "cuBLAS memory": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuBLAS arguments": RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm( handle)`"),
    "cuDNN arguments": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in"),
    "launch arguments": getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: invalid configuration argument"),
    "a shape": RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    "a value": ValueError("CUDA error in a text of one's own"),
    "no file": FileNotFoundError(errno.ENOENT, "No such file or directory"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_machine_becomes_one_sentence(name: str) -> None:
    with pytest.raises(MachineFault) as said, explained():
        raise FAULTS[name]
    assert "records and checkpoints are kept, and the same command goes on from them" in str(said.value)
    assert "\n" not in str(said.value)
    assert said.value.worker is ("worker" in name)


def test_a_fault_is_found_below_what_was_raised_from_it() -> None:
    with pytest.raises(ValueError, match="a step failed") as caught:
        raise ValueError("a step failed") from DEVICE
    assert is_machines(caught.value)


def test_a_lost_device_is_found_behind_what_a_method_raised_in_its_place() -> None:
    def step() -> None:
        try:
            raise DEVICE
        except RuntimeError:
            raise ValueError("an index of mine is wrong")  # noqa: B904

    with pytest.raises(ValueError, match="an index of mine is wrong") as caught:
        step()
    assert is_machines(caught.value)


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_method_can_do_wrong_is_none(name: str) -> None:
    assert not is_machines(OTHERS[name])
    with pytest.raises(type(OTHERS[name])), explained():
        raise OTHERS[name]


# ------------------------------------------------------------------------------------------ in a run


class Listening(trial._Silent):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def notice(self, sentence: str) -> None:
        self.said.append(sentence)


def cells() -> list[Cell]:
    return parse(SUITE).cells()


def run(out: Path, retry_failed: bool = False) -> list[str]:
    listener = Listening()
    LocalExecutor(out, listener, device="cpu").run(cells(), retry_failed)
    return listener.said


def results(out: Path) -> list[Any]:
    store = Store(out / "suite")
    return [store.read(cell.id)["result"] for cell in cells()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "latencies", lambda *_: {})
        run(out)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained teacher and nothing else."""
    monkeypatch.setattr(learner, "latencies", lambda *_: {})
    shutil.copytree(whole / "teachers", tmp_path / "out" / "teachers")
    return tmp_path / "out"


Failing = Callable[..., list[int]]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Let steps fail: `failing(error, *numbers)` counts all learners' steps together and returns the list of them."""
    monkeypatch.setattr(Pace, "wanted", lambda self, learner: False)  # the steps of its copies would count
    real = Learner.train_step

    def arrange(error: Exception, *numbers: int) -> list[int]:
        steps: list[int] = []

        def step(self: Learner, *arguments: Any) -> None:
            steps.append(len(steps) + 1)
            if steps[-1] in numbers:
                raise error
            real(self, *arguments)

        monkeypatch.setattr(Learner, "train_step", step)
        return steps

    return arrange


LATE = 2 * 2 + 1  # steps: the first of the second epoch, after two learners' two


def test_a_lost_device_stops_the_run_fails_nobody_and_the_same_command_goes_on(
    out: Path, whole: Path, failing: Failing
) -> None:
    failing(DEVICE, *range(LATE, 99))
    with pytest.raises(MachineFault, match="the device was lost"):
        run(out)
    store = Store(out / "suite")
    assert store.all() == []
    assert len(list((store.folder / "checkpoints").glob("*.pt"))) == 2
    steps = failing(DEVICE)
    run(out)
    assert len(steps) == 4  # of the second epoch only
    assert results(out) == results(whole)


class Poisoned:
    """A GPU as one learner leaves it: whatever anybody calls afterwards fails.

    Attributes:
        met: how often.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, culprit: str, error: Exception) -> None:
        self.met, self._error, self._culprit = 0, error, culprit
        for name in ("train_step", "end_epoch", "begin_epoch"):
            monkeypatch.setattr(Learner, name, self._failing(getattr(Learner, name)))

    def _failing(self, real: Callable[..., None]) -> Callable[..., None]:
        def work(learner: Learner, *arguments: Any) -> None:
            asserts = learner.name == self._culprit and learner.epoch == 1 and real.__name__ == "train_step"
            if self.met or asserts:
                self.met += 1
                raise self._error
            real(learner, *arguments)

        return work


@pytest.mark.parametrize("name", ["device", "accelerator", "cuDNN"])
@pytest.mark.parametrize("blocking", ["", "1"])
def test_a_poisoned_context_ends_the_run_of_five_learners_with_no_record_for_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, blocking: str
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", blocking)
    poisoned = Poisoned(monkeypatch, "dkd", FAULTS[name])
    bench = Bench(tmp_path, teacher="cifar_resnet8", epochs=2)
    with pytest.raises(MachineFault) as caught:
        bench.run([bench.cell(method) for method in ("student", "kd", "dkd", "at", "sp")])
    assert poisoned.met == 1, "nobody else is tried on it"
    assert Store(tmp_path / "results").all() == []
    assert len(list((tmp_path / "results" / "checkpoints").glob("*.pt"))) == 5
    sentence, where = str(caught.value), "in method 'dkd' on cifar_resnet8 -> cifar_resnet8"
    assert sentence.startswith(f"the device was lost ({str(FAULTS[name]).splitlines()[0]})")
    assert where in sentence
    assert ("CUDA_LAUNCH_BLOCKING=1 before the command tells whose" in sentence) != bool(blocking)
    assert "\n" not in sentence


def test_a_dead_worker_is_tried_again_once_from_the_checkpoints(out: Path, whole: Path, failing: Failing) -> None:
    failing(WORKER, LATE)
    assert run(out) == ["a process that reads the data died: going on from the last checkpoints"]
    assert results(out) == results(whole)


def test_workers_that_die_again_stop_the_run_and_fail_nobody(out: Path, failing: Failing) -> None:
    failing(WORKER, LATE, LATE + 1)
    with pytest.raises(MachineFault, match=r"a process that reads the data died \(too little memory, or"):
        run(out)
    assert Store(out / "suite").all() == []


def test_a_read_error_of_the_data_fails_nobody(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.tasks.image.data.loader import Loader

    def broken(self: Loader, epoch: int) -> Any:
        raise OSError(errno.EIO, "Input/output error", "digits.csv")

    monkeypatch.setattr(Loader, "epoch", broken)
    with pytest.raises(MachineFault, match=r"the machine gave up \(Input/output error at 'digits\.csv'\)"):
        run(out)
    assert Store(out / "suite").all() == []


def test_a_failed_cell_keeps_its_checkpoint_and_goes_on_from_there_if_it_is_tried_again(
    out: Path, whole: Path, failing: Failing
) -> None:
    failing(ValueError("not the machine"), LATE + 1)
    run(out)
    store = Store(out / "suite")
    assert sorted(record["status"] for record in store.all()) == ["done", "failed"]
    steps = failing(ValueError("never"))
    run(out)
    assert steps == []
    run(out, retry_failed=True)
    assert len(steps) == 2
    assert results(out) == results(whole)
    assert not list((store.folder / "checkpoints").glob("*.pt"))


# ------------------------------------------------------------------------------------------ real workers


class Killing:
    """Images whose reader is killed."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class Asking:
    """Images that say which signal their reader gets when its parent dies."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        import ctypes

        found = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(found))  # PR_GET_PDEATHSIG
        return found.value


def read(images: Any) -> list[list[torch.Tensor]]:
    with seeded("test"):
        return list(Workers(images, torch.tensor, 1, pin_memory=False).read(InOrder(len(images), 2)))


def test_a_killed_worker_is_known_as_such() -> None:
    with pytest.raises(KDBenchError, match="a process that reads the data died"), explained():
        read(Killing())


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux ends children with their parents")
def test_a_worker_dies_with_its_parent() -> None:
    assert [batch[1].tolist() for batch in read(Asking())] == [[signal.SIGKILL] * 2]
