"""Asking Hugging Face's hub: at once where it cannot be reached, instead of after five attempts and their warnings."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

SIGNS = ("offline", "connect", "reach")  # in what its libraries say without a connection


@cache
def reachable() -> bool:
    """Whether the hub's name means an address here; behind a proxy, which alone may know, it is thought so."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = urlsplit(import_module("huggingface_hub.constants").ENDPOINT).hostname or ""
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


@contextmanager
def asked(name: str) -> Iterator[None]:
    """Let a library load something by its id: from its cache alone, where the hub cannot be reached.

    Args:
        name: the id; or a folder, which is no affair of the hub's.

    Raises:
        ConnectionError: in place of what it says of that.
    """
    alone = not (Path(name).is_dir() or reachable())
    try:
        with offline(alone):
            yield
    except Exception as error:  # the hub, urllib and arrow raise a dozen kinds
        if alone and any(sign in str(error).lower() for sign in SIGNS):
            raise ConnectionError("the hub cannot be reached from here, and its cache has it not") from error
        raise


@contextmanager
def offline(active: bool = True) -> Iterator[None]:
    """Keep Hugging Face's libraries, which download on their own, to what is here."""
    if not active:
        yield
        return
    modules = [import_module("huggingface_hub.constants")]
    if "datasets" in sys.modules:  # it takes seconds to import
        modules.append(import_module("datasets.config"))
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]
