"""Parallel text in files: tab-separated columns, or Moses' two files with a sentence on each line.

`tsv:FOLDER` has `train.tsv` and, where there is one, `test.tsv`, whose first line names the columns by language;
`moses:FOLDER` has `train.en` and `train.uk`, and `test.en`, `test.uk`. A name without a folder is one file each:
`tsv:PATH.tsv`, `moses:PATH` for `PATH.en` and `PATH.uk`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from kdbench.errors import KDBenchError
from kdbench.tasks.translation.data.pairs import Pair, Splits, sound

KINDS = ("tsv", "moses")
Rows = list[tuple[str, str]]


def read(kind: str, path: Path, source: str, target: str, others: tuple[str, ...] = ()) -> Splits:
    """The pairs of a data set in files.

    Raises:
        KDBenchError: if a file is absent, a column or line is missing, or it is no UTF-8.
    """
    columns = tsv if kind == "tsv" else moses
    train, left_out = sound(columns(_part(kind, path, "train"), source, target), target)
    test: list[Pair] = []
    if path.is_dir() and _there(kind, path / "test", source, target):
        test, _ = sound(columns(_part(kind, path, "test"), source, target), target)
    extra = [
        pair
        for language in others
        for pair in sound(columns(_part(kind, path, "train"), source, language), language)[0]
    ]
    return Splits(train, test, extra, left_out)


def tsv(path: Path, source: str, target: str) -> Rows:
    """Two columns of a tab-separated file, by the names in its first line; quotes are letters like others."""
    rows: Rows = []
    lines = csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(lines, [])
    for name in (source, target):
        if name not in header:
            raise KDBenchError(
                f"{str(path)!r} has no column {name!r}: its first line names {', '.join(header) or 'none'}; name the "
                "columns by language"
            )
    places = header.index(source), header.index(target)
    for number, row in enumerate(lines, 2):
        if len(row) != len(header):
            raise KDBenchError(
                f"line {number} of {str(path)!r} has {len(row)} columns, and the first line {len(header)}: correct it"
            )
        rows.append((row[places[0]], row[places[1]]))
    return rows


def moses(path: Path, source: str, target: str) -> Rows:
    """`PATH.source` and `PATH.target`, line by line."""
    ours, theirs = ([*_lines(Path(f"{path}.{language}"))] for language in (source, target))
    if len(ours) != len(theirs):
        raise KDBenchError(
            f"{path.name}.{source} and {path.name}.{target} in {str(path.parent)!r} have {len(ours)} and {len(theirs)} "
            "lines: line n of one belongs to line n of the other"
        )
    return list(zip(ours, theirs, strict=True))


def _part(kind: str, path: Path, name: str) -> Path:
    if not path.is_dir():
        return path
    return path / (f"{name}.tsv" if kind == "tsv" else name)


def _there(kind: str, path: Path, source: str, target: str) -> bool:
    names = [f"{path}.tsv"] if kind == "tsv" else [f"{path}.{source}", f"{path}.{target}"]
    return all(Path(name).is_file() for name in names)


def _lines(path: Path) -> Iterator[str]:
    """Lines as `\\n` cuts them: other separators of Unicode are part of a sentence."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise KDBenchError(f"parallel text {str(path)!r} does not exist: correct the data set's name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise KDBenchError(f"parallel text {str(path)!r} cannot be read as UTF-8 ({error}): correct it") from error
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return (line.rstrip("\r") for line in lines)
