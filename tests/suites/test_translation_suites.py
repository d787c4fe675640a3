"""The suites of translation: planned without data, with networks that are there and corpora that methods share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kdbench.commands import cli
from kdbench.errors import AbsentData
from kdbench.suites import parse
from kdbench.suites.networks import split

pytestmark = pytest.mark.xdist_group("text")


def absent(*_: object) -> None:
    raise AbsentData("it is not here")


@pytest.mark.parametrize(("name", "cells"), [("translation_small", 42), ("wmt_low_resource", 36)])
def test_a_suite_is_planned_on_a_machine_without_its_data(
    name: str, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdbench.tasks.translation.data.hub._load", absent)
    monkeypatch.setattr("kdbench.tasks.translation.data.iso_codes.FOLDERS", ())
    command = ["kdbench", "run", name, "--dry-run", "--out", str(tmp_path), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr().out
    assert end.value.code in (0, None), told
    assert f"│ {cells} " in told
    assert "cost unknown" in told


def test_students_are_built_from_the_small_suites_names() -> None:
    from kdbench.tasks.translation import toy
    from kdbench.tasks.translation.networks import FAMILIES, create

    vocabulary = toy.data().vocabulary
    for name in ("translation_small", "wmt_low_resource"):
        for pair in parse.load(name).pairs:
            assert split(pair.student)[0] in FAMILIES
    pair = parse.load("translation_small").pairs[0]
    torch.manual_seed(0)
    teacher, student = (create(net, vocabulary, 48, "en", "uk") for net in (pair.teacher.network, pair.student))
    size = {network: sum(p.numel() for p in network.parameters()) for network in (teacher, student)}
    assert size[teacher] > 4 * size[student]


def test_cells_on_references_are_one_cohort_and_each_corpus_is_another() -> None:
    cells = [cell for cell in parse.load("translation_small").cells() if cell.seed == 0]
    plain = {cell.cohort for cell in cells if cell.corpus is None}
    taught = [cell.cohort for cell in cells if cell.corpus is not None]
    assert len(plain) == 1
    assert len(set(taught)) == len(taught) == 8
