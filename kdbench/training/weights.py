"""Weights files: what they hold, whose it is, and whether it is what was written."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.records.files import read_bytes, write_atomically
from kdbench.training.layouts import weights_in

Weights = Mapping[str, Tensor]
# what the field's files hold beside tensors: their options, and scores as numpy's scalars (by numpy 1's name and 2's)
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def digest_of(weights: Weights) -> str:
    """sha256 of names, types, shapes and values: the same for the same tensors, whatever file or device they are on."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{name} {plain.dtype} {list(plain.shape)}\n".encode())
        found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_trained(path: Path, identity: str, weights: Weights, **more: Any) -> str:
    """Write trained weights with their cell's id and their digest, which is returned.

    Args:
        more: plain values that the file says beside these (`said_by`).
    """
    kept = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    digest = digest_of(kept)
    about = json.dumps(
        {"cell": identity, "sha256": digest, **more}
    )  # one entry: safetensors writes several in any order
    write_atomically(path, safetensors.torch.save(kept, metadata={"kdbench": about}))
    return digest


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that share no memory, which safetensors refuses: tied ones stand in the file once for each name."""
    seen: set[int] = set()
    found = {}
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def fault_of_trained(path: Path, identity: str, record: Record) -> str:
    """Why a file of trained weights cannot be used; nothing if it is what the training left.

    Args:
        record: of the training; one of an older kdbench has no `weights_sha256`, and its file says nothing either.

    Raises:
        Unreadable: if the operating system does not give the file.
    """
    if not path.is_file():
        return "it is no file"
    content = read_bytes(path, "file of weights")
    try:
        weights, said = safetensors.torch.load(content), _metadata(content)
    except Exception as error:
        return f"it cannot be read as weights: {type(error).__name__}"
    if said.get("cell", identity) != identity:
        return f"it is of the training {said['cell']}"
    wanted = record.get("weights_sha256") or said.get("sha256")
    if wanted and digest_of(weights) != wanted:
        return "its content is not what its training left"
    return ""


def said_by(path: Path) -> dict[str, Any]:
    """What `save_trained` wrote into a sound file beside the weights."""
    return _metadata(read_bytes(path, "file of weights"))


def _metadata(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    return json.loads(entries.get("kdbench", "{}"))


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint: safetensors, or torch's format, of which only tensors are ever loaded.

    Args:
        sha256: the file's digest in hex, checked where given.

    Raises:
        KDBenchError: if the file is absent, unreadable, damaged, of another digest, or holds code or sparse tensors.
    """
    if not path.exists():
        raise KDBenchError(f"checkpoint {str(path)!r} does not exist: correct the teacher's `weights` in the suite")
    content = read_bytes(path, "checkpoint")
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256.lower():
        raise KDBenchError(
            f"checkpoint {str(path)!r} has sha256 {found}, not {sha256}: fetch it again or correct the suite"
        )
    try:
        weights = _parsed(content, path.suffix)
    except Exception as error:
        raise KDBenchError(
            f"checkpoint {str(path)!r} cannot be read as plain weights ({type(error).__name__}): it is damaged or holds"
            " code; fetch it anew, or save its state_dict as safetensors"
        ) from error
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise KDBenchError(
                f"checkpoint {str(path)!r} has a sparse or quantized tensor {name!r}: save it dense and as floats"
            )
    return weights


def _parsed(content: bytes, suffix: str) -> dict[str, Tensor]:
    if suffix == ".safetensors":
        return safetensors.torch.load(content)
    with torch.serialization.safe_globals(HARMLESS):
        return weights_in(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
