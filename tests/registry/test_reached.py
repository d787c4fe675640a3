"""What a digest sees: every top-level statement that a method reaches, in its own file and in those it imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from kdbench import losses
from kdbench.registry import digest

METHOD = """
import kdbench
import kdbench.losses
import my_helpers
import my_helpers.inner as aliased
from functools import partial
from kdbench import Method, register
from kdbench.losses import kl as _kl
from my_helpers import LATER, REEXPORTED, Base, W as weight
from my_stars import *

CE, KD = 1.0, 0.0
(HEAD, *REST), LAST = [1, 2, 3], 4
S = 1.0
S *= 3.0
T = {"w": 1.0}
T["w"] = 2.0
LIST = []
LIST.append(1)
if S > 2:
    BRANCH = 1
else:
    BRANCH = 2
try:
    import apex_missing
    TRIED = 1
except ImportError:
    TRIED = 0
for LOOP in (1, 2):
    LOOPED = LOOP
while True:
    WHILE = 5
    break
with open(__file__) as FILE:
    WITH = 6
match S:
    case CAUGHT:
        MATCHED = 7
if (WALRUS := 8):
    pass
STEP = 0
tag = partial(register, family="logits")
other = 1


def advance():
    global STEP
    STEP = 9


def scale(cls):
    cls.factor = 10
    return cls


def register_twice(cls):
    cls.twice = 11
    return cls


async def waits():
    return 12


def kl(x):
    return 13 * _kl(x, x, 1.0)


@register_twice
@scale
@register("reaching", family="logits")
class Reaching(Base):
    def loss(self, batch, student, teacher):
        from my_local import LOCAL

        advance()
        used = CE, KD, HEAD, REST, LAST, S, T, LIST, BRANCH, TRIED, LOOPED, WHILE, WITH, MATCHED, WALRUS, STEP, waits
        helpers = weight, my_helpers.nested.deep(1), aliased.X, STAR, LOCAL, LATER, REEXPORTED
        return {"kd": kl(student) + kdbench.losses.kl(student, teacher, 1.0) + used + helpers}


Reaching.margin = 14
setattr(Reaching, "bias", 15)

if __name__ == "__main__":
    print(16)
