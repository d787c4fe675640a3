"""How long a deployed network takes for one image and for a batch, on the run's device and in its precision."""

from __future__ import annotations

import copy
import statistics
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.hardware.clock import seconds
from kdbench.hardware.numerics import Numerics
from kdbench.method import answer_of

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
            spent: list[float] = []
            while sum(spent) < SECONDS or len(spent) < CALLS:
                spent.append(seconds(partial(module, inputs), numerics.device))
        found[f"latency_ms_batch{size}"] = 1e3 * statistics.median(spent)
    return found


def deployed_cost(module: nn.Module, example: Tensor) -> dict[str, int]:
    """Parameters and multiply-accumulates of what is deployed, for one input `[1, ...]`.

    Counted are the parameters that the answer depends on, so a classifier that SimKD replaces or a head that is dropped
    does not count. Works on a copy in float32 on the CPU; neither gradients nor random numbers leave a trace.
    """
    clone = copy.deepcopy(module).cpu().float().eval()
    example = example.detach().cpu().float() if example.is_floating_point() else example.cpu()
    for parameter in clone.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        answer = answer_of(clone(example))
    used = torch.autograd.grad(answer.sum(), list(clone.parameters()), allow_unused=True)
    parameters = sum(p.numel() for p, gradient in zip(clone.parameters(), used, strict=True) if gradient is not None)
    return {"deployed_parameters": parameters, "deployed_macs": counter.get_total_flops() // 2}
