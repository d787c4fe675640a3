"""`kdbench show` and `kdbench list`: what a method is, and what there is to choose from."""

from __future__ import annotations

import inspect
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from kdbench import registry
from kdbench.commands import cli
from kdbench.commands.listing import print_list
from kdbench.commands.show import print_method
from kdbench.info import FIDELITIES
from kdbench.registry.about import sections

METHOD = '''"""A title (Authors, 2026).

An idea.

    L = CE(z_s, y)

Deviations: none.
"""
from kdbench import Method, Paper, register


@register("shown_method", family="logits", paper=Paper("A title", "Authors", 2026), aliases=("shown_alias",))
class ShownMethod(Method):
    def __init__(self, weight: float = 0.25) -> None:
        super().__init__()
'''


def shown(name: str, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_method(console, name)
    return console.file.getvalue()  # type: ignore[attr-defined]


def listed(what: str = "methods", papers: bool = False, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    print_list(console, what, papers)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def words(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kdbench", *arguments])
    cli.main()


def test_a_docstring_falls_into_its_parts() -> None:
    parts = sections("A title.\n\nThe idea\nof it.\n\n    L = CE\n    p = q\n\nWeights.\n\nDeviations: one.\n\nTwo.")
    assert parts == {
        "title": "A title.",
        "idea": "The idea of it.",
        "equation": "    L = CE\n    p = q",
        "details": "Weights.",
        "deviations": "one.\n\nTwo.",
    }


def test_each_dash_of_a_docstring_is_a_paragraph() -> None:
    parts = sections("T.\n\n    L = CE\n\nDeviations: of two\nkinds.\n- One is\n  long - so long.\n- Two.\n\nMore.")
    assert parts["deviations"] == "of two kinds.\n\n- One is long - so long.\n\n- Two.\n\nMore."
    assert sections("T.\n\n    L = CE\n\nDeviations:\n- One.\n- Two.")["deviations"] == "- One.\n\n- Two."


def test_deviations_of_a_method_are_shown_dash_by_dash() -> None:
    lines = [line.strip() for line in shown("hkd", 200).splitlines()]
    assert sum(line.startswith("- ") for line in lines) == 4


@pytest.mark.parametrize("name", registry.names())
def test_every_method_can_be_shown(name: str) -> None:
    parts = sections(inspect.getdoc(inspect.getmodule(registry.get(name))) or "")
    assert parts["equation"]
    assert parts["deviations"]
    text = shown(name, 200)
    assert parts["equation"].splitlines()[0] in text
    assert all(key in text for key in registry.hyperparameters(registry.get(name)))


def test_a_method_is_shown_with_all_that_is_known_of_it() -> None:
    text = shown("dkd")
    for part in (
        "Decoupled Knowledge Distillation",
        "CVPR 2022, arXiv 2203.08679, megvii-research/mdistiller",
        "official-code: held against the code that the authors published",
        "alpha * TCKD + beta * NCKD",
        "warmup_share     0.0833333",
        "kept as a share of the training",
        "reported in DKD (CVPR 2022)",
        "76.32",
        "LSKD (CVPR 2024)",
    ):
        assert part in text, part


def test_an_equation_is_never_wrapped() -> None:
    line = sections(inspect.getdoc(inspect.getmodule(registry.get("crd"))) or "")["equation"].splitlines()[-1]
    assert len(line) > 80
    assert line in shown("crd", 80).splitlines()


def test_a_composition_is_shown_by_its_parts() -> None:
    text = shown("crd+kd")
    assert "the terms of crd and kd together" in text
    assert "Contrastive Representation Distillation" in text
    assert "Distilling the Knowledge in a Neural Network" in text


def test_a_method_without_reported_values_says_so() -> None:
    assert "No paper's numbers are known" in shown("sskd")


def test_values_of_another_metric_are_shown() -> None:
    assert "mAP" in shown("lshfm", 140)


def test_an_unknown_method_is_answered_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        words("show", "fitnets", monkeypatch=monkeypatch)
    assert "did you mean 'fitnet'" in capsys.readouterr().err


@pytest.mark.usefixtures("temporary")
def test_a_method_of_ones_own_file_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(METHOD)
    with pytest.raises(SystemExit) as end:
        words("show", str(path), monkeypatch=monkeypatch)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("An idea.", "L = CE(z_s, y)", "0.25", "shown_alias"))
    assert "unchecked: held against nothing yet" in text


def test_the_list_has_a_line_a_method_and_counts_them() -> None:
    lines = listed()
    found = [line.split()[0] for line in lines[3:] if line.strip() and not line.startswith(" " * 10)]
    names = registry.names()
    assert set(names) <= set(found)
    families = {registry.get(name).info.family for name in names}
    assert lines[-1].startswith(f"{len(names)} methods in {len(families)} families")
    assert max(map(len, lines)) <= 100


def test_the_list_says_what_each_fidelity_means_where_it_has_the_column() -> None:
    rows = {line.split()[0]: line.split()[-1] for line in listed() if line.strip()}
    assert (rows["crd"], rows["fitnet"], rows["dml"], rows["uhkd"]) == (
        "official-code", "field-code", "paper", "reconstructed",
    )  # fmt: skip
    held = {registry.get(name).info.fidelity for name in registry.names()}
    for papers in (False, True):
        meanings = [line.strip() for line in listed(papers=papers)]
        assert all(f"{name}: {meaning}" in meanings for name, meaning in FIDELITIES.items() if name in held)
    assert not any("field-code" in line for line in listed(width=80))


def test_the_list_of_papers_has_every_title_and_fits_100_columns() -> None:
    lines = listed(papers=True)
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(listed(papers=True, width=300)).split())
    for name in registry.names():
        paper = registry.get(name).info.paper
        if paper:
            assert all(part in text for part in (paper.title, paper.authors, paper.arxiv, paper.code, str(paper.year)))


def test_methods_of_one_paper_share_its_row() -> None:
    row = next(line for line in listed(papers=True, width=200) if "Transformed Teacher Matching" in line)
    assert row.split()[0] == "ttm"
    assert sum("Transformed Teacher Matching" in line for line in listed(papers=True, width=200)) == 1


def test_papers_of_anything_but_methods_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        words("list", "suites", "--papers", monkeypatch=monkeypatch)
    assert "--papers goes with the methods" in capsys.readouterr().err
