"""The curves of a suite's finished runs as one Parquet file: a row an epoch of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.board.runs import protocol_text
from kdbench.errors import KDBenchError
from kdbench.records import Record

WHERE = ("id", "dataset", "protocol", "pair", "method")
POINT = ("learning_rate", "loss", "seconds", "top1", "top5", "nll", "ece", "agreement", "kl_to_teacher")
COLUMNS = (*WHERE, "seed", "epoch", *POINT, "terms")


def curves_table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a (cell id, epoch), sorted by both; `terms` is a JSON object, since every method has its own."""
    rows = [
        _row(record, point)
        for record in sorted(records, key=lambda record: record["id"])
        for point in sorted(record.get("curve") or (), key=lambda point: point["epoch"])
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({**dict.fromkeys(POINT, float), "seed": "int64", "epoch": "int64"})


def _row(record: Record, point: dict[str, Any]) -> dict[str, Any]:
    cell = record["cell"]
    row = {"id": record["id"], "dataset": cell["dataset"], "protocol": protocol_text(cell["protocol"])}
    row |= {"pair": cell["pair"], "method": cell["method"]["label"], "seed": cell["seed"], "epoch": point["epoch"]}
    return row | {name: point.get(name) for name in POINT} | {"terms": json.dumps(point["terms"], sort_keys=True)}


def parquet(frame: pd.DataFrame) -> bytes:
    """The file's content; the same frame gives the same bytes with the same version of pyarrow.

    Raises:
        KDBenchError: if pyarrow is not installed.
    """
    pa, pq = _pyarrow("written")
    kinds = dict.fromkeys(COLUMNS, pa.string()) | dict.fromkeys(POINT, pa.float64())
    kinds |= {"seed": pa.int64(), "epoch": pa.int64()}
    table = pa.Table.from_pandas(frame, schema=pa.schema(list(kinds.items())), preserve_index=False)
    buffer = io.BytesIO()
    # pandas' metadata names its version, and a Parquet file needs none of it
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def read_parquet(path: Path) -> pd.DataFrame:
    """Read such a file.

    Raises:
        KDBenchError: if it is absent or damaged, or pyarrow is not installed.
    """
    _pyarrow("read")
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except Exception as error:
        raise KDBenchError(f"{str(path)!r} is no Parquet file that can be read ({type(error).__name__})") from error


def _pyarrow(verb: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise KDBenchError(
            f"curves.parquet cannot be {verb} without pyarrow: pip install 'kdbench[report]' brings it"
        ) from None
    return pyarrow, pyarrow.parquet
