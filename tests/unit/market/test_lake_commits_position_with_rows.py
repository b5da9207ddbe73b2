"""Tables, their positions, what is read back, and the errors when something is wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kit.forked import server
from kit.small_lake import Market, land

from market.clock import BATCH_NS
from market.errors import LakeError
from market.events import EVENT
from market.instruments import find
from market.lake import lake as lake_module
from market.lake.lake import Lake
from market.lake.rows import dates, events_of, rows_of, ticks_of
from market.lake.schemas import SCHEMAS

SPOT, SIM = find("binance-spot.BTCUSDT"), find("sim-usdm.BTCUSDT")
DAY = 86_400 * 10**9
START = 1_723_161_240 * 10**9


def raw(first: int, last: int, *, source="s", instrument=SIM, start=START) -> pa.Table:
    numbers = np.arange(first, last + 1)
    columns = {"source": source, "frame": numbers, "recv_ns": start + numbers, "payload": [b"%d" % n for n in numbers]}
    return rows_of("raw", instrument, columns)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_a_table_that_does_not_exist_reads_as_empty_with_its_schema(lake):
    for table, schema in SCHEMAS.items():
        assert lake.read(table).schema == schema
        assert not lake.exists(table)
        assert lake.version(table) is None
        assert lake.position(table, "s") is None
    assert lake.folder is not None
    assert not lake.folder.exists()


def test_every_table_returns_its_own_schema(lake):
    for table, schema in SCHEMAS.items():
        lake.append(table, schema.empty_table())
        assert lake.read(table).schema == schema


def test_rows_and_position_are_one_commit(lake):
    lake.append("raw", raw(1, 5), source="s", position=5)
    assert (lake.position("raw", "s"), lake.version("raw")) == (5, 1)
    lake.append("raw", raw(6, 9), source="s", position=9)
    lake.append("raw", raw(1, 2, source="t"), source="t", position=2)
    assert [lake.position("raw", s) for s in ("s", "t", "u")] == [9, 2, None]
    assert lake.read("raw", columns=["frame"], where={"source": "s"})["frame"].to_pylist() == list(range(1, 10))


def test_a_long_lived_writer_reopens_its_table_without_a_visible_effect(lake):
    count = 2 * lake_module._FRESH + 3
    for frame in range(1, count):
        lake.append("raw", raw(frame, frame), source="s", position=frame)
        assert lake.position("raw", "s") == frame
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == list(range(1, count))


def test_a_position_can_be_committed_without_rows(lake):
    lake.append("ticks", SCHEMAS["ticks"].empty_table(), source="s", position=7)
    assert lake.position("ticks", "s") == 7


def test_another_handle_sees_what_was_committed(lake):
    other = Lake(lake.uri)
    assert other.position("raw", "s") is None
    lake.append("raw", raw(1, 5), source="s", position=5)
    assert other.position("raw", "s") == 5
    assert other.read("raw").num_rows == 5


def test_rows_come_in_the_order_of_the_source_however_they_were_written(lake):
    for first in (7, 1, 4):
        lake.append("raw", raw(first, first + 2, source="b"))
        lake.append("raw", raw(first, first + 2, source="a"))
    rows = lake.read("raw", columns=["payload"])
    assert rows.column_names == ["payload"]
    assert rows["payload"].to_pylist() == [b"%d" % n for n in range(1, 10)] * 2


def test_reading_selects_by_instrument_time_and_values(lake):
    lake.append("raw", raw(1, 5))
    lake.append("raw", raw(1, 5, instrument=SPOT, start=START + DAY))
    frame = lambda **options: lake.read("raw", columns=["frame"], **options)["frame"].to_pylist()  # noqa: E731
    assert frame(instrument=SPOT.key) == [1, 2, 3, 4, 5]
    assert frame(start_ns=START + 3) == [3, 4, 5, 1, 2, 3, 4, 5] or sorted(frame(start_ns=START + 3)) == [
        1,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
    ]
    assert frame(start_ns=START + 2, end_ns=START + 4) == [2, 3]
    assert frame(instrument=SIM.key, where={"frame": [1, 4]}) == [1, 4]
    assert frame(where={"source": "nobody"}) == []
    assert frame(where={"frame": []}) == []


def test_delete_and_replace_act_on_what_is_selected_and_nothing_else(lake):
    lake.append("raw", raw(1, 5, source="it's"))
    lake.append("raw", raw(1, 5, source="b"))
    lake.delete("raw", {"source": "it's", "frame": [2, 3]})
    assert lake.read("raw", columns=["frame"], where={"source": "it's"})["frame"].to_pylist() == [1, 4, 5]
    lake.replace("raw", raw(9, 10, source="it's"), {"source": "it's"})
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == [1, 2, 3, 4, 5, 9, 10]
    lake.delete("quotes", {"session": "x"})
    with pytest.raises(LakeError, match="needs a condition"):
        lake.delete("raw", {})


def test_positions_survive_delete_replace_and_compaction(lake):
    for n in range(1, 6):
        lake.append("raw", raw(n, n), source="s", position=n)
    lake.delete("raw", {"frame": 2})
    lake.compact("raw")
    lake.replace("raw", raw(3, 3), {"frame": 3})
    assert Lake(lake.uri).position("raw", "s") == 5
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == [1, 3, 4, 5]


def test_events_round_trip_bit_for_bit(lake):
    rng = np.random.default_rng(0)
    events = np.zeros(1000, dtype=EVENT)
    for name, (kind, _) in EVENT.fields.items():
        if name != "instrument":
            info = np.iinfo(kind)
            events[name] = rng.integers(max(info.min, -(2**62)), min(info.max, 2**62), len(events))
    events["recv_ns"] = START + np.sort(rng.integers(0, 10**9, len(events)))
    events = np.concatenate([events, events])  # the same frames twice: only the row number keeps their order
    lake.append("ticks", ticks_of(events, source="s", instrument=SIM))
    assert events_of(lake.read("ticks")).tobytes() == events.tobytes()
    assert set(lake.read("ticks", columns=["batch"])["batch"].to_pylist()) == {START // BATCH_NS}


def test_dates_are_utc_days():
    assert dates(np.array([START, START + DAY, START])).to_pylist() == ["2024-08-08", "2024-08-09", "2024-08-08"]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (pa.table({"source": ["s"]}), "columns are not those of its schema.*missing.*rows_of"),
        (raw(1, 2).append_column("more", pa.array([1, 2])), r"unknown \['more'\]"),
        (raw(1, 2).set_column(4, "frame", pa.array(["x", "y"])), "not of the schema's type"),
    ],
)
def test_rows_that_do_not_fit_are_rejected_and_nothing_is_written(lake, rows, match):
    with pytest.raises(LakeError, match=match):
        lake.append("raw", rows)
    assert not lake.exists("raw")


def test_an_unknown_table_name_is_rejected(lake):
    with pytest.raises(LakeError, match=r"there is no table 'tics'; the lake has raw, ticks"):
        lake.read("tics")


def test_a_broken_log_gives_an_error(lake):
    lake.append("raw", raw(1, 2))
    assert lake.folder is not None
    log = lake.folder / "raw" / "_delta_log" / "00000000000000000000.json"
    log.write_text("{not json")
    with pytest.raises(LakeError, match="raw cannot be opened"):
        Lake(lake.uri).read("raw")


@contextmanager
def nobody() -> Iterator[None]:
    """Run as an account without the rights of root, which may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_gives_an_error():
    # not under pytest's own folder, which others may not even pass through
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        lake = Path(folder) / "lake"
        lake.mkdir(mode=0o555)
        with nobody(), pytest.raises(LakeError, match="permission denied"):
            Lake(lake).append("raw", raw(1, 2))
        assert list(lake.iterdir()) == []


