"""Device rules: what runs where, in which precision, and that the record says so."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
import torch
from support.gpu import Gpu
from torch import nn

from kdbench.errors import KDBenchError
from kdbench.hardware.clock import PENDING, Clock, seconds
from kdbench.hardware.numerics import Numerics, resolve
from kdbench.training.provenance import provenance


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """A process with two threads, as torch would have it on two cores."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def switches() -> dict[tuple[object, str], bool]:
    owners = {
        torch.backends.cuda.matmul: ("allow_tf32",),
        torch.backends.cudnn: ("allow_tf32", "deterministic", "benchmark"),
    }
    return {(owner, name): getattr(owner, name) for owner, names in owners.items() for name in names}


def probes(monkeypatch: pytest.MonkeyPatch, there: Sequence[str] = ()) -> None:
    """Let the processor have these extensions and no others."""
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in there, raising=False)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("there", "precision"),
    [((), "fp32"), (("amx_tile",), "bf16"), (("avx512_bf16",), "bf16"), (("amx_tile", "avx512_bf16"), "bf16")],
)
def test_a_cpu_computes_in_bf16_only_where_it_multiplies_it_natively(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], precision: str
) -> None:
    probes(monkeypatch, there)
    numerics = resolve()
    assert (numerics.device.type, numerics.precision) == ("cpu", precision)


@pytest.mark.usefixtures("cpu_only")
def test_a_torch_that_cannot_tell_of_the_processor_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert resolve().precision == "fp32"


@pytest.mark.parametrize(("there", "precision"), [(("amx_tile",), "fp32"), ((), "bf16")])
def test_a_given_precision_overrides_the_rule(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], precision: str
) -> None:
    probes(monkeypatch, there)
    assert resolve("cpu", precision).precision == precision


def test_the_record_says_by_which_rule_precision_and_compilation_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    probes(monkeypatch, ["avx512_bf16"])
    chosen, given = resolve("cpu").describe(), resolve("cpu", "fp32", "off").describe()
    assert chosen["precision_rule"] == "the device multiplies bf16 natively"
    assert chosen["compile_rule"] == "on where there is CUDA"
    assert given["precision_rule"] == given["compile_rule"] == "given"


@pytest.mark.parametrize(("choice", "compiled"), [("auto", False), ("off", False), ("on", True)])
def test_a_cpu_compiles_only_when_asked(choice: str, compiled: bool) -> None:
    numerics = resolve("cpu", compile=choice)
    assert numerics.compile is numerics.describe()["compile"] is compiled
    assert numerics.describe()["cuda_graphs"] is False


@pytest.mark.parametrize(
    ("precision", "used"), [("auto", "bf16"), ("fp32", "fp32"), ("bf16", "bf16"), ("tf32", "tf32")]
)
def test_cuda_is_taken_where_it_is_and_tf32_is_on_only_where_it_is_the_precision(
    gpu: Gpu, precision: str, used: str
) -> None:
    tf32 = used == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = not tf32
    before = switches()
    numerics = resolve(precision=precision)
    assert switches() == before, "only Numerics.apply() touches the process"
    assert (numerics.device.type, numerics.precision, numerics.channels_last) == ("cuda", used, True)
    numerics.apply()
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert (numerics.describe()["precision"], numerics.describe()["tf32"]) == (used, tf32)


def test_tf32_is_refused_where_there_is_none(gpu: Gpu) -> None:
    gpu.capability = (7, 5)
    for device in ("cpu", "cuda"):
        with pytest.raises(KDBenchError, match=f"device '{device}' has no TF32, .* give the precision as fp32 here"):
            resolve(device, "tf32")


def test_a_gpu_without_bf16_computes_in_fp32_and_says_so(gpu: Gpu) -> None:
    gpu.capability = (7, 5)
    found = resolve("cuda").describe()
    assert (found["precision"], found["precision_rule"]) == ("fp32", "the device does not multiply bf16 natively")


# ------------------------------------------------------------------------------------------------ one of several GPUs


@pytest.mark.parametrize(
    ("count", "device", "sentence"),
    [
        (1, "cuda:1", "device 'cuda:1' is not there: this machine has 'cuda:0'"),
        (4, "cuda:7", "device 'cuda:7' is not there: this machine has 'cuda:0' to 'cuda:3'"),
        (4, "cpu:2", "device 'cpu:2' is not there: this machine has 'cpu:0'"),
    ],
)
def test_a_device_past_the_last_one_is_refused(gpu: Gpu, count: int, device: str, sentence: str) -> None:
    gpu.count = count
    with pytest.raises(KDBenchError) as caught:
        resolve(device)
    assert str(caught.value) == sentence


def test_the_gpu_that_is_named_becomes_torchs_own(gpu: Gpu) -> None:
    gpu.count = 4
    resolve("cuda").apply()
    assert gpu.current == 0
    numerics = resolve("cuda:2")
    assert (numerics.device, gpu.current) == (torch.device("cuda:2"), 0), "only Numerics.apply() touches the process"
    numerics.apply()
    assert gpu.current == 2


@pytest.mark.parametrize("spans", [3, 1000])
def test_a_clock_asks_and_waits_for_its_own_gpu_and_keeps_few_events(
    monkeypatch: pytest.MonkeyPatch, spans: int
) -> None:
    device, waited, recorded = torch.device("cuda:1"), [], []

    class Event:
        alive: ClassVar[weakref.WeakSet[Event]] = weakref.WeakSet()

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.alive.add(self)

        def record(self, stream: object) -> None:
            recorded.append(stream)
            self.at = len(recorded)

        def query(self) -> bool:
            return self.at < len(recorded) - 20  # the device is a little behind

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    clock = Clock(device)
    for _ in range(spans):
        with clock.running():
            pass
    assert waited == []
    assert len(Event.alive) <= 2 * PENDING + 2
    assert (clock.read(), clock.read()) == (spans, 0)
    assert waited == [device]
    assert set(recorded) == {"stream of cuda:1"}


