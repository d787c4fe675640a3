"""Digests under every Python at hand, of sources that are read and not imported: no torch, nothing installed.

python tests/registry/pythons.py            compare them with the stored ones (`tox -e identity`)
python tests/registry/pythons.py --write    store them, after an edit that is meant to make records stale
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "identity"
STORED = DATA / "digests.txt"
NEWEST = 15  # look for Python 3.11 to 3.15
EXTRA = {"type_params", "is_lazy"}  # fields that newer Pythons gave nodes of 3.11; written where they say something


class Methods:
    """Finds kdbench.methods beside kdbench, as the installed package does."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "kdbench.methods":
            return None
        folder = ROOT / "methods"
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


def here() -> dict[str, Any]:
    """What this Python makes of the sources."""
    sys.path.insert(0, str(ROOT))
    sys.meta_path.insert(0, Methods)  # type: ignore[arg-type]
    from kdbench.registry import digest, dump

    assert not {"torch", "kdbench.methods"} & set(sys.modules)
    methods = {}
    for name, file, cls in registered():
        found = digest.reached(ROOT / "methods" / file, module_of(file), cls)
        methods[name] = found.digest
        assert not found.untracked, f"{name}: {found.untracked}"
    text = dump.dump(dump.parse((DATA / "syntax.txt").read_text(encoding="utf-8")))
    return {"methods": methods, "syntax": sha256(text), "fields": strangers(dump.FIELDS)}


def registered() -> list[tuple[str, str, str]]:
    """Every method of kdbench: its name, its file in methods/, and its class."""
    found = []
    for path in sorted((ROOT / "methods").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                    assert isinstance(call.args[0], ast.Constant)
                    file = path.relative_to(ROOT / "methods").as_posix()
                    found.append((str(call.args[0].value), file, node.name))
    return sorted(found)


def module_of(file: str) -> str:
    return "kdbench.methods." + file.removesuffix(".py").replace("/", ".")


def strangers(table: dict[str, list[str]]) -> list[str]:
    """Where this Python's nodes do not have the fields of the table in its order, or have others."""
    wrong = []
    for name, fields in table.items():
        node = getattr(ast, name)
        has = [f for f in node._fields if f not in EXTRA]
        optional = {f for f in has if getattr(node, f, ...) is None}
        if has != [f.removesuffix("?") for f in fields]:
            wrong.append(f"{name} has {has}")
        elif sys.version_info < (3, 13) and optional != {f[:-1] for f in fields if f[-1] == "?"}:
            wrong.append(f"{name} has the optional fields {sorted(optional)}")  # from 3.13 on all but a few are
    return wrong


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def stored() -> dict[str, str]:
    """Digests by method, and that of the text of syntax.txt by `syntax`."""
    return dict(line.split() for line in STORED.read_text().splitlines())


def interpreter(minor: int) -> str | None:
    """A Python 3.MINOR that is installed; None if there is none."""
    homes = [Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python", Path("/opt")]
    if root := os.environ.get("PYENV_ROOT"):
        homes.insert(0, Path(root) / "versions")
    beside = [str(path) for home in homes for path in sorted(home.glob(f"*3.{minor}.*/bin/python3"))]
    for candidate in (sys.executable, shutil.which(f"python3.{minor}"), *beside):
        if candidate and version(candidate) == f"3.{minor}":
            return candidate
    return None


def version(python: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def under(python: str) -> dict[str, Any]:
    """What another Python makes of the sources."""
    done = subprocess.run([python, __file__, "--here"], capture_output=True, text=True)
    assert done.returncode == 0, f"{python}: {done.stderr}"
    return json.loads(done.stdout)


def differences(found: dict[str, Any]) -> list[str]:
    """What a Python makes of the sources that is not what is stored, in words."""
    had, has = stored(), {**found["methods"], "syntax": found["syntax"]}
    changed = [f"{name} is {has.get(name)}, stored is {had.get(name)}" for name in sorted({*had, *has})
               if had.get(name) != has.get(name)]  # fmt: skip
    return [*found["fields"], *changed]


def main() -> int:
    """Compare every Python's digests with the stored ones."""
    if "--write" in sys.argv:
        found = under(interpreter(11) or sys.executable)
        lines = [*found["methods"].items(), ("syntax", found["syntax"])]
        STORED.write_text("".join(f"{name} {digest}\n" for name, digest in lines))
    wrong = 0
    for minor in range(11, NEWEST + 1):
        python = interpreter(minor)
        problems = differences(under(python)) if python else []
        wrong += len(problems)
        said = (problems or "the same digests") if python else "not installed"
        print(f"Python 3.{minor}: {said}")
    if wrong:
        print("an edit that is meant to make records stale is stored by: python tests/registry/pythons.py --write")
    return min(wrong, 1)


if __name__ == "__main__":
    if "--here" in sys.argv:
        print(json.dumps(here()))
    else:
        sys.exit(main())
