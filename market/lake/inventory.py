"""The contents of a lake, from its logs alone, and its integrity, from reading all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from market.lake.lake import DataFile, Lake
from market.lake.schemas import SCHEMAS
from market.sources import KAFKA_PREFIX, source_of_symbol


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A part of a table: rows, files and bytes on disk, receive times (ns) of the first and the last row."""

    rows: int
    files: int
    bytes: int
    first_ns: int | None
    last_ns: int | None


@dataclass(frozen=True, kw_only=True)
class TableHolding:
    """A table at its newest version."""

    table: str
    version: int
    instruments: tuple[str, ...]
    holding: Holding


@dataclass(frozen=True, kw_only=True)
class PartitionHolding:
    """One instrument's UTC day in a table."""

    instrument: str
    date: str
    holding: Holding


def tables(lake: Lake) -> tuple[TableHolding, ...]:
    """Every table that exists. No data file is opened.

    Raises:
        LakeError: a table's log cannot be read.
    """
    found = []
    for table in SCHEMAS:
        version = lake.version(table)
        if version is not None:
            files = lake.files(table)
            instruments = tuple(sorted({file.instrument for file in files}))
            found.append(TableHolding(table=table, version=version, instruments=instruments, holding=_holding(files)))
    return tuple(found)


def partitions(lake: Lake, table: str) -> tuple[PartitionHolding, ...]:
    """A table's partitions, by instrument and day. No data file is opened.

    Raises:
        LakeError: there is no table with this name, or its log cannot be read.
    """

    def place(file: DataFile) -> tuple[str, str]:
        return file.instrument, file.date

    return tuple(
        PartitionHolding(instrument=instrument, date=date, holding=_holding(list(files)))
        for (instrument, date), files in groupby(sorted(lake.files(table), key=place), key=place)
    )


def _holding(files: Iterable[DataFile]) -> Holding:
    files = list(files)
    firsts = [file.first_ns for file in files if file.first_ns is not None]
    lasts = [file.last_ns for file in files if file.last_ns is not None]
    return Holding(
        rows=sum(file.rows for file in files),
        files=len(files),
        bytes=sum(file.bytes for file in files),
        first_ns=min(firsts, default=None),
        last_ns=max(lasts, default=None),
    )


def faults(lake: Lake, advance: Callable[[], None] = lambda: None) -> tuple[str, ...]:
    """The defects, one sentence each; empty when every file matches its log and no row is missing or duplicated.

    ``advance`` is called once per table.
    """
    found: list[str] = []
    for table in SCHEMAS:
        damaged = list(lake.damaged(table))
        found += damaged
        if not damaged:
            found += _missing(lake, table)
        advance()
    return tuple(found)


def _missing(lake: Lake, table: str) -> Iterator[str]:
    if table == "raw":
        frames: dict[str, list[NDArray[np.int64]]] = {}
        rows = lake.read("raw", columns=["instrument", "source", "frame"])
        for (symbol, source), numbers in _grouped(rows, ["instrument", "source"], "frame"):
            # a recording of several instruments is one source per instrument; they share one numbering of frames
            frames.setdefault(str(source).removesuffix(source_of_symbol("", str(symbol))), []).append(numbers)
        for recording, parts in sorted(frames.items()):
            # in a topic, frames of other instruments lie in between
            first = None if recording.startswith(KAFKA_PREFIX) else 1
            yield from _counted(f"raw: source {recording}: frames", np.sort(np.concatenate(parts)), first=first)
    if table == "ticks":
        rows = lake.read("ticks", columns=["venue", "instrument", "source", "batch", "row"])
        for (venue, symbol, source, batch), numbers in _grouped(
            rows, ["venue", "instrument", "source", "batch"], "row"
        ):
            yield from _counted(f"ticks: {venue}.{symbol}, source {source}, minute {batch}: rows", numbers, first=0)


def _grouped(rows: pa.Table, keys: list[str], column: str) -> Iterator[tuple[tuple[object, ...], NDArray[np.int64]]]:
    """Each distinct key with the sorted numbers of its rows."""
    groups = rows.group_by(keys).aggregate([(column, "list")]).combine_chunks()
    if not groups.num_rows:
        return
    lists: Any = groups[f"{column}_list"].chunk(0)
    numbers, ends = lists.values.to_numpy(), lists.offsets.to_numpy()
    for i, key in enumerate(groups.select(keys).to_pylist()):
        yield tuple(key.values()), np.sort(numbers[ends[i] : ends[i + 1]].astype(np.int64))


def _counted(what: str, numbers: NDArray[np.int64], *, first: int | None) -> Iterator[str]:
    """Sorted ``numbers`` must each occur once, and be first, first + 1, and so on if ``first`` is given."""
    doubled = int((np.diff(numbers) == 0).sum())
    if doubled:
        yield f"{what} {doubled} occur twice"
    if first is None:
        return
    missing = int(numbers[-1]) - first + 1 - len(np.unique(numbers))
    if missing:
        yield f"{what} {missing} of {first} to {numbers[-1]} are missing"
