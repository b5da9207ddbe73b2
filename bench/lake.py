"""The cost of a time range in the lake, in bytes counted by the kernel: before and after compaction.

A day of two instruments, one commit per minute, as a live session leaves it. The peer is the library's own compaction,
which merges files and leaves rows in the order in which the files come.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from deltalake import DeltaTable

from market.clock import BATCH_NS, NS_PER_S
from market.events import EVENT, Events
from market.instruments import find
from market.lake.lake import Lake
from market.lake.rows import ticks_of

START = 1_723_161_600 * NS_PER_S  # midnight
MINUTES, A_MINUTE = 480, (1_000, 15_000)
KEYS = ("sim-usdm.BTCUSDT", "binance-usdm.BTCUSDT")


def run() -> dict[str, Any]:
    with _lake() as lake:
        rows, sizes = [], {}
        for name, prepare in (("as committed", None), ("library's compaction", _library), ("keel lake compact", _ours)):
            held = _copied(lake, name) if prepare else lake
            if prepare:
                prepare(held)
            files = [file for file in held.files("ticks") if file.instrument == KEYS[0]]
            sizes[name] = {"files": len(files), "bytes": sum(file.bytes for file in files)} | _touched(held)
        peer = sizes["library's compaction"]
        for name, found in sizes.items():
            of = {"peer": "library's compaction"} if name == "keel lake compact" else {}
            for what, value in found.items():
                peer_columns = {**of, "peer_value": peer[what], "ratio": value / peer[what]} if of else {}
                rows.append({"what": f"{name}: {what}", "value": value, "unit": "", **peer_columns})
        return {"title": "The lake: bytes of a range of time", "rows": rows, "notes": _notes()}


def page(_found: dict[str, Any]) -> list[str]:
    return []


def _notes() -> list[str]:
    return [
        f"{MINUTES} minutes of {A_MINUTE[0]:,} to {A_MINUTE[1]:,} ticks of two instruments, a commit a minute each; "
        "bytes are what the process read (`rchar` of /proc/self/io) for the columns recv_ns, kind, side, price and "
        "size of one instrument with the lake's handle open, the log not counted",
    ]


@contextmanager
def _lake() -> Iterator[Lake]:
    folder = Path(tempfile.mkdtemp(prefix="keel-bench-"))
    try:
        lake = Lake(folder / "lake")
        for number in range(MINUTES):
            for key in KEYS:
                lake.append("ticks", ticks_of(_minute(number), source="s", instrument=find(key)))
        yield lake
    finally:
        shutil.rmtree(folder)


def _minute(number: int) -> Events:
    """Events (n,) of a minute; markets are not equally busy."""
    rng = np.random.default_rng(number)
    n = int(rng.integers(*A_MINUTE))
    events = np.zeros(n, dtype=EVENT)
    frames = np.sort(rng.integers(0, n // 3, n))  # a frame has three events, which share their times
    received = np.sort(rng.integers(0, 60 * NS_PER_S, n // 3))[frames]
    events["recv_ns"] = START + number * BATCH_NS + received
    events["exch_ns"] = events["recv_ns"] - rng.integers(1, 9, n // 3)[frames] * 10**6
    events["frame"] = events["seq"] = number * A_MINUTE[1] // 3 + frames
    events["price"] = 600_000 + np.cumsum(rng.integers(-2, 3, n))
    events["size"] = rng.integers(1, 5_000, n)
    events["side"] = rng.choice([-1, 1], n)
    return events


def _copied(lake: Lake, name: str) -> Lake:
    assert lake.folder is not None
    return Lake(shutil.copytree(lake.folder, lake.folder.with_name(name.replace(" ", "-"))))


def _library(lake: Lake) -> None:
    from deltalake import WriterProperties

    properties = WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=65_536)
    DeltaTable(f"{lake.uri}/ticks").optimize.compact(writer_properties=properties)


def _ours(lake: Lake) -> None:
    lake.compact("ticks")


def _touched(lake: Lake) -> dict[str, int]:
    """Bytes read for one minute, ten, and all; and how many row groups may hold the one minute."""
    at = START + 200 * BATCH_NS
    spans = {"a minute": 1, "ten minutes": 10, "all": 0}
    found = {"row groups of a minute": _groups(lake, at, at + BATCH_NS)}
    for what, minutes in spans.items():
        times = {"start_ns": at, "end_ns": at + minutes * BATCH_NS} if minutes else {}
        found[f"bytes read for {what}"] = _read(lake, times)
    return found


def _read(lake: Lake, times: dict[str, int]) -> int:
    columns = ["recv_ns", "kind", "side", "price", "size"]
    lake.version("ticks")
    for _ in range(2):  # the first loads libraries
        before = _by_this_process()
        lake.read("ticks", instrument=KEYS[0], columns=columns, **times)
        read = _by_this_process() - before
    return read


def _by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def _groups(lake: Lake, start_ns: int, end_ns: int) -> int:
    assert lake.folder is not None
    count = 0
    for file in lake.files("ticks"):
        if file.instrument == KEYS[0]:
            metadata = pq.read_metadata(lake.folder / "ticks" / file.path)
            column = metadata.schema.to_arrow_schema().names.index("recv_ns")
            statistics = [metadata.row_group(g).column(column).statistics for g in range(metadata.num_row_groups)]
            count += sum(each.min < end_ns and each.max >= start_ns for each in statistics)
    return count
