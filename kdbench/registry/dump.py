"""A syntax tree as text, the same under every Python: to the letter what `ast.dump` gives under Python 3.11.

`ast.dump` itself changes with Python (3.12 has `type_params`, 3.13 leaves out empty fields), and so would every id.
What a newer Python adds to the syntax is part of the text where it says something and left out where it is empty, so
that a file means the same whichever Python reads it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

# the fields of each node in the order of Python 3.11; one with a question mark is left out where it is None
_TABLE = """
AnnAssign target annotation value? simple
Assert test msg?
Assign targets value type_comment?
AsyncFor target iter body orelse type_comment?
AsyncFunctionDef name args body decorator_list returns? type_comment?
AsyncWith items body type_comment?
Attribute value attr ctx
AugAssign target op value
Await value
BinOp left op right
BoolOp op values
Call func args keywords
ClassDef name bases keywords body decorator_list
Compare left ops comparators
Constant value kind?
Delete targets
Dict keys values
DictComp key value generators
ExceptHandler type? name? body
Expr value
For target iter body orelse type_comment?
FormattedValue value conversion format_spec?
FunctionDef name args body decorator_list returns? type_comment?
GeneratorExp elt generators
Global names
If test body orelse
IfExp test body orelse
Import names
ImportFrom module? names level?
JoinedStr values
Lambda args body
List elts ctx
ListComp elt generators
Match subject cases
MatchAs pattern? name?
MatchClass cls patterns kwd_attrs kwd_patterns
MatchMapping keys patterns rest?
MatchOr patterns
MatchSequence patterns
MatchSingleton value
MatchStar name?
MatchValue value
Module body type_ignores
Name id ctx
NamedExpr target value
Nonlocal names
Raise exc? cause?
Return value?
Set elts
SetComp elt generators
Slice lower? upper? step?
Starred value ctx
Subscript value slice ctx
Try body handlers orelse finalbody
TryStar body handlers orelse finalbody
Tuple elts ctx
UnaryOp op operand
While test body orelse
With items body type_comment?
Yield value?
YieldFrom value
alias name asname?
arg arg annotation? type_comment?
arguments posonlyargs args vararg? kwonlyargs kw_defaults kwarg? defaults
comprehension target iter ifs is_async
keyword arg? value
match_case pattern guard? body
withitem context_expr optional_vars?
"""
# code points that Unicode gave a meaning after version 14, Python 3.11's: there `repr` escapes them, later it does not
_NEWER = """
558 58b-58c 5c8-5c9 88f 897 b53-b54 c5c cdc cf3 ece 1acf-1af0 1b4e-1b4f 1b7f 1c89-1c8a 208f 209d-209f 20c1-20c4
2427-2429 2b96 2e60-2e63 2ffc-2fff 31e4-31e5 31ef a7cb-a7cf a7d2 a7d4 a7da-a7dd a7e2 a7f1 ab6c-ab6d fbc3-fbd2
fd90-fd91 fdc8-fdce 105c0-105f3 107bb-107bf 10940-10959 10d40-10d65 10d69-10d85 10d8e-10d8f 10ec2-10ec7 10ec9-10eee
10ef0-10eff 1123f-11241 11380-11389 1138b 1138e 11390-113b5 113b7-113c0 113c2 113c5 113c7-113ca 113cc-113d5
113d7-113d8 113e1-113e2 116d0-116e3 11b00-11b0a 11b60-11b67 11bc0-11be1 11bf0-11bf9 11db0-11ddb 11de0-11de9
11df0-11df1 11f00-11f10 11f12-11f3a 11f3e-11f5a 1246f 12475-1247f 12550-12686 1342f 13440-13455 13460-143fa
16100-16139 16d40-16d79 16ea0-16eb8 16ebb-16ed3 16ff2-16ff6 187f8-187ff 18cd6-18cda 18cff 18d09-18d20 18d80-18df2
18e00-19191 191a0-191d2 1b123-1b128 1b132 1b155 1b168 1cc00-1ccfc 1cd00-1ceb3 1ceba-1ced0 1ced2-1ced4 1cedd-1cefd
1d127-1d128 1d1eb-1d1ff 1d250-1d281 1d2c0-1d2d3 1d6a6 1db00-1db1c 1df1f-1df81 1df90-1df96 1dfcd-1dfff 1e030-1e06d
1e08f 1e4d0-1e4f9 1e5d0-1e5fa 1e5ff 1e6c0-1e6de 1e6e0-1e6f5 1e6fe-1e6ff 1f1ae 1f6d8-1f6d9 1f6dc 1f774-1f77f
1f7d9-1f7db 1f7f1-1f7ff 1f8b2-1f8bb 1f8c0-1f8c1 1f8d0-1f8d8 1fa54-1fa57 1fa75-1fa77 1fa87-1fa8f 1faad-1faaf
1fabb-1fabf 1fac6 1fac8 1facc-1facf 1fada-1fadd 1fadf 1fae8-1faeb 1faef 1faf7-1fafa 1fbcb-1fbef 1fbfa 2b739-2b73f
2b81e 2cea2-2cead 2ebf0-2ee5d 31350-33479 3d000-3fc3f
"""

FIELDS = {node: fields for node, *fields in map(str.split, _TABLE.strip().splitlines())}
_ESCAPED = re.compile(f"[{''.join(re.sub('[0-9a-f]+', lambda code: chr(int(code[0], 16)), _NEWER).split())}]")


def parse(text: str) -> ast.Module:
    """The tree of a source text, with f-strings as Python 3.11 reads them.

    Raises:
        SyntaxError: if the text is no Python.
    """
    tree = ast.parse(text)
    if sys.version_info >= (3, 12):
        lines = text.encode().split(b"\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) and hasattr(node, "lineno"):
                first = lines[node.lineno - 1][node.col_offset : node.col_offset + 1]
                _as_before(node, "u" if first == b"u" else None)
    return tree


def _as_before(joined: ast.JoinedStr, kind: str | None) -> None:
    """The first string's prefix is that of all (now each has its own), and no part is empty (3.12.1 adds some)."""
    joined.values = [part for part in joined.values if getattr(part, "value", None) != ""]
    for part in joined.values:
        if isinstance(part, ast.Constant):
            part.kind = kind


def dump(tree: Any) -> str:
    """The text of a node, of a list of nodes, or of a constant."""
    if isinstance(tree, list):
        return f"[{', '.join([dump(item) for item in tree])}]"
    if not isinstance(tree, ast.AST):
        return _ESCAPED.sub(_escape, repr(tree)) if isinstance(tree, str) else repr(tree)
    parts = []
    for name, is_written in _fields(type(tree).__name__, tree._fields):
        if hasattr(tree, name) and is_written(value := getattr(tree, name)):
            parts.append(f"{name}={dump(value)}")
    return f"{type(tree).__name__}({', '.join(parts)})"


@cache
def _fields(node: str, own: tuple[str, ...]) -> list[tuple[str, Callable[[Any], bool]]]:
    """The fields of a node, each with the test of what is written of it: those of the table first, then newer ones."""
    known = {field.removesuffix("?"): _is_there if field[-1] == "?" else _always for field in FIELDS.get(node, ())}
    newer = bool if known else _is_some
    return [*known.items(), *((name, newer) for name in own if name not in known)]


def _always(value: Any) -> bool:
    return True


def _is_there(value: Any) -> bool:
    return value is not None


def _is_some(value: Any) -> bool:
    return value is not None and value != []


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
