"""A user's day: the README's commands, one after the other, and a run that is killed and goes on."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.bits import ROOT
from benchmarks.gpu.sheet import Part, Row, Sheet
from kdbench.errors import KDBenchError
from kdbench.records import Store

SUITE = """description = "what a user tries first"
seeds = [0]
methods = {methods}
[[datasets]]
name = "digits"
protocol = {{ subset = {{ per_class = 40 }} }}
[recipe]
epochs = {epochs}
batch_size = 64
[[pairs]]
teacher = "cifar_resnet8"
pool = ["cifar_resnet8", "cifar_resnet8@1"]
student = "cifar_resnet8"
"""
# what is told of a machine, or was timed on it
TIMED = {"cost", "provenance", "seconds", "joules"}


def first_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for words, status in first_commands(sheet):
        yield shown(words), partial(called, sheet, words, status)


def more_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for words, status in more_commands(sheet):
        yield shown(words), partial(called, sheet, words, status)


def killed_steps(sheet: Sheet) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "killed", partial(killed, sheet)


COMMANDS = Part("commands", "what a user types first", first_steps)
KILLED = Part("killed", "a run that is killed and goes on", killed_steps)
MORE = Part("more_commands", "what a user types then", more_steps)


def suite(sheet: Sheet) -> Path:
    path = sheet.work / "first.toml"
    path.write_text(SUITE.format(methods=json.dumps(sheet.scale.user_methods), epochs=sheet.scale.user_epochs))
    return path


def first_commands(sheet: Sheet) -> list[tuple[list[str], int]]:
    """Words after `kdbench`, and the exit status that they should have."""
    device, out = ["--device", str(sheet.numerics.device)], ["--out", str(sheet.work / "runs")]
    return [
        (["run", str(suite(sheet)), *device, *out], 0),
        (["run", "digits", "--device", "cuda:99", *out], 2),
    ]


def more_commands(sheet: Sheet) -> list[tuple[list[str], int]]:
    """The same, the short ones first."""
    device, out = ["--device", str(sheet.numerics.device)], ["--out", str(sheet.work / "runs")]
    first = str(suite(sheet))
    found: list[tuple[list[str], int]] = [
        (["leaderboard", first, *out], 0),
        (["status", first, *out], 0),
        (["compare", "kd", "student", "--suite", first, *out], 0),
        (["show", "dkd"], 0),
        (["run", "digits", "--compile", "graphs", *out], 2),
        (["run", "cifar100", "--dry-run", "--methods", "student,kd", "--seeds", "0", *device, *out], 0),
        (["check", "kd", *device], 0),
        (["run", "digits", "--seeds", "0", *device, *out], 0),
        (["tune", "digits", *device, *out], 0),
        (["check", "crd", *device], 0),
    ]
    return found[3:4] if sheet.scale.methods else found


def run(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdbench", *words],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "120"},
    )


def ended(sheet: Sheet, child: subprocess.Popen[str], seconds: float | None = None) -> str:
    """What a command has printed; it is killed after so many seconds, and when the command's own time is over."""
    try:
        return child.communicate(timeout=min(seconds or sheet.left(), max(sheet.left(), 1)))[0]
    except subprocess.TimeoutExpired:
        if seconds is None:
            raise KDBenchError("the time was not enough for it: give a larger --limit") from None
        return ""
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def called(sheet: Sheet, words: list[str], status: int) -> list[Row]:
    """One command: its last line, its seconds, and whether it ended as it should, without a traceback."""
    begin = time.perf_counter()
    child = run(words)
    said = ended(sheet, child)
    lines = said.strip().splitlines() or [""]
    right = child.returncode == status and "Traceback" not in said
    return [
        {
            "command": f"kdbench {shown(words)}",
            "s": time.perf_counter() - begin,
            "last line": lines[-1].strip()[:160],
            "as it should be": right,
        }
    ]


def shown(words: Sequence[str]) -> str:
    """A command without the folders of this machine."""
    return " ".join(Path(word).name if os.path.isabs(word) else word for word in words)


def killed(sheet: Sheet) -> list[Row]:
    """The same run undisturbed and killed at random points; the records must say the same."""
    words, found = ["run", str(suite(sheet)), "--device", str(sheet.numerics.device)], dict[str, dict[str, Any]]()
    undisturbed, begin = 0.0, time.perf_counter()
    for name in ("whole", "killed"):
        out, kills = sheet.fresh(name), sheet.scale.kills if name == "killed" else 0
        draws = random.Random(0)
        for _ in range(kills):
            ended(sheet, run([*words, "--out", str(out)]), draws.uniform(0.3, 0.9) * undisturbed)
        child = run([*words, "--out", str(out)])
        said = ended(sheet, child)
        if child.returncode:
            raise KDBenchError(f"the run ended with status {child.returncode}: {said.strip().splitlines()[-1]}")
        undisturbed = undisturbed or time.perf_counter() - begin
        found[name] = {record["id"]: untimed(record) for record in Store(out / "first").all()}
    equal = [found["killed"].get(identity) == record for identity, record in found["whole"].items()]
    return [{"kills": sheet.scale.kills, "records": len(equal), "equal": sum(equal), "as it should be": all(equal)}]


def untimed(value: Any) -> Any:
    """A record without what differs from run to run."""
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if key not in TIMED}
    return [untimed(part) for part in value] if isinstance(value, list) else value
