"""The lake: Delta tables, one a zone, partitioned venue / instrument / date (UTC day of the receive time).

A writer that reads a *source* (a recording, a live session) commits its position in the same commit as the rows, as
Delta's application transaction: what :meth:`Lake.position` answers after a kill is exactly what is in the table. One
writer a source. Readers never see a half-written commit.

``instrument`` columns hold the symbol; everywhere else in the code an instrument is named by its key ``venue.SYMBOL``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import LakeError
from market.events import EVENT, Events
from market.features import catalog
from market.instruments import Instrument, find, is_known
from market.labels import HORIZON_NAMES

Where = Mapping[str, "str | int | Collection[str | int]"]

BATCH_NS: Final = 60 * NS_PER_S
PARTITIONS: Final = ("venue", "instrument", "date")

_ROWS_A_GROUP: Final = 65_536  # small enough that a time range opens little
_TYPES: Final[dict[str, Any]] = {
    "str": pa.string(),
    "bytes": pa.binary(),
    "i1": pa.int8(),
    "i2": pa.int16(),
    "i4": pa.int32(),
    "i8": pa.int64(),
    "f4": pa.float32(),
    "f8": pa.float64(),
    "bool": pa.bool_(),
    "f4s": pa.list_(pa.float32()),
}


def _schema(*groups: str) -> pa.Schema:
    """The partition columns, then groups ``"type name name ..."``."""
    fields = [pa.field(name, _TYPES["str"]) for name in PARTITIONS]
    for group in groups:
        kind, *names = group.split()
        fields += [pa.field(name, _TYPES[kind]) for name in names]
    return pa.schema(fields)


LABEL_COLUMNS: Final = tuple(f"{what}_{h}" for what in ("dir", "bidfall", "askfall") for h in HORIZON_NAMES)

SCHEMAS: Final[dict[str, pa.Schema]] = {
    # wire frames as received
    "raw": _schema("str source", "i8 frame recv_ns", "bytes payload"),
    # events; a batch is a whole minute of receive time, ``row`` the place in it
    "ticks": _schema(
        "str source",
        "i8 batch",
        "i4 row",
        "i8 exch_ns recv_ns seq frame order_id price size",
        "i2 kind",
        "i1 side",
        "i4 flags",
    ),
    # values known from ``recv_ns`` on; prices times 1e8
    "slow": _schema("str source", "i8 recv_ns exch_ns", "f8 funding_rate", "i8 mark_e8 index_e8 next_funding_ns"),
    # summaries of options, known from ``recv_ns`` on; ``instrument`` is the currency, ``side`` 1 a call and -1 a put.
    # Prices in the currency, strike and index in dollars, sizes in contracts: times 1e8. 0 where there is no bid or ask
    "options": _schema(
        "str source",
        "i8 frame recv_ns exch_ns",
        "str option",
        "i1 side",
        "i8 strike_e8 expiry_ns bid_e8 ask_e8 mark_e8 index_e8 open_interest_e8 volume_e8",
        "f8 forward implied_volatility delta vega",
    ),
    # the steps of instruments that the code does not know; ``origin`` is who said so
    "instruments": _schema("str source", "i8 recv_ns", "str tick lot origin"),
    # one row a judged batch, with the figures it was judged by
    "batches": _schema(
        "str source",
        "i8 batch frames events trades updates first_ns last_ns gaps largest_gap_ns clock_back",
        "f8 crossed_rate locked_rate trade_outside_rate worst_trade_bp",
        "f8 largest_jump_bp largest_spread_bp largest_size_ratio",
        "str verdict reasons",
    ),
    # one row a figure of a judged batch, and what its rule said of it; ``rule`` is empty where no rule looks at it, a
    # limit is infinite where there is none
    "quality": _schema(
        "str source", "i8 batch first_ns last_ns", "str figure rule", "f8 value warn hold", "str verdict"
    ),
    # ``stage`` parse: the raw frame in ``payload``; validate: the batch's tick rows as an Arrow IPC stream
    "quarantine": _schema("str source", "i8 batch frame recv_ns", "str stage reason detail", "bytes payload"),
    "features": _schema(
        "str source",
        "i8 batch segment frame seq recv_ns exch_ns mid2 bid_depth ask_depth",
        "bool warm",
        "str feature_set",
        "f4 " + " ".join(catalog.tick_names()),
    ),
    "labels": _schema("str source", "i8 frame recv_ns", "i1 " + " ".join(LABEL_COLUMNS)),
    "predictions": _schema(
        "str session",
        "i8 n",
        "str prediction_id",
        "i8 frame seq recv_ns exch_ns mid2",
        "i4 arm",
        "i8 version0 version1",
        "f4s probs0 probs1 features",
        "str feature_set",
        "i8 step_ns",
    ),
    # ``version`` is the one acted on
    "quotes": _schema(
        "str session",
        "i8 n",
        "str quote_id prediction_id",
        "i8 recv_ns version",
        "i4 arm",
        "i8 bid_price ask_price bid_size ask_size",
        "i4 reasons",
        "i8 mid2",
    ),
    "outcomes": _schema(
        "str session quote_id order_id",
        "i1 side",
        "i8 price size fill_ns mid2_fill mid2_100ms mid2_1s version",
        "i4 arm block",
    ),
}

_TIME: Final = {"outcomes": "fill_ns", "batches": "first_ns", "quality": "first_ns"}  # elsewhere recv_ns
_ORDER: Final = {
    "raw": ("source", "frame"),
    "ticks": ("source", "batch", "row"),
    "slow": ("source", "recv_ns"),
    "options": ("source", "frame"),
    "instruments": ("source", "recv_ns"),
    "batches": ("source", "batch"),
    "quality": ("source", "batch", "figure"),
    "quarantine": ("source", "batch", "frame"),
    "features": ("source", "frame"),
    "labels": ("source", "frame"),
    "predictions": ("session", "n"),
    "quotes": ("session", "n"),
    "outcomes": ("session", "fill_ns"),
}
_EVENT_COLUMNS: Final = tuple(name for name in EVENT.names or () if name != "instrument")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file of a table. The times (ns) are those of its first and last row, where the log tells."""

    path: str
    instrument: str
    date: str
    rows: int
    bytes: int
    first_ns: int | None
    last_ns: int | None


