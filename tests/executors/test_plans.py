"""A suite with every later key, from cells to a published folder: few labels, updates, paired teachers, own seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import toy_task

from kdbench.board.page.series import curve
from kdbench.board.publishing.card import read_card
from kdbench.board.publishing.publish import publish, remake
from kdbench.board.publishing.validate import validate
from kdbench.board.results import Tables, grid_rows, suite_table
from kdbench.board.teachers import teacher_seeds
from kdbench.executors.local import LocalExecutor
from kdbench.records import Record, Store
from kdbench.suites import parse
from kdbench.suites.grid import Suite
from kdbench.suites.tables import suite_of
from kdbench.testing.trial import _Silent

TABLE: dict[str, Any] = {
    "name": "few",
    "description": "few labels for students whose teachers saw all",
    "teacher_seeds": "paired",
    "seeds": [0, 1],
    "methods": ["student", {"name": "kd", "seeds": [0, 1, 2]}, "dkd", "aver_mkd"],
    "datasets": [
        {
            "name": "residues",
            "task": "tokens",
            "protocol": {"subset": {"per_class": 6}},
            "teacher_protocol": {"label_noise": {"kind": "symmetric", "rate": 0.1}},
        }
    ],
    "pairs": [
        {"teacher": "tokens_24_3", "pool": ["tokens_24_3", "tokens_24_3@1"], "student": "tokens_8_2"},
        {"teacher": "tokens_24_2", "student": "tokens_8_2", "methods": ["student", "kd"]},
    ],
    "recipe": {"updates": 20, "batch_size": 8, "evaluate_every": 1},
    "teacher_recipe": {"epochs": 2},
}
PROTOCOL = "subset(per_class=6); teachers: label_noise(kind=symmetric, rate=0.1)"


@pytest.fixture(scope="module")
def suite() -> Suite:
    return parse.parse(TABLE)


@pytest.fixture(scope="module")
def out(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few")
    LocalExecutor(out, _Silent(), device="cpu").run(suite.cells())
    return out


@pytest.fixture(scope="module")
def records(out: Path) -> list[Record]:
    return Store(out / "few").all()


@pytest.fixture
def folder(suite: Suite, out: Path, tmp_path: Path) -> Path:
    return publish(suite, out, tmp_path / "results").folder


def test_what_is_planned_is_run_and_nothing_else(suite: Suite, records: list[Record]) -> None:
    assert {record["id"] for record in records} == {cell.id for cell in suite.cells()}
    assert {record["status"] for record in records} == {"done"}
    assert len(records) == (2 + 3 + 2 + 2) + (2 + 3)


def test_teachers_saw_their_own_data_and_each_seed_has_its_own(out: Path, records: list[Record]) -> None:
    trained = {record["id"]: record for record in Store(out / "teachers").all()}
    # two of the pool for seeds 0 and 1, its first for seed 2, and one a seed of the other pair
    assert len(trained) == 2 + 2 + 1 + 3
    noise = TABLE["datasets"][0]["teacher_protocol"]
    assert {json.dumps(record["cell"]["protocol"]) for record in trained.values()} == {json.dumps(noise)}
    assert all(len(record["curve"]) == 2 for record in trained.values())
    seeds: dict[str, set[int]] = {}
    for record in records:
        for teacher in record["teachers"]:
            assert trained[teacher["weights"]]["cell"]["seed"] == teacher["seed"]
            seeds.setdefault(teacher["weights"], set()).add(record["cell"]["seed"])
    assert all(len(of) == 1 for of in seeds.values())
    assert teacher_seeds(records) == "one teacher for each seed"
    assert teacher_seeds([r for r in records if r["cell"]["seed"] == 0]) == ""


def test_a_student_had_its_few_labels_and_the_teachers_training_all(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    class Counting(toy_task.TokenTask):
        def training_set(self, seed: int, strong_view: bool) -> toy_task.TokenData:
            data = super().training_set(seed, strong_view)
            seen.append((type(self).__name__, len(data)))
            return data

    monkeypatch.setitem(__import__("kdbench.tasks.task", fromlist=["_TASKS"])._TASKS, "tokens", Counting)
    cells = parse.narrow(suite, methods=["kd"], pairs=["tokens_24_2"], seeds=[0, 1]).cells()
    LocalExecutor(tmp_path, _Silent(), device="cpu").run(cells)
    assert [size for _, size in seen] == [60, 18, 60, 18]


def test_tables_have_no_row_and_miss_no_run_of_what_is_not_planned(suite: Suite, records: list[Record]) -> None:
    tables = Tables(records, grid_rows(suite_table(suite)))
    assert len(tables.runs) == len(records)
    assert set(tables.runs["protocol"]) == {PROTOCOL}
    long = tables.long.set_index(["pair", "method"])
    assert set(long.loc["tokens_24_2 -> tokens_8_2"].index) == {"student", "kd"}
    assert long["missing"].sum() == 0
    assert long.loc[("tokens_24_3 -> tokens_8_2", "kd"), "n"] == 3
    overall = long.loc["overall"]
    assert overall["score_mean" if "score_mean" in overall else "top1_mean"].notna().to_dict() == {
        "student": True, "kd": True, "dkd": False, "aver_mkd": False,
    }  # fmt: skip
    assert overall.loc["dkd", "remark"] == "incomplete (not planned on 1 of 2 pairs)"
    assert overall.loc["student", "vs_kd_n"] == 4  # paired over the seeds that both have
    wide = tables.wide.set_index("method")
    assert wide["mean_rank"].notna().to_dict() == {"student": True, "kd": True, "dkd": False, "aver_mkd": False}
    assert set(tables.common().counted.places) == {(("residues", PROTOCOL, "tokens_24_3 -> tokens_8_2"))}


def test_one_run_less_of_the_plan_is_missing(suite: Suite, records: list[Record]) -> None:
    lost = next(r for r in records if r["cell"]["method"]["label"] == "kd" and r["cell"]["seed"] == 2)
    tables = Tables([record for record in records if record is not lost], grid_rows(suite_table(suite)))
    assert tables.runs.query("status == 'missing'")[["method", "seed", "pair"]].values.tolist() == [
        ["kd", 2, lost["cell"]["pair"]]
    ]
    assert not tables.grid.complete[tables.grid.methods.index("kd")]


def test_a_method_that_nobody_planned_misses_what_all_planned_ones_have(suite: Suite, records: list[Record]) -> None:
    stray = next(r for r in records if r["cell"]["method"]["label"] == "dkd" and r["cell"]["seed"] == 0)
    copied = json.loads(json.dumps(stray).replace('"label": "dkd"', '"label": "stray"'))
    copied["id"] = "0" * 16
    found = Tables([*records, copied], grid_rows(suite_table(suite))).grid
    states = found.states[found.methods.index("stray")]
    assert found.seeds == (0, 1, 2)
    # places in alphabetical order: the pair of two methods, then the one that it ran on
    assert states.T.tolist() == [["missing", "missing", "unplanned"], ["done", "missing", "unplanned"]]


def test_curves_are_over_updates(records: list[Record]) -> None:
    mine = [record for record in records if record["cell"]["method"]["label"] == "student"]
    made = curve(mine, "top1")
    assert made is not None
    assert (made.epochs, made.unit) == ([10, 20], "updates")


def test_a_card_gives_the_same_cells_again(suite: Suite, folder: Path) -> None:
    card = read_card(folder / "card.json")["suite"]
    assert [cell.id for cell in suite_of(card).cells()] == [cell.id for cell in suite.cells()]
    assert (card["teacher_seeds"], card["methods"][1]["seeds"]) == ("paired", [0, 1, 2])
    assert card["datasets"][0]["teacher_protocol"] == TABLE["datasets"][0]["teacher_protocol"]
    assert card["pairs"][1]["methods"] == ["student", "kd"]


def test_a_published_folder_is_valid_and_its_page_says_how_teachers_were_trained(folder: Path) -> None:
    assert [str(problem) for problem in validate(folder)[0].problems] == []
    page = (folder / "README.md").read_text()
    for said in (
        f"- Data: residues ({PROTOCOL})",
        "- Seeds: 0, 1; kd: 0, 1, 2",
        "- Teachers: one teacher for each seed",
        "- Pair: tokens_24_2 -> tokens_8_2 (only student, kd)",
        "updates 20",
    ):
        assert said in page, said
    assert "missing" not in page


FORGED: dict[str, tuple[Callable[[Record], object], str]] = {
    "a teacher of another seed": (
        lambda r: [t.update(seed=7) for t in r["cell"]["teachers"]],
        "they are neither the pair's teacher nor its pool",
    ),
    "no teacher's protocol": (lambda r: r["cell"].pop("teacher_protocol"), "the suite has no such data set"),
    "another number of updates": (lambda r: r["cell"]["recipe"].update(updates=30), "the suite has 20"),
    "points elsewhere": (
        lambda r: r["curve"][0].update(updates=11),
        "its points are not at the ends of 2 equal parts of 20 updates",
    ),
    "a point less": (lambda r: r["curve"].pop(0), "it has 1 points, but the recipe has 20 updates in parts 1 to 2"),
    "a seed that nobody has": (lambda r: r["cell"].update(seed=9), "the suite's seeds are 0, 1, 2"),
    "neither length": (lambda r: r["cell"]["recipe"].pop("updates"), "cell.recipe.epochs: it is missing"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_record_that_the_suite_would_not_leave_is_found(folder: Path, tmp_path: Path, what: str) -> None:
    change, sentence = FORGED[what]
    path = next(p for p in sorted((folder / "records").iterdir()) if '"kd"' in p.read_text())
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    assert any(sentence in str(problem) for problem in validate(folder)[0].problems), validate(folder)[0].problems


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.update(teacher_seeds=3), "it is no card (suite.teacher_seeds: int is no type"),
        (lambda s: s["datasets"][0].update(teacher_protocol=[]), "suite.datasets[0].teacher_protocol: list is no type"),
        (lambda s: s["pairs"][1].update(methods="kd"), "suite.pairs[1].methods: it is no list"),
        (lambda s: s["methods"][1].update(seeds=["0"]), "suite.methods[1].seeds[0]: str is no type"),
    ],
)
def test_a_card_with_a_wrong_later_key_is_a_sentence(
    folder: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card["suite"])
    (folder / "card.json").write_text(json.dumps(card))
    assert any(sentence in str(problem) for problem in validate(folder)[0].problems)


def test_records_of_an_older_engine_stand_in_no_table_of_this_one(
    suite: Suite, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.suites import grid

    kept = Path(shutil.copytree(out, tmp_path / "kept"))
    monkeypatch.setattr(grid, "ENGINE", grid.ENGINE + 1)
    monkeypatch.setattr("kdbench.board.select.ENGINE", grid.ENGINE)
    monkeypatch.setattr(grid.identity, "__defaults__", (grid.ENGINE,))
    tables = Tables.of(parse.parse(TABLE).cells(), Store(kept / "few").all())
    assert set(tables.runs["status"]) == {"missing", "other_engine"}


def test_a_folder_is_made_anew_with_the_same_bytes(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    remake(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