def _append_many(uri: str, source: str) -> None:
    for n in range(1, 11):
        Lake(uri).append("raw", raw(n, n, source=source), source=source, position=n)


def test_writers_of_different_sources_do_not_lose_each_others_rows(lake):
    context = server()
    writers = [context.Process(target=_append_many, args=(lake.uri, f"s{i}")) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    rows = lake.read("raw", columns=["source", "frame"]).to_pylist()
    assert [(r["source"], r["frame"]) for r in rows] == [(f"s{i}", n) for i in range(2) for n in range(1, 11)]
    assert [lake.position("raw", f"s{i}") for i in range(2)] == [10, 10]


def _compact_many(uri: str) -> None:
    for _ in range(10):
        Lake(uri).compact("raw")


def test_compaction_alongside_writers_and_another_compaction_loses_nothing(lake):
    for n in range(11, 21):
        lake.append("raw", raw(n, n, source="before"), source="before", position=n)
    context = server()
    jobs = [context.Process(target=_append_many, args=(lake.uri, f"s{i}")) for i in range(2)]
    jobs += [context.Process(target=_compact_many, args=(lake.uri,)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
    lake.compact("raw")
    rows = lake.read("raw", columns=["source", "frame"]).to_pylist()
    landed = [("before", n) for n in range(11, 21)] + [(f"s{i}", n) for i in range(2) for n in range(1, 11)]
    assert [(r["source"], r["frame"]) for r in rows] == landed
    assert len(lake.files("raw")) == 1


def test_a_compaction_that_another_one_overtook_merges_nothing(lake, monkeypatch):
    """delta-rs lets both commit, which doubles every row."""
    for n in range(1, 6):
        lake.append("raw", raw(n, n))
    properties, overtaken = lake_module._properties, []

    def meanwhile(table):
        if not overtaken:
            overtaken.append(True)
            Lake(lake.uri).compact("raw")
        return properties(table)

    monkeypatch.setattr("market.lake.lake._properties", meanwhile)
    lake.compact("raw")
    assert overtaken
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == [1, 2, 3, 4, 5]
    assert len(lake.files("raw")) == 1


def test_an_append_overtaken_by_a_delete_is_retried(lake, monkeypatch):
    lake.append("raw", raw(1, 5))
    properties, overtaken = lake_module._properties, []

    def meanwhile(table):
        if not overtaken:
            overtaken.append(True)
            Lake(lake.uri).delete("raw", {"frame": 1})
        return properties(table)

    monkeypatch.setattr("market.lake.lake._properties", meanwhile)
    lake.append("raw", raw(6, 7), source="s", position=7, after=0)
    assert overtaken
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == [2, 3, 4, 5, 6, 7]


def test_a_position_advanced_by_another_process_is_detected_and_nothing_is_written(lake):
    lake.append("raw", raw(1, 5), source="s", position=5, after=0)
    with pytest.raises(LakeError, match="another process lands s too; nothing of this commit was written"):
        lake.append("raw", raw(1, 7), source="s", position=7, after=0)
    lake.append("raw", raw(6, 7), source="s", position=7, after=5)
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == list(range(1, 8))


def test_a_file_of_several_sources_rewritten_by_a_delete_is_read_by_source(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for i, source in enumerate(("live-a", "live-b", "live-c")):
        land(lake, Market(source=source, seconds=100, frames=4, seed=i))
    whole = {source: lake.read("ticks", where={"source": source}) for source in ("live-a", "live-b", "live-c")}
    lake.compact("ticks")
    lake.delete("ticks", {"source": "live-c"})
    del whole["live-c"]
    for source, rows in whole.items():
        assert lake.read("ticks", where={"source": source}).equals(rows)
        assert lake.read("ticks", where={"source": [source], "batch": rows["batch"].to_pylist()[:1]}).num_rows
