"""The lake: Delta tables, one per zone, partitioned by venue / instrument / date (UTC day of the receive time).

A writer that reads a *source* (a recording, a live session) commits its position in the same commit as the rows, as
Delta's application transaction: what :meth:`Lake.position` returns after a kill matches exactly what is in the table.
One writer per source. Readers never see a half-written commit. Every commit can be read later (:meth:`Lake.at`,
:meth:`Lake.as_of`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from market.clock import NS_PER_MS
from market.errors import LakeError
from market.instruments import Instrument, find, is_known
from market.lake.conditions import Where, condition, predicate
from market.lake.errors import lost_a_race, sentences, two_writers
from market.lake.rows import conformed, in_order
from market.lake.schemas import (
    PARTITIONS,
    PROPERTY,
    SCHEMAS,
    SchemaVersion,
    order_of,
    rows_a_group,
    schema_of,
    time_column,
    version_of,
)
from market.lake.storage import storage_of
from market.lake.versions import filled, load, must_be_readable, names, version_as_of, version_in, wide

Pin = Callable[[str, DeltaTable], "int | None"]

FILE_BYTES: Final = 128 * 2**20  # of a compacted file
LEAST_KEPT_HOURS: Final = 24
_TRIES: Final = 20  # of a commit; each lost one means that another writer won
_FRESH: Final = 64  # commits, after which a handle is reopened: delta-rs 1.6 keeps 0.17 MB of each commit in a handle
_COMPACTION: Final = "quotekeel.compaction"  # property of a table: the version at which a compaction began
_KEPT: Final = "interval 3650 days"  # the log of a table: how far back it can be read
_CREATED: Final[dict[str, str | None]] = {"delta.logRetentionDuration": _KEPT}


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file of a table. The times (ns) are those of its first and last row, if the log has them."""

    path: str
    instrument: str
    date: str
    rows: int
    bytes: int
    first_ns: int | None
    last_ns: int | None


