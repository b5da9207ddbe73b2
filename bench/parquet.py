"""Ticks into the lake and out again, against Parquet files written and read by pyarrow and polars alone.

The same rows, compression and row groups for all. The lake also does what a plain file does not: a commit with the
source's position in it, partitions by instrument and day, a schema check, a check of the order of the rows.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench import market
from market.clock import BATCH_NS, NS_PER_S
from market.events import EVENT, Events
from market.lake.lake import Lake
from market.lake.rows import arrays_of, events_of, ticks_of
from market.lake.schemas import PARTITIONS, rows_a_group

TIMES = 16  # over the same ten minutes, one after the other: a commit and a file each
ROUNDS = 5
_FEW = ["recv_ns", "kind", "side", "price", "size"]
_SOURCE = "bench"

Works = dict[str, Callable[[], Any]]
Times = dict[str, NDArray[np.float64]]


def run() -> dict[str, Any]:
    stretches = [_shifted(number) for number in range(TIMES)]
    tables = [ticks_of(events, source=_SOURCE, instrument=market.instrument()) for events in stretches]
    count = sum(map(len, stretches))
    with _folder() as folder:
        wrote = _timed(_writers(folder, stretches, tables))
        lake = _lake(folder / "read", tables)
        many = _timed(_readers(lake))
        lake.compact("ticks")
        few = _timed(_readers(lake))
        size = sum(file.bytes for file in lake.files("ticks"))
    rows = [
        _row("written: rows to a commit", wrote, ("lake", "pyarrow"), count, "pyarrow write_table"),
        _row("written: rows to a commit", wrote, ("lake", "polars"), count, "polars write_parquet"),
        _row(
            "written: events to rows to a commit", wrote, ("events", "pyarrow"), count, "pyarrow write_table, of rows"
        ),
        *_read_rows(f"{TIMES} files", many, count),
        *_read_rows("compacted", few, count),
    ]
    return {"title": "Ticks to Parquet and back", "rows": rows, "notes": _notes(count, size)}


def page(_found: dict[str, Any]) -> list[str]:
    return []


def _notes(count: int, size: int) -> list[str]:
    return [
        f"{count:,} events of the simulated exchange, volatile: ten minutes, {TIMES} times one after the other, a "
        f"commit or a file each; zstd level 3, {rows_a_group('ticks'):,} rows a group; {size / count:.1f} bytes an "
        f"event. MB/s is of the {EVENT.itemsize} bytes that an event has in memory.",
        f"Medians of {ROUNDS} rounds in which each has its turn, by the clock on the wall: all of them use every core. "
        "A ratio is the median of the rounds' ratios. Files are in the page cache; no read waits for the disk.",
        "Read: the peers read the lake's own files and give the columns that are in them, without venue, instrument "
        "and date, in the order of the files. `Lake.read` gives all columns, opens the newest version and holds the "
        "order of the rows against source and position.",
    ]


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="keel-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _shifted(number: int) -> Events:
    """The ten minutes, shifted to follow the previous ones."""
    events = market.events().copy()
    shift = number * market.SECONDS * NS_PER_S
    events["recv_ns"] += shift
    events["exch_ns"] += np.where(events["exch_ns"] > 0, shift, 0)
    events["frame"] += number * (int(events["frame"].max()) + 1)
    return events


def _lake(folder: Path, tables: list[pa.Table]) -> Lake:
    """A new lake with a commit a table."""
    lake = Lake(folder)
    for number, rows in enumerate(tables):
        lake.append("ticks", rows, source=_SOURCE, position=number + 1, after=number)
    return lake


def _writers(folder: Path, stretches: list[Events], tables: list[pa.Table]) -> Works:
    def files(write: Callable[[pa.Table, Path], Any], suffix: str) -> None:
        shutil.rmtree(folder / suffix, ignore_errors=True)
        (folder / suffix).mkdir()
        for number, rows in enumerate(tables):
            write(rows, folder / suffix / f"{number}.parquet")

    def lake(make: Callable[[], list[pa.Table]]) -> None:
        shutil.rmtree(folder / "lake", ignore_errors=True)
        _lake(folder / "lake", make())

    rows_of = partial(ticks_of, source=_SOURCE, instrument=market.instrument())
    return {
        "lake": lambda: lake(lambda: tables),
        "events": lambda: lake(lambda: [rows_of(events) for events in stretches]),
        "pyarrow": lambda: files(_by_pyarrow, "pyarrow"),
        "polars": lambda: files(_by_polars, "polars"),
    }


def _by_pyarrow(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, compression="zstd", compression_level=3, row_group_size=rows_a_group("ticks"))


def _by_polars(rows: pa.Table, path: Path) -> None:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    frame.write_parquet(path, compression="zstd", compression_level=3, row_group_size=rows_a_group("ticks"))


def _readers(lake: Lake) -> Works:
    assert lake.folder is not None
    paths = [str(lake.folder / "ticks" / file.path) for file in lake.files("ticks")]
    columns = [name for name in lake.read("ticks", end_ns=0).column_names if name not in PARTITIONS]
    start = int(market.events()["recv_ns"][0]) + 40 * BATCH_NS
    minute = {"start_ns": start, "end_ns": start + BATCH_NS}
    ranged = [("recv_ns", ">=", start), ("recv_ns", "<", start + BATCH_NS)]
    of_polars = (pl.col("recv_ns") >= start) & (pl.col("recv_ns") < start + BATCH_NS)
    key = market.instrument().key
    return {
        "all": lambda: lake.read("ticks", instrument=key),
        "all, events": lambda: events_of(lake.read("ticks", instrument=key)),
        "all, pyarrow": lambda: pq.read_table(paths, columns=columns, partitioning=None),
        "all, polars": lambda: pl.read_parquet(paths, columns=columns, hive_partitioning=False),
        "few": lambda: lake.read("ticks", instrument=key, columns=_FEW),
        "few, arrays": lambda: arrays_of(lake.read("ticks", instrument=key, columns=_FEW)),
        "few, pyarrow": lambda: pq.read_table(paths, columns=_FEW, partitioning=None),
        "few, polars": lambda: pl.read_parquet(paths, columns=_FEW, hive_partitioning=False),
        "minute": lambda: lake.read("ticks", instrument=key, columns=_FEW, **minute),
        "minute, pyarrow": lambda: pq.read_table(paths, columns=_FEW, filters=ranged, partitioning=None),
        "minute, polars": lambda: (
            pl.scan_parquet(paths, hive_partitioning=False).filter(of_polars).select(_FEW).collect()
        ),
    }


def _timed(works: Works) -> Times:
    """Seconds of each contender in each round, without the first."""
    found = {name: np.empty(ROUNDS + 1) for name in works}
    for turn in range(ROUNDS + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            found[name][turn] = time.perf_counter() - began
    return {name: seconds[1:] for name, seconds in found.items()}


def _read_rows(how: str, times: Times, count: int) -> list[dict[str, Any]]:
    rows = [
        _row(f"read, {how}: {what}", times, (ours, f"{ours.split(',')[0]}, {peer}"), count, said)
        for what, ours in (
            ("all columns", "all"),
            ("all columns, to events", "all, events"),
            (f"{len(_FEW)} columns", "few"),
            (f"{len(_FEW)} columns, to arrays", "few, arrays"),
        )
        for peer, said in (("pyarrow", "pyarrow read_table"), ("polars", "polars read_parquet"))
    ]
    for peer, said in (("pyarrow", "pyarrow, filters"), ("polars", "polars, lazy")):
        ours, theirs = times["minute"], times[f"minute, {peer}"]
        rows.append(
            {
                "what": f"read, {how}: a minute of {len(_FEW)} columns",
                "value": round(1e3 * float(np.median(ours)), 2),
                "unit": "ms",
                "peer": said,
                "peer_value": 1e3 * float(np.median(theirs)),
                "ratio": float(np.median(theirs / ours)),
            }
        )
    return rows


def _row(what: str, times: Times, names: tuple[str, str], count: int, said: str) -> dict[str, Any]:
    ours, theirs = (times[name] for name in names)
    rate = count / float(np.median(ours))
    return {
        "what": f"{what} ({rate * EVENT.itemsize / 1e6:,.0f} MB/s)",
        "value": round(rate),
        "unit": "events/s",
        "peer": said,
        "peer_value": round(count / float(np.median(theirs))),
        "ratio": float(np.median(theirs / ours)),
    }
