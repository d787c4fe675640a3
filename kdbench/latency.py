"""How long a deployed network takes for one image and for a batch, on the run's device and in its precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from kdbench.device import Numerics

BATCHES = (1, 128)
SECONDS = 0.1  # of measuring for each, at least


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
        names = {"module": module, "inputs": inputs}
        with numerics.autocast():
            # a Timer's own default is one thread
            timer = Timer("module(inputs)", globals=names, num_threads=torch.get_num_threads())
            found[f"latency_ms_batch{size}"] = 1e3 * timer.blocked_autorange(min_run_time=SECONDS).median
    return found
