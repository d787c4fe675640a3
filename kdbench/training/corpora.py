"""Corpora that teachers write: written once, kept in parts, gone on with after a kill, and recorded with their cost.

`corpora/<id>/` has `part_<number>.json`, one for each `PART` sources, and `record.json` when all are written. The id is
a digest of everything that decides the text: the teacher's weights, the decoding rule, the sources, and the seed and
precision that they are decoded with. Cells whose methods ask for the same corpus wait for it and train side by side.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.method import Network
from kdbench.records import Tell
from kdbench.records.files import read_bytes, set_aside, write_atomically
from kdbench.suites.added import plain
from kdbench.suites.corpus import Corpus
from kdbench.suites.grid import Cell, TeacherSpec, digest
from kdbench.tasks import Task, TrainingSet
from kdbench.training.provenance import provenance
from kdbench.training.teachers import Teacher, Teachers

SCHEMA = 1
DECODERS = 1  # raise it when a decoder writes something else
PART = 256  # sources of a part: what a kill may cost


@dataclass(frozen=True)
class Written:
    """A corpus as it lies on disk.

    Attributes:
        rows: for each source what the teacher wrote, as the task gave it.
        record: what `record.json` says.
    """

    rows: list[Any]
    record: dict[str, Any]

    def about(self, corpus: Corpus, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """What a cell's record says of the corpus that it trained on.

        Args:
            sizes: of what was taken of it.
        """
        return {
            "id": self.record["id"],
            "sha256": self.record["sha256"],
            "rule": corpus.written,
            **corpus.view,
            **sizes,
            "written": self.record["result"],
            "seconds": self.record["cost"]["seconds"],
        }


@dataclass
class Corpora:
    """The folder of corpora of a results folder.

    Attributes:
        tell: hears a sentence when one is written, and about each part that is not what was written.
    """

    folder: Path
    tell: Tell

    @classmethod
    def beside(cls, teachers: Teachers, tell: Tell) -> Corpora:
        """Those of the results folder that the teachers are in."""
        return cls(teachers.store.folder.parent / "corpora", tell)

    def training_set(
        self, cell: Cell, teacher: Teacher, task: Task, numerics: Numerics, seed: int
    ) -> tuple[TrainingSet, dict[str, Any]]:
        """What a cell trains on that asks for a corpus, and what its record says of it."""
        corpus = cell.corpus
        assert corpus is not None
        written = self.get(cell, corpus, teacher.network, teacher.about["sha256"], task, numerics)
        data, sizes = task.corpus_set(corpus, written.rows, seed)
        return data, {"corpus": written.about(corpus, sizes)}

    def get(self, cell: Cell, corpus: Corpus, teacher: Network, sha256: str, task: Task, numerics: Numerics) -> Written:
        """The corpus that a cell trains on: read where it is whole, else written, from where it was left.

        Args:
            sha256: of the teacher's weights.

        Raises:
            KDBenchError: if the folder cannot be written, or a part cannot be read.
        """
        config = self.config(cell, corpus, sha256, task, numerics)
        made = _Made(self.folder / digest(config), config, self.tell)
        return made.whole() or made.write(corpus, teacher, task, numerics)

    @staticmethod
    def config(cell: Cell, corpus: Corpus, sha256: str, task: Task, numerics: Numerics) -> dict[str, Any]:
        """All that decides what is written."""
        spec: TeacherSpec = cell.pair.teacher
        return {
            "teacher": {"network": spec.network, "seed": spec.seed, "sha256": sha256},
            "rule": corpus.written,
            "seed": cell.seed if corpus.draws else 0,
            "dataset": cell.dataset.name,
            "task": cell.dataset.task,
            "options": plain(cell.dataset.options),
            "protocol": plain(cell.dataset.protocol),
            "data": task.content,
            "sources": task.sources(),
            "precision": numerics.precision,
            "decoders": DECODERS,
        }


@dataclass
class _Made:
    """One corpus's folder."""

    folder: Path
    config: dict[str, Any]
    tell: Tell

    @property
    def identity(self) -> str:
        return self.folder.name

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """First and last source of each part."""
        sources = self.config["sources"]
        return [(start, min(start + PART, sources)) for start in range(0, sources, PART)]

    def whole(self) -> Written | None:
        """The corpus, if its record and all of its parts are there and sound."""
        path = self.folder / "record.json"
        if not path.exists():
            return None
        record = json.loads(read_bytes(path, "corpus's record"))
        parts = [self._part(number) for number in range(len(self.bounds))]
        rows = [row for part in parts if part for row in part["rows"]]
        if all(parts) and _digest_of(rows) == record["sha256"]:
            return Written(rows, record)
        aside = set_aside(path)
        self.tell(
            f"corpus {self.identity} is not what was written: its record is now {aside.name!r}, what lacks is made"
        )
        return None

    def write(self, corpus: Corpus, teacher: Network, task: Task, numerics: Numerics) -> Written:
        """Write the parts that are not there yet, and then the record."""
        sources = self.config["sources"]
        if not sources:
            raise KDBenchError("a teacher has no sources to write to: give the data set more")
        rule = ", ".join(f"{key} {value}" for key, value in corpus.written.items() if key not in ("rule", "drawn"))
        how = corpus.rule + (f" ({rule})" if rule else "")
        whose, what = self.config["teacher"]["network"], f"{corpus.drawn} for each of {sources} sources"
        self.tell(f"teacher {whose} writes a corpus: {what}, by {how}")
        parts = []
        for number, (start, stop) in enumerate(self.bounds):
            part = self._part(number) or self._write_part(number, corpus, teacher, task, start, stop)
            parts.append(part)
        rows = [row for part in parts for row in part["rows"]]
        seconds = sum(part["seconds"] for part in parts)
        record = {
            "schema": SCHEMA,
            "id": self.identity,
            "corpus": self.config,
            "result": dict(task.about_corpus(rows)),
            "cost": {"seconds": seconds, "seconds_per_source": seconds / sources},
            "sha256": _digest_of(rows),
            "provenance": provenance(numerics),
        }
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.folder / "record.json", text.encode())
        return Written(rows, record)

    def _write_part(
        self, number: int, corpus: Corpus, teacher: Network, task: Task, start: int, stop: int
    ) -> dict[str, Any]:
        began = time.perf_counter()
        rows = task.write(corpus, teacher, self.config["seed"], start, stop)
        if len(rows) != stop - start:
            raise KDBenchError(f"the teacher wrote {len(rows)} answers to {stop - start} sources: one belongs to each")
        part = {
            "corpus": self.identity,
            "start": start,
            "stop": stop,
            "rows": rows,
            "sha256": _digest_of(rows),
            "seconds": time.perf_counter() - began,
        }
        write_atomically(self._path(number), json.dumps(part, ensure_ascii=False).encode())
        return part

    def _part(self, number: int) -> dict[str, Any] | None:
        """A part that is there; one that is not what was written is set aside."""
        path, bounds = self._path(number), self.bounds[number]
        if not path.exists():
            return None
        content = read_bytes(path, "part of a corpus")
        try:
            part: dict[str, Any] = json.loads(content)
            sound = part["corpus"] == self.identity and (part["start"], part["stop"]) == bounds
            sound = sound and len(part["rows"]) == bounds[1] - bounds[0] and _digest_of(part["rows"]) == part["sha256"]
        except (ValueError, KeyError, TypeError):
            sound = False
        if sound:
            return part
        aside = set_aside(path)
        self.tell(f"a part of corpus {self.identity} is damaged: it is now {aside.name!r}, and is written again")
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"part_{number:05d}.json"


def _digest_of(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
