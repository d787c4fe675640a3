"""Checkpoints: of each cell the last one and the one before, each with whose it is and the sha256 of its content.

A file is the line `kdbench checkpoint 1`, a line with the sha256 of all that follows, a line of JSON (`cell`, `epoch`),
and the state as torch saves it. What does not say so, in whole, is never trained on: it is set aside, and the cell goes
on from the checkpoint before it, or begins again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdbench.records.files import explained, read_bytes, set_aside, write_atomically

if TYPE_CHECKING:
    import torch  # not at run time: whoever reads records imports this, and torch takes a second

State = dict[str, Any]
T = TypeVar("T")
MAGIC = b"kdbench checkpoint 1\n"
DIGEST = slice(len(MAGIC), len(MAGIC) + 64)
PLAIN = (str, bytes, bool, int, float, complex, type(None))


class Unfit(Exception):  # noqa: N818  (a verdict on a checkpoint)
    """A checkpoint that is not one of this cell's, whole and as it was written; the text says why."""


def places(folder: Path, identity: str) -> tuple[Path, Path]:
    """Where a cell's last checkpoint lies, and the one before it."""
    return folder / f"{identity}.pt", folder / f"{identity}.before.pt"


def save(folder: Path, identity: str, state: State) -> None:
    """Write a cell's checkpoint; the last one becomes the one before once the new one is on disk.

    Args:
        state: with its `epoch`, and nothing in it that `unstorable` names.

    Raises:
        KDBenchError: if the disk is full or the folder cannot be written.
    """
    last, before = places(folder, identity)
    fresh = folder / f".{last.name}.new.partial"
    write_atomically(fresh, sealed(identity, state))
    with explained(last):
        if last.exists():
            os.replace(last, before)
        os.replace(fresh, last)


def sealed(identity: str, state: State) -> memoryview:
    """A checkpoint's file: in memory first, so that a full disk shows as the file's error and not as torch's."""
    import torch

    buffer = io.BytesIO()
    about = json.dumps({"cell": identity, "epoch": state["epoch"]})
    buffer.write(MAGIC + b"0" * 64 + b"\n" + about.encode() + b"\n")
    torch.save(state, buffer)
    content = buffer.getbuffer()
    content[DIGEST] = hashlib.sha256(content[DIGEST.stop :]).hexdigest().encode()
    return content


def opened(content: bytes, identity: str, device: torch.device) -> State:
    """The state in a checkpoint's file. Loads data only, never code.

    Raises:
        Unfit: if it is damaged, of another cell, or holds more than data.
    """
    import torch

    if not content.startswith(MAGIC):
        raise Unfit("it is no checkpoint of this version of kdbench")
    view = memoryview(content)
    if hashlib.sha256(view[DIGEST.stop :]).hexdigest().encode() != content[DIGEST]:
        raise Unfit("its content is not what was written")
    line = content.index(b"\n", DIGEST.stop + 1)
    about = json.loads(content[DIGEST.stop : line])
    if about["cell"] != identity:
        raise Unfit(f"it is of cell {about['cell']}")
    try:
        return torch.load(io.BytesIO(view[line + 1 :]), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unfit("it holds more than data, which is never loaded") from error


def epoch_of(folder: Path, identity: str) -> int:
    """The epoch that a cell's last checkpoint names in its head; 0 if there is none, or it is none of this version."""
    try:
        with open(places(folder, identity)[0], "rb") as file:
            if file.read(DIGEST.start) != MAGIC:
                return 0
            file.seek(DIGEST.stop + 1)
            return int(json.loads(file.readline())["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def restore(
    folder: Path, identity: str, device: torch.device, use: Callable[[State], T], tell: Callable[[str], None]
) -> T | None:
    """What `use` makes of the newest checkpoint that is whole and fits; None if there is none.

    Args:
        use: raises `Unfit` for a state that is not of its cell.
        tell: hears a sentence about each checkpoint that is set aside.

    Raises:
        Unreadable: if the operating system does not give a checkpoint: that one may be as good as ever.
    """
    for path in places(folder, identity):
        if not os.path.lexists(path):
            continue
        try:
            return use(opened(_content(path), identity, device))
        except Unfit as error:
            aside = set_aside(path)
            tell(
                f"checkpoint {str(path)!r} is not used ({error}): it is now {aside.name!r}, and only its cell goes back"
            )
    return None


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise Unfit("it is no file")
    return read_bytes(path, "checkpoint")


def forget(folder: Path, identity: str) -> None:
    """Delete a cell's checkpoints."""
    for path in places(folder, identity):
        path.unlink(missing_ok=True)


def unstorable(value: Any, path: str = "") -> Iterator[str]:
    """Where a state holds what is never loaded again: `name.key (type)`."""
    import torch

    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            yield from unstorable(key, f"a key of {path}")
            yield from unstorable(inner, f"{path}.{key}".lstrip("."))
    elif type(value) in (list, tuple, set):
        for number, inner in enumerate(value):
            yield from unstorable(inner, f"{path}[{number}]")
    elif type(value) not in PLAIN and not isinstance(value, torch.Tensor | torch.Size | torch.dtype | torch.device):
        yield f"{path} ({type(value).__module__}.{type(value).__qualname__})"
