"""Tables of five levels (CME, Shanghai's futures), hand-made; and whole days of them where they are kept."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.captured import capture, manifest_rows, read

from market.books.price_book import EMPTY, LOCKED, Book
from market.errors import CaptureError, FrameError
from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_SNAPSHOT, TRADE
from market.instruments import find
from market.venues import cme_levels, shfe_levels
from market.venues.formats import parquet

GC, RB = find("cme.GCM3"), find("shfe.rb2510")
AT = 1_682_899_200_132_000_000
EVENING = 1_749_041_940_518_402_000  # 2025-06-04 20:59:00 in Shanghai
NAMES = ["kind", "side", "price", "size", "flags"]


def quotes(bids, asks, at=AT):
    row = {"transact_time": at}
    for name, levels in (("bid", bids), ("offer", asks)):
        for i in range(5):
            price, quantity = levels[i] if i < len(levels) else (None, None)
            row |= {f"{name}_price_{i}": price, f"{name}_quantity_{i}": quantity}
    return row


def trade(side="O", price=1995.6000000000001, quantity=1.0):
    return {"side": side, "price": price, "quantity": quantity, "transact_time": AT, "market_trade_id": "012d"}


def session(bid, ask, updated="20:59:00.500"):
    row = {"instrumentID": "rb2510", "epochTime": EVENING // 1000, "updateTime": updated}
    for i in range(1, 6):
        row |= {f"bid{i}": bid - i + 1, f"ask{i}": ask + i - 1, f"bidSize{i}": 7.0, f"askSize{i}": 8.0}
    return row


def parts_of(parser, *rows, at=None):
    times = at or [AT] * len(rows)
    return [
        parser.parse(parquet.payload_of(row), recv_ns, frame).events[NAMES].tolist()
        for frame, (row, recv_ns) in enumerate(zip(rows, times, strict=True), 1)
    ]


def test_five_levels_are_told_as_changes_and_an_empty_one_is_removed():
    full = [(1995.7, 2.0), (1995.6000000000001, 10.0)]
    first, second, third, fourth = parts_of(
        cme_levels.Parser(GC),
        quotes(full, [(1995.8000000000002, 6.0)]),
        quotes(full, [(1995.7, 6.0)]),
        quotes(full, [(1995.7, 6.0)]),
        quotes([], []),
    )
    assert first == [
        (CLEAR, 0, 0, 0, F_SNAPSHOT),
        (DEPTH, BID, 19957, 2, F_SNAPSHOT),
        (DEPTH, BID, 19956, 10, F_SNAPSHOT),
        (DEPTH, ASK, 19958, 6, F_SNAPSHOT | F_LAST),
    ]
    assert second == [(DEPTH, ASK, 19957, 6, 0), (DEPTH, ASK, 19958, 0, F_LAST)]
    assert third == []
    assert [row[2:] for row in fourth] == [(19957, 0, 0), (19956, 0, 0), (19957, 0, F_LAST)]


def test_a_trade_hits_the_side_it_names():
    assert parts_of(cme_levels.Parser(GC), trade("O"), trade("B")) == [
        [(TRADE, BID, 19956, 1, F_LAST)],
        [(TRADE, ASK, 19956, 1, F_LAST)],
    ]


def test_a_session_begins_anew_after_a_break():
    parser = shfe_levels.Parser(RB)
    rows = [session(2974.0, 2975.0), session(2974.0, 2975.0), session(2974.0, 2975.0)]
    parts = parts_of(parser, *rows, at=[EVENING, EVENING + 5 * 10**8, EVENING + 7200 * 10**9])
    assert [len(part) for part in parts] == [11, 0, 11]


@pytest.mark.parametrize(
    ("text", "offset_ms"), [("20:59:00.500", 18.402), ("20:59:01.0", -481.598), ("20:58:59.100", 1418.402)]
)
def test_the_exchanges_time_of_day_is_on_the_nearest_day(text, offset_ms):
    parsed = shfe_levels.Parser(RB).parse(parquet.payload_of(session(2974.0, 2975.0, text)), EVENING, 1)
    assert parsed.exch_ns == EVENING - round(offset_ms * 1e6)


@pytest.mark.parametrize("midnight", [1_749_052_800 * 10**9])
def test_a_minute_around_midnight_is_on_the_right_side_of_it(midnight):
    row = parquet.payload_of(session(2974.0, 2975.0, "23:59:59.900"))
    assert shfe_levels.Parser(RB).parse(row, midnight + 10**8, 1).exch_ns == midnight - 10**8


def changed(row, **fields):
    return parquet.payload_of({**row, **fields})


GOOD = quotes([(1995.7, 2.0)], [(1995.8, 6.0)])


@pytest.mark.parametrize(
    ("venue", "instrument", "payload", "reason"),
    [
        (cme_levels, GC, b"[1]", "not_text"),
        (cme_levels, GC, b"{", "not_text"),
        (cme_levels, GC, b"{}", "missing_field"),
        (cme_levels, GC, changed(GOOD, transact_time="x"), "wrong_type"),
        (cme_levels, GC, changed(GOOD, bid_price_1=1995.6), "bad_levels"),
        (cme_levels, GC, changed(GOOD, bid_price_0="1995.7"), "wrong_type"),
        (cme_levels, GC, changed(GOOD, bid_price_0=1995.75), "off_tick"),
        (cme_levels, GC, changed(GOOD, bid_price_0=1995.7000001), "off_tick"),
        (cme_levels, GC, changed(GOOD, bid_quantity_0=0.5), "off_lot"),
        (cme_levels, GC, changed(GOOD, bid_quantity_0=0.0), "zero_size"),
        (cme_levels, GC, changed(GOOD, bid_price_0=-1.0), "negative"),
        (cme_levels, GC, changed(GOOD, bid_price_0=1e15), "out_of_range"),
        (cme_levels, GC, parquet.payload_of(trade("X")), "bad_side"),
        (cme_levels, GC, parquet.payload_of(trade(price=None)), "missing_field"),
        (shfe_levels, RB, changed(session(2974.0, 2975.0), instrumentID="rb2511"), "wrong_symbol"),
        (shfe_levels, RB, changed(session(2974.0, 2975.0), updateTime="25:00:00.0"), "bad_time"),
        (shfe_levels, RB, changed(session(2974.0, 2975.0), updateTime="20:59:00"), "bad_time"),
        (shfe_levels, RB, changed(session(2974.0, 2975.0), bid1=2974.5), "off_tick"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(venue, instrument, payload, reason):
    with pytest.raises(FrameError) as error:
        venue.Parser(instrument).parse(payload, AT, 1)
    assert error.value.reason == reason


def test_a_table_is_recognised_by_its_columns_and_its_rows_come_back_exactly(tmp_path):
    path = tmp_path / "gc_x.parquet"
    row = quotes([(1995.6000000000001, 2.0)], [])
    table = pa.table({name: [value] for name, value in row.items()})
    times = table.column("transact_time").cast(pa.timestamp("ns"))
    pq.write_table(table.set_column(0, "transact_time", times), path)
    assert cme_levels.recognise(path) == GC.key
    assert shfe_levels.recognise(path) is None
    assert [(f, t, parquet.row_of(p)) for f, t, p in cme_levels.frames(path)] == [(1, AT, row)]
    path.write_bytes(b"something else")
    assert cme_levels.recognise(path) is None
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(CaptureError, match="damaged"):
        cme_levels.recognise(path)


TABLES = {
    "cme_l5/gc_xauusd_28june_quotes_2023-05-01.parquet": (cme_levels, "cme.GCM3", {0: 257_693, LOCKED: 198}, 0, 1),
    "cme_l5/gc_xauusd_28june_trades_2023-05-01.parquet": (cme_levels, "cme.GCM3", {EMPTY: 88_646}, 0, 0),
    "cme_l5/xet_29sept_quotes_2023-08-04.parquet": (cme_levels, "cme.XETU3", {0: 231_345, EMPTY: 1_154}, 0, 1),
    "cme_l5/xet_29sept_trades_2023-08-04.parquet": (cme_levels, "cme.XETU3", {EMPTY: 20}, 0, 0),
    "shfe_rb_l5/rb_20250605.parquet": (shfe_levels, "shfe.rb2510", {0: 41_201}, 1_599, 5),
    "shfe_rb_l5/rb_20250606.parquet": (shfe_levels, "shfe.rb2510", {0: 41_230}, 2_091, 4),
    "shfe_rb_l5/rb_20250609.parquet": (shfe_levels, "shfe.rb2510", {0: 41_273}, 2_829, 5),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_whole_day_is_the_book_it_shows(name):
    """``behind``: events that the local clock dates before the exchange's; ``begun``: snapshots, one a session."""
    venue, key, statuses, behind, begun = TABLES[name]
    path = capture(name)
    assert venue.recognise(path) == key
    day = read(venue, path, find(key))
    assert day.rows == manifest_rows(name)
    assert day.rejected == {}
    assert day.clock_back == 0
    book, seen = Book(), Counter()
    for part in day.parts:
        book.apply_batch(part)
        seen[book.status] += 1
    assert seen == statuses
    assert int((day.events["recv_ns"] < day.events["exch_ns"]).sum()) == behind
    assert int((day.events["kind"] == CLEAR).sum()) == begun