def test_mps_is_taken_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    numerics = resolve()
    assert (numerics.device.type, numerics.precision, numerics.channels_last) == ("mps", "fp32", False)


@pytest.mark.usefixtures("cpu_only")
@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"device": "banana"}, "unknown device 'banana'"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not available here"),
        ({"device": "meta"}, "device 'meta' is not available here"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"compile": "yes"}, "unknown compile mode 'yes'"),
        ({"threads": 0}, "0 threads compute nothing"),
    ],
)
def test_a_device_or_mode_that_is_not_there_is_refused(choice: dict[str, str], sentence: str) -> None:
    with pytest.raises(KDBenchError) as caught:
        resolve(**choice)
    assert sentence in str(caught.value)


def test_bf16_reaches_the_forward_pass_and_fp32_leaves_it_alone() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        numerics = Numerics(torch.device("cpu"), precision)
        with numerics.autocast():
            assert layer(x).dtype == dtype
            with numerics.autocast(enabled=False):
                assert layer(x).dtype == torch.float32


def test_convolutions_are_placed_channels_last_where_that_is_on() -> None:
    numerics = Numerics(torch.device("cpu"))
    assert numerics.place(nn.Conv2d(3, 4, 3)).weight.is_contiguous(memory_format=torch.channels_last)
    assert dataclasses.replace(numerics, channels_last=False).place(nn.Conv2d(3, 4, 3)).weight.is_contiguous()


def test_what_is_not_compiled_is_the_module_itself() -> None:
    layer = nn.Linear(2, 2)
    assert Numerics(torch.device("cpu")).compiled(layer, 4) is layer


def test_a_cpu_has_no_switches_of_cuda_to_set() -> None:
    before = switches()
    resolve("cpu", "bf16").apply()
    assert switches() == before


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("given", "used"), [(None, 1), (1, 1), (2, 2), (3, 3)])
def test_a_cpu_computes_on_one_thread_unless_more_are_asked_for(given: int | None, used: int) -> None:
    numerics = resolve("cpu", threads=given)
    assert torch.get_num_threads() == 2, "only Numerics.apply() touches the process"
    assert numerics.describe()["threads"] == used
    numerics.apply()
    assert torch.get_num_threads() == used


@pytest.mark.usefixtures("two_threads", "gpu")
@pytest.mark.parametrize(("given", "used"), [(None, 2), (1, 1)])
def test_the_host_of_an_accelerator_keeps_its_threads_unless_told(given: int | None, used: int) -> None:
    numerics = resolve("cuda", "fp32", threads=given)
    numerics.apply()
    assert numerics.describe()["threads"] == torch.get_num_threads() == used


def test_the_record_says_everything_that_decides_the_bits() -> None:
    found = provenance(resolve("cpu", threads=2))
    kept = {"device", "precision", "compile", "cuda_graphs", "channels_last", "threads", "tf32"}
    assert kept <= found["numerics"].keys()
    assert {"processor"} <= found["hardware"].keys()
    assert {"torch"} <= found["versions"].keys()


@pytest.mark.parametrize(("device", "events"), [("cpu", ["call"]), ("cuda", ["wait", "call", "wait"])])
def test_a_call_is_timed_from_an_idle_device_to_its_end(
    monkeypatch: pytest.MonkeyPatch, device: str, events: list[str]
) -> None:
    happened: list[str] = []
    times = iter([10.0, 12.5])
    monkeypatch.setattr("kdbench.hardware.clock.time.perf_counter", lambda: next(times))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append("wait"))
    assert seconds(lambda: happened.append("call"), torch.device(device)) == 2.5
    assert happened == events


def test_the_clock_sums_its_spans_and_starts_anew_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 20.0, 22.5])
    monkeypatch.setattr("kdbench.hardware.clock.time.perf_counter", lambda: next(times))
    clock = Clock(torch.device("cpu"))
    for _ in range(2):
        with clock.running():
            pass
    assert clock.read() == 3.5
    assert clock.read() == 0.0


def test_a_device_that_torch_calls_otherwise_is_named_as_torch_does() -> None:
    for given, right in (("gpu", "cuda"), ("gpu:1", "cuda"), ("metal", "mps")):
        with pytest.raises(KDBenchError, match=f"unknown device '{given}': did you mean '{right}'"):
            resolve(device=given)


@pytest.mark.usefixtures("gpu")
def test_graphs_are_off_unless_they_are_asked_for_and_are_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("cuda").describe()["cuda_graphs"] is False
    asked = resolve("cuda", graphs=4)
    assert (asked.graphs, asked.describe()["cuda_graphs"]) == (4, True)
    monkeypatch.setattr(torch.version, "hip", "6.0")
    for device in ("cuda", "cpu"):
        with pytest.raises(
            KDBenchError, match=f"device '{device}' has no CUDA graphs, which are NVIDIA's: leave --graphs"
        ):
            resolve(device, graphs=1)


def test_what_only_a_measurement_may_choose_is_off() -> None:
    numerics = resolve("cpu")
    assert (numerics.graphs, numerics.skip_guards, numerics.augmented_together) == (0, False, None)
