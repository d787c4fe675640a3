"""Runs `kdbench` in a process that kills itself with SIGKILL at one chosen point. Called by test_stop_anywhere.py.

usage: kill_driver.py POINT COUNT KDBENCH_ARGUMENT...
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from kdbench import records
from kdbench.commands.cli import main
from kdbench.records.writer import Writer
from kdbench.training import saving
from kdbench.training.cohort import Cohort
from kdbench.training.learner import Learner

torch.set_num_threads(1)
left = int(sys.argv[2])
# so that there are checkpoints to be killed at: a run this short would have those of its last epoch only
saving.EVERY = float(os.environ.get("CHECKPOINTS_EVERY", "0"))


def count_down() -> None:
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def before(owner: object, name: str) -> None:
    real: Callable[..., object] = getattr(owner, name)

    def dying(*arguments: object, **options: object) -> object:
        count_down()
        return real(*arguments, **options)

    setattr(owner, name, dying)


def replace_by_half(source: Path | str, target: Path | str) -> None:
    """Die with the new file written beside the old one, which is still there."""
    count_down()
    real_replace(source, target)


real_replace = os.replace
point = sys.argv[1]
if point == "step":  # inside an epoch, some learners a step ahead of others
    before(Learner, "train_step")
elif point == "epoch":  # between epochs, some learners an epoch ahead of others
    before(Learner, "end_epoch")
elif point == "checkpoint":  # in the thread that writes, while others train
    before(records.Store, "save_checkpoint")
elif point == "snapshot":  # a state copied, not yet handed over
    before(Writer, "bring")
elif point == "waiting":  # for the disk, after a cell's last epoch
    before(Writer, "wait")
elif point == "rename":
    os.replace = replace_by_half
elif point == "finish":  # after the last checkpoint, before the record
    before(Cohort, "_finish")
else:
    raise SystemExit(f"no point {point}")
sys.argv = ["kdbench", *sys.argv[3:]]
main()
