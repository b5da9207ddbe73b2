"""A time range of one instrument reads only its own bytes: shown by removing all other bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from market.clock import BATCH_NS, NS_PER_S
from market.events import EVENT
from market.instruments import find
from market.lake.lake import Lake
from market.lake.rows import rows_of, ticks_of
from market.lake.schemas import rows_a_group

SPOT, SIM = find("binance-spot.BTCUSDT"), find("sim-usdm.BTCUSDT")
START = 1_723_161_600 * NS_PER_S  # midnight
MINUTES, A_MINUTE = 30, 12_000
ROWS = MINUTES * A_MINUTE


def minute(number: int, *, instrument=SIM, start=START, rows=A_MINUTE, source="s"):
    """Events of one minute, in bursts that share their receive time."""
    rng = np.random.default_rng(number)
    events = np.zeros(rows, dtype=EVENT)
    times = np.sort(rng.integers(0, 60_000, rows // 4)) * 10**6
    events["recv_ns"] = start + number * BATCH_NS + np.repeat(times, 4)
    events["frame"] = np.arange(rows) + number * rows
    events["price"] = 60_000 + rng.integers(-50, 50, rows)
    events["size"] = rng.integers(1, 10**6, rows)
    return ticks_of(events, source=source, instrument=instrument)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two instruments and two days; one day of one instrument is 30 commits, written out of order and compacted."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for number in np.random.default_rng(0).permutation(MINUTES).tolist():
        lake.append("ticks", minute(number))
    lake.append("ticks", minute(0, start=START + 86_400 * NS_PER_S))
    lake.append("ticks", minute(0, instrument=SPOT))
    lake.compact("ticks")
    assert lake.folder is not None
    return lake.folder


@pytest.fixture
def lake(whole: Path, tmp_path: Path) -> Lake:
    import shutil

    return Lake(shutil.copytree(whole, tmp_path / "lake"))


def data_file(lake: Lake) -> Path:
    (found,) = (file for file in lake.files("ticks") if file.rows == ROWS)
    assert lake.folder is not None
    return lake.folder / "ticks" / found.path


def chunks(file: Path) -> Iterator[tuple[int, str, int, int]]:
    """(row group, column, first byte, bytes) of every column chunk."""
    metadata = pq.read_metadata(file)
    for group in range(metadata.num_row_groups):
        for i in range(metadata.num_columns):
            column = metadata.row_group(group).column(i)
            first = column.dictionary_page_offset or column.data_page_offset
            yield group, column.path_in_schema, first, column.total_compressed_size


def groups_of(file: Path, start_ns: int, end_ns: int) -> set[int]:
    """Row groups that may hold such times according to their statistics."""
    metadata = pq.read_metadata(file)
    at = [metadata.schema.column(i).name for i in range(metadata.num_columns)].index("recv_ns")
    spans = [metadata.row_group(g).column(at).statistics for g in range(metadata.num_row_groups)]
    return {g for g, span in enumerate(spans) if span.min < end_ns and span.max >= start_ns}


def test_a_compacted_file_is_in_the_order_of_time_in_row_groups_that_do_not_overlap(lake: Lake) -> None:
    file = data_file(lake)
    times = pq.read_table(file, columns=["recv_ns"], partitioning=None)["recv_ns"].to_numpy()
    assert np.all(np.diff(times) >= 0)
    assert pq.read_metadata(file).num_row_groups == -(-ROWS // rows_a_group("ticks"))
    for number in range(MINUTES):
        start = START + number * BATCH_NS
        assert len(groups_of(file, start, start + BATCH_NS)) <= 2
    assert len(lake.files("ticks")) == 3


def test_a_range_of_one_instrument_needs_none_of_the_other_bytes(lake: Lake) -> None:
    start, end = START + 10 * BATCH_NS, START + 11 * BATCH_NS
    asked = {"instrument": SIM.key, "start_ns": start, "end_ns": end, "columns": ["recv_ns", "row", "price"]}
    before = lake.read("ticks", **asked)
    assert before.num_rows == A_MINUTE

    file = data_file(lake)
    assert lake.folder is not None
    for other in (lake.folder / "ticks").rglob("*.parquet"):
        if other != file:
            other.unlink()
    needed = groups_of(file, start, end)
    kept = 0
    with file.open("r+b") as opened:
        for group, column, first, size in chunks(file):
            if group in needed and column in ("recv_ns", "row", "price", "source", "batch"):
                kept += size
                continue
            opened.seek(first)
            opened.write(bytes(size))
    assert kept < 0.15 * file.stat().st_size

    assert lake.read("ticks", **asked).equals(before)
    with pytest.raises(Exception, match="cannot be read"):
        lake.read("ticks", instrument=SIM.key, columns=["price"])


def _read_by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count what a process reads")
def test_the_kernel_counts_few_bytes_for_a_range(lake: Lake) -> None:
    def read(**asked) -> int:
        before = _read_by_this_process()
        lake.read("ticks", instrument=SIM.key, columns=["price"], **asked)
        return _read_by_this_process() - before

    day = {"start_ns": START, "end_ns": START + MINUTES * BATCH_NS}
    read(**day)  # libraries are loaded
    every = read(**day)
    one = read(start_ns=START + 10 * BATCH_NS, end_ns=START + 11 * BATCH_NS)
    assert one < 0.4 * every
    assert read(start_ns=START - BATCH_NS, end_ns=START) < 0.1 * every  # the day before: no file


def test_compaction_keeps_every_row_and_its_place(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for number in (2, 0, 1):
        for source in ("b", "a"):
            lake.append("ticks", minute(number, source=source, rows=400), source=source, position=number + 1)
    before = lake.read("ticks")
    lake.compact("ticks")
    assert len(lake.files("ticks")) == 1
    assert lake.read("ticks").equals(before)
    assert lake.position("ticks", "a") == 2
    version = lake.version("ticks")
    lake.compact("ticks")
    assert lake.version("ticks") == version, "what is compact already is left alone"


def test_late_rows_are_sorted_in_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.lake.lake.FILE_BYTES", 2_000)  # every file is large enough as it is
    lake = Lake(tmp_path / "lake")
    for number in (0, 1):
        lake.append("ticks", minute(number, rows=400))
    lake.compact("ticks")
    assert lake.version("ticks") == 2, "large files one after the other are left alone"
    lake.append("ticks", minute(0, rows=400, source="late"))
    lake.compact("ticks")
    spans = sorted((file.first_ns, file.last_ns) for file in lake.files("ticks"))
    assert all(later[0] >= earlier[1] for earlier, later in pairwise(spans))


def test_a_symbol_that_a_path_must_escape_is_compacted(tmp_path: Path) -> None:
    from decimal import Decimal

    from market.instruments import Instrument

    odd = Instrument(venue="bitfinex", symbol="tTEST BTC:TEST/USD%", tick=Decimal(1), lot=Decimal(1))
    lake = Lake(tmp_path)
    for n in (1, 2):
        columns = {"source": "s", "frame": np.array([n]), "recv_ns": np.array([START + n]), "payload": [b"x"]}
        lake.append("raw", rows_of("raw", odd, columns), source="s", position=n)
    lake.compact("raw")
    assert len(lake.files("raw")) == 1
    assert lake.read("raw", instrument=odd.key, columns=["frame"])["frame"].to_pylist() == [1, 2]
