"""The curves of a suite's finished runs as one Parquet file: one row per epoch of a run."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.board.columns import metrics_of
from kdbench.board.runs import protocol_of
from kdbench.errors import KDBenchError
from kdbench.records import Record
from kdbench.tasks.metrics import Metrics

WHERE = ("id", "dataset", "protocol", "pair", "method")
WHEN = ("seed", "epoch")
JSON = ("terms", "watched")


def curves_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row per (cell id, epoch), sorted by both; `terms` and `watched`, where methods differ, are JSON objects."""
    measured = _measured(metrics_of(records))
    rows = [
        _row(record, point, measured)
        for record in sorted(records, key=lambda record: record["id"])
        for point in sorted(record.get("curve") or (), key=lambda point: point["epoch"])
    ]
    frame = pd.DataFrame(rows, columns=[*WHERE, *WHEN, *measured, *JSON])
    return frame.astype({**dict.fromkeys(measured, float), **dict.fromkeys(WHEN, "int64")})


def _measured(metrics: Metrics) -> list[str]:
    return ["learning_rate", "loss", "seconds", *(metric.name for metric in metrics.scores)]


def _row(record: Record, point: dict[str, Any], measured: Sequence[str]) -> dict[str, Any]:
    cell = record["cell"]
    row: dict[str, Any] = {"id": record["id"], "dataset": cell["dataset"], "protocol": protocol_of(cell)}
    row |= {"pair": cell["pair"], "method": cell["method"]["label"], "seed": cell["seed"], "epoch": point["epoch"]}
    row |= {name: point.get(name) for name in measured} | {"terms": json.dumps(point["terms"], sort_keys=True)}
    return row | {"watched": json.dumps(point["watched"], sort_keys=True) if "watched" in point else ""}


def parquet(frame: pd.DataFrame) -> bytes:
    """The file's content; the same frame gives the same bytes with the same version of pyarrow.

    Raises:
        KDBenchError: if pyarrow is not installed.
    """
    need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole = dict.fromkeys((*WHERE, *JSON), pa.string()), dict.fromkeys(WHEN, pa.int64())
    kinds = {name: {**text, **whole}.get(name, pa.float64()) for name in map(str, frame.columns)}
    table = pa.Table.from_pandas(frame, schema=pa.schema(list(kinds.items())), preserve_index=False)
    buffer = io.BytesIO()
    # pandas' metadata names its version, and a Parquet file needs none of it
    pq.write_table(table.replace_schema_metadata(None), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def read_parquet(source: Path | io.BytesIO) -> pd.DataFrame:
    """Read such a file.

    Raises:
        KDBenchError: if it is absent or damaged, or pyarrow is not installed.
    """
    need_pyarrow()
    try:
        return pd.read_parquet(source, engine="pyarrow")
    except Exception as error:
        raise KDBenchError(f"it is no Parquet file that can be read ({type(error).__name__})") from error


def need_pyarrow() -> None:
    """Fail now if curves can be neither written nor read.

    Raises:
        KDBenchError: if pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise KDBenchError("curves.parquet needs pyarrow, which is not installed: pip install 'kdbench[report]'")
    try:
        importlib.import_module("pyarrow")
    except ImportError as error:  # of a version that another package is too old for
        raise KDBenchError(f"curves.parquet needs pyarrow, which cannot be imported: {error}") from error
