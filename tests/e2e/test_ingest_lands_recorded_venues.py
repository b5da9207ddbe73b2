"""Hand-made recordings of other venues through the ingest stage: recognised, landed, and what a book refuses kept."""

from __future__ import annotations

import pytest

from market.book import Book
from market.clock import ManualClock
from market.lake import Lake, events_of
from market.venues.registry import VENUES
from pipelines.ingest import IngestConfig, ingest
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


@pytest.mark.parametrize("venue", VENUES, ids=lambda venue: venue.name)
def test_a_file_of_another_kind_is_recognised_by_nobody(venue, tmp_path):
    path = tmp_path / "notes.txt"
    for content in (b"dear diary\n" * 20, bytes(range(256)) * 4, b"{}\n" * 5):
        path.write_bytes(content)
        assert venue.recognise(path) is None
