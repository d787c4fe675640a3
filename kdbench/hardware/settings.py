"""What a process has only one of: torch's settings, and those of Python, numpy and the operating system.

A method that changes one changes every learner beside it and every cohort after it. Both kinds are put back after each
hook. Torch's decide what numbers come out, so whoever changes them is told; the others are put back without a word,
since importing a library is enough to change them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch


def _deterministic(mode: int) -> None:
    torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)  # inductor's mode, too


def _read_cudnn() -> tuple[str, str]:
    # `allow_tf32` refuses to be read where convolutions and recurrent layers differ
    kinds: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)  # type: ignore[attr-defined]
    return kinds[0].fp32_precision, kinds[1].fp32_precision


def _write_cudnn(precisions: tuple[str, str]) -> None:
    if precisions in (("tf32", "tf32"), ("none", "none")):  # by the older name, else torch calls the two a mix
        torch.backends.cudnn.allow_tf32 = precisions[0] == "tf32"
        return
    convolutions, recurrent = precisions
    torch.backends.cudnn.conv.fp32_precision = convolutions  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = recurrent  # type: ignore[attr-defined]


class Setting(NamedTuple):
    """How a setting of torch's is read and written, and what it is in a sentence."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    words: str


def _modes_off(length: int) -> None:
    torch.set_default_device(None)  # the one such mode that has a name; it would come back by itself
    while torch._C._len_torch_function_stack() > length:
        torch._C._pop_torch_function_stack()


SETTINGS = (
    Setting(torch.is_grad_enabled, torch._C._set_grad_enabled, "whether gradients are kept (torch.set_grad_enabled)"),
    Setting(torch.get_default_dtype, torch.set_default_dtype, "torch's default dtype (torch.set_default_dtype)"),
    Setting(torch.get_num_threads, torch.set_num_threads, "torch's number of threads (torch.set_num_threads)"),
    *(
        Setting(
            partial(torch.is_autocast_enabled, device),
            partial(torch.set_autocast_enabled, device),
            "autocast (torch.set_autocast_enabled)",
        )
        for device in ("cpu", "cuda")
    ),
    Setting(
        torch.get_deterministic_debug_mode,
        _deterministic,
        "which algorithms are allowed (torch.use_deterministic_algorithms)",
    ),
    Setting(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, "torch.backends.mkldnn.enabled"),
    Setting(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled, "torch.backends.cudnn.enabled"),
    Setting(torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark, "torch.backends.cudnn.benchmark"),
    Setting(torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic, "torch.backends.cudnn.deterministic"),
    Setting(_read_cudnn, _write_cudnn, "the precision of cuDNN's convolutions (torch.backends.cudnn.allow_tf32)"),
    Setting(
        torch._C._get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "the precision of products (torch.set_float32_matmul_precision)",
    ),
    Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, "torch.autograd.set_detect_anomaly"),
    Setting(torch._C._len_torch_function_stack, _modes_off, "torch's default device (torch.set_default_device)"),
)


_READ = tuple(setting.read for setting in SETTINGS)


def settings() -> list[Any]:
    """The values of `SETTINGS`."""
    return [read() for read in _READ]


def restore(before: list[Any]) -> str:
    """Put torch's settings back to what they were; which one had changed, in words, or nothing."""
    after = settings()
    if after == before:
        return ""
    changed = [number for number, value in enumerate(after) if value != before[number]]
    for number in changed:
        SETTINGS[number].write(before[number])
    return SETTINGS[changed[0]].words


class Surroundings(NamedTuple):
    """Working folder, environment, filters of warnings, and what numpy does about errors.

    Read around every step, hence the dictionary behind `os.environ`: a copy by its own means takes 300 times as long.
    """

    folder: str
    environment: dict[Any, Any]
    filters: list[Any]
    errors: Any

    @classmethod
    def now(cls) -> Surroundings:
        environment: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
        return cls(_folder(), environment.copy(), list(warnings.filters), np.geterr())

    def restore(self) -> None:
        """Make the surroundings these again."""
        after = Surroundings.now()
        if after == self:
            return
        if after.folder != self.folder and self.folder:
            os.chdir(self.folder)
        for key in after.environment.keys() - self.environment.keys():
            del os.environ[os.fsdecode(key)]
        for key, value in self.environment.items():
            if after.environment.get(key) != value:
                os.environ[os.fsdecode(key)] = os.fsdecode(value)
        if after.filters != self.filters:
            warnings.filters[:] = self.filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]
        np.seterr(**self.errors)


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody has deleted it
        return ""
