"""Loading by an id of the hub: one attempt where it cannot be reached, and what is here without one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdbench.tasks import hub


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    hub.reachable.cache_clear()
    yield
    hub.reachable.cache_clear()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)


def offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@pytest.mark.usefixtures("unreachable")
def test_without_a_connection_its_libraries_look_here_only_and_are_then_as_before() -> None:
    before = offline()
    with hub.asked("owner/name"):
        assert offline()
    assert offline() == before
    with pytest.raises(ConnectionError, match="cannot be reached from here"), hub.asked("owner/name"):
        raise OSError("We couldn't connect to the hub")
    with pytest.raises(ValueError, match="another"), hub.asked("owner/name"):
        raise ValueError("another fault")
    assert offline() == before


@pytest.mark.usefixtures("unreachable")
def test_a_folder_asks_nobody(tmp_path: Path) -> None:
    before = offline()
    with hub.asked(str(tmp_path)):
        assert offline() == before


@pytest.mark.usefixtures("unreachable")
def test_behind_a_proxy_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert hub.reachable()


def test_a_name_that_has_an_address_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [SimpleNamespace()])
    before = offline()
    with hub.asked("owner/name"):
        assert offline() == before


@pytest.mark.xdist_group("text")
@pytest.mark.usefixtures("unreachable")
def test_a_set_of_the_hub_is_refused_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.errors import AbsentData
    from kdbench.tasks.text.data import load

    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(AbsentData, match=r"glue:cola.*cannot be reached from here"):
        load("glue:cola", tmp_path, {}, True)
    assert not waits
