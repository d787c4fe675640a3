"""What the documents list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_packaging import LAYERS

from kdbench import registry, suites

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", ".github/pull_request_template.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
RECORDS = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def rooms() -> set[str]:
    return {path.parent.name for path in (ROOT / "kdbench").glob("*/__init__.py")}


def hall() -> set[str]:
    return {path.stem for path in (ROOT / "kdbench").glob("*.py")} - {"__init__", "__main__"}


def is_there(name: str) -> bool:
    """Whether a dotted name is a module of the package, or stands in one."""
    path, parts = ROOT / "kdbench", name.split(".")[1:]
    if parts[0] in ("methods", "reported"):  # they lie elsewhere and are imported from here
        path, parts = {"methods": ROOT / "methods", "reported": ROOT / "results" / "reported"}[parts[0]], parts[1:]
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts and (path / f"{parts[0]}.py").is_file():
        path = path / f"{parts.pop(0)}.py"
    source = (path if path.is_file() else path / "__init__.py").read_text(encoding="utf-8") if parts else ""
    return all(re.search(rf"\b{part}\b", source) for part in parts)


def test_the_readme_lists_every_method_in_its_family() -> None:
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", README, re.MULTILINE)
    listed = {name: family for family, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert listed == {name: registry.get(name).info.family for name in registry.names()}
    assert f"{len(listed)} methods in {len(rows)} families" in README


def test_the_suites_that_the_readme_names_exist() -> None:
    line = next(line for line in README.splitlines() if line.startswith("kdbench list suites"))
    named = re.findall(r"\w+", line.partition("#")[2])
    assert set(named) - {"and", "others"} <= set(suites.names())


def test_no_merge_is_left_unfinished() -> None:
    written = [*PAGES, ROOT / "CHANGELOG.md", *(ROOT / "results").glob("*.md")]
    marked = re.compile(r"^(<{7}|>{7}|={7}$)", re.MULTILINE)
    assert [path.name for path in written if marked.search(path.read_text(encoding="utf-8"))] == []


def test_the_map_has_every_room_and_no_other() -> None:
    assert sorted(re.findall(r"^  (\w+)/ ", DESIGN, re.MULTILINE)) == sorted(rooms())
    (line,) = re.findall(r"^  \*\.py (.*)$", DESIGN, re.MULTILINE)
    assert set(re.findall(r"[a-z]+", re.sub(r"\(.*?\)", "", line).partition(":")[2])) == hall()


def test_the_layers_on_the_map_are_those_that_are_held() -> None:
    drawn = DESIGN.rpartition("```\ncommands")[2].partition("```")[0]
    lines = [set(line.split(", ")) for line in ("commands" + drawn).split("\n") if line]
    assert lines == [set(layer) - {"__main__"} for layer in LAYERS]


def test_each_column_of_a_table_is_documented_once() -> None:
    computed = RECORDS.partition("## How the tables are computed")[2]
    assert computed
    assert not re.search(r"^\|", computed, re.MULTILINE)
    columns = set(re.findall(r"^\| `(\w+)` \|", RESULTS.partition("## Columns")[2], re.MULTILINE))
    named = set(re.findall(r"`([a-z]+\d*_[a-z0-9_]+\*?)`", computed)) - set(suites.names())
    unknown = {name for name in named if not any(re.fullmatch(name.replace("*", ".*"), column) for column in columns)}
    assert named
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        target = (page.parent / link) if link else page
        assert target.exists(), f"{page.name}: {link} is not there"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_modules_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:kdbench|methods|tests|results|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists(), f"{page.name}: {path} is not there"
    for name in re.findall(r"`(kdbench(?:\.\w+)+)`", text):
        assert is_there(name), f"{page.name}: {name} is not there"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "performance.md"], ids=lambda path: path.name)
def test_one_row_per_method_is_said_so(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    what = r"(?:method|cell|pair|suite|paper|value|seed|epoch|class|network|file|batch|learner|family)\b"
    idiom = rf"\b(?:[Oo]ne|[Aa]) (?:row|file|folder|page|graph|column|point|entry|CSV file|JSON file) a {what}"
    assert not re.findall(idiom, text)
