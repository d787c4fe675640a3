"""The report's pages: what is shown, how it is rounded, that nothing breaks out of it, and that nothing is lost."""

from __future__ import annotations

import builtins
import json
import math
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.page_records import PAIRS, grid, page_record, synthetic
from typer.testing import CliRunner

from kdbench.board.numbers import DIGIT, MINUS, POINT, aligned, decimals, fixed, scaled
from kdbench.board.page import plots, summary
from kdbench.board.page.cells import columns, differences
from kdbench.board.page.data import Results, slugs
from kdbench.board.page.series import curve, reliability
from kdbench.commands.cli import app
from kdbench.papers.reported import Reported
from kdbench.registry.about import Described
from kdbench.tasks.image.metrics import METRICS

pytest.importorskip("plotly")
from kdbench.board.page.build import build
from kdbench.board.page.latex import escape, latex_tables

RESULTS = Path(__file__).parents[3] / "results"
METHODS = ["student", "kd", "dkd", "dist", "fitnet", "at", "simkd"]
EVIL = "<script>alert(1)</script>"


def results(records: list[dict[str, Any]] | None = None, expected: list[dict[str, Any]] | None = None) -> Results:
    records = synthetic(METHODS) if records is None else records
    return Results("synthetic", "nobody trained these", records, expected or [])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven methods on two pairs, with gaps."""
    folder = tmp_path_factory.mktemp("site")
    build(results(expected=grid(METHODS)), folder, latex=True)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Page(HTMLParser):
    """What a browser would see of a page: its elements, its ids, its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> set[str | None]:
        return {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    def addresses(self) -> Iterator[tuple[str, str]]:
        for tag, attributes in self.elements:
            address = attributes.get("href") or attributes.get("src")
            if address:
                yield tag, address


# ---- numbers ----


@pytest.mark.parametrize(
    ("spread", "expected"),
    [(0.15, 2), (0.354, 2), (0.4, 1), (0.96, 1), (1.26, 1), (3.6, 0), (12.0, 0), (0.004, 2), (0.0, 2), (math.nan, 2)],
)
def test_a_number_keeps_the_digits_that_its_spread_leaves(spread: float, expected: int) -> None:
    assert decimals(spread) == expected


def test_a_negative_number_has_a_true_minus_and_a_zero_has_no_sign() -> None:
    assert fixed(-1.25, 1, True) == f"{MINUS}1.2"
    assert [fixed(-0.04, 1), fixed(-0.04, 1, True), fixed(0.04, 1, True)] == ["0.0", "0.0", "0.0"]
    assert fixed(1.5, 1, True) == "+1.5"


def test_points_stand_below_each_other() -> None:
    assert aligned(["79.65", "77.6", "71", ""]) == ["79.65", "77.6" + DIGIT, "71" + POINT + 2 * DIGIT, ""]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (999.9, "1k"), (77754, "77.8k"), (999_500, "1M"), (9.3e6, "9.3M")]
)
def test_counts_have_suffixes(value: float, text: str) -> None:
    assert scaled(value) == text


# ---- cells ----


def row_of(**values: Any) -> dict[str, Any]:
    row = dict.fromkeys(("vs_kd", "vs_kd_ci95_low", "vs_kd_ci95_high", "vs_kd_p", "vs_kd_p_holm"), math.nan)
    return {**row, "vs_kd_n": 3, **values}


def test_only_a_difference_that_holms_correction_leaves_is_marked() -> None:
    sure = row_of(vs_kd=1.0, vs_kd_ci95_low=0.8, vs_kd_ci95_high=1.2, vs_kd_p=0.001, vs_kd_p_holm=0.01)
    unsure = {**sure, "vs_kd_p_holm": 0.06}
    worse = {**sure, "vs_kd": -1.0, "vs_kd_ci95_low": -1.2, "vs_kd_ci95_high": -0.8}
    cells = differences("kd", METRICS.primary)([sure, unsure, worse, row_of()])
    assert [cell.mark for cell in cells] == ["better", "", "worse", ""]
    assert cells[0].hint == (
        "+1.00 points to kd, 95 % interval +0.80 to +1.20, p = 0.001, after Holm's correction p = 0.01, 3 paired runs"
    )
    assert cells[3].order is None


def test_a_difference_without_an_interval_is_shown_without_one() -> None:
    (cell,) = differences("kd", METRICS.primary)([row_of(vs_kd=0.5, vs_kd_n=1)])
    assert (cell.text, cell.aside, cell.whisker) == ("+0.50", "", None)


