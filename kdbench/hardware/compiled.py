"""`torch.compile` for networks.

Dynamo takes a network's weights as inputs of its graph, so all networks of one architecture share one: a cohort of 60
learners compiles its student once for each set of maps that methods read. The graphs are kept on disk between runs.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._functorch import config as functorch

from kdbench.method import Output, Taps

# a network is compiled for training and evaluation, for each batch size, and with each set of frozen parts; all
# networks of one class count together, and past the limit dynamo would silently run uncompiled
GRAPHS = 256


class Compiled:
    """A network's compiled forward for whole batches.

    Others (the last batch of an epoch, of the test set) run uncompiled: a graph more would take longer to compile than
    it could ever save.

    Args:
        batch_size: inputs of this or a multiple of this many samples (several views of a batch) are compiled for.
        taps: what of its `Output` is read; None for all of it.
    """

    def __init__(self, module: nn.Module, batch_size: int, backend: str = "inductor", taps: Taps | None = None) -> None:
        prepare()
        self.module, self.batch_size, self.taps = module, batch_size, taps
        self.graph = torch.compile(_forward, backend=backend, dynamic=False)

    def __call__(self, inputs: Tensor) -> Any:
        whole = len(inputs) % self.batch_size == 0
        return (self.graph if whole else _forward)(self.module, self.taps, inputs)


def _forward(module: nn.Module, taps: Taps | None, inputs: Tensor) -> Any:
    """The maps that nobody reads are left out in the graph, where each would cost a gradient of zeros."""
    output = module(inputs)
    return output if taps is None or not isinstance(output, Output) else output.only(taps)


def prepare() -> None:
    """Set what torch's compiler needs to know before the first graph."""
    functorch.donated_buffer = False  # a method may go backward through a network twice
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 4 * GRAPHS)
    # torch's own default lies in /tmp and is lost with it
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path("~/.cache/kdbench/compiled").expanduser()))


def without_guards() -> AbstractContextManager[None]:
    """A block in which compiled networks are only told from one another, and not asked whether they still hold.

    Safe where everything that is called has been called before, with the same shapes and the same parts frozen.
    """
    return torch.compiler.set_stance("default", skip_guard_eval_unsafe=True)
