"""A record says which data it was trained and scored on."""

from __future__ import annotations

from pathlib import Path

from kdbench.suites.grid import DatasetSpec
from kdbench.suites.recipe import Recipe
from kdbench.tasks import create
from kdbench.tasks.image.data import load_data
from kdbench.testing.trial import Bench


def test_a_record_has_the_digest_of_its_task_s_data_and_its_cell_has_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.task.content = "0123456789abcdef"
    record = bench.run([bench.cell("student")])[0]
    assert record["data"] == "0123456789abcdef"
    assert "data" not in record["cell"]


def test_an_image_task_has_the_digest_of_its_data_as_it_is_used(tmp_path: Path) -> None:
    protocol = {"subset": {"per_class": 8}}
    numerics = Bench(tmp_path).numerics
    task = create(DatasetSpec("digits", protocol=protocol), Recipe(epochs=1), numerics, None)
    assert task.content == load_data("digits", protocol=protocol).content
    assert task.content != load_data("digits").content