def test_a_whisker_stays_on_its_axis_and_in_order() -> None:
    far = row_of(vs_kd=-40.0, vs_kd_ci95_low=-41.0, vs_kd_ci95_high=-39.0)
    near = row_of(vs_kd=1.0, vs_kd_ci95_low=0.5, vs_kd_ci95_high=1.5)
    for cell in differences("kd", METRICS.primary)([near, near, far]):
        assert cell.whisker is not None
        low, mean, high, zero = cell.whisker
        assert 0 <= low <= mean <= high <= 100
        assert (mean > zero) == (cell.order > 0)  # type: ignore[operator]


# ---- series ----


def test_a_curve_is_the_mean_of_the_seeds_where_all_were_evaluated() -> None:
    runs = [page_record("kd", seed=seed, top1=70.0 + seed) for seed in (0, 1)]
    runs[1]["curve"][3].pop("top1")
    made = curve(runs, "top1")
    assert made is not None
    assert 4 not in made.epochs
    ends = [run["result"]["top1"] for run in runs]
    assert (made.low[-1], made.high[-1]) == (min(ends), max(ends))
    assert made.mean[-1] == pytest.approx(sum(ends) / 2, abs=1e-3)


def test_reliability_weighs_the_seeds_by_their_samples() -> None:
    runs = [page_record("kd", seed=seed) for seed in (0, 1)]
    for run, (count, hit) in zip(runs, ((30, 1.0), (10, 0.0)), strict=True):
        run["result"]["reliability"] = {"count": [0, count], "confidence": [0, 0.9], "accuracy": [0, hit]}
    made = reliability(runs)
    assert made is not None
    assert (made.confidence, made.accuracy, made.share) == ([0.9], [0.75], [1.0])


def test_a_run_without_reliability_leaves_the_diagram_out() -> None:
    assert reliability([page_record("kd"), page_record("kd", seed=1, calibrated=False)]) is None


# ---- names ----


def test_every_label_gets_a_file_name_of_its_own() -> None:
    labels = ["kd", "KD", "kd++", "kd(temperature=2)", "kd_temperature_2", "../..", "é", "漢", "", "x" * 300]
    names = slugs(labels)
    assert len(set(names.values())) == len(labels)
    assert all(re.fullmatch(r"[a-z0-9-]{1,90}", name) for name in names.values())


# ---- overviews ----


def test_the_finding_counts_what_the_correction_leaves() -> None:
    made = results(synthetic(["student", "kd", "dkd"], gaps=False))
    found = summary.finding(made.boards[0], made.baseline, METRICS.primary)
    one, none = found.leads
    assert (one.sees, none.sees, none.best["method"]) == ("one teacher", "no teacher", "student")
    assert one.best["rank"] == 1
    assert found.compared == 2
    assert found.better + found.worse <= 2
    assert one.gain.startswith(("+", MINUS))
    assert " to " in one.gain_interval


def test_the_heat_map_holds_every_method_and_names_what_is_not_done() -> None:
    made = summary.heat(results(expected=grid(METHODS)))
    assert {row.method for row in made.rows} == set(METHODS)
    states = {row.method: row.state for row in made.rows}
    assert states["simkd"] == ["not_applicable", ""]
    assert all(-100 <= strength <= 100 for row in made.rows for strength in row.strength)


def test_a_suite_without_kd_is_compared_with_the_student() -> None:
    made = results(synthetic(["student", "dkd", "dist"], gaps=False))
    assert made.baseline == "student"
    assert all(cell.text for row in summary.heat(made).rows if row.method != "student" for cell in row.cells)


def test_ranks_leave_out_what_is_incomplete_and_say_so() -> None:
    (made,) = summary.ranks(results(expected=grid(METHODS)))
    assert made.left_out == ["at", "fitnet", "simkd"]
    assert made.position == sorted(made.position)
    assert "no two methods can be told apart" in made.sentence


def test_what_is_unfinished_has_its_reason() -> None:
    rows = summary.unfinished(results(expected=grid(METHODS)))
    assert [(row["method"], row["state"], row["seeds"]) for row in rows] == [
        ("at", "failed", "2"),
        ("fitnet", "missing", "0"),
        ("simkd", "not applicable", "0, 1, 2"),
    ]
    assert {row["reason"] for row in rows if row["state"] == "failed"} == {
        "the loss became infinite in epoch 3: lower its weight"
    }


# ---- plots ----


