"""What a command has measured so far: kept step by step, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu.scale import Scale
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.records.files import write_atomically
from kdbench.training.hooks import first_line

Row = dict[str, Any]
SHORTEST = 1.0  # seconds; with less left, nothing is begun


class OutOfTime(BaseException):
    """The limit is reached: no learner's guard catches it."""


@dataclass
class Sheet:
    """A command's results, and what its steps work with.

    Attributes:
        folder: where all of it lies.
        command: `correct`, `speed` or `user`.
        numerics: those that `kdbench run` would choose here, for everything that says nothing else.
        limit: seconds that the whole command may take.
        machine: what the numbers depend on.
    """

    folder: Path
    command: str
    scale: Scale
    numerics: Numerics
    limit: float
    machine: dict[str, Any]
    console: Console = field(default_factory=Console)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.file.exists():
            return
        kept = json.loads(self.file.read_text(encoding="utf-8"))
        if kept["machine"] != self.machine or kept["scale"] != repr(self.scale):
            raise KDBenchError(
                f"{str(self.file)!r} was measured on another machine, with other versions or at another size: give "
                "another --out, or delete it"
            )
        self.parts = kept["parts"]

    @property
    def file(self) -> Path:
        return self.folder / f"{self.command}.json"

    @cached_property
    def work(self) -> Path:
        """A folder for whatever a step needs; it is no part of the archive."""
        path = self.folder / "work" / self.command
        path.mkdir(parents=True, exist_ok=True)
        return path

    def fresh(self, name: str) -> Path:
        """A folder in `work` without what a run that was stopped has left there."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def left(self) -> float:
        """Seconds that are left."""
        return self.limit - (time.monotonic() - self._begin)

    def rows(self, part: str) -> list[Row]:
        """What is known of a part."""
        return [row for step in self.parts.get(part, {}).values() for row in step.get("rows", ())]

    def run(self, parts: Sequence[Part]) -> list[str]:
        """Take every step that has no result yet.

        Returns:
            the steps that the time did not suffice for.
        """
        wanted = [(part, key, step) for part in parts for key, step in part.steps(self)]
        todo = [(part, key, step) for part, key, step in wanted if not self._finished(part, key)]
        with _stopped_after(self.limit), suppress(OutOfTime):
            while todo and self.left() > SHORTEST:
                self._take(*todo[0])
                todo.pop(0)
        return [f"{part.name} {key}" for part, key, _ in todo]

    def _finished(self, part: Part, key: str) -> bool:
        return "rows" in self.parts.get(part.name, {}).get(key, {})

    def _take(self, part: Part, key: str, step: Callable[[], list[Row]]) -> None:
        """Take a step; one that fails is tried again by the next run."""
        begin = time.monotonic()
        try:
            found: dict[str, Any] = {"rows": step()}
        except Exception as error:
            found = {"error": first_line(error)}
        found["seconds"] = round(time.monotonic() - begin, 2)
        self.parts.setdefault(part.name, {})[key] = found
        self.save()
        said = f": {found['error']}" if "error" in found else ""
        self.console.print(f"{part.name} {key} ({found['seconds']} s){said}", markup=False, highlight=False)

    def save(self) -> None:
        content = {"machine": self.machine, "scale": repr(self.scale), "parts": self.parts}
        write_atomically(self.file, json.dumps(content, indent=1).encode())

    def pack(self, *others: Path) -> Path:
        """One archive of the results of all commands and of other files."""
        path = self.folder / f"gpu-{self.command}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for file in (*sorted(self.folder.glob("*.json")), *sorted(self.folder.glob("*.txt")), *others):
                archive.add(file, file.relative_to(self.folder))
        return path


@dataclass(frozen=True)
class Part:
    """One table of a command.

    Attributes:
        name: in the JSON file.
        title: above the table.
        steps: what is measured one by one, by a key of its own.
    """

    name: str
    title: str
    steps: Callable[[Sheet], Iterator[tuple[str, Callable[[], list[Row]]]]]


@contextmanager
def _stopped_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in whatever is running then, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, SHORTEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
