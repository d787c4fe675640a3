"""The shape of the package: what is installed, which way imports point, how long files are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from kdbench import errors

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "kdbench").rglob("*.py"))
METHODS = sorted((ROOT / "methods").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEPENDENCIES = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]

# from the top of the house to its ground: a layer imports only from its own line and from the lines below it
LAYERS = (
    ("commands", "__main__"),
    ("board", "executors", "testing"),
    ("papers", "training"),
    ("tasks",),
    ("hardware", "suites"),
    ("records", "registry"),
    ("connectors", "losses", "reads"),
    ("method",),
    ("errors", "info", "seeding", "space"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "kdbench").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, without those only the type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    mine = part_of(path)
    if mine == "__init__":
        return
    for module in imported(path):
        parts = module.split(".")
        if parts[0] == "kdbench" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] >= RANK[mine], f"{mine} must not import {module}"


def test_the_first_floor_can_be_taken_in_at_a_glance() -> None:
    hall = {path.stem for path in (ROOT / "kdbench").glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in (ROOT / "kdbench").glob("*/__init__.py")}
    assert len(hall) <= 9
    assert len(rooms) <= 11
    assert hall | rooms == set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_engine_imports_no_method(path: Path) -> None:
    assert not any(module.startswith("kdbench.methods") for module in imported(path))


def test_hardware_knows_no_suite() -> None:
    for path in (ROOT / "kdbench" / "hardware").glob("*.py"):
        assert not any(module.startswith("kdbench.suites") for module in imported(path)), path.name


def test_the_grid_knows_no_parser() -> None:
    assert "kdbench.suites.parse" not in imported(ROOT / "kdbench" / "suites" / "grid.py")


@pytest.mark.parametrize("path", METHODS, ids=lambda path: str(path.relative_to(ROOT)))
def test_methods_import_public_names_only(path: Path) -> None:
    import kdbench

    allowed = {"kdbench", "kdbench.losses", "kdbench.connectors", *(f"kdbench.{name}" for name in kdbench.__all__)}
    for module in imported(path):
        if module.startswith("kdbench"):
            fits = module in allowed or module.rpartition(".")[0] in ("kdbench.losses", "kdbench.connectors")
            assert fits or module.startswith("kdbench.methods."), f"{path.name} must not import {module}"


@pytest.mark.parametrize("path", [*SOURCES, *METHODS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    limit = 350 if path.name == "cohort.py" else 200 if path in METHODS else 500
    assert lines <= limit


def test_every_package_on_disk_is_installed() -> None:
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    engine = {".".join(p.parent.relative_to(ROOT).parts) for p in SOURCES if p.name == "__init__.py"}
    methods = {".".join(("kdbench", *p.parent.relative_to(ROOT).parts)) for p in METHODS if p.name == "__init__.py"}
    assert listed == engine | methods | {"kdbench.reported"}


def test_every_file_beside_the_modules_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = {
        path
        for package, patterns in setuptools["package-data"].items()
        if package != "kdbench.reported"
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {path for path in (ROOT / "kdbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    modules = {path for path in there if path.suffix == ".py" and (path.parent / "__init__.py").exists()}
    assert there - modules <= data


# a distribution whose package has another name
PACKAGE = {"scikit-learn": "sklearn", "nvidia-ml-py": "pynvml"}
# what is run, or makes other tools work, and is imported by nothing
TOOLS = {"mypy", "pandas-stubs", "pip", "pre-commit", "pytest-benchmark", "pytest-xdist", "ruff", "setuptools", "tox"}
# what comes with a declared distribution (torchvision, jinja2), or is used only where the user has it
UNDECLARED = {"PIL", "markupsafe"}


def packages(requirements: Iterable[str]) -> set[str]:
    """The packages that these requirements bring, without tools and kdbench's own extras."""
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}  # type: ignore[index]
    return {PACKAGE.get(name, name.replace("-", "_")) for name in names - TOOLS - {"kdbench"}}


def roots(paths: Iterable[Path]) -> set[str]:
    return {module.partition(".")[0] for path in paths for module in imported(path)}


def test_nothing_is_installed_that_nothing_imports() -> None:
    ours = roots([*SOURCES, *METHODS])
    tests = roots(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    for name, requirements in {"dependencies": DEPENDENCIES, **EXTRAS}.items():
        needless = packages(requirements) - ours - (tests if name == "dev" else set())
        assert not needless, f"{name}: no file imports {', '.join(sorted(needless))}"


def test_each_extra_that_a_sentence_names_brings_the_package() -> None:
    assert all(package in packages(EXTRAS[extra]) for package, extra in errors.EXTRAS.items())


def test_what_is_imported_is_installed() -> None:
    declared = packages([*DEPENDENCIES, *(requirement for extra in EXTRAS.values() for requirement in extra)])
    assert not roots([*SOURCES, *METHODS]) - declared - sys.stdlib_module_names - {"kdbench"} - UNDECLARED


def test_one_version_of_the_linter_everywhere() -> None:
    hook = re.search(r"ruff-pre-commit\n *rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    tox = re.search(r"^deps = ruff==(\S+)$", (ROOT / "tox.ini").read_text(encoding="utf-8"), re.MULTILINE)
    dev = [r for r in EXTRAS["dev"] if r.startswith("ruff")]
    assert hook
    assert tox
    assert dev == [f"ruff=={hook[1]}"] == [f"ruff=={tox[1]}"]


def test_every_public_name_can_be_imported() -> None:
    import kdbench

    assert all(hasattr(kdbench, name) for name in kdbench.__all__)


def test_a_methods_folder_of_the_user_does_not_shadow_ours(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("raise RuntimeError('shadowed')")
    code = "from kdbench import registry; assert 'kd' in registry.names()"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