"""
FILES = {
    "method.py": METHOD,
    "my_helpers/__init__.py": "from . import nested\nfrom .nested import REEXPORTED\nfrom kdbench import Method\n"
    "W = 21\nLATER = 1\nLATER += 22\nclass Base(Method):\n    gain = 23\nUNUSED = 24\n",
    "my_helpers/nested.py": "from .inner import X\nREEXPORTED = 31\ndef deep(x):\n    return X * 32 * x\nUNUSED = 33\n",
    "my_helpers/inner.py": "from math import pi\nX = 41 * pi\n",
    "my_stars.py": "from my_base import *\nOTHER = 51\n",
    "my_base.py": "STAR = 61\n",
    "my_local.py": "import torch\nLOCAL = 71\ntorch.set_num_threads(72)\n",
}


def folder(path: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def reached(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "Reaching", file: str = "method.py"
) -> digest.Reached:
    with monkeypatch.context() as patch:
        patch.syspath_prepend(path)
        return digest.reached(path / file, Path(file).stem, name)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", old, new)
        for old, new in [
            ("1.0, 0.0", "0.0, 0.0"),
            ("[1, 2, 3], 4", "[0, 2, 3], 4"),
            ("S *= 3.0", "S *= 4.0"),
            ('T["w"] = 2.0', 'T["w"] = 3.0'),
            ("LIST.append(1)", "LIST.append(2)"),
            ("if S > 2", "if S > 1"),
            ("BRANCH = 2", "BRANCH = 3"),
            ("TRIED = 0", "TRIED = 2"),
            ("(1, 2):", "(1, 3):"),
            ("WHILE = 5", "WHILE = 6"),
            ("WITH = 6", "WITH = 7"),
            ("MATCHED = 7", "MATCHED = 8"),
            ("WALRUS := 8", "WALRUS := 9"),
            ("STEP = 9", "STEP = 8"),
            ("factor = 10", "factor = 11"),
            ("@scale\n", ""),
            ("twice = 11", "twice = 12"),
            ("@register_twice\n", ""),
            ("return 12", "return 13"),
            ("return 13", "return 14"),
            ("margin = 14", "margin = 15"),
            ('"bias", 15', '"bias", 16'),
            ("W as weight", "LATER as weight"),
        ]
    ]
    + [
        ("my_helpers/__init__.py", "W = 21", "W = 20"),
        ("my_helpers/__init__.py", "LATER += 22", "LATER += 23"),
        ("my_helpers/__init__.py", "gain = 23", "gain = 24"),
        ("my_helpers/nested.py", "REEXPORTED = 31", "REEXPORTED = 30"),
        ("my_helpers/nested.py", "X * 32", "X * 33"),
        ("my_helpers/inner.py", "41", "42"),
        ("my_base.py", "61", "62"),
        ("my_local.py", "71", "72"),
        ("my_local.py", "threads(72)", "threads(1)"),
    ],
)
def test_an_edit_of_anything_that_a_method_reaches_changes_its_digest(
    file: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FILES[file].count(old) == 1
    before = reached(folder(tmp_path), monkeypatch)
    folder(tmp_path, {file: FILES[file].replace(old, new) + "\n"})
    assert reached(tmp_path, monkeypatch).digest != before.digest
    assert not before.untracked - {"apex_missing"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", "print(16)", "print(17)"),
        ("method.py", "other = 1", "other = 2"),
        ("method.py", '"reaching", family', '"called", family'),
        ("my_helpers/__init__.py", "UNUSED = 24", "UNUSED = 25"),
        ("my_helpers/nested.py", "UNUSED = 33", "UNUSED = 34  # never used"),
        ("my_stars.py", "OTHER = 51", "OTHER = 52"),
    ],
)
def test_an_edit_of_what_it_does_not_reach_keeps_its_digest(
    file: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FILES[file].count(old) == 1
    before = reached(folder(tmp_path), monkeypatch).digest
    folder(tmp_path, {file: FILES[file].replace(old, new) + "\n"})
    assert reached(tmp_path, monkeypatch).digest == before


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import kdbench.losses", "kdbench.losses.kl"),
        ("import kdbench", "kdbench.losses.kl"),
        ("import kdbench.losses as L", "L.kl"),
        ("from kdbench import losses", "losses.kl"),
        ("from kdbench.losses import kl", "kl"),
        ("from kdbench.losses import *", "kl"),
    ],
)
def test_a_loss_of_kdbench_is_the_same_however_it_is_imported(
    imports: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, {"method.py": f"{imports}\nclass M:\n    def loss(self):\n        return {call}\n"})
    loss = digest.reached(losses.__file__, "kdbench.losses", "kl")
    assert set(reached(tmp_path, monkeypatch, "M").pieces) == {("method", "M"), *loss.pieces}


@pytest.mark.parametrize("decorator", ["register", "kdbench.register", "k.register", "enter"])
def test_only_the_entry_in_kdbench_s_registry_is_no_part_of_a_method(
    decorator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = "import kdbench\nimport kdbench as k\nfrom kdbench import register, register as enter\n"
    found = {
        reached(folder(tmp_path, {"method.py": f"{imports}{above}class M:\n    pass\n"}), monkeypatch, "M").digest
        for above in ("", f'@{decorator}("m", family="logits")\n', f'@{decorator}("n", family="features")\n')
    }
    assert len(found) == 1


def test_two_definitions_of_one_name_have_one_order_whatever_python_hashes_to(tmp_path: Path) -> None:
    folder(tmp_path)
    where = repr(str(tmp_path / "method.py"))
    code = f"from kdbench.registry import digest; print(digest.reached({where}, 'm', 'Reaching').digest)"
    python = [sys.executable, "-c", code]
    found = {
        subprocess.run(python, env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": f"{tmp_path}"}, stdout=-1).stdout
        for seed in range(6)
    }
    assert len(found) == 1
    assert len(found.pop()) == 17


def test_moved_and_renamed_files_keep_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "method.py": "from pack.util import kl as theirs\ndef kl(x):\n    return theirs(x)\nclass M:\n    use = kl\n",
        "pack/util.py": "def kl(x):\n    return x\n",
    }
    moved = {
        "a_method.py": files["method.py"].replace("pack.util", "zoo.deep.tools"),
        "zoo/deep/tools.py": files["pack/util.py"],
    }
    before = reached(folder(tmp_path / "one", files), monkeypatch, "M")
    after = reached(folder(tmp_path / "two" / "elsewhere", moved), monkeypatch, "M", "a_method.py")
    assert len(before.pieces) == 3
    assert before.digest == after.digest


def test_a_package_of_an_entry_point_is_followed_where_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    files = {
        "theirs/__init__.py": "",
        "theirs/method.py": "from .losses import x\nfrom third import y\nclass M:\n    a = x, y\n",
        "theirs/losses.py": "x = 1\n",
        "third.py": "y = 1\n",
    }
    monkeypatch.syspath_prepend(folder(site, files))
    found = digest.reached(site / "theirs/method.py", "theirs.method", "M")
    assert set(found.pieces) == {("theirs.method", "M"), ("theirs.losses", "x")}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("class M:\n    def loss(self):\n        exec('W = 1')\n", "exec in method"),
        ("import importlib\nclass M:\n    h = importlib.import_module('h')\n", "importlib.import_module in method"),
        ("from gone import *\nclass M:\n    a = W\n", "gone"),
        ("from compiled import W\nclass M:\n    a = W\n", "compiled"),
        ("import broken\nclass M:\n    a = broken.W\n", "broken"),
        ("import lazy\nclass M:\n    a = lazy.W\n", "lazy.W"),
    ],
)
def test_what_cannot_be_followed_is_told(text: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    files = {"method.py": text, f"compiled{suffix}": "", "broken.py": "def", "lazy.py": "globals()['W'] = 1\n"}
    assert what in reached(folder(tmp_path, files), monkeypatch, "M").untracked


def test_two_classes_that_a_function_makes_are_what_the_function_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def make(w):\n    class M:\n        scale = 1\n    return M\nA = make(1)\n"
    folder(tmp_path, {"method.py": text, "edited.py": text.replace("scale = 1", "scale = 2")})
    one, two = (reached(tmp_path, monkeypatch, "make", file) for file in ("method.py", "edited.py"))
    assert one.digest != two.digest
