"""A suite whose places differ in one number or two is a map: its axes, gains, intervals, and what decides."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from support.page_records import page_record

from kdbench.board.maps import terminal
from kdbench.board.maps.axes import axes_of, places_of
from kdbench.board.maps.gains import LEAD, map_of, relations, sentence, table
from kdbench.board.page.data import Results
from kdbench.board.results import Tables
from kdbench.errors import KDBenchError
from kdbench.suites import names
from kdbench.suites.parse import load

SIZES, WIDTHS = (50, 150, 600), (0.25, 0.5, 1)


def pair(width: float) -> str:
    return "cifar_resnet20 -> cifar_resnet8" + (f"(width_factor={width})" if width != 1 else "")


def records(methods: tuple[str, ...] = ("student", "kd", "dkd"), **changes: Any) -> list[dict[str, Any]]:
    """The gain of a method is a tenth of the teacher's lead, which data and width decide, and a little of the seed."""
    made = []
    for method in methods:
        for size in SIZES:
            for width in WIDTHS:
                for seed in (0, 1, 2):
                    lead = 12 - 2 * SIZES.index(size) - 3 * WIDTHS.index(width)
                    gain = 0.0 if method == "student" else 0.1 * lead + 0.01 * (seed + 1) * lead
                    protocol = {"subset": {"per_class": size}}
                    one = page_record(method, pair(width), seed, top1=78.0 - lead + gain, protocol=protocol)
                    one["result"]["top1"] = 78.0 - lead + gain
                    made.append({**one, **changes})
    return made


def test_data_lies_across_and_networks_down_and_a_width_that_is_not_named_is_one() -> None:
    found = map_of(Tables(records()))
    assert [(axis.title, axis.values) for axis in found.axes] == [
        ("images a class", (50.0, 150.0, 600.0)),
        ("the student's width", (0.25, 0.5, 1.0)),
    ]
    assert found.columns.labels == ["50", "150", "600"]


def test_gains_and_leads_are_paired_differences_with_their_intervals() -> None:
    found = map_of(Tables(records()))
    lead = np.array([[12 - 2 * x - 3 * y for x in range(3)] for y in range(3)])
    np.testing.assert_allclose(found.lead.mean, lead)
    np.testing.assert_allclose(found.students, 78 - lead)
    kd = found.gains["kd"]
    np.testing.assert_allclose(kd.mean, 0.12 * lead, atol=1e-8)
    half = 4.302652729911275 * 0.01 * lead / np.sqrt(3)
    np.testing.assert_allclose(kd.high - kd.mean, half, atol=1e-8)
    assert kd.told.all()
    assert (kd.n == 3).all()
    assert np.isnan(found.lead.low).all()  # it does not vary over seeds: nothing to hold it against


def test_what_decides_is_named_with_its_numbers() -> None:
    found = map_of(Tables(records()))
    first, *rest = relations(found)
    assert (first.factor, round(first.rank, 9)) == (LEAD, 1)
    assert {one.factor for one in rest} == {"images a class", "the student's width"}
    assert all(one.rank < 0 for one in rest)
    assert sentence(found).startswith("What decides most is the teacher's lead: the larger it is, the more")
    assert "(+1.00; seeds +1.00 to +1.00)" in sentence(found)


def test_where_seeds_disagree_no_factor_is_said_to_decide() -> None:
    made = records(("student", "kd"))
    for record in made:
        if record["cell"]["method"]["label"] == "kd":
            draws = np.random.default_rng([record["cell"]["seed"], record["cell"]["protocol"]["subset"]["per_class"]])
            record["result"]["top1"] += draws.normal(0, 5)
    assert sentence(map_of(Tables(made))).startswith("No single factor decides surely")


def test_missing_runs_are_gaps_and_few_places_say_nothing() -> None:
    made = [r for r in records() if r["cell"]["protocol"]["subset"]["per_class"] == 50]
    made = [r for r in made if r["cell"]["student"] != "cifar_resnet8" or r["cell"]["method"]["label"] == "student"]
    found = map_of(Tables(made))
    assert [axis.title for axis in found.axes] == ["the student's width"]
    assert np.isnan(found.gains["kd"].mean[0, 2])
    assert found.gains["kd"].n[0, 2] == 0
    assert sentence(found) == "Too few places are finished to say what decides."
    assert "-" in shown_text(found)


def test_seeds_that_are_not_finished_leave_the_others_their_say() -> None:
    made = [record for record in records() if record["cell"]["seed"] == 0]
    planned = [record["cell"] | {"suite": "x"} for record in records()]
    expected = [{**cell, **{key: cell["method"][key] for key in ("label", "name", "family")}} for cell in planned]
    found = map_of(Tables(made, [{**cell, "teachers": 1} for cell in expected]))
    assert found.gains["kd"].seeds.shape == (3, 3, 3)
    assert (relations(found)[0].factor, round(relations(found)[0].rank, 9), relations(found)[0].seeds) == (LEAD, 1, 1)
    assert sentence(found).startswith("Too few seeds are finished to say what decides (rank correlations with")


