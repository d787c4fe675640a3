"""A user's method file changes nothing of the process that it is imported into."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch

from kdbench.errors import KDBenchError
from kdbench.suites.method_files import load_methods
from kdbench.suites.parse import load, narrow

METHOD = """
import os, warnings
import torch
from kdbench import Method, register

@register("mine", family="logits")
class Mine(Method):
    def loss(self, batch, student, teacher):
        return {}
"""


def method_file(folder: Path, *lines: str) -> str:
    path = folder / "mine.py"
    path.write_text("\n".join([METHOD, *lines]))
    return str(path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("torch.backends.mkldnn.enabled = False", "torch.backends.mkldnn.enabled"),
        ("torch.set_grad_enabled(False)", "whether gradients are kept"),
        ("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
        ("torch.set_num_threads(2)", "torch's number of threads"),
        ("torch.use_deterministic_algorithms(True)", "which algorithms are allowed"),
    ],
)
@pytest.mark.usefixtures("temporary")
def test_a_setting_that_a_file_changes_is_put_back_and_named(tmp_path: Path, line: str, words: str) -> None:
    torch.set_num_threads(1)
    path = method_file(tmp_path, line)
    before = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) @ torch.ones(8, 8)
    with pytest.raises(KDBenchError, match=r"mine\.py' changes .* when it is imported") as caught:
        narrow(load("digits"), methods=["student", path])
    assert words in str(caught.value)
    after = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) @ torch.ones(8, 8).requires_grad_()
    assert torch.equal(before, after)
    assert after.requires_grad
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("temporary")
def test_folder_environment_and_warnings_are_put_back_without_a_word(tmp_path: Path) -> None:
    folder, filters = os.getcwd(), list(warnings.filters)
    path = method_file(tmp_path, "os.chdir('/')", "os.environ['MINE'] = '1'", "warnings.simplefilter('ignore')")
    assert load_methods(path) == ["mine"]
    assert (os.getcwd(), list(warnings.filters)) == (folder, filters)
    assert "MINE" not in os.environ


@pytest.mark.usefixtures("temporary")
def test_a_file_that_cannot_be_imported_leaves_no_setting_behind(tmp_path: Path) -> None:
    with pytest.raises(KDBenchError, match="cannot be imported: ValueError: no"):
        load_methods(method_file(tmp_path, "torch.set_default_dtype(torch.float64)", "raise ValueError('no')"))
    assert torch.get_default_dtype() == torch.float32
