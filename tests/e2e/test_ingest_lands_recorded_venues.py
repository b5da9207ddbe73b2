"""Hand-made recordings of other venues through the ingest stage: recognised, landed, and what a book refuses kept."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from market.books.price_book import Book
from market.clock import ManualClock
from market.lake.lake import Lake
from market.lake.rows import events_of
from market.venues import deribit
from market.venues.registry import VENUES
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

B3_HEADER = "symbol,rpt_seq,network_received_time,event_type,md_entry_px,md_entry_size,aggressor,en_s_px_1,en_b_px_1"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(home=tmp_path / "home", clock=ManualClock(1))


def landed(workspace, path):
    result = ingest(IngestConfig(files=(str(path),)), workspace=workspace)
    return result.landed, Lake(workspace.lake)


def test_orders_are_landed_as_the_levels_they_make_up_and_an_unknown_one_is_kept(workspace, tmp_path):
    path = tmp_path / "MSFT_2012-06-21_34200000_57600000_message_50.csv"
    path.write_text(
        "34200.1,1,7,100,308700,1\n34200.2,1,8,50,308800,-1\n34200.3,1,9,30,308700,1\n"
        "34200.4,4,7,40,308700,1\n34200.5,3,99,10,308700,1\n34200.6,2,9,5,308700,1\n34200.7,1,7,5,x,1\n"
    )
    (one,), lake = landed(workspace, path)
    assert (one.instrument, one.frames, one.trades) == ("nasdaq.MSFT", 7, 1)
    assert one.quarantined == {"unknown_order": 1, "bad_number": 1}
    assert lake.read("quarantine")["payload"].to_pylist()[0] == b"34200.5,3,99,10,308700,1"
    book = Book()
    book.apply_batch(events_of(lake.read("ticks", instrument=one.instrument)))
    assert (book.bids(9).tolist(), book.asks(9).tolist()) == ([[308700, 85]], [[308800, 50]])


def test_several_stocks_of_a_recording_become_sources_of_their_own(workspace, tmp_path):
    path = tmp_path / "days.csv"
    rows = [
        f"{symbol},{n},2025-03-05 15:30:0{n}+00:00,book,,,,34.8{n},34.8{n - 1}"
        for n in (1, 2)
        for symbol in ("PETR4", "VALE3")
    ]
    path.write_text("\n".join([B3_HEADER, *rows]))
    found, lake = landed(workspace, path)
    assert [(each.instrument, each.frames) for each in found] == [("b3.PETR4", 2), ("b3.VALE3", 2)]
    assert lake.read("raw").num_rows == 4


def test_a_stock_that_comes_late_is_landed_too_and_one_without_any_time_has_no_steps(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("market.feeds.increments._LOOKED_AT", 3)
    path = tmp_path / "days.csv"
    book = "2025-03-05 15:30:0{n}+00:00,book,,,,34.8{n},34.8{n}"
    rows = [f"PETR4,{n},{book.format(n=n)}" for n in range(1, 7)]
    rows += [f"ITUB4,7,{book.format(n=7)}", f"BBAS3,8,never{book.format(n=8)[4:]}"]
    path.write_text("\n".join([B3_HEADER, *rows]))
    found, lake = landed(workspace, path)
    assert [(each.instrument, each.frames, each.tick, each.steps) for each in found] == [
        ("b3.BBAS3", 1, "1", "none"),
        ("b3.ITUB4", 1, "0.01", "inferred"),
        ("b3.PETR4", 6, "0.01", "known"),
    ]
    assert lake.read("instruments")["instrument"].to_pylist() == ["ITUB4"]


def test_recordings_landed_together_have_the_steps_that_all_of_them_need(workspace, tmp_path):
    rows = {"none": ",,", "coarse": "34.8,34.7", "fine": "34.85,34.75"}
    paths = [tmp_path / f"{name}.csv" for name in rows]
    for n, (path, prices) in enumerate(zip(paths, rows.values(), strict=True)):
        path.write_text(f"{B3_HEADER}\nITUB4,{n},2025-03-05 15:30:0{n}+00:00,book,,,,{prices}\n")
    result = ingest(IngestConfig(files=tuple(map(str, paths))), workspace=workspace)
    assert [(each.origin, each.tick, each.quarantined.get("off_tick")) for each in result.landed] == [
        (path.name, "0.01", None) for path in paths
    ]
    assert Lake(workspace.lake).read("instruments")["tick"].to_pylist() == ["0.01"]


def test_frames_without_a_price_settle_no_steps(workspace, tmp_path):
    path = tmp_path / "heartbeats.csv"
    path.write_text(f"{B3_HEADER}\nITUB4,1,2025-03-05 15:30:01+00:00,book,,,,x,y\n")
    [one], lake = landed(workspace, path)
    assert (one.steps, one.events, sum(one.quarantined.values())) == ("none", 0, 1)
    assert lake.read("instruments").num_rows == 0


@pytest.mark.parametrize("given", [("message",), ("orderbook",), ("orderbook", "message")])
def test_the_two_files_of_a_recording_are_one_whichever_is_given(workspace, tmp_path, given):
    names = {what: tmp_path / f"AMZN_2012-06-21_1_2_{what}_1.csv" for what in ("message", "orderbook")}
    names["message"].write_text("34200.1,1,7,100,2230000,1\n34200.2,1,8,50,2240000,-1\n")
    names["orderbook"].write_text("2250000,10,2230000,100\n2240000,50,2230000,100\n")
    result = ingest(IngestConfig(files=tuple(str(names[what]) for what in given)), workspace=workspace)
    [one] = result.landed
    assert (one.origin, one.rows, one.events) == (names["message"].name, 2, 5)


def test_an_archive_whose_files_belong_together_is_unpacked_before_it_is_read(workspace, tmp_path):
    files = {
        "l2update_15min_1.csv": "side,price,size,time\nbuy,99.5,2,2018-04-24T03:52:17.202Z\n",
        "snapshot_asks.csv": "side,price,size\nsell,101.0,1\n",
        "snapshot_bids.csv": "side,price,size\nbuy,99.0,1\n",
    }
    path = tmp_path / "hour.tar"
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            archive.add(tmp_path / name, arcname=name)
    [one], lake = landed(workspace, path)
    assert (one.instrument, one.rows, one.frames, one.synced, one.quarantined) == ("coinbase.BTC-USD", 3, 2, True, {})
    book = Book()
    book.apply_batch(events_of(lake.read("ticks")))
    assert (book.bids(9)[:, 0].tolist(), book.asks(9)[:, 0].tolist()) == ([9950, 9900], [10100])


def test_options_are_landed_by_currency_in_a_table_of_their_own(workspace, tmp_path):
    path = tmp_path / "options.csv"
    rows = [",".join(option(currency, name)) for currency, name in (("BTC", "a"), ("ETH", "b"), ("BTC", "c"))]
    path.write_text("\n".join([",".join(deribit.COLUMNS), *rows, rows[0].replace("call", "neither")]))
    found, lake = landed(workspace, path)
    counted = [(each.instrument, each.options, each.quarantined) for each in found]
    assert counted == [("deribit.BTC", 2, {"bad_side": 1}), ("deribit.ETH", 1, {})]
    read = lake.read("options", instrument="deribit.BTC", columns=["frame", "option", "strike_e8"])
    assert read.to_pylist() == [{"frame": n, "option": name, "strike_e8": 10**10} for n, name in ((1, "a"), (3, "c"))]
    versions = [lake.version(table) for table in ("raw", "options", "ticks")]
    again, _ = landed(workspace, path)
    assert [each.new_frames for each in again] == [0, 0]
    assert [lake.version(table) for table in ("raw", "options", "ticks")] == versions


def option(currency, name):
    fields = dict.fromkeys(deribit.COLUMNS, "0.5")
    fields |= {"timestamp": "2025-12-30T17:31:15+00:00", "expiry_datetime": "2026-01-16T08:00:00+00:00"}
    fields |= {"instrument_name": name, "option_type": "call", "strike": "100", "currency": currency}
    return fields.values()


def test_columns_of_the_benchmark_are_landed_without_a_time(workspace, tmp_path):
    path = tmp_path / "Test_Dst_NoAuction_DecPre_CF_0.txt"
    rows = [[0.26 + 0.01 * (level + 1), 0.005, 0.26 - 0.01 * level, 0.5] for level in range(10)]
    values = np.repeat(np.concatenate(rows)[:, None], 3, axis=1)
    np.savetxt(path, np.concatenate([values, np.ones((109, 3))]), fmt="%.7e", delimiter="   ")
    [one], lake = landed(workspace, path)
    assert (one.venue, one.instrument, one.tick, one.lot) == ("fi2010", "fi2010.STOCKS", "0.01", "0.001")
    assert (one.frames, one.events, one.crossed, one.first_ns, one.last_ns) == (3, 21, 0, 0, 0)
    assert lake.read("ticks")["date"].unique().to_pylist() == ["1970-01-01"]


@pytest.mark.parametrize("venue", VENUES, ids=lambda venue: venue.name)
def test_a_file_of_another_kind_is_recognised_by_nobody(venue, tmp_path):
    path = tmp_path / "notes.txt"
    for content in (b"dear diary\n" * 20, bytes(range(256)) * 4, b"{}\n" * 5):
        path.write_bytes(content)
        assert venue.recognise(path) is None
