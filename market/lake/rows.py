"""Conversion between the rows of the lake's tables and the code's own types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from market.clock import BATCH_NS, NS_PER_S
from market.errors import LakeError
from market.events import EVENT, Events
from market.instruments import Instrument
from market.lake.schemas import PARTITIONS, SCHEMAS, schema_of, time_column

_EVENT_COLUMNS: Final = tuple(name for name in EVENT.names or () if name != "instrument")


def rows_of(table: str, instrument: Instrument, columns: Mapping[str, Any]) -> pa.Table:
    """A table of ``SCHEMAS[table]`` from its columns (arrays, lists, or one value for all rows), partitions added.

    The column that gives the date (``recv_ns``; ``fill_ns`` for outcomes, ``first_ns`` for batches and quality) must be
    an array.
    """
    schema = SCHEMAS[table]
    times = np.asarray(columns[time_column(table)], dtype=np.int64)
    n = len(times)
    given = {"venue": instrument.venue, "instrument": instrument.symbol, "date": dates(times), **columns}
    arrays = [_column(given[name], schema.field(name).type, n) for name in schema.names]
    return pa.table(arrays, schema=schema)


def dates(times_ns: NDArray[np.int64]) -> pa.StringArray:
    """UTC days ``YYYY-MM-DD`` of times (n,) in ns."""
    days, index = np.unique(np.asarray(times_ns, dtype=np.int64) // (86_400 * NS_PER_S), return_inverse=True)
    names = pa.array([date_of(int(day) * 86_400 * NS_PER_S) for day in days], pa.string())
    return names.take(index.reshape(-1))


def date_of(ns: int) -> str:
    """UTC day of a time in ns."""
    return datetime.fromtimestamp(ns // NS_PER_S, tz=UTC).date().isoformat()


def ticks_of(events: Events, *, source: str, instrument: Instrument, batch: int | None = None) -> pa.Table:
    """Rows for ``ticks`` of one whole batch of events (n,): by default the minute of the first receive time."""
    batch = int(events["recv_ns"][0]) // BATCH_NS if batch is None else batch
    columns: dict[str, Any] = {name: events[name] for name in _EVENT_COLUMNS}
    return rows_of("ticks", instrument, {"source": source, "batch": batch, "row": np.arange(len(events)), **columns})


def options_of(records: Sequence[Any], *, source: str, instrument: Instrument) -> pa.Table:
    """Rows for ``options`` of summaries that have its columns as attributes."""
    names = [name for name in SCHEMAS["options"].names if name not in (*PARTITIONS, "source")]
    columns: dict[str, Any] = {name: [getattr(record, name) for record in records] for name in names}
    return rows_of("options", instrument, {"source": source, **columns})


def events_of(ticks: pa.Table) -> Events:
    """Events (n,) of rows of ``ticks``, in the order of the rows; ``instrument`` index 0."""
    events = np.zeros(ticks.num_rows, dtype=EVENT)
    for name in _EVENT_COLUMNS:
        events[name] = ticks.column(name).to_numpy()
    return events


def _column(values: Any, kind: Any, n: int) -> Any:
    if isinstance(values, str | int | float | bool | bytes):
        return pa.repeat(pa.scalar(values, kind), n)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
        return pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * values.shape[1], flat)
    if isinstance(values, np.ndarray):
        return pa.array(np.ascontiguousarray(values)).cast(kind)
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def arrays_of(rows: pa.Table) -> dict[str, NDArray[Any]]:
    """``{column: (n,)}`` of the numeric columns; read-only.

    A column in one chunk and without nulls is Arrow's own memory: nothing is copied. Several chunks (a read of several
    row groups) are joined by one copy.
    """
    found: dict[str, NDArray[Any]] = {}
    for field in rows.schema:
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            column = rows.column(field.name)
            if column.null_count:
                raise LakeError(f"column {field.name} has {column.null_count} nulls, which an array cannot hold")
            piece = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            values = piece.to_numpy(zero_copy_only=True)
            values.flags.writeable = False
            found[field.name] = values
    return found


def conformed(table: str, rows: pa.Table) -> pa.Table:
    """The rows with the schema's columns, in its order.

    Raises:
        LakeError: a column is missing, unknown or of another type.
    """
    schema = schema_of(table)
    if set(rows.column_names) != set(schema.names):
        missing = sorted(set(schema.names) - set(rows.column_names))
        extra = sorted(set(rows.column_names) - set(schema.names))
        raise LakeError(
            f"table {table}: the columns are not those of its schema (missing {missing}, unknown {extra}); "
            "build the rows with market.lake.rows.rows_of"
        )
    try:
        return rows.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise LakeError(f"table {table}: a column is not of the schema's type ({error})") from None


def in_order(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """Sorted by ``order``; files of one source usually come sorted, which is much cheaper to check than to sort."""
    if rows.num_rows < 2:
        return rows
    place = _places([_codes(rows.column(name)) for name in order])
    if bool(np.all(place[1:] >= place[:-1])):
        return rows
    return rows.take(np.argsort(place, kind="stable"))


def _places(keys: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One number per row that sorts as ``keys`` do, by the first key first."""
    least = [int(key.min()) for key in keys]
    spans = [int(key.max()) - low + 1 for key, low in zip(keys, least, strict=True)]
    place = np.zeros(len(keys[0]), np.int64)
    if math.prod(spans) < 2**63:
        for key, low, span in zip(keys, least, spans, strict=True):
            place = place * span + (key - low)
    else:
        place[np.lexsort(keys[::-1])] = np.arange(len(place))
    return place


def _codes(column: Any) -> NDArray[np.int64]:
    """Integers that sort as the column does."""
    if not pa.types.is_string(column.type):
        return np.asarray(column.to_numpy(), dtype=np.int64)
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    rank = np.argsort(np.argsort(np.asarray(encoded.dictionary.to_pylist(), dtype=object)))
    codes: NDArray[np.int64] = rank[encoded.indices.to_numpy()].astype(np.int64)
    return codes
