"""Run by tests/hardware/test_strided.py: the layers, and the method that has them, in a process that may abort."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch import nn

from kdbench.hardware.numerics import Numerics
from kdbench.testing.trial import Bench
from kdbench.training import cost

CPU = Numerics(torch.device("cpu"))


def agree(layer: nn.Conv2d) -> None:
    """Output and gradients are those of the same layer in float64, as often as memory is used anew."""
    exact = copy.deepcopy(layer).double()
    placed = CPU.place(layer)
    for _ in range(5):
        images = torch.randn(16, layer.in_channels, 16, 16)
        ours = CPU.place_inputs(images).requires_grad_()
        theirs = images.double().requires_grad_()
        outputs = placed(ours), exact(theirs)
        draws = torch.randn(outputs[1].shape)
        gradients = [
            torch.autograd.grad(output, [inputs, module.weight], draws.to(output.dtype))
            for output, inputs, module in zip(outputs, (ours, theirs), (placed, exact), strict=True)
        ]
        for one, other in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)


def main(threads: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for channels in range(1, 9):
        for stride in (2, 3):
            agree(nn.Conv2d(channels, 8, 1, stride, bias=False))
    print("layers right")
    cost.SECONDS = 0.0
    bench = Bench(folder, epochs=2)
    (record,) = bench.run([bench.cell("residual_kd")])
    print("residual_kd", record["status"])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
