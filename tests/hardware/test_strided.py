"""Strided 1x1 convolutions of few channels, where oneDNN's kernel writes past its buffers (docs/onednn-1x1-stride2.md).

The fault shows on any x86 processor whose newer instructions are hidden, and takes the process with it: hence children.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.hardware.numerics import Numerics
from kdbench.hardware.strided import is_unsafe

CPU = Numerics(torch.device("cpu"))
SCRIPT = Path(__file__).parents[1] / "support" / "strided_child.py"


@pytest.mark.parametrize("threads", [1, 2])
def test_strided_convolutions_and_residual_kd_are_right_without_avx512(tmp_path: Path, threads: int) -> None:
    surroundings = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(SCRIPT), str(threads), str(tmp_path)]
    child = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, f"{child.returncode}: {child.stderr[-2000:]}"
    assert child.stdout.split() == ["layers", "right", "residual_kd", "done"]


def test_a_layer_that_skips_beforehand_is_the_same_layer() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1, stride=(2, 3), groups=2)).double()
    placed = CPU.place(copy.deepcopy(plain))
    images = torch.randn(2, 3, 13, 14, dtype=torch.float64)
    expected = plain(images)
    again = CPU.place(copy.deepcopy(placed))  # copied, and placed once more
    again.load_state_dict(plain.state_dict())
    for network in (placed, again):
        torch.testing.assert_close(network(images), expected, rtol=1e-12, atol=1e-12)
        assert network.state_dict().keys() == plain.state_dict().keys()
    compiled = torch.compile(placed, backend="aot_eager")
    torch.testing.assert_close(compiled(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(1, 8, 1, stride=(1, 2)), True),
        (nn.Conv2d(16, 8, 1, stride=2, groups=4), True),
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1), False),
    ],
)
def test_only_strided_1x1_convolutions_of_few_channels_skip_beforehand(layer: nn.Conv2d, unsafe: bool) -> None:
    assert is_unsafe(layer) == unsafe
    stride = layer.stride
    assert (CPU.place(layer).stride != stride) == unsafe  # type: ignore[comparison-overlap]
