"""`kdbench use` beyond images: a cell of each task trains, is kept, scores what its record says, and answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kdbench import tasks
from kdbench.commands.cli import app
from kdbench.errors import KDBenchError
from kdbench.hardware.numerics import Numerics
from kdbench.records import Store
from kdbench.suites.parse import load
from kdbench.tasks.detection import toy as boxes
from kdbench.tasks.detection.data import coco
from kdbench.tasks.text import toy as texts
from kdbench.tasks.translation import toy as sentences
from kdbench.training.students import Students

pytestmark = pytest.mark.xdist_group("text")
CPU = Numerics(torch.device("cpu"))
SUITE = """
name = "{task}"
seeds = [0]
methods = ["student"]

[[datasets]]
name = "{name}"
task = "{task}"
{options}

[recipe]
epochs = 1
batch_size = 8
optimizer = "adamw"
learning_rate = 0.01
precision = "fp32"
{image_size}

[[pairs]]
teacher = "{network}"
student = "{network}"
"""


def text(folder: Path) -> dict[str, Any]:
    """Pairs of sentences."""
    data = texts.toy(CPU).data
    rows = list(zip(data.train.first, data.train_targets.tolist(), strict=True))
    for part in ("train", "test"):
        lines = [json.dumps({"a": first, "b": first[::-1], "label": texts.CLASSES[place]}) for first, place in rows]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    network = "bert(heads=2, layers=1, width=16)"
    return {"name": f"table:{folder}", "network": network, "options": 'options = { text = ["a", "b"] }'}


def translation(folder: Path) -> dict[str, Any]:
    data = sentences.data()
    for part, pairs in (("train", data.train), ("test", data.test)):
        rows = [f"{pair.source}\t{pair.target}\n" for pair in pairs]
        (folder / f"{part}.tsv").write_text("words\tbackwards\n" + "".join(rows))
    options = 'options = { source = "words", target = "backwards", vocabulary = 32, longest = 16, beams = 2 }'
    return {"name": f"tsv:{folder}", "network": sentences.STUDENT, "options": options}


def detection(folder: Path) -> dict[str, Any]:
    data = boxes.toy(CPU, samples=8).data
    for part, split in (("train", data.train), ("val", data.test)):
        objects = [
            {"image_id": k, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            for k in range(8)
            for (x0, y0, x1, y1), label in zip(split.boxes[k].tolist(), split.labels[k].tolist(), strict=True)
        ]
        table = {
            "images": [{"id": k, "width": 64, "height": 64, "file_name": f"{k}.png"} for k in range(8)],
            "categories": [{"id": number, "name": name} for number, name in enumerate("abc", 1)],
            "annotations": [{"id": number, **each} for number, each in enumerate(objects, 1)],
        }
        coco.write(folder, part, table, [Image.fromarray(picture[0].numpy()) for picture in split.pictures(range(8))])
    return {"name": f"folder:{folder}", "network": boxes.STUDENT, "image_size": "image_size = 64"}


def looks_like_classes(lines: Sequence[str]) -> bool:
    names = [{each.split()[0] for each in line.split(", ")} for line in lines]
    return names == [set(texts.CLASSES)] * 2


def looks_like_text(lines: Sequence[str]) -> bool:
    return len(lines) == 4


def looks_like_boxes(lines: Sequence[str]) -> bool:
    title, *found = lines
    told = f"0.png: {len(found)} box{'es' * (len(found) != 1)}" in title
    return told and all(each.split()[0] in "abc" and len(each.split()) == 6 for each in found)


@pytest.mark.parametrize(
    ("made", "given", "right"),
    [
        (text, ["red dog", "god der", "cat", "runs"], looks_like_classes),
        (translation, ["a be", "cod", "elk fig", "hat"], looks_like_text),
        (detection, ["val/0.png"], looks_like_boxes),
    ],
    ids=["text", "translation", "detection"],
)
def test_a_kept_student_of_a_task_scores_as_recorded_and_answers(
    made: Callable[[Path], dict[str, Any]], given: list[str], right: Callable[[Sequence[str]], bool], tmp_path: Path
) -> None:
    task, suite, folder = made.__name__, tmp_path / "suite.toml", tmp_path / "data"
    folder.mkdir()
    suite.write_text(SUITE.format(**{"task": task, "options": "", "image_size": "", **made(folder)}))
    words = [str(suite), "--out", str(tmp_path / "runs"), "--device", "cpu"]
    ran = CliRunner().invoke(app, ["run", *words, "--keep-students"])
    assert ran.exit_code == 0, ran.output
    (cell,) = load(str(suite)).cells()
    store, found = Store(tmp_path / "runs" / task), tasks.create(cell.dataset, cell.recipe, CPU, None)
    model = Students(store, print).load(cell, found, CPU)
    result: Any = store.read(cell.id)["result"]
    name = found.metrics.primary.name
    assert found.scores(found.evaluate(model))[name] == result[name]
    inputs = [str(folder / each) if each.endswith(".png") else each for each in given]
    answered = CliRunner().invoke(app, ["use", words[0], "student", *inputs, *words[1:]])
    assert answered.exit_code == 0, answered.output
    assert right(answered.output.splitlines()), answered.output
    if task == "text":
        with pytest.raises(KDBenchError, match="pairs of sentences, and 1 given"):
            found.answer(model, given[:1])
    if task != "detection":
        with pytest.raises(KDBenchError, match="is no text"):
            found.answer(model, ["\udcff"] * 2)
