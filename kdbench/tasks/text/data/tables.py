"""Texts with labels in tables: TSV, CSV and JSON lines with named columns, and the tables of `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kdbench.errors import KDBenchError, unknown
from kdbench.tasks.text.data.sets import TextData, Texts
from kdbench.tasks.text.metrics import REGRESSION, SCORES

ENDINGS = (".tsv", ".csv", ".jsonl")
TRAIN, TEST = ("train",), ("test", "validation", "dev")

Columns = Mapping[str, Sequence[Any]]


def load(name: str, folder: Path, options: Mapping[str, Any]) -> TextData:
    """A folder with `train` and `test` (or `validation`, `dev`), each a TSV, CSV or JSONL file with named columns.

    Raises:
        KDBenchError: if a file or column is absent or damaged.
    """
    return made(name, read(_file(name, folder, TRAIN)), {"test": read(_file(name, folder, TEST))}, options)


def _file(name: str, folder: Path, stems: Sequence[str]) -> Path:
    found = [folder / f"{stem}{end}" for stem in stems for end in ENDINGS if (folder / f"{stem}{end}").is_file()]
    if not found:
        raise KDBenchError(
            f"dataset {name!r} has no file {stems[0]}.tsv, .csv or .jsonl in {str(folder)!r}: put it there"
        )
    return found[0]


def read(file: Path) -> dict[str, list[Any]]:
    """A table by its columns; every cell of TSV and CSV is text, `NA` and empty ones too.

    Raises:
        KDBenchError: if it is no such table.
    """
    try:
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}
        # GLUE's TSV files have quotation marks that open and never close
        how: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
        frame = pd.read_csv(file, dtype=str, keep_default_na=False, **how)
    except (ValueError, KeyError, TypeError, OSError) as error:
        why = f"a row lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise KDBenchError(f"{str(file)!r} cannot be read as a table ({why}): mend it") from error
    return {str(column): frame[column].tolist() for column in frame.columns}


def made(
    name: str,
    train: Columns,
    tests: Mapping[str, Columns],
    options: Mapping[str, Any],
    classes: Sequence[str] | None = None,
) -> TextData:
    """A data set of tables.

    Args:
        options: `text` (the column, or two for pairs), `label`, `metric` (a key of `SCORES`), and `classes` (their
            names in order; else those that occur, in alphabetical order, numbers by their size).
        classes: the names that labels 0, 1, ... stand for, where a table holds numbers of classes.

    Raises:
        KDBenchError: for an unknown column, metric or class.
    """
    metric = options.get("metric", "accuracy")
    if metric not in SCORES:
        raise unknown("metric", str(metric), SCORES, f"of dataset {name!r}")
    label, parts = options.get("label", "label"), {"train": train, **tests}
    text = options.get("text", "text")
    columns = [text] if isinstance(text, str) else list(text)
    if not 1 <= len(columns) <= 2:
        raise KDBenchError(f"dataset {name!r} has text = {text!r}: give the name of a column, or two for pairs")
    for part, table in parts.items():
        for column in (*columns, label):
            if column not in table:
                raise unknown(f"column of {part}", str(column), map(str, table), f"of dataset {name!r}")
        if not len(table[label]):
            raise KDBenchError(f"the {part} set of dataset {name!r} is empty: give it at least one text")
    labels = {part: list(table[label]) for part, table in parts.items()}
    if metric == REGRESSION:
        known: tuple[str, ...] = (str(label),)
        targets = {part: _numbers(name, values) for part, values in labels.items()}
    else:
        if classes is not None:
            labels = {part: [_named(name, value, classes) for value in values] for part, values in labels.items()}
        named = {part: [str(value) for value in values] for part, values in labels.items()}
        known = tuple(map(str, options.get("classes") or classes or _in_order({x for v in named.values() for x in v})))
        targets = {part: _places(name, values, known) for part, values in named.items()}
        if len(known) < 2:
            raise KDBenchError(
                f"dataset {name!r} has one class, {known[0]!r}, so that there is nothing to tell apart: give it two, "
                f"or metric = {REGRESSION!r} where labels are numbers"
            )
    texts = {part: _texts(table, columns) for part, table in parts.items()}
    scored = {part: (texts[part], targets[part]) for part in tests}
    return TextData(name, texts["train"], targets["train"], scored, known, metric)


def _texts(table: Columns, columns: Sequence[str]) -> Texts:
    both = [tuple(str(value) for value in table[column]) for column in columns]
    return Texts(both[0], both[1] if len(both) > 1 else None)


def _in_order(names: Iterable[str]) -> list[str]:
    """Numbers by their size, other names by the alphabet."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def _named(name: str, value: Any, classes: Sequence[str]) -> str:
    if not 0 <= int(value) < len(classes):
        raise KDBenchError(
            f"dataset {name!r} has a label {value}, and its classes are {len(classes)}: it is unlabelled"
        )
    return classes[int(value)]


def _places(name: str, values: Sequence[str], classes: Sequence[str]) -> Tensor:
    places = {each: place for place, each in enumerate(classes)}
    strange = next((value for value in values if value not in places), None)
    if strange is not None:
        raise unknown("class", strange, classes, f"in dataset {name!r}")
    return torch.tensor([places[value] for value in values])


def _numbers(name: str, values: Sequence[Any]) -> Tensor:
    try:
        numbers = torch.tensor([float(value) for value in values])
    except ValueError as error:
        raise KDBenchError(f"dataset {name!r} is a regression, but {error}: give numbers as labels") from error
    if not numbers.isfinite().all():
        raise KDBenchError(f"dataset {name!r} has a label that is no finite number: take it out")
    return numbers
