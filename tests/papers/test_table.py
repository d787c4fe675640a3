"""`kdbench reproduce`: a paper's table becomes cells under its recipe, and each of its values gets a verdict."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from kdbench import registry
from kdbench.board.reproduction import VERDICTS, judge, reproduction_table
from kdbench.board.statistics.intervals import agreeing
from kdbench.board.terminal import reproduction as render
from kdbench.commands import cli
from kdbench.commands.progress import Display
from kdbench.errors import KDBenchError
from kdbench.executors.local import LocalExecutor
from kdbench.papers import reported
from kdbench.papers.reported import COLUMNS, Reported
from kdbench.papers.table import Choice, Entry, Protocol, load_recipes, protocol, resolve_recipe, take_over
from kdbench.records import Store
from kdbench.suites import parse
from kdbench.tasks.image.metrics import METRICS

PAIR = "cifar_resnet8 -> cifar_resnet8"
RECIPES = """
["tiny-1"]
about = "for tests"
suite = "{suite}"
recipe = {{ epochs = 1 }}
tuned_by_pair = ["at"]

["tiny-1".tuned]
dkd = {{ "{pair}" = {{ beta = 2.0 }} }}

["tiny-caveat"]
about = "for tests"
like = "tiny-1"
caveat = "the paper tests on other images"
"""
TABLE = """
teacher,digits,cifar_resnet8,cifar_resnet8,10.0,,,last,tiny-1,
kd,digits,cifar_resnet8,cifar_resnet8,50.0,40.0,3,last,tiny-1,
dkd,digits,cifar_resnet8,cifar_resnet8,99.99,0.01,2,best,tiny-1,
fitnet,digits,cifar_resnet8,cifar_resnet8,50.0,,,unknown,tiny-caveat,
at,digits,cifar_resnet8,cifar_resnet8,50.0,,,last,tiny-1,
simkd,digits,cifar_resnet8,cifar_resnet8,50.0,,,last,nowhere-240,
nobodys,digits,cifar_resnet8,cifar_resnet8,50.0,,,last,tiny-1,
"""


def fake(folder: Path, suite_file: Path, paper: str = "Fake (CVPR 2022)", table: str = TABLE) -> Path:
    """A folder of tables and recipes."""
    folder.mkdir(exist_ok=True)
    (folder / "recipes.toml").write_text(RECIPES.format(suite=suite_file, pair=PAIR))
    lines = [f"{paper},nowhere,{line}" for line in table.strip().splitlines()]
    (folder / "fake.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return folder


@pytest.fixture
def tables(tmp_path: Path, tiny_suite: Path) -> Path:
    return fake(tmp_path / "tables", tiny_suite)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Protocol, pd.DataFrame, Path]:
    """The fake table of dkd, run once."""
    from conftest import TINY

    out = tmp_path_factory.mktemp("runs")
    (out / "tiny.toml").write_text(TINY)
    table = protocol("dkd", Choice(seeds=(0, 1)), fake(out / "tables", out / "tiny.toml"))
    console = Console(file=io.StringIO())
    with Display(console, len(table.cells), 0) as display:
        LocalExecutor(out, display, device="cpu", compile="off").run(table.cells)
    return table, reproduction_table(table.entries, Store(out / table.suite).all()), out


def row(**changes: Any) -> Reported:
    base = Reported("P (V 2022)", "", "kd", "d", "T", "S", 72.0, None, None, "last", "r", "")
    return dataclasses.replace(base, **changes)


def entry(frame: pd.DataFrame, method: str) -> pd.Series:
    return frame[frame["method"] == method].iloc[0]


# verdicts


def test_a_value_inside_our_interval_is_reproduced() -> None:
    values = [71.0, 72.0, 73.0]
    half = stats.t.ppf(0.975, 2) * 1.0 / math.sqrt(3)
    for value, verdict in ((72 + half - 1e-6, "reproduced"), (72 + half + 1e-6, "below"), (72 - half - 1e-6, "above")):
        assert judge(row(value=value), values, values).verdict == verdict


def test_the_papers_own_error_widens_the_interval_as_in_welchs_test() -> None:
    values = [71.0, 72.0, 73.0, 72.5]
    low, high = agreeing(values, 0.8, 5)
    for other in (low, high):
        p = stats.ttest_ind_from_stats(72.125, pd.Series(values).std(), 4, other, 0.8, 5, equal_var=False).pvalue
        assert p == pytest.approx(0.05)


def test_a_standard_deviation_without_its_number_of_runs_does_not_count() -> None:
    values = [71.0, 72.0, 73.0]
    assert agreeing(values, 0.8) == agreeing(values) == agreeing(values, 0.8, 1)


def test_the_best_epoch_is_compared_with_the_best_epoch() -> None:
    last, best = [70.0, 70.1, 70.2], [72.0, 72.1, 72.2]
    assert judge(row(value=72.1, selection="best"), last, best).verdict == "reproduced"
    assert judge(row(value=72.1, selection="last"), last, best).verdict == "below"


def test_a_value_of_an_unknown_epoch_may_be_of_either() -> None:
    last, best = [70.0, 70.1, 70.2], [72.0, 72.1, 72.2]
    verdicts = [
        judge(row(value=value, selection="unknown"), last, best).verdict for value in (69.0, 70.1, 71.0, 72.1, 73)
    ]
    assert verdicts == ["above", "reproduced", "reproduced", "reproduced", "below"]
    lower = [judge(row(value=value, selection="unknown"), best, last, -1).verdict for value in (69.0, 71.0, 73.0)]
    assert lower == ["above", "reproduced", "below"]  # where lower is better, the best epochs lie below the last


# protocols


def test_crds_table_is_its_thirteen_pairs_with_every_baseline_and_five_seeds() -> None:
    table = protocol("crd")
    assert table.paper == "CRD (ICLR 2020)"
    assert len({(e.dataset, e.pair) for e in table.entries}) == 13
    own = [e for e in table.entries if e.pair == "cifar_vgg13 -> cifar_vgg8"]
    assert {e.method for e in own} == {
        *("student", "teacher", "kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "fsp", "nst", "crd"),
        "ft(factor=attention)",  # RepDistiller's form of it
    }
    factors = [cell.method.hyperparameters for cell in table.cells if cell.method.name == "ft"]
    assert factors
    assert {registry.create("ft", dict(settings)).weight for settings in factors} == {200}
    assert all([cell.seed for cell in e.cells] == [0, 1, 2, 3, 4] for e in own if e.method != "teacher")
    assert {cell.recipe.epochs for cell in table.cells} == {240}
    assert not any(e.obstacle for e in table.entries)


def test_cells_of_a_table_are_those_of_the_suite_it_is_run_in() -> None:
    ours = {cell.id for cell in protocol("crd", Choice(pairs=["vgg13 -> cifar_vgg8"])).cells}
    assert {cell.id for cell in parse.load("cifar100").cells() if cell.method.name == "crd"} & ours


def test_a_method_without_a_table_of_its_own_takes_the_first_that_compares_with_it() -> None:
    table = protocol("fitnet")
    assert table.paper == "CRD (ICLR 2020)"
    assert {e.method for e in table.entries} == {"teacher", "student", "kd", "fitnet"}


def test_dkds_beta_is_that_of_the_pair() -> None:
    table = protocol("dkd", Choice(datasets=["cifar100"]))
    betas = {e.pair: e.cells[0].config["method"]["hyperparameters"]["beta"] for e in table.entries if e.method == "dkd"}
    assert betas["cifar_resnet56 -> cifar_resnet20"] == 2
    assert betas["cifar_vgg13 -> cifar_vgg8"] == 6
    assert betas["cifar_resnet32x4 -> cifar_resnet8x4"] == 8
    assert {e.cells[0].method.label for e in table.entries if e.method == "dkd"} == {"dkd(by pair)"}
    assert {e.method for e in table.entries} == {"student", "kd", "dkd"}


def test_a_label_of_ones_own_does_not_change_the_cell() -> None:
    cells = protocol("dkd", Choice(pairs=["resnet8x4"])).cells
    plain = {c.id for c in parse.load("cifar100").cells() if c.method.name == "dkd" and "resnet8x4" in c.pair.student}
    assert {cell.id for cell in cells if cell.method.name == "dkd"} <= plain


def test_lskd_takes_temperature_and_weight_of_the_pair() -> None:
    table = protocol("lskd", Choice(pairs=["cifar_resnet110 -> cifar_resnet20"]))
    spec = next(e.cells[0].method for e in table.entries if e.method == "lskd")
    assert spec.hyperparameters == {"temperature": 4.0, "weight": 12.0}


def test_a_baseline_keeps_its_own_recipe() -> None:
    recipes = {e.method: e.cells[0].recipe for e in protocol("mlld", Choice(pairs=["resnet8x4"])).entries if e.cells}
    assert recipes["kd"].learning_rate == 0.05
    assert recipes["mlld"].learning_rate == 0.025


def test_imagenet_has_pretrained_teachers_and_mdistillers_batch() -> None:
    cells = protocol("dkd", Choice(datasets=["imagenet"])).cells
    assert {cell.pair.teacher.weights for cell in cells} == {"pretrained"}
    assert {(cell.recipe.batch_size, cell.recipe.learning_rate) for cell in cells} == {(512, 0.2)}


def test_reviewkd_has_no_warm_up_on_imagenet() -> None:
    entries = protocol("reviewkd", Choice(datasets=["imagenet"])).entries
    ours = [cell.method.hyperparameters for e in entries if e.method == "reviewkd" for cell in e.cells]
    assert {options["warmup_share"] for options in ours} == {0.0}
    assert {options.get("weight", 1.0) for options in ours} == {1.0, 8.0}


def test_sdds_bases_have_the_weight_of_the_pair_at_both_grids() -> None:
    entries = protocol("sdd", Choice(datasets=["cifar100"])).entries
    ours = {(e.pair, e.method): e.cells[0].method.hyperparameters for e in entries if "sdd" in e.method}
    label = "sdd(base=nkd, finest=4)"
    assert ours["cifar_vgg13 -> cifar_mobilenetv2", label] == {"base": "nkd", "finest": 4, "beta": 6.0}
    assert ours["cifar_resnet50 -> cifar_mobilenetv2", label].get("beta", 8.0) == 8.0
    assert ours["cifar_vgg13 -> cifar_mobilenetv2", "sdd(finest=4)"] == {"finest": 4}


@pytest.mark.parametrize(
    ("method", "caveat"),
    [("ickd", "README's 2.5"), ("rld", "DKD's beta"), ("ldrld", "0.95 of"), ("ssl_kd", "teachers are their own")],
)
def test_values_whose_weights_or_rates_are_not_public_are_run_and_not_compared(method: str, caveat: str) -> None:
    pair = "cifar_resnet32x4 -> cifar_resnet8x4"
    entry = next(e for e in protocol(method, Choice(pairs=[pair])).entries if e.method == method)
    assert entry.cells
    assert caveat in entry.obstacle


def test_wkds_two_parts_have_other_weights_together_than_alone() -> None:
    entries = {e.method: e for e in protocol("wkd_l", Choice(pairs=["cifar_wrn_40_2 -> cifar_shufflenetv1"])).entries}
    assert entries["wkd_l"].cells[0].method.hyperparameters == {"weight": 200.0, "temperature": 6.0}
    alone, together = (entries[name].cells[0].method.hyperparameters for name in ("wkd_f", "wkd_l+wkd_f"))
    assert alone == {"weight": 0.3, "rho": 3.0, "grid": 4}
    assert (together["wkd_l.weight"], together["wkd_l.temperature"]) == (60.0, 4.0)
    assert (together["wkd_f.weight"], together["wkd_f.rho"], together["wkd_f.grid"]) == (0.5, 3.0, 4)


def test_a_pair_whose_hyperparameters_nobody_knows_is_not_run() -> None:
    entries = protocol("cat_kd").entries
    unknown = [e for e in entries if e.pair == "cifar_wrn_40_2 -> cifar_mobilenetv2"]
    assert not any(e.cells for e in unknown)
    assert "its values for this one are not known" in next(e.obstacle for e in unknown if e.method == "cat_kd")


@pytest.mark.parametrize(
    "method", ["semckd", "simkd", "ctkd", "dist", "dot", "wsld", "ofd", "nkd", "ttm", "camkd", "srd", "wkd_f", "ssl_kd"]
)
def test_methods_with_reported_values_have_a_table_that_runs(method: str) -> None:
    table = protocol(method)
    assert any(cell.method.name.split("+")[0] == method for cell in table.cells)


@pytest.mark.parametrize("name", load_recipes())
def test_every_recipe_is_valid_and_used(name: str) -> None:
    recipe = resolve_recipe(name, load_recipes())
    used = [row for row in reported.load() if row.recipe == name]
    assert used or any(table.get("like") == name for table in load_recipes().values())
    assert {row.dataset for row in used} <= {dataset.name for dataset in recipe.grid.datasets}
    pairs = {row.pair for row in reported.load()}
    assert all(pair in (*pairs, "*") for tuned in recipe.tuned.values() for pair in tuned)


def test_the_command_line_narrows_a_table(tables: Path) -> None:
    table = protocol("dkd", Choice(seeds=(4,), epochs=3), tables)
    assert {(cell.seed, cell.recipe.epochs) for cell in table.cells} == {(4, 3)}
    assert "the paper's recipe has 1" in next(e.obstacle for e in table.entries if e.method == "dkd")


def test_what_cannot_be_run_says_why(tables: Path) -> None:
    obstacles = {e.method: e.obstacle for e in protocol("dkd", folder=tables).entries if not e.cells}
    assert "tunes at for each pair" in obstacles["at"]
    assert obstacles["simkd"] == "recipe 'nowhere-240' is not defined"
    assert obstacles["nobodys"] == "kdbench has no method 'nobodys'"


def test_another_papers_table_can_be_asked_for() -> None:
    assert protocol("dkd", Choice(paper="lskd")).paper == "LSKD (CVPR 2024)"


@pytest.mark.parametrize(
    ("method", "choice", "part"),
    [
        ("sskd", Choice(), "nothing to reproduce"),
        ("dkd", Choice(pairs=["nothing"]), "unknown pair 'nothing'"),
        ("dkd", Choice(datasets=["cifar1000"]), "did you mean 'cifar100'"),
        ("dkd", Choice(paper="nobody"), "unknown paper 'nobody'"),
        ("dkd", Choice(pairs=["resnet34"], datasets=["cifar100"]), "none of these pairs"),
        ("dkdd", Choice(), "did you mean 'dkd'"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused(method: str, choice: Choice, part: str) -> None:
    with pytest.raises(KDBenchError, match=part):
        protocol(method, choice)


@pytest.mark.parametrize(
    ("recipes", "part"),
    [
        ("[a]\nsuite = 'digits'\nepochs = 3", "unknown key 'epochs'"),
        ("[a]\nabout = 'x'", "either 'suite' or 'like'"),
        ("[a]\nlike = 'b'", "unknown recipe 'b'"),
        ("[a", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, recipes: str, part: str) -> None:
    (tmp_path / "recipes.toml").write_text(recipes)
    with pytest.raises(KDBenchError, match=part):
        load_recipes(tmp_path)


def test_a_recipe_key_that_does_not_exist_is_named() -> None:
    with pytest.raises(KDBenchError, match="did you mean 'epochs'"):
        resolve_recipe("a", {"a": {"suite": "digits", "recipe": {"epoch": 3}}})


# a table that is run


def test_a_table_is_run_and_judged(ran: tuple[Protocol, pd.DataFrame, Path]) -> None:
    _, frame, _ = ran
    verdicts = dict(zip(frame["method"], frame["verdict"], strict=True))
    assert verdicts == {
        "student": "",
        "teacher": "not comparable",
        "kd": "reproduced",
        "dkd": "below",
        "fitnet": "not comparable",
        "at": "not run",
        "simkd": "not run",
        "nobodys": "not run",
    }
    assert entry(frame, "fitnet")["reason"] == "the paper tests on other images"
    assert entry(frame, "teacher")["n"] == 1


def test_the_measured_value_is_of_the_epoch_that_the_paper_takes(ran: tuple[Protocol, pd.DataFrame, Path]) -> None:
    _, frame, _ = ran
    dkd, kd = entry(frame, "dkd"), entry(frame, "kd")
    assert dkd["measured"] == dkd["best_top1_mean"]
    assert kd["measured"] == kd["top1_mean"]
    assert dkd["difference"] == pytest.approx(dkd["measured"] - 99.99)
    assert (dkd["measured_as"], dkd["settings"]) == ("dkd(by pair)", "beta=2.0")


def test_the_table_is_printed_with_the_count_of_each_verdict(ran: tuple[Protocol, pd.DataFrame, Path]) -> None:
    console = Console(file=io.StringIO(), width=100)
    for part in render(ran[1], METRICS):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"digits: {PAIR}" in text
    assert "7 reported values: 1 reproduced, 1 below, 3 not run, 2 not comparable" in text


def test_cells_that_another_suite_has_finished_are_taken_over(ran: tuple[Protocol, pd.DataFrame, Path]) -> None:
    _, frame, out = ran
    other = protocol("kd", Choice(seeds=(0, 1)), out / "tables")
    store = Store(out / other.suite)
    assert take_over(other.cells, store, out, dry=True) == len(other.cells) == 4
    assert not store.all()
    assert take_over(other.cells, store, out) == 4
    assert take_over(other.cells, store, out) == 0
    again = reproduction_table(other.entries, store.all())
    assert entry(again, "kd")["measured"] == entry(frame, "kd")["measured"]
    assert {record["suite"] for record in store.all()} == {"reproduce-kd"}


def test_a_seed_that_failed_is_counted_and_its_reason_given(ran: tuple[Protocol, pd.DataFrame, Path]) -> None:
    table, _, out = ran
    kd: Entry = next(e for e in table.entries if e.method == "kd")
    records = [dict(record) for record in Store(out / table.suite).all()]
    for record in records:
        if record["id"] == kd.cells[0].id:
            record |= {"status": "failed", "reason": "out of memory", "result": {}}
    found = entry(reproduction_table(table.entries, records), "kd")
    assert (found["verdict"], found["n"]) == ("not comparable", 1)


def test_the_command_prints_cells_and_reported_values_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "dkd", "--dry-run", "--pairs", "resnet56", "--out", str(tmp_path), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(part in text for part in ("dkd(by pair)", "71.97", "70.66", "2 not run"))
    assert not list(tmp_path.iterdir())


def test_a_report_writes_its_table_without_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "dkd", "--report", "--pairs", "resnet56", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    frame = pd.read_csv(tmp_path / "reproduce-dkd" / "reproduce.csv")
    assert list(frame["reported"].dropna()) == [70.66, 71.97]
    assert set(frame["verdict"].dropna()) == {"not run"} <= set(VERDICTS)
    assert (tmp_path / "reproduce-dkd" / "leaderboard.csv").exists()
