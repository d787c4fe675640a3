"""What tensors free stays with the process until `trim`, where the C library is glibc."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kdbench.hardware import heap

# in a process of its own, since the setting lasts: page faults of one large tensor that is made again and again
FAULTS = """
import resource, sys, torch
from kdbench.hardware import heap
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    heap.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # the heap first grows around the scraps of its own alignment
    torch.ones(2**24)
before = faults()
for _ in range(5):
    torch.ones(2**24)
kept = faults() - before
heap.trim()
before = faults()
torch.ones(2**24)
print(kept, faults() - before)
"""
PAGES = 2**24 * 4 // 65536  # the tensor's, were they of 64 KiB


def glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
@pytest.mark.parametrize("choice", ["keep", "as it is"])
def test_a_tensor_takes_no_new_pages_where_one_was_freed(choice: str) -> None:
    command = [sys.executable, "-c", FAULTS, choice]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, trimmed = map(int, done.stdout.split())
    assert (kept < PAGES) == (choice == "keep")
    assert trimmed > PAGES


@pytest.mark.parametrize(("platform", "library"), [("darwin", None), ("linux", SimpleNamespace())])
def test_elsewhere_nothing_happens(
    platform: str, library: SimpleNamespace | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap.sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: library)
    heap._glibc.cache_clear()
    try:
        heap.keep()
        heap.trim()
        assert heap._glibc() is None
    finally:
        heap._glibc.cache_clear()
