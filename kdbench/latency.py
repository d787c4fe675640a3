"""How long a deployed network takes for one image and for a batch, on the run's device and in its precision."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from kdbench.hardware.numerics import Numerics

BATCHES = (1, 128)
SECONDS, CALLS = 0.1, 3  # of measuring for each, at least


@torch.no_grad()
def latencies(module: nn.Module, example: Tensor, numerics: Numerics) -> dict[str, float]:
    """Milliseconds of one forward pass at each of `BATCHES`, the median of repeated calls, as `latency_ms_batch<N>`.

    Args:
        module: what is deployed; left in eval mode.
        example: one input, `[1, ...]`.
    """
    module.eval()
    found = {}
    for size in BATCHES:
        inputs = numerics.place_inputs(example.repeat(size, *[1] * (example.dim() - 1)))
        with numerics.autocast():
            module(inputs)  # the first call chooses kernels
            spent = [_seconds(module, inputs)]
            while sum(spent) < SECONDS or len(spent) < CALLS:
                spent.append(_seconds(module, inputs))
        found[f"latency_ms_batch{size}"] = 1e3 * statistics.median(spent)
    return found


def _seconds(module: nn.Module, inputs: Tensor) -> float:
    """One call, from an idle device to its end."""
    _wait(inputs)
    begin = time.perf_counter()
    module(inputs)
    _wait(inputs)
    return time.perf_counter() - begin


def _wait(inputs: Tensor) -> None:
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