def shown_text(found: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    for part in terminal.tables(found):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_shows_each_method_with_its_intervals() -> None:
    text = shown_text(map_of(Tables(records())))
    assert "the teacher's lead over the plain student in points" in text
    assert "kd - student in points" in text
    assert text.startswith("down: the student's width, across: images a class\n")
    assert "+1.44*" in text
    assert "[+1.14, +1.74]" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "What decides most" in text


def test_a_table_has_a_row_for_each_method_and_place() -> None:
    found = table(map_of(Tables(records())))
    assert list(found.columns) == [
        *("method", "images a class", "the student's width", "student", "n", "difference", "low", "high")
    ]
    assert len(found) == 3 * 9
    row = found[(found["method"] == "dkd") & (found["images a class"] == 150) & (found["the student's width"] == 1)]
    assert round(float(row["difference"].iloc[0]), 6) == 0.48


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([{}], "it has one place"),
        ([{}, {"dataset": "cifar100"}], "its places differ in dataset"),
        ([{}, {"student": "cifar_vgg8"}], "its places differ in student"),
        (
            [{"protocol": {"label_noise": {"kind": kind, "rate": 0.2}}} for kind in ("symmetric", "asymmetric")],
            "its places differ in protocol.label_noise.kind",
        ),
        (
            [
                {},
                {"protocol": {"subset": {"per_class": 3}, "label_noise": {"kind": "symmetric", "rate": 0.2}}},
                {"student": "cifar_resnet8(width_factor=0.5)"},
            ],
            "its places differ in protocol.subset.per_class",
        ),
    ],
)
def test_what_is_no_map_is_told_with_what_differs(cells: list[dict[str, Any]], why: str) -> None:
    base = {"dataset": "cifar10", "protocol": {}, "student": "cifar_resnet8"}
    rows = [{**base, **cell} for cell in cells]
    rows = [{**row, "pair": f"cifar_resnet20 -> {row['student']}"} for row in rows]
    with pytest.raises(KDBenchError, match=f"there is no map: {why}"):
        axes_of(places_of(rows))


def test_a_protocol_that_is_left_out_is_its_neutral_value() -> None:
    rates = [{}, *({"label_noise": {"kind": "symmetric", "rate": rate}} for rate in (0.2, 0.4))]
    rows = [{"dataset": "d", "protocol": rate, "student": "s", "pair": "t -> s"} for rate in rates]
    axes, at = axes_of(places_of(rows))
    assert [(axis.title, axis.values) for axis in axes] == [("share of wrong labels", (0.0, 0.2, 0.4))]
    assert sorted(at.values()) == [(0.0,), (0.2,), (0.4,)]


def test_without_the_plain_student_there_is_no_map() -> None:
    with pytest.raises(KDBenchError, match="there is no map without 'student'"):
        map_of(Tables(records(("kd",))))


def test_of_the_suites_that_kdbench_brings_the_map_of_fashion_is_one() -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return [cell.config for cell in load(name).cells()]

    assert [axis.values for axis in axes_of(places_of(rows("fashion_map")))[0]] == [
        (50.0, 150.0, 600.0, 2400.0),
        (0.25, 0.5, 1.0),
    ]
    assert "cifar100" in names()
    with pytest.raises(KDBenchError, match="there is no map"):
        axes_of(places_of(rows("cifar100")))


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_has_a_panel_for_the_lead_and_each_method(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from kdbench.board.page.build import build

    results = Results("synthetic", "", records())
    build(results, tmp_path, pictures=True)
    text = (tmp_path / "index.html").read_text()
    assert '<section id="map">' in text
    for title in ("The teacher&#39;s lead", "kd", "dkd"):
        assert f"<caption>{title}</caption>" in text
    assert "What decides most is the teacher&#39;s lead" in text
    assert 'title="3 seeds">+1.4' in text
    assert "[+1.1, +1.7]" in text
    assert len(pd.read_csv(tmp_path / "data" / "map.csv")) == 27
    assert (tmp_path / "plots" / "map.png").stat().st_size > 5000


def test_a_suite_that_is_no_map_has_none(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from kdbench.board.page.build import build

    made = [r for r in records() if r["cell"]["student"] == "cifar_resnet8"]
    made = [r for r in made if r["cell"]["protocol"]["subset"]["per_class"] == 50]
    results = Results("synthetic", "", made)
    assert results.map is None
    build(results, tmp_path, pictures=False)
    assert 'id="map"' not in (tmp_path / "index.html").read_text()
