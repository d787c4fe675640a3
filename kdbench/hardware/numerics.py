"""Where and how numbers are computed: device, precision, memory format, compilation; all of it goes into the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdbench.errors import KDBenchError, unknown
from kdbench.hardware import determinism
from kdbench.hardware.machine import multiplies_bf16, multiplies_tf32
from kdbench.hardware.narrow import widen_narrow_maps
from kdbench.hardware.strided import leave_strides_out
from kdbench.records.types import NumericsConfig

if TYPE_CHECKING:
    from kdbench.reads import Taps

PRECISIONS = ("auto", "fp32", "bf16", "tf32")
CALLED = {"gpu": "cuda", "nvidia": "cuda", "apple": "mps", "metal": "mps"}  # what people call torch's devices
COMPILE = ("auto", "on", "off")


@dataclass(frozen=True)
class Numerics:
    """The resolved device rules of one run.

    Attributes:
        device: where everything lives.
        precision: `"fp32"`; `"bf16"` for autocast to bfloat16 around forward passes and losses; on CUDA also `"tf32"`,
            fp32 whose products have 10 bits of mantissa.
        compile: whether networks go through `torch.compile`.
        channels_last: whether image tensors and convolution weights are stored channels-last.
        backend: what `torch.compile` compiles with.
        verdicts: (network, whether frozen, compiled or not), where `compile` does not hold.
        threads: how many of the CPU's compute; None: as many as the process has.
        precision_rule, compile_rule: why, in words, for the record.
        unordered: operators that were seen to add in no fixed order (`kdbench.hardware.determinism`).
        graphs: on CUDA, on how many streams the learners' whole steps are replayed as graphs; 0: none are.
        uncaptured: why a learner's steps were not (`kdbench.training.graphs`).
        skip_guards: whether a compiled network's guards are passed over once its graphs are known.
        augmented_together: how many numbers of images are augmented at a time; None: as the loader has it.
    """

    device: torch.device
    precision: str = "fp32"
    compile: bool = False
    channels_last: bool = True
    backend: str = "inductor"
    verdicts: tuple[tuple[str, bool, bool], ...] = ()
    threads: int | None = 1
    precision_rule: str = "given"
    compile_rule: str = "given"
    unordered: tuple[str, ...] = ()
    graphs: int = 0
    uncaptured: str = ""
    skip_guards: bool = False
    augmented_together: int | None = None

    def apply(self) -> None:
        """Set the process's switches, where training or evaluation begins.

        Sums over several threads round otherwise, so their number is part of the result. TF32 is off unless it is the
        precision: beside bf16 it would undo every `autocast(enabled=False)` that a loss has because it needs fp32, and
        spoil the folding of teachers. Kernels that add in a fixed order are what the promise of equal bits rests on.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device.type != "cuda":
            return
        if self.device.index is not None:
            torch.cuda.set_device(self.device)
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        determinism.fix_order()

    @property
    def tf32(self) -> bool:
        """Whether fp32 is multiplied in TF32."""
        return self.precision == "tf32"

    @property
    def compiles(self) -> bool:
        """Whether some network is compiled."""
        return self.compile or any(on for *_, on in self.verdicts)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        on = enabled and self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, convolution weights channels-last where that is on (but see `strided`).

        In bf16 on a CPU its strided convolutions also widen maps narrower than their stride (`narrow`).
        """
        module = module.to(self.device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.device.type == "cpu":
                leave_strides_out(module)
        if self.device.type == "cpu" and self.precision == "bf16":
            widen_narrow_maps(module)
        return module

    def place_inputs(self, inputs: Tensor) -> Tensor:
        """A batch on the device, images channels-last where that is on."""
        images = self.channels_last and inputs.dim() == 4
        return inputs.to(self.device, memory_format=torch.channels_last if images else torch.preserve_format)

    def compiled(self, module: nn.Module, batch_size: int, taps: Taps | None = None) -> Callable[..., Any]:
        """The module, compiled for whole batches where that is on; its weights stay those of `module`.

        Args:
            taps: what of its output is read; None for all of it. Uncompiled, all of it comes.
        """
        if not self._compiles(module):
            return module
        from kdbench.hardware.compiled import Compiled  # dynamo takes a second to import

        return Compiled(module, batch_size, self.backend, taps)

    def _compiles(self, module: nn.Module) -> bool:
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        chosen = {(name, frozen): on for name, frozen, on in self.verdicts}
        return chosen.get((getattr(module, "name", ""), frozen), self.compile)

    def describe(self) -> NumericsConfig:
        """What the record keeps; on a CPU, where equal bits go without saying, nothing is said of them."""
        kept: NumericsConfig = {
            "device": self.device.type,
            "precision": self.precision,
            "precision_rule": self.precision_rule,
            "compile": self.compiles,
            "compile_rule": self.compile_rule,
            "cuda_graphs": self.graphs > 0,
            "channels_last": self.channels_last,
            "threads": torch.get_num_threads() if self.threads is None else self.threads,
            "tf32": self.tf32,
        }
        if self.device.type == "cuda":
            kept["deterministic"], kept["deterministic_rule"] = determinism.described(self.unordered)
        if self.graphs:
            streams = f"{self.graphs} stream{'s' * (self.graphs > 1)}"
            why = f"as they are: {self.uncaptured}" if self.uncaptured else "as graphs"
            kept["cuda_graphs_rule"] = f"asked for, on {streams}; this one's steps ran {why}"
        return kept


def resolve(
    device: str | None = None,
    precision: str = "auto",
    compile: str = "auto",
    threads: int | None = None,
    graphs: int = 0,
) -> Numerics:
    """The device rules: CUDA if there, else MPS, else CPU with one thread; bf16 where it is native.

    A CPU's result depends on the number of threads, so that it is never left to the machine. An accelerator's does not,
    and its host has data to prepare: there the threads stay as they are, if no number is given.

    `kdbench.training.precision.numerics_of` adds what depends on the networks and the length of their training, by
    which `auto` compiles. docs/performance.md has the measurements behind the rules. Nothing of the process is changed:
    that is `Numerics.apply`.

    Raises:
        KDBenchError: for an unknown or absent device, a precision or compile mode that is unknown, TF32 or graphs where
            there are none, or less than one thread.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if compile not in COMPILE:
        raise unknown("compile mode", compile, COMPILE)
    if threads is not None and threads < 1:
        raise KDBenchError(f"{threads} threads compute nothing: give at least 1")
    chosen = _device(device)
    if precision == "tf32" and not multiplies_tf32(chosen):
        raise KDBenchError(f"device {str(chosen)!r} has no TF32, which is NVIDIA's: give the precision as fp32 here")
    if graphs and (chosen.type != "cuda" or torch.version.hip):
        raise KDBenchError(f"device {str(chosen)!r} has no CUDA graphs, which are NVIDIA's: leave --graphs out here")
    precision_rule = compile_rule = "given"
    if precision == "auto":
        native = multiplies_bf16(chosen)
        precision = "bf16" if native else "fp32"
        precision_rule = f"the device {'multiplies' if native else 'does not multiply'} bf16 natively"
    if compile == "auto":
        compile_rule = "on where there is CUDA"
    if threads is None and chosen.type == "cpu":
        threads = 1
    numerics = Numerics(chosen, precision, compile == "on", chosen.type != "mps", threads=threads, graphs=graphs)
    return dataclasses.replace(numerics, precision_rule=precision_rule, compile_rule=compile_rule)


def _device(name: str | None) -> torch.device:
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name.partition(":")[0] in CALLED:
        raise KDBenchError(f"unknown device {name!r}: did you mean {CALLED[name.partition(':')[0]]!r}?")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown("device", name, ("cpu", "cuda", "mps")) from error
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise KDBenchError(f"device {name!r} is not available here: leave --device out to take the best one there is")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        last = f" to '{device.type}:{count - 1}'" if count > 1 else ""
        raise KDBenchError(f"device {name!r} is not there: this machine has '{device.type}:0'{last}")
    return device
