"""Every method's file has a test file of its own, which holds the method against its equation."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from kdbench import KDBenchError, registry
from kdbench.info import UNCHECKED, Info

TESTS = Path(__file__).parent
METHODS = TESTS.parents[1] / "methods"


def modules(root: Path, start: str = "") -> set[tuple[str, str]]:
    """Family and name of each module in the families' folders whose file's name begins so, without that beginning."""
    found = (path for path in root.glob(f"*/{start}*.py") if path.stem != "__init__")
    return {(path.parent.name, path.stem.removeprefix(start)) for path in found}


def equations(source: str) -> list[str]:
    """The test functions that are marked with `@pytest.mark.equation`."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return [
        function.name
        for function in functions
        if function.name.startswith("test_")
        and any(ast.unparse(mark) == "pytest.mark.equation" for mark in function.decorator_list)
    ]


@pytest.mark.parametrize(("family", "name"), sorted(modules(METHODS)))
def test_a_methods_file_has_a_test_of_its_equation(family: str, name: str) -> None:
    method, tests = f"methods/{family}/{name}.py", TESTS / family / f"test_{name}.py"
    assert tests.is_file(), f"{method} has no tests: write tests/methods/{family}/test_{name}.py"
    assert equations(tests.read_text(encoding="utf-8")), (
        f"{method} is not held against its equation: write a test into tests/methods/{family}/test_{name}.py that "
        "compares its terms and their gradients with vectors of the authors' code or with float64 loops that do not "
        "call it, and mark it with @pytest.mark.equation"
    )


@pytest.mark.parametrize(("family", "name"), sorted(modules(TESTS, "test_")))
def test_a_methods_tests_have_a_method(family: str, name: str) -> None:
    assert (METHODS / family / f"{name}.py").is_file(), (
        f"methods/{family}/{name}.py does not exist: name tests/methods/{family}/test_{name}.py as its method is named"
    )


def test_each_of_kdbenchs_own_methods_says_what_it_was_held_against() -> None:
    own = [cls for cls in map(registry.get, registry.names()) if cls.__module__.startswith("kdbench.methods.")]
    assert own
    assert not [cls.info.name for cls in own if cls.info.fidelity == UNCHECKED]


def test_a_fidelity_that_is_none_is_refused_and_none_is_unchecked() -> None:
    with pytest.raises(KDBenchError, match="unknown fidelity 'field_code': did you mean 'field-code'"):
        registry.register("misspelt", family="logits", fidelity="field_code")
    assert Info("mine", "logits").fidelity == UNCHECKED


def test_only_a_marked_test_counts_as_one_of_an_equation() -> None:
    source = """
@pytest.mark.equation
@pytest.mark.parametrize("x", [1])
def test_marked(x): ...

@pytest.mark.slow
def test_plain(): ...

@pytest.mark.equation
def helper(): ...
"""
    assert equations(source) == ["test_marked"]
