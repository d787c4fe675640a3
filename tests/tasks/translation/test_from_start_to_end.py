"""A suite from its files to its records: the teacher trains, writes, and its students learn from what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.outcomes import without_times

from kdbench.executors.local import LocalExecutor
from kdbench.records import Store
from kdbench.suites.parse import parse
from kdbench.tasks.translation import toy
from kdbench.testing.trial import _Silent

pytestmark = pytest.mark.xdist_group("text")
METHODS = ["student", "word_kd", {"name": "mhd", "hypotheses": 2, "drawn": 2}, {"name": "seq_inter", "hypotheses": 2}]


class Told(_Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def notice(self, sentence: str) -> None:
        self.sentences.append(sentence)


def suite(folder: Path) -> Any:
    folder.mkdir()
    data = toy.data()
    for part, pairs in (("train", data.train), ("test", data.test)):
        rows = [f"{pair.source}\t{pair.target}\n" for pair in pairs]
        (folder / f"{part}.tsv").write_text("words\tbackwards\n" + "".join(rows))
    return parse(
        {
            "name": "backwards",
            "seeds": [0],
            "methods": METHODS,
            "datasets": [
                {
                    "name": f"tsv:{folder}",
                    "task": "translation",
                    "options": {
                        "source": "words",
                        "target": "backwards",
                        "vocabulary": 32,
                        "longest": 16,
                        "beams": 2,
                    },
                    "protocol": {"subset": {"pairs": 12}},
                    "teacher_protocol": {},
                }
            ],
            "pairs": [{"teacher": toy.TEACHER, "student": toy.STUDENT}],
            "recipe": {
                "updates": 40,
                "batch_size": 8,
                "learning_rate": 0.05,
                "schedule": "cosine",
                "warmup_share": 0.5,
            },
        }
    )


def test_a_suite_runs_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    cells, told = suite(tmp_path / "data").cells(), Told()
    LocalExecutor(tmp_path / "out", told).run(cells)
    store = Store(tmp_path / "out" / "backwards")
    records = {cell.method.name: store.read(cell.id) for cell in cells}
    assert {record["status"] for record in records.values()} == {"done"}, [r["reason"] for r in records.values()]
    assert len({record["teachers"][0]["sha256"] for record in records.values()}) == 1
    corpus: dict[str, Any] = records["mhd"]["corpus"]
    written = json.loads((tmp_path / "out" / "corpora" / corpus["id"] / "record.json").read_text())
    assert written["corpus"]["teacher"]["sha256"] == records["mhd"]["teachers"][0]["sha256"]
    assert (written["result"]["sources"], written["result"]["hypotheses"]) == (12, 24)
    assert records["seq_inter"]["corpus"]["id"] == corpus["id"]  # two beams: the same list, of which another is taken
    assert sum("writes a corpus" in sentence for sentence in told.sentences) == 1
    before = without_times({name: dict(record) for name, record in records.items()})
    LocalExecutor(tmp_path / "out", told).run(cells)
    assert without_times({cell.method.name: dict(store.read(cell.id)) for cell in cells}) == before
    assert sum("writes a corpus" in sentence for sentence in told.sentences) == 1