class Lake:
    """All tables under one address: a folder, or ``s3://bucket/prefix`` (see :mod:`market.lake.storage`).

    A handle is cheap and may be kept; each call checks for new commits of other processes.
    """

    def __init__(self, uri: str | Path, *, pin: Pin | None = None) -> None:
        """``pin`` selects the version of each table, for :meth:`at` and :meth:`as_of`; the lake is then read-only.

        Raises:
            SettingsError: the address is of an unknown kind.
        """
        self._storage = storage_of(uri)
        self._pin = pin
        self._handles: dict[str, DeltaTable] = {}
        self._writes: Counter[str] = Counter()

    @property
    def uri(self) -> str:
        return self._storage.uri

    @property
    def folder(self) -> Path | None:
        """The folder of the tables, if it is on this machine."""
        return self._storage.folder

    def at(self, versions: Mapping[str, int]) -> Lake:
        """The lake with only these tables, as of these versions; read-only."""
        return Lake(self.uri, pin=lambda table, _: versions.get(table))

    def as_of(self, time_ns: int) -> Lake:
        """The lake as it was at a time (ns), by the clocks of the committers; read-only."""
        return Lake(self.uri, pin=lambda table, handle: version_as_of(table, handle, time_ns // NS_PER_MS))

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        source: str | None = None,
        position: int | None = None,
        after: int | None = None,
    ) -> None:
        """Commit ``rows`` (the columns of ``SCHEMAS[table]``) and, with ``source``, its ``position``: in one commit.

        ``after``: the last position known to the caller (0: none). If the table has another one, another process lands
        this source too, and nothing is written.

        Raises:
            LakeError: the rows do not fit the schema, another process lands the source, or the table cannot be written.
        """
        data = conformed(table, rows)

        def write() -> None:
            handle = self._open_or_create(table)
            if source is not None and after is not None and (handle.transaction_version(source) or 0) != after:
                raise LakeError(two_writers(f"table {self._path(table)}", source))
            self._write(table, handle, data, commit_properties=_commit(source, position), mode="append")

        self._again(table, write)

    def position(self, table: str, source: str) -> int | None:
        """The position given by the last commit of ``source``; None before the first."""
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
        """Rows in the table's own order (source, then position in it); no rows if there is no table yet.

        ``instrument`` is a key ``venue.SYMBOL``; times select ``start_ns <= time < end_ns``; ``where`` maps columns to
        one value or to a collection of allowed values. Only the files and row groups that can hold such rows are read,
        and only the columns requested or filtered by.
        """
        schema = schema_of(table)
        wanted = list(columns) if columns is not None else schema.names
        handle = self._open(table)
        if handle is None:
            return pa.schema([schema.field(name) for name in wanted]).empty_table()
        order = [name for name in order_of(table) if name not in wanted]
        chosen = condition(table, instrument, (start_ns, end_ns), where or {})
        with sentences(f"table {self._path(table)}", "read"):
            dataset = handle.to_pyarrow_dataset(filesystem=self._storage.filesystem(table), schema=wide(table, handle))
            try:
                rows = dataset.to_table(columns=[*wanted, *order], filter=chosen)
            except pa.ArrowNotImplementedError:
                # statistics of a file rewritten by a delete are string views; Arrow cannot compare strings with them
                apart = condition(table, instrument, (start_ns, end_ns), where or {}, strings=pa.large_string())
                rows = dataset.to_table(columns=[*wanted, *order], filter=apart)
        rows = rows.cast(pa.schema([schema.field(name) for name in rows.column_names]))
        return in_order(filled(table, rows), order_of(table)).select(wanted)

    def delete(self, table: str, where: Where) -> None:
        """Remove the rows that ``where`` selects; does nothing if there are none."""
        self._must_be_today(table)
        selected = predicate(table, where)

        def remove() -> None:
            handle = self._open(table)
            if handle is not None:
                handle.delete(selected, commit_properties=_commit(None, None))

        self._again(table, remove)

    def replace(
        self, table: str, rows: pa.Table, where: Where, *, source: str | None = None, position: int | None = None
    ) -> None:
        """Replace the rows that ``where`` selects with ``rows``, in one commit. Every new row must itself match
        ``where``.

        ``position``: what :meth:`position` will return for ``source``.
        """
        data = conformed(table, rows)
        selected = predicate(table, where)

        def write() -> None:
            handle = self._open_or_create(table)
            self._write(
                table, handle, data, commit_properties=_commit(source, position), mode="overwrite", predicate=selected
            )

        self._again(table, write)

    def compact(self, table: str) -> None:
        """Merge small files of an instrument's day into few, sorted by time; files that are already large stay.

        Readers and writers may continue meanwhile. Losing a race to another compaction or to a delete is not an error:
        the merge then stops.
        """
        self._must_be_today(table)
        handle = self._open(table)
        if handle is None:
            return
        scattered = _scattered(self.files(table))
        with sentences(f"table {self._path(table)}", "compacted"):
            try:
                if scattered:
                    # delta-rs lets two compactions of one file both commit, which doubles its rows, but rejects one
                    # that a change of the table's properties overtook: the compaction that began last is the one that
                    # may commit
                    handle.alter.set_table_properties({_COMPACTION: str(handle.version())}, raise_if_not_exists=False)
                for partition in scattered:
                    handle.optimize.z_order(  # of one column: a plain sort
                        [time_column(table)],
                        partition_filters=[(name, "=", is_) for name, is_ in zip(PARTITIONS, partition, strict=True)],
                        target_size=FILE_BYTES,
                        writer_properties=_properties(table),
                    )
            except CommitFailedError as error:
                if not lost_a_race(error):
                    raise
                self._handles.pop(table)

    def vacuum(
        self, table: str, *, keep_hours: int, keep_versions: Iterable[int] = (), dry_run: bool = False
    ) -> tuple[int, int]:
        """Remove data files that only old versions still need; returns how many, and their bytes.

        Files replaced by a commit of the last ``keep_hours`` stay, and so do all that ``keep_versions`` need. A file
        that no commit names (from a killed writer) is removed once it is that old. ``dry_run``: only counts.

        Raises:
            LakeError: ``keep_hours`` is below :data:`LEAST_KEPT_HOURS`: a process may still read or write those files.
        """
        if keep_hours < LEAST_KEPT_HOURS:
            raise LakeError(f"expected {LEAST_KEPT_HOURS} hours or more to keep, saw {keep_hours}")
        self._must_be_today(table)
        handle = self._open(table)
        if handle is None:
            return 0, 0
        how = {"enforce_retention_duration": False, "full": True, "keep_versions": sorted(set(keep_versions))}
        with sentences(f"table {self._path(table)}", "vacuumed"):
            paths = handle.vacuum(keep_hours, dry_run=True, **how)  # includes those removed earlier
            found = self._storage.filesystem(table).get_file_info(paths)
            sizes = [each.size for each in found if each.size is not None]
            if sizes and not dry_run:
                handle.vacuum(keep_hours, dry_run=False, **how)
        return len(sizes), sum(sizes)

    def version(self, table: str) -> int | None:
        """Number of the table's newest commit; None if there is no table."""
        handle = self._open(table)
        return None if handle is None else int(handle.version())

    def files(self, table: str) -> tuple[DataFile, ...]:
        """The data files of the newest version, from the log: none is opened."""
        handle = self._open(table)
        if handle is None:
            return ()
        time = time_column(table)
        with sentences(f"table {self._path(table)}", "read"):
            actions = pa.table(handle.get_add_actions(flatten=True)).to_pylist()
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
            for each in actions
        )

    def newest(self, table: str) -> dict[str, int]:
        """Newest time of each instrument (key ``venue.SYMBOL``) in ns, from the log's statistics: no file is opened."""
        found: dict[str, int] = {}
        for file in self.files(table):
            if file.last_ns is not None:
                found[file.instrument] = max(found.get(file.instrument, 0), file.last_ns)
        return found

    def damaged(self, table: str) -> Iterator[str]:
        """A sentence for each data file that is missing, cannot be read, or whose row count differs from the log."""
        handle = self._open(table)
        if handle is None:
            return
        rows = {PurePosixPath(file.path).name: file.rows for file in self.files(table)}
        for fragment in handle.to_pyarrow_dataset(filesystem=self._storage.filesystem(table)).get_fragments():
            path = PurePosixPath(fragment.path)  # its folders are escaped once, those in the log twice
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

    def schema_version(self, table: str) -> SchemaVersion | None:
        """The schema version that the table was last written with; None if there is no table."""
        handle = self._open(table)
        return None if handle is None else version_in(handle)

    def instrument(self, key: str) -> Instrument:
        """The instrument of ``venue.SYMBOL``: known to the code, or with the tick and lot that were landed first.

        Raises:
            InputError: neither.
        """
        if is_known(key):
            return find(key)
        rows = self.read("instruments", instrument=key, columns=["tick", "lot", "recv_ns"])
        if not rows.num_rows:
            return find(key)  # its error tells what to do
        first = min(rows.to_pylist(), key=lambda row: int(row["recv_ns"]))
        venue, _, symbol = key.partition(".")
        return Instrument(venue=venue, symbol=symbol, tick=Decimal(first["tick"]), lot=Decimal(first["lot"]))

    def _path(self, table: str) -> str:
        schema_of(table)
        return f"{self.uri}/{table}"

    def _open(self, table: str) -> DeltaTable | None:
        path = self._path(table)
        with sentences(f"table {path}", "opened"):
            try:
                handle = self._handles.get(table)
                if handle is None:
                    handle = DeltaTable(path, storage_options=self._storage.options())
                    if self._pin is not None:
                        version = self._pin(table, handle)
                        if version is None:
                            return None
                        load(table, handle, version)
                elif self._pin is None:
                    handle.update_incremental()
            except TableNotFoundError:
                self._handles.pop(table, None)
                return None
            must_be_readable(table, handle)
        self._handles[table] = handle
        return handle

    def _open_or_create(self, table: str) -> DeltaTable:
        """Open for writing: create the table, or add the columns that its schema has gained since."""
        self._must_be_today(table)
        handle = self._open(table)
        if handle is None:
            handle = self._create(table)
        if version_in(handle) < version_of(table):
            missing = pa.schema([field for field in SCHEMAS[table] if field.name not in names(handle)])
            if missing.names:
                handle.alter.add_columns([Field.from_arrow(field) for field in missing])
            handle.alter.set_table_properties({PROPERTY: str(version_of(table))}, raise_if_not_exists=False)
        self._handles[table] = handle
        return handle

    def _create(self, table: str) -> DeltaTable:
        try:
            return DeltaTable.create(
                self._path(table),
                SCHEMAS[table],
                mode="ignore",
                partition_by=list(PARTITIONS),
                configuration={**_CREATED, PROPERTY: str(version_of(table))},
                storage_options=self._storage.options(),
                raise_if_key_not_exists=False,
            )
        except DeltaError:
            found = self._open(table)  # another writer may have been first
            if found is None:
                raise
            return found

    def _write(self, table: str, handle: DeltaTable, rows: pa.Table, **how: Any) -> None:
        wider = version_in(handle) > version_of(table)  # columns known only to newer code stay empty
        write_deltalake(
            handle,
            rows,
            writer_properties=_properties(table),
            schema_mode="merge" if wider else None,
            **how,
        )
        self._writes[table] += 1
        if self._writes[table] % _FRESH == 0:
            self._handles.pop(table, None)

    def _again(self, table: str, change: Callable[[], None]) -> None:
        """Retry on the newest version until no commit of another writer intervenes."""
        for left in reversed(range(_TRIES)):
            try:
                with sentences(f"table {self._path(table)}", "written"):
                    return change()
            except LakeError as error:
                if left == 0 or not lost_a_race(error.__cause__):
                    raise
                self._handles.pop(table, None)

    def _must_be_today(self, table: str) -> None:
        if self._pin is not None:
            raise LakeError(f"table {self._path(table)} is open at a past version, which is read-only")


def _scattered(files: Sequence[DataFile]) -> list[tuple[str, str, str]]:
    """Partitions (venue, symbol, date) with more than one small file, or with files whose times overlap."""
    days: dict[tuple[str, str, str], list[DataFile]] = defaultdict(list)
    for file in files:
        venue, _, symbol = file.instrument.partition(".")
        days[venue, symbol, file.date].append(file)
    return [day for day, held in days.items() if len(held) > 1 and (_small(held) > 1 or _overlap(held))]


def _small(files: Sequence[DataFile]) -> int:
    return sum(file.bytes < FILE_BYTES // 2 for file in files)


def _overlap(files: Sequence[DataFile]) -> bool:
    spans = sorted((file.first_ns or 0, file.last_ns or 0) for file in files)
    return any(later[0] < earlier[1] for earlier, later in pairwise(spans))


def _properties(table: str) -> WriterProperties:
    return WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=rows_a_group(table))


def _commit(source: str | None, position: int | None) -> CommitProperties:
    if source is None or position is None:
        return CommitProperties()
    return CommitProperties(app_transactions=[Transaction(source, position)])