def test_plotly_accepts_every_figure() -> None:
    from plotly.graph_objects import Figure

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return "#000000" if isinstance(value, str) and value.startswith("$") else value

    made = results()
    place = made.places[0]
    for figure in (
        plots.pareto(made.boards[0].rows, METRICS.primary),
        plots.curves(made.curves(place), METRICS.primary),
        plots.calibration(made.reliabilities(place)),
    ):
        assert Figure(plain(figure)).data


def test_only_the_front_and_the_baselines_are_named_in_the_cost_plot() -> None:
    rows = results().boards[0].rows
    figure = plots.pareto(rows, METRICS.primary)
    named = {name for trace in figure["data"] if "text" in trace["mode"] for name in trace["text"]}
    scored = [row for row in rows if not math.isnan(row["score_mean"])]
    assert named == {row["method"] for row in scored if row["pareto"] is True or row["name"] in ("student", "kd")}
    assert figure["layout"]["xaxis"]["type"] == "log"


def test_a_cost_axis_has_round_ticks_and_holds_every_value() -> None:
    for values in ([1.0], [1.0, 1.05], [0.9, 6.1], [0.02, 900.0]):
        ticks, low, high = plots.cost_ticks(values)
        assert low < min(values)
        assert high > max(values)
        assert all(low <= tick <= high for tick in ticks)
        assert ticks


def test_print_plots_are_pictures_and_the_same_every_time() -> None:
    from kdbench.board.page.static_plots import draw_all

    made = dict(draw_all(results()))
    names = {Path(path).stem.partition("-")[0] for path in made}
    assert names == {"heat", "ranks", "pareto", "curves", "calibration"}
    assert all(content.startswith((b"\x89PNG", b"<?xml")) for content in made.values())
    assert made == dict(draw_all(results()))


# ---- the site ----


def test_every_link_leads_to_a_file_and_place_of_the_site(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) == 1 + len(METHODS) + len(PAIRS)
    for path, page in pages.items():
        for tag, address in page.addresses():
            target, _, anchor = address.partition("#")
            if address.startswith("https://") and tag == "a":
                continue
            if address.startswith("data:"):
                continue
            where = (path.parent / unquote(target)).resolve() if target else path
            assert where.is_file(), f"{path.name}: {address}"
            assert not anchor or anchor in pages[where].ids, f"{path.name}: {address}"


def test_a_site_without_pictures_has_no_links_to_them(tmp_path: Path) -> None:
    build(results(), tmp_path, pictures=False)
    assert not any("plots/" in address for path in tmp_path.rglob("*.html") for _, address in Page(path).addresses())


def test_nothing_is_loaded_from_outside(site: Path) -> None:
    for path in site.rglob("*.html"):
        for tag, address in Page(path).addresses():
            assert tag == "a" or "//" not in address
    assert "http" not in (site / "assets" / "page.css").read_text()
    assert "http" not in (site / "assets" / "page.js").read_text()


def test_every_run_leads_to_its_record(site: Path) -> None:
    for record in synthetic(METHODS):
        kept = json.loads((site / "records" / f"{record['id']}.json").read_text())
        assert kept == record
        page = Page(site / "methods" / f"{record['cell']['method']['label']}.html")
        assert ("a", f"../records/{record['id']}.json") in list(page.addresses())
        assert record["id"] in (site / "data" / "runs.csv").read_text()


def test_runs_that_are_not_done_are_shown(site: Path) -> None:
    text = Page(site / "index.html").text
    assert "1 failed: the loss became infinite" in text
    assert "not applicable" in text
    assert "1 missing" in text
    assert "Left out, because they did not finish every run: at, fitnet, simkd" in text


def test_every_column_of_the_leaderboard_explains_itself(site: Path) -> None:
    buttons = [attributes for tag, attributes in Page(site / "index.html").elements if "data-first" in attributes]
    assert all(attributes["title"] for attributes in buttons)
    assert len(buttons) == len([c for c in columns(METRICS) if c.key != "reported"]) + 1  # and the method


