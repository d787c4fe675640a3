"""One plain training step of one network, as a call: eager, compiled, or the whole of it as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.hardware.numerics import Numerics
from kdbench.losses import kl
from kdbench.method import Network
from kdbench.reads import Taps
from kdbench.testing.trial import RandomTask

WARM = 3  # steps before a capture


@dataclass
class Training:
    """A student that learns random labels and random teacher's logits; all of its tensors stay where they are.

    Attributes:
        step: one update.
    """

    network: Network
    step: Callable[[], object]


def task_of(numerics: Numerics, batch: int) -> RandomTask:
    return RandomTask(numerics, num_classes=100, image_size=32, samples=batch, batch_size=batch)


def training(name: str, numerics: Numerics, batch: int, seed: int = 0) -> Training:
    """Forward, cross-entropy, KL to a teacher, backward and update, as a learner of `kd` has them."""
    torch.manual_seed(seed)
    task = task_of(numerics, batch)
    network = task.network(name).train()
    inputs = numerics.place_inputs(torch.randn(batch, 3, 32, 32))
    targets, teacher = torch.randint(0, 100, (batch,)).to(inputs.device), torch.randn(batch, 100).to(inputs.device)
    call = numerics.compiled(network, batch, Taps())
    cuda = inputs.device.type == "cuda"
    options = {"fused": True} if cuda else {}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, **options)
    enabled, on = numerics.precision == "bf16", inputs.device.type

    def step() -> None:
        # a cache of casts would outlive the graph that they were captured in
        with torch.autocast(on, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False):
            logits = call(inputs).logits
            loss = F.cross_entropy(logits, targets) + kl(logits, teacher, 4.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return Training(network, step)


def captured(made: Training, device: torch.device) -> Callable[[], object]:
    """The step as one CUDA graph; elsewhere the step itself, after as many steps."""
    if device.type != "cuda":
        for _ in range(WARM):
            made.step()
        return made.step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM):
            made.step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made.step()
    return graph.replay


def forward(network: Network, numerics: Numerics, inputs: Tensor) -> Callable[[], object]:
    """A frozen network's pass."""

    @torch.no_grad()
    def run() -> None:
        with numerics.autocast():
            network(inputs)

    return run