class Lake:
    """All tables under one URI (a folder, or what delta-rs can open: ``s3://...``).

    A handle is cheap and may be kept; it looks for new commits of other processes at each call.
    """

    def __init__(self, uri: str | Path) -> None:
        self._uri = str(uri).rstrip("/")
        self._handles: dict[str, DeltaTable] = {}

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def folder(self) -> Path | None:
        """Where the tables lie, if that is on this machine."""
        return None if "://" in self._uri else Path(self._uri)

    def append(self, table: str, rows: pa.Table, *, source: str | None = None, position: int | None = None) -> None:
        """Commit ``rows`` (the columns of ``SCHEMAS[table]``) and, with ``source``, its ``position``: in one commit.

        Raises:
            LakeError: the rows do not fit the schema, or the table cannot be written (no space).
        """
        data = _conformed(table, rows)
        with _sentences(self._path(table), "written"):
            write_deltalake(
                self._open_or_create(table),
                data,
                mode="append",
                writer_properties=_properties(),
                commit_properties=_commit(source, position),
            )

    def position(self, table: str, source: str) -> int | None:
        """What the last commit of ``source`` gave as its position; None before the first."""
        handle = self._open(table)
        if handle is None:
            return None
        version = handle.transaction_version(source)
        return None if version is None else int(version)

    def read(
        self,
        table: str,
        *,
        instrument: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> pa.Table:
        """Rows in the table's own order (source, then position in it); none where there is no table yet.

        ``instrument`` is a key ``venue.SYMBOL``; times select ``start_ns <= time < end_ns``; ``where`` maps columns to
        one value or to a collection of allowed values.
        """
        schema = _known(table)
        wanted = list(columns) if columns is not None else schema.names
        handle = self._open(table)
        if handle is None:
            return pa.schema([schema.field(name) for name in wanted]).empty_table()
        order = [name for name in _ORDER[table] if name not in wanted]
        condition = _condition(table, instrument, (start_ns, end_ns), where or {})
        with _sentences(self._path(table), "read"):
            dataset = handle.to_pyarrow_dataset(filesystem=self._filesystem(table))
            try:
                rows = dataset.to_table(columns=[*wanted, *order], filter=condition)
            except pa.ArrowNotImplementedError:
                # statistics of a file that a delete rewrote are string views; Arrow cannot hold strings against them
                apart = _condition(table, instrument, (start_ns, end_ns), where or {}, strings=pa.large_string())
                rows = dataset.to_table(columns=[*wanted, *order], filter=apart)
        rows = rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
        return _sorted(rows, _ORDER[table]).select(wanted)

    def _filesystem(self, table: str) -> pafs.FileSystem | None:
        """Arrow's own access to local files; None leaves it to deltalake.

        deltalake's is written in Python: Arrow's threads may let go of it while the interpreter is being taken down,
        and the process then ends with an abort.
        """
        return None if self.folder is None else pafs.SubTreeFileSystem(self._path(table), pafs.LocalFileSystem())

    def delete(self, table: str, where: Where) -> None:
        """Remove the rows that ``where`` selects; nothing happens where there are none."""
        handle = self._open(table)
        if handle is not None:
            with _sentences(self._path(table), "written"):
                handle.delete(_predicate(where), commit_properties=_commit(None, None))

    def replace(self, table: str, rows: pa.Table, where: Where) -> None:
        """Put ``rows`` in the place of what ``where`` selects, in one commit. Every row must itself fit ``where``."""
        data = _conformed(table, rows)
        with _sentences(self._path(table), "written"):
            write_deltalake(
                self._open_or_create(table),
                data,
                mode="overwrite",
                predicate=_predicate(where),
                writer_properties=_properties(),
                commit_properties=_commit(None, None),
            )

    def compact(self, table: str) -> None:
        """Merge small files; readers and one appender may go on meanwhile. Losing a race to an appender is no error."""
        handle = self._open(table)
        if handle is None:
            return
        with _sentences(self._path(table), "compacted"):
            try:
                handle.optimize.compact(writer_properties=_properties())
            except DeltaError as error:
                if "conflict" not in str(error).lower():
                    raise

    def version(self, table: str) -> int | None:
        """Number of the table's newest commit; None where there is no table."""
        handle = self._open(table)
        return None if handle is None else int(handle.version())

    def files(self, table: str) -> tuple[DataFile, ...]:
        """The data files of the newest version, as the log tells of them: none is opened."""
        handle = self._open(table)
        if handle is None:
            return ()
        time = _TIME.get(table, "recv_ns")
        with _sentences(self._path(table), "read"):
            told = pa.table(handle.get_add_actions(flatten=True)).to_pylist()
        return tuple(
            DataFile(
                path=each["path"],
                instrument=f"{each['partition.venue']}.{each['partition.instrument']}",
                date=each["partition.date"],
                rows=int(each["num_records"]),
                bytes=int(each["size_bytes"]),
                first_ns=each.get(f"min.{time}"),
                last_ns=each.get(f"max.{time}"),
            )
            for each in told
        )

    def newest(self, table: str) -> dict[str, int]:
        """Newest time of each instrument (key ``venue.SYMBOL``) in ns, from the log's statistics: no file is opened."""
        found: dict[str, int] = {}
        for file in self.files(table):
            if file.last_ns is not None:
                found[file.instrument] = max(found.get(file.instrument, 0), file.last_ns)
        return found

    def damaged(self, table: str) -> Iterator[str]:
        """A sentence for each data file that is not there, cannot be read, or has not the rows that the log says."""
        handle = self._open(table)
        if handle is None:
            return
        rows = {PurePosixPath(file.path).name: file.rows for file in self.files(table)}
        for fragment in handle.to_pyarrow_dataset(filesystem=self._filesystem(table)).get_fragments():
            path = PurePosixPath(fragment.path)  # its folders are escaped once, those of the log twice
            try:
                seen = sum(batch.num_rows for batch in fragment.to_batches())
            except (OSError, pa.ArrowException) as error:
                yield f"{table}: {path} cannot be read: {str(error).splitlines()[0][:200]}"
                continue
            wanted = rows[path.name]
            if seen != wanted:
                yield f"{table}: {path} has {seen} rows, its log says {wanted}"

    def exists(self, table: str) -> bool:
        return self._open(table) is not None

    def instrument(self, key: str) -> Instrument:
        """The instrument of ``venue.SYMBOL``: known to the code, or with the steps that were landed first.

        Raises:
            InputError: neither.
        """
        if is_known(key):
            return find(key)
        rows = self.read("instruments", instrument=key, columns=["tick", "lot", "recv_ns"])
        if not rows.num_rows:
            return find(key)  # says what to do
        first = min(rows.to_pylist(), key=lambda row: int(row["recv_ns"]))
        venue, _, symbol = key.partition(".")
        return Instrument(venue=venue, symbol=symbol, tick=Decimal(first["tick"]), lot=Decimal(first["lot"]))

    def _path(self, table: str) -> str:
        _known(table)
        return f"{self._uri}/{table}"

    def _open(self, table: str) -> DeltaTable | None:
        path = self._path(table)
        with _sentences(path, "opened"):
            try:
                if table in self._handles:
                    self._handles[table].update_incremental()
                else:
                    self._handles[table] = DeltaTable(path)
            except TableNotFoundError:
                self._handles.pop(table, None)
                return None
        return self._handles[table]

    def _open_or_create(self, table: str) -> DeltaTable:
        handle = self._open(table)
        if handle is None:
            handle = DeltaTable.create(self._path(table), SCHEMAS[table], mode="ignore", partition_by=list(PARTITIONS))
            self._handles[table] = handle
        return handle


def rows_of(table: str, instrument: Instrument, columns: Mapping[str, Any]) -> pa.Table:
    """A table of ``SCHEMAS[table]`` from its columns (arrays, lists, or one value for all rows), partitions added.

    The column that gives the date (``recv_ns``; ``fill_ns`` of outcomes, ``first_ns`` of batches and of quality) must
    be an array.
    """
    schema = SCHEMAS[table]
    times = np.asarray(columns[_TIME.get(table, "recv_ns")], dtype=np.int64)
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


def _known(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise LakeError(f"there is no table {table!r}; the lake has {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _conformed(table: str, rows: pa.Table) -> pa.Table:
    schema = _known(table)
    if set(rows.column_names) != set(schema.names):
        missing = sorted(set(schema.names) - set(rows.column_names))
        extra = sorted(set(rows.column_names) - set(schema.names))
        raise LakeError(
            f"table {table}: the columns are not those of its schema (missing {missing}, unknown {extra}); "
            "build the rows with market.lake.rows_of"
        )
    try:
        return rows.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise LakeError(f"table {table}: a column is not of the schema's type ({error})") from None


def _condition(
    table: str, instrument: str | None, times: tuple[int | None, int | None], where: Where, *, strings: Any = None
) -> Any:
    """The rows to read; with ``strings`` columns of text are compared as that type."""
    parts: list[Any] = []
    if instrument is not None:
        venue, _, symbol = instrument.partition(".")
        parts += [pc.field("venue") == venue, pc.field("instrument") == symbol]
    column = _TIME.get(table, "recv_ns")
    start_ns, end_ns = times
    if start_ns is not None:
        parts += [pc.field("date") >= date_of(start_ns), pc.field(column) >= start_ns]
    if end_ns is not None:
        parts += [pc.field("date") <= date_of(end_ns), pc.field(column) < end_ns]
    for name, value in where.items():
        allowed = [value] if isinstance(value, str | int) else list(value)
        kind, field = SCHEMAS[table].field(name).type, pc.field(name)
        if strings is not None and pa.types.is_string(kind):
            kind, field = strings, field.cast(strings)
        parts.append(field.isin(pa.array(allowed, kind)))
    whole = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole


def _predicate(where: Where) -> str:
    """SQL of delta-rs; values are quoted here, so an id may hold anything."""
    if not where:
        raise LakeError("a delete or replace needs a condition; none was given")
    parts = []
    for name, value in where.items():
        allowed = [value] if isinstance(value, str | int) else list(value)
        parts.append(f"{name} in ({', '.join(_literal(each) for each in allowed)})" if allowed else "false")
    return " and ".join(parts)


def _literal(value: str | int) -> str:
    return str(int(value)) if not isinstance(value, str) else "'" + value.replace("'", "''") + "'"


def _sorted(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """Sorted by ``order``; files of one source usually come sorted already, which is much cheaper to see than to do."""
    if rows.num_rows < 2:
        return rows
    keys = [_codes(rows.column(name)) for name in order]
    rising = np.zeros(rows.num_rows - 1, dtype=bool)
    tied = np.ones(rows.num_rows - 1, dtype=bool)
    for key in keys:
        rising |= tied & (key[1:] > key[:-1])
        tied &= key[1:] == key[:-1]
    if bool(np.all(rising | tied)):
        return rows
    return rows.take(np.lexsort(keys[::-1]))


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


def _properties() -> WriterProperties:
    return WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=_ROWS_A_GROUP)


def _commit(source: str | None, position: int | None) -> CommitProperties:
    if source is None or position is None:
        return CommitProperties()
    return CommitProperties(app_transactions=[Transaction(source, position)])


@contextmanager
def _sentences(path: str, done: str) -> Iterator[None]:
    """Say what went wrong with a table, and what to do."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeError(_explained(path, done, error)) from error


_FULL: Final = ("no space left", "os error 28", "disk quota", "file too large", "os error 27")


def _explained(path: str, done: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:400]
    if any(sign in said.lower() for sign in _FULL):
        return (
            f"table {path} cannot be {done}: no space left on its disk. "
            "Free some and run the same command again; what was committed is safe."
        )
    if "permission denied" in said.lower():
        return (
            f"table {path} cannot be {done}: permission denied. "
            "Make it writable for this user, or set another KEEL_HOME."
        )
    return f"table {path} cannot be {done}: {said}"
