"""Recordings that are tables (Parquet): their rows as frames.

A table has no bytes a row. A frame's payload is the row as a JSON object: every double in digits that give it back
exactly, a missing one as null, times as integer ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from market.errors import CaptureError, FrameError
from market.venues.formats.archives import first_bytes

_MAGIC: Final = b"PAR1"
_ROWS: Final = 8192
_SHOWN: Final = 80
_DAMAGE: Final = (OSError, pa.ArrowException, UnicodeDecodeError)

Row = dict[str, Any]


def columns(path: Path) -> list[str] | None:
    """The names of a Parquet file's columns; None where the file is another kind.

    Raises:
        InputError: the file is missing or may not be read.
        CaptureError: it is damaged.
    """
    if first_bytes(path, len(_MAGIC)) != _MAGIC:
        return None
    try:
        return list(pq.read_schema(path).names)
    except _DAMAGE as error:
        raise CaptureError(f"{path.name}: damaged, its columns cannot be read ({error})") from None


def rows(path: Path, names: list[str] | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, or some of their columns; times as integer ns, what is missing as None or NaN.

    Raises:
        CaptureError: after the last readable row, where the file is damaged.
    """
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS, columns=names):
            parts = [_values(column) for column in batch.columns]
            for values in zip(*parts, strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))
    except _DAMAGE as error:
        raise CaptureError(f"{path.name}: damaged, it cannot be read further ({error})") from None


def _values(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
    if pa.types.is_floating(column.type):  # four times as fast, and null becomes NaN, which JSON writes as null
        return list(column.to_numpy(zero_copy_only=False).tolist())
    return list(column.to_pylist())


def payload_of(row: Row) -> bytes:
    """A row as the payload of a frame."""
    return orjson.dumps(row)


def row_of(payload: bytes) -> Row:
    """The row in a payload.

    Raises:
        FrameError: ``not_text``.
    """
    try:
        row = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FrameError("not_text", f"expected a row as JSON: {error}; saw {payload[:_SHOWN]!r}") from None
    if not isinstance(row, dict):
        raise FrameError("not_text", f"expected a row as a JSON object, saw {payload[:_SHOWN]!r}")
    return row


def field(row: Row, name: str, kind: type) -> Any:
    """One field of a row.

    Raises:
        FrameError: ``missing_field``, or ``wrong_type`` where it is not a ``kind``.
    """
    value = row.get(name)
    if value is None:
        raise FrameError("missing_field", f"the row has no {name!r}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FrameError("wrong_type", f"expected {name!r} to be {kind.__name__}, saw {value!r}"[: 2 * _SHOWN])
    return value
