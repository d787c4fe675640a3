"""What papers report: the tables that kdbench brings hold the schema, and a row that breaks it is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdbench.errors import KDBenchError
from kdbench.papers.reported import (
    COLUMNS,
    SELECTIONS,
    TEACHER,
    Reported,
    by_paper,
    check_methods,
    load,
    load_other,
    of_method,
    parse_label,
)
from kdbench.suites.grid import MethodSpec

# methods of the tables that nobody has reimplemented here; a name that is neither here nor registered is a slip
FOREIGN = {
    *("cskd", "distpro", "dkd_ctkd", "ea_kd", "hpm_kd", "itrd", "kd_zero", "la", "lr", "mtkd_rl", "pld", "rc"),
    *("residual_kd_at", "wcord"),
}
DATASETS = {"cifar10", "cifar100", "tiny_imagenet", "imagenet"}
ROW = "DKD (CVPR 2022),README,dkd,cifar100,cifar_resnet56,cifar_resnet20,71.97,,,best,mdistiller-240,"


@pytest.fixture(scope="module")
def rows() -> list[Reported]:
    return load()


def value(rows: list[Reported], paper: str, method: str, pair: str, selection: str = "") -> list[float]:
    return [
        row.value
        for row in rows
        if (row.paper, row.method, row.pair) == (paper, method, pair) and selection in ("", row.selection)
    ]


def written(folder: Path, *lines: str) -> Path:
    (folder / "own.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return folder


def test_the_tables_hold_the_schema(rows: list[Reported]) -> None:
    assert len(rows) > 1200
    assert {row.selection for row in rows} == set(SELECTIONS)
    assert {row.dataset for row in rows} == DATASETS
    assert all(0 < row.value < 100 for row in rows)


def test_every_method_of_the_tables_is_registered_or_known_to_be_absent(rows: list[Reported]) -> None:
    assert check_methods(rows) <= FOREIGN


def test_a_label_of_the_tables_is_the_label_of_our_own_tables(rows: list[Reported]) -> None:
    for label in {row.method for row in rows} - {TEACHER}:
        name, settings = parse_label(label)
        assert MethodSpec(name, settings).label == label


def test_cifar_networks_have_kdbenchs_names(rows: list[Reported]) -> None:
    import timm

    absent = {"cifar_shufflenetv2_x1_5", "cifar_wrn_28_4", "cifar_wrn_16_4", "cifar_wrn_28_2", "cifar_resnet18"}
    absent |= {"cifar_pyramidnet200", "cifar_pyramidnet110"}
    named = {name for row in rows for network in (row.teacher, row.student) for name in network.split("+")}
    assert {name for name in named if name.startswith("cifar_") and not timm.is_model(name)} <= absent


def test_values_are_those_of_the_papers(rows: list[Reported]) -> None:
    pair = "cifar_resnet32x4 -> cifar_resnet8x4"
    assert value(rows, "CRD (ICLR 2020)", "crd", pair) == [75.51]
    assert value(rows, "DKD (CVPR 2022)", "dkd", pair) == [76.32]
    assert value(rows, "SimKD (CVPR 2022)", "simkd", pair) == [78.08]
    assert value(rows, "SimKD (CVPR 2022)", "simkd(factor=8)", pair) == [76.73]
    assert value(rows, "LSKD (CVPR 2024)", "lskd(base=mlld)", pair) == [78.28]
    assert value(rows, "DIST (NeurIPS 2022)", "dist", "resnet34.tv_in1k -> resnet18") == [72.07]


def test_the_kd_of_another_recipe_has_another_label(rows: list[Reported]) -> None:
    pair = "cifar_resnet32x4 -> cifar_resnet8x4"
    assert value(rows, "CRD (ICLR 2020)", "kd", pair) == [73.33]
    assert value(rows, "SemCKD (AAAI 2021)", "kd(ce_weight=1, kd_weight=1)", pair) == [74.42]


def test_a_published_log_gives_its_last_and_its_best_epoch(rows: list[Reported]) -> None:
    paper, pair = "LSKD, the authors' training logs (CVPR 2024)", "cifar_resnet32x4 -> cifar_shufflenetv2"
    assert value(rows, paper, "lskd(base=mlld)", pair, "last") == [77.89]
    assert value(rows, paper, "lskd(base=mlld)", pair, "best") == [78.81]
    assert Counter(row.selection for row in rows if row.paper == paper) == {"last": 55, "best": 55}


def test_the_crd_family_reports_the_last_epoch_and_mdistillers_the_best(rows: list[Reported]) -> None:
    assert {r.selection for r in rows if r.paper == "CRD (ICLR 2020)" and r.method != TEACHER} == {"last"}
    assert {r.selection for r in rows if r.paper == "DKD (CVPR 2022)" and r.method == "dkd"} == {"best"}


def test_unsupported_values_say_so(rows: list[Reported]) -> None:
    draft = [row for row in rows if row.paper == "HPM-KD, draft table (2025)"]
    assert draft
    assert all("contradicted" in row.note or "unsupported" in row.note for row in draft)


def test_a_value_that_two_tables_of_one_paper_give_differently_stands_twice(rows: list[Reported]) -> None:
    pair = "cifar_resnet32x4 -> cifar_resnet8x4"
    tables = [row for row in rows if (row.paper, row.method, row.pair) == ("SDD (CVPR 2024)", "sdd", pair)]
    assert [row.value for row in tables] == [76.63, 75.63]
    assert "contradicted" in tables[0].note
    assert value(rows, "SDD, the authors' run comments (CVPR 2024)", "sdd", pair) == [75.45]


def test_a_copied_baseline_names_the_table_it_is_copied_from(rows: list[Reported]) -> None:
    copied = [
        row for row in rows if row.paper == "DKD (CVPR 2022)" and row.method == "kd" and row.dataset == "cifar100"
    ]
    assert len(copied) == 11
    assert all(row.selection == "last" and "same value as in CRD" in row.note for row in copied)


def test_other_metrics_are_kept_apart() -> None:
    assert {row["metric"] for row in load_other()} >= {"mAP", "AP", "top5", "delta_top1"}


def test_a_methods_own_paper_comes_first_and_reruns_come_last(rows: list[Reported]) -> None:
    papers = list(by_paper(of_method(rows, "wsld")))
    assert papers[0] == "WSLD (ICLR 2021)"
    assert papers[-1] == "WSLD, rerun by a user (2021)"


def test_a_method_is_found_as_the_leading_part_of_a_composition(rows: list[Reported]) -> None:
    labels = {row.method for row in of_method(rows, "hkd")}
    assert labels == {"hkd+kd(kd.kd_weight=1)"}
    assert all("+" not in row.method for row in of_method(rows, "kd"))


@pytest.mark.parametrize(
    ("label", "name", "settings"),
    [
        ("kd", "kd", {}),
        ("kd(ce_weight=1, kd_weight=0.5)", "kd", {"ce_weight": 1, "kd_weight": 0.5}),
        ("lskd(base=dkd)", "lskd", {"base": "dkd"}),
        ("crd+kd(kd.kd_weight=1)", "crd+kd", {"kd.kd_weight": 1}),
        ("kd++", "kd++", {}),
    ],
)
def test_a_label_is_taken_apart(label: str, name: str, settings: dict[str, object]) -> None:
    assert parse_label(label) == (name, settings)


@pytest.mark.parametrize("label", ["KD", "kd (T=4)", "kd(T)", "kd()", "kd(b=1, a=2)", "kd(a=1,b=2)"])
def test_what_is_no_label_is_refused(label: str) -> None:
    with pytest.raises(KDBenchError, match="is no label"):
        parse_label(label)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("71.97", "seventy", "top1 is 'seventy'"),
        ("71.97", "171.97", "from 0 to 100"),
        ("71.97,,", "71.97,x,", "std is 'x'"),
        ("71.97,,,", "71.97,,0,", "counts runs"),
        ("best", "bset", "did you mean 'best'"),
        ("dkd,", "DKD,", "is no label"),
        ("DKD (CVPR 2022)", "DKD", "venue and year"),
        ("cifar100", "", "dataset is empty"),
        ("README", "README, issue 7", "quote its commas"),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(tmp_path: Path, old: str, new: str, part: str) -> None:
    with pytest.raises(KDBenchError, match=r"own\.csv, line 2") as error:
        load(written(tmp_path, ROW.replace(old, new)))
    assert part in str(error.value)


def test_a_value_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match=r"line 3 repeats own\.csv, line 2"):
        load(written(tmp_path, ROW, ROW.replace("71.97", "72.0")))


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("paper,top1\n")
    with pytest.raises(KDBenchError, match="has columns"):
        load(tmp_path)


def test_a_hyperparameter_that_a_registered_method_does_not_have_is_refused(tmp_path: Path) -> None:
    rows = load(written(tmp_path, ROW.replace("dkd,", "dkd(bata=2),")))
    with pytest.raises(KDBenchError, match="did you mean 'beta'"):
        check_methods(rows)
