"""A user without a home, as containers have them, needs one only where data is looked for in it."""

from __future__ import annotations

import pwd

import pytest

from kdbench.errors import KDBenchError
from kdbench.tasks.image.data import load


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_digits_need_no_home() -> None:
    assert load("digits").num_classes == 10


@pytest.mark.parametrize("name", ["cifar100", "folder:~/pictures"])
def test_a_set_in_the_home_of_a_user_without_one_is_a_sentence(name: str) -> None:
    with pytest.raises(KDBenchError, match=r"is in the home of a user who has none: name the data folder by --data"):
        load(name)
