"""Tables of the library `datasets`: GLUE's nine tasks, and any set by its id or by the folder that it was saved to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import AbsentData, KDBenchError, unknown
from kdbench.tasks.hub import asked
from kdbench.tasks.text.data import tables
from kdbench.tasks.text.data.sets import TextData


@dataclass(frozen=True)
class Glue:
    """One of GLUE's tasks: its columns, what it is ranked by, and the labelled sets it is scored on.

    Test labels are not public: as in the literature, the validation set is scored. MNLI has two, of which the first,
    matched, is ranked; both are kept.
    """

    text: tuple[str, ...]
    metric: str = "accuracy"
    tests: Mapping[str, str] | None = None  # name of a score's set: split

    @property
    def splits(self) -> Mapping[str, str]:
        return self.tests or {"test": "validation"}


GLUE: Mapping[str, Glue] = {
    "cola": Glue(("sentence",), "mcc"),
    "sst2": Glue(("sentence",)),
    "mrpc": Glue(("sentence1", "sentence2"), "accuracy_f1"),
    "stsb": Glue(("sentence1", "sentence2"), "correlation"),
    "qqp": Glue(("question1", "question2"), "accuracy_f1"),
    "mnli": Glue(
        ("premise", "hypothesis"),
        tests={"matched": "validation_matched", "mismatched": "validation_mismatched"},
    ),
    "qnli": Glue(("question", "sentence")),
    "rte": Glue(("sentence1", "sentence2")),
    "wnli": Glue(("sentence1", "sentence2")),
}
HUB = "nyu-mll/glue"


def load_glue(task: str, root: Path, download: bool) -> TextData:
    """One of GLUE's tasks, from the data folder's `glue/<task>` (`save_to_disk`), else from the hub.

    Raises:
        KDBenchError: if it is unknown or absent.
    """
    if task not in GLUE:
        raise unknown("task of GLUE", task, GLUE)
    entry, folder, name = GLUE[task], root / "glue" / task, f"glue:{task}"
    if folder.is_dir():
        found = _saved(name, folder)
    elif download:
        found = _fetched(name, HUB, task, folder)
    else:
        raise _absent(name, folder)
    options = {"text": entry.text, "metric": entry.metric}
    return _made(name, found, "train", entry.splits, options)


def load(source: str, options: Mapping[str, Any], download: bool) -> TextData:
    """A set by the folder of its `save_to_disk`, or by its id on the hub.

    Args:
        options: of `tables.made`, and `config` (of the hub), `train`, `test` (which splits; `train`, and the first of
            `test`, `validation`).

    Raises:
        KDBenchError: if it, a split or a column is absent.
    """
    name, folder = f"datasets:{source}", Path(source).expanduser()
    if folder.is_dir():
        found = _saved(name, folder)
    elif download:
        found = _fetched(name, source, options.get("config"), folder)
    else:
        raise _absent(name, folder)
    test = options.get("test") or next((split for split in ("test", "validation") if split in found), "test")
    return _made(name, found, options.get("train", "train"), {"test": test}, options)


def _made(name: str, found: Any, train: str, tests: Mapping[str, str], options: Mapping[str, Any]) -> TextData:
    for split in (train, *tests.values()):
        if split not in found:
            raise unknown("split", split, found, f"of dataset {name!r}")
    feature = found[train].features.get(options.get("label", "label"))
    classes: Sequence[str] | None = getattr(feature, "names", None)  # of a ClassLabel
    parts = {key: found[split].to_dict() for key, split in tests.items()}
    return tables.made(name, found[train].to_dict(), parts, options, classes)


def _saved(name: str, folder: Path) -> Any:
    import datasets  # not at the top: it takes seconds, and other sets do without

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise _absent(name, folder, error) from error
    if not isinstance(found, Mapping):
        raise KDBenchError(f"dataset {name!r} in {str(folder)!r} has no splits: save a DatasetDict with train and test")
    return found


def _fetched(name: str, source: str, config: str | None, folder: Path) -> Any:
    import datasets

    try:
        with asked(source):
            return datasets.load_dataset(source, config)
    except Exception as error:  # the hub, urllib and arrow raise a dozen kinds
        raise _absent(name, folder, error) from error


def _absent(name: str, folder: Path, error: Exception | None = None) -> AbsentData:
    why = f" ({' '.join(str(error).split())[:160].rstrip('.:')})" if error else ""
    return AbsentData(
        f"dataset {name!r} is not at hand{why}: save it with datasets' `save_to_disk` in {str(folder)!r} "
        "(KDBENCH_DATA or --data names another data folder)"
    )
