"""Parallel text of the Hugging Face hub, by `datasets`: `hub:ID`, `hub:ID/CONFIGURATION`, or a local folder.

Its rows have a column `translation` of sentences by language, as WMT's, OPUS' and FLORES' sets do, or a column each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdbench.errors import AbsentData, KDBenchError
from kdbench.tasks.hub import asked
from kdbench.tasks.translation.data.pairs import Pair, Splits, sound

TEST = ("test", "devtest", "validation", "dev")


def read(name: str, source: str, target: str, others: tuple[str, ...] = (), root: Path | None = None) -> Splits:
    """The pairs of a data set of the hub, or of one that was saved by `datasets` in a folder.

    Raises:
        KDBenchError: if it cannot be loaded, or has no such languages or no training split.
    """
    parts = _load(name, root)
    split = "train" if "train" in parts else next(iter(parts))
    train, left_out = sound(_rows(parts[split], name, source, target), target)
    held = next((part for part in TEST if part in parts and part != split), None)
    test = sound(_rows(parts[held], name, source, target), target)[0] if held else list[Pair]()
    extra = [pair for language in others for pair in sound(_rows(parts[split], name, source, language), language)[0]]
    return Splits(train, test, extra, left_out)


def _load(name: str, root: Path | None) -> Mapping[str, Any]:
    import datasets

    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            found = datasets.load_from_disk(str(folder))
            return found if isinstance(found, Mapping) else {"train": found}
        owner, _, rest = name.partition("/")
        identity, _, configuration = rest.partition("/") if rest.count("/") else (rest, "", "")
        where = str(root / "hub") if root else os.environ.get("HF_DATASETS_CACHE")
        whole = f"{owner}/{identity}" if identity else owner
        with asked(whole):
            return datasets.load_dataset(whole, configuration or None, cache_dir=where)
    except Exception as error:  # the library raises a dozen kinds
        why = " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
        raise AbsentData(
            f"dataset 'hub:{name}' could not be loaded ({why}): it is read as hub:OWNER/NAME or "
            "hub:OWNER/NAME/CONFIGURATION, or hub:FOLDER of one that `save_to_disk` wrote"
        ) from error


def _rows(part: Any, name: str, source: str, target: str) -> Iterable[tuple[str, str]]:
    columns = part.column_names
    for row in part:
        texts = row["translation"] if "translation" in columns else row
        for language in (source, target):
            if language not in texts:
                raise KDBenchError(
                    f"dataset 'hub:{name}' has no language {language!r}: it has {', '.join(map(str, texts))}; correct "
                    "`source` and `target`"
                )
        yield texts[source], texts[target]