def test_text_of_records_cannot_become_markup(tmp_path: Path) -> None:
    evil = f"{EVIL}\"' onload=x {{{{7*7}}}} $x^2$"
    records = [
        *synthetic(["student", "kd"], gaps=False),
        *(page_record(evil, seed=seed, family=evil, top1=71 + seed / 10) for seed in (0, 1)),
        page_record(evil, seed=2, family=evil, status="failed", reason=evil),
        page_record("dkd", pair=f"{EVIL} -> b", protocol={EVIL: {"a": EVIL}}),
    ]
    described = {evil: Described(title=EVIL, idea=f"`{EVIL}`", equation=EVIL, details=EVIL, deviations=EVIL)}
    reported = [
        Reported(f"{EVIL} (2020)", EVIL, evil, "cifar10", *PAIRS[0].split(" -> "), 70.0, None, None, "last", EVIL, EVIL)
    ]
    build(Results(EVIL, EVIL, records, (), described, reported), tmp_path, latex=True)
    for path in tmp_path.rglob("*.html"):
        page = Page(path)
        scripts = [attributes for tag, attributes in page.elements if tag == "script"]
        assert all("src" in attributes for attributes in scripts[1:])  # the first chooses light or dark
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert EVIL in Page(tmp_path / "index.html").text
    for path in (tmp_path / "data").glob("*.js"):
        figures = json.loads(path.read_text().partition(",")[2].removesuffix(");\n"))
        shown = [trace.get("name", "") for figure in figures.values() for trace in figure["data"]]
        shown += [text for figure in figures.values() for trace in figure["data"] for text in trace.get("text", [])]
        assert not any("<" in text for text in shown)
    assert all(path.resolve().is_relative_to(tmp_path) for path in tmp_path.rglob("*"))


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = synthetic(["student", "kd", "dkd"])
    build(results(list(records)), tmp_path / "a", latex=True)
    random.Random(0).shuffle(records)
    build(results(records), tmp_path / "b", latex=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_second_build_takes_away_its_old_pages_and_nothing_else(tmp_path: Path) -> None:
    build(results(synthetic(["student", "kd", "dkd"])), tmp_path, pictures=False)
    (tmp_path / "CNAME").write_text("somewhere")
    build(results(synthetic(["student", "kd"], gaps=False)), tmp_path, pictures=False)
    assert {path.name for path in (tmp_path / "methods").iterdir()} == {"student.html", "kd.html"}
    assert (tmp_path / "CNAME").exists()


def test_a_manifest_cannot_make_it_delete_outside_the_site(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    folder = tmp_path / "site"
    build(results(synthetic(["student", "kd"], gaps=False)), folder, pictures=False)
    (folder / ".kdbench-site.json").write_text(json.dumps(["../precious"]))
    build(results(synthetic(["student", "kd"], gaps=False)), folder, pictures=False)
    assert (tmp_path / "precious").exists()


ODD = {
    "one pair and one seed": synthetic(["student", "kd", "dkd"], PAIRS[:1], (0,), gaps=False),
    "one method": synthetic(["dkd"], PAIRS[:1], gaps=False),
    "nothing finished": [page_record("kd", seed=s, status="failed", reason="it broke") for s in (0, 1)],
    "several protocols": synthetic(
        ["student", "kd", "dkd"], protocols=({}, {"label_noise": {"kind": "symmetric", "rate": 0.4}})
    ),
    "no calibration": synthetic(["student", "kd"], gaps=False, calibrated=False),
    "one epoch": synthetic(["student", "kd"], gaps=False, epochs=1),
    "no baseline": synthetic(["dkd", "dist"], gaps=False),
}


@pytest.mark.parametrize("case", ODD)
def test_a_site_is_made_of_odd_suites_too(case: str, tmp_path: Path) -> None:
    build(results(ODD[case]), tmp_path, latex=True)
    index = Page(tmp_path / "index.html")
    assert "leaderboard" in index.ids
    assert not re.search(r"\b(nan|NaN|None(?! of the))\b", index.text)
    if case == "one pair and one seed":
        assert "±" not in Page(tmp_path / "pairs" / f"{slugs(PAIRS)[PAIRS[0]]}.html").text
    if case == "no calibration":
        assert "before calibration was measured" in index.text


def test_a_methods_page_tells_what_its_file_tells(tmp_path: Path) -> None:
    from kdbench.commands.site import describe

    records = synthetic(["student", "kd", "dkd"], gaps=False)
    described = describe({record["cell"]["method"]["name"] for record in records})
    build(Results("s", "", records, (), described), tmp_path, pictures=False)
    text = Page(tmp_path / "methods" / "dkd.html").text
    assert described["dkd"].equation.strip() in text
    assert "Deviations" in text
    addresses = [address for _, address in Page(tmp_path / "methods" / "dkd.html").addresses()]
    assert "https://arxiv.org/abs/2203.08679" in addresses
    assert "https://github.com/megvii-research/mdistiller" in addresses
    assert "default" in text  # the synthetic records have another temperature than the method's
    assert "held against: official code" in text
    assert "Field code: a toolbox's version of others' method" in Page(tmp_path / "index.html").text  # kd's
    titles = [
        a.get("title", "") for _, a in Page(tmp_path / "index.html").elements if a.get("href") == "methods/kd.html"
    ]
    assert any(title.endswith("(field code)") for title in titles)


def test_reported_values_stand_beside_measured_ones_of_the_same_pair_and_data(tmp_path: Path) -> None:
    teacher, student = PAIRS[0].split(" -> ")
    theirs = Reported(
        "DKD (CVPR 2022)", "README", "dkd", "cifar10", teacher, student, 71.97, 0.1, 5, "best", "crd-240", ""
    )
    elsewhere = Reported("X (2023)", "README", "dkd", "cifar100", teacher, student, 12.34, None, None, "last", "r", "")
    records = synthetic(["student", "kd", "dkd"], gaps=False)
    build(Results("s", "", records, (), {}, [theirs, elsewhere]), tmp_path, pictures=False)
    index = Page(tmp_path / "index.html").text
    assert "71.97" in index
    assert "12.34" not in index
    method = Page(tmp_path / "methods" / "dkd.html").text
    assert "71.97" in method
    assert "12.34" in method


# ---- LaTeX ----


def test_latex_escapes_what_it_would_read() -> None:
    assert escape(r"a_b & 50% {x} #1 ~ ^ \ $") == (
        r"a\_b \& 50\% \{x\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert escape("a -> b") == r"a $\rightarrow$ b"


def test_the_latex_table_has_a_row_a_method_and_balanced_braces() -> None:
    text = latex_tables(results(synthetic(["student", "kd", "dkd", "x_y{"], PAIRS[:1], gaps=False)))
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    body = text.partition(r"\midrule")[2].split(r"\bottomrule")[0].replace("\\midrule\n", "")
    assert len(re.findall(r"\\\\$", body, re.MULTILINE)) == 4 + 2  # the methods, and a heading for each class
    assert r"x\_y\{" in body
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    rows = [row for row in body.strip().splitlines() if not row.startswith(r"\multicolumn")]
    assert len({row.count("&") for row in rows}) == 1


# ---- the command ----


def test_the_published_suite_becomes_a_site(tmp_path: Path) -> None:
    options = ["--out", str(RESULTS), "--all", "--no-plots", "-o", str(tmp_path / "site")]
    done = CliRunner().invoke(app, ["report", "fashion", *options])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "site" / "index.html") in done.output
    for record in (RESULTS / "fashion" / "records").iterdir():
        assert (tmp_path / "site" / "records" / record.name).read_bytes() == record.read_bytes()


def test_a_folder_without_records_is_answered_with_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", "digits", "--out", str(tmp_path), "-o", str(tmp_path / "site")])
    assert "run it first" in str(done.exception)
    assert not (tmp_path / "site").exists()


def test_records_of_another_recipe_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.commands.views.records_of", lambda store: [page_record("kd")])
    monkeypatch.setattr("kdbench.records.Store.paths", lambda store: [tmp_path / "kd.json"])
    done = CliRunner().invoke(app, ["report", "digits", "--out", str(tmp_path), "-o", str(tmp_path / "site")])
    assert "--all" in str(done.exception)


def test_without_plotly_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.commands import site

    monkeypatch.setattr(site, "find_spec", lambda name: None if name == "plotly" else builtins.object())
    done = CliRunner().invoke(app, ["report", "digits", "--out", str(tmp_path)])
    assert str(done.exception) == "a report needs plotly: pip install 'kdbench[report]'"


def test_the_package_carries_templates_and_assets(tmp_path: Path) -> None:
    from importlib.resources import files

    home = files("kdbench.board.page")
    assert {entry.name for entry in (home / "templates").iterdir()} >= {
        "index.html.j2",
        "method.html.j2",
        "pair.html.j2",
    }
    assert {entry.name for entry in (home / "assets").iterdir()} == {"page.css", "page.js"}


def test_a_run_becomes_a_site_of_the_suite_as_it_is(tiny_runs: Path, tmp_path: Path) -> None:
    options = ["--out", str(tiny_runs), "-o", str(tmp_path / "site"), "--no-plots"]
    done = CliRunner().invoke(app, ["report", str(tiny_runs / "tiny.toml"), *options])
    assert done.exit_code == 0, done.output
    text = Page(tmp_path / "site" / "methods" / "aver-mkd.html").text
    assert "Deviations" in text
    assert "ECE" in text
