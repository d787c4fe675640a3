"""A method's digest is the same under every Python, and its text is that of Python 3.11's `ast.dump`."""

from __future__ import annotations

import ast
import sys

import pytest
from registry import pythons

from kdbench import registry
from kdbench.registry import dump
from kdbench.registry.digest import source_digest, untracked

SYNTAX = (pythons.DATA / "syntax.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("minor", range(11, pythons.NEWEST + 1))
def test_every_python_gives_the_stored_digests(minor: int) -> None:
    python = pythons.interpreter(minor)
    if python is None:
        pytest.skip(f"Python 3.{minor} is not installed")
    assert not pythons.differences(pythons.under(python)), "meant? python tests/registry/pythons.py --write"


def test_the_stored_digests_are_those_of_the_imported_methods() -> None:
    stored = {name: digest for name, digest in pythons.stored().items() if name != "syntax"}
    assert {name: source_digest(registry.get(name)) for name in registry.names()} == stored


def test_every_method_of_ours_is_followed_to_its_end() -> None:
    assert [name for name in registry.names() if untracked(registry.get(name))] == []


def test_the_table_has_every_node_of_a_module_and_the_file_of_syntax_shows_each() -> None:
    assert {type(node).__name__ for node in ast.walk(ast.parse(SYNTAX)) if node._fields} == set(dump.FIELDS)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the text is that of Python 3.11")
@pytest.mark.parametrize(
    "text", [SYNTAX, *(path.read_text("utf-8") for path in sorted(pythons.ROOT.glob("kdbench/*.py")))]
)
def test_the_text_is_that_of_python_3_11(text: str) -> None:
    assert dump.dump(dump.parse(text)) == ast.dump(ast.parse(text))


@pytest.mark.parametrize(("value", "counts"), [([], False), (None, False), (0, False), (["T"], True), (1, True)])
def test_a_field_that_is_not_in_the_table_counts_where_it_says_something(value: object, counts: bool) -> None:
    newer = type("Name", (ast.Name,), {"_fields": (*ast.Name._fields, "novel")})
    node = newer(id="x", ctx=ast.Load())
    node.novel = value  # type: ignore[attr-defined]
    assert (dump.dump(node) != "Name(id='x', ctx=Load())") == counts


def test_a_node_that_is_not_in_the_table_has_its_own_fields() -> None:
    novel = type("Novel", (ast.expr,), {"_fields": ("name", "bound", "parts")})
    node = novel(name="T", bound=None, parts=[])
    assert dump.dump(ast.Expr(node)) == "Expr(value=Novel(name='T'))"


def test_characters_newer_than_python_3_11_are_written_as_it_writes_them() -> None:
    assert dump.dump("\N{GRINNING FACE} \U0001fae8 \u0897 é") == r"'😀 \U0001fae8 \u0897 é'"
