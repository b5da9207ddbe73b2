"""Best prices only: one side a row (US), no sizes (Sao Paulo), three levels (Singapore); and where they are kept."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter

import pytest
from kit.captured import capture, manifest_rows, read

from market.books.price_book import CROSSED, EMPTY, LOCKED, Book
from market.errors import FrameError
from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_NO_EXCH_TIME, F_NO_SIZE, F_SNAPSHOT, TRADE
from market.instruments import find
from market.venues import b3, nbbo, sgx
from market.venues.formats.archives import lines

IBM, PETR4, CN = find("us-nbbo.IBM"), find("b3.PETR4"), find("sgx.CN")
NO_TIME = F_NO_EXCH_TIME | F_NO_SIZE
HEADER = b"symbol,rpt_seq,network_received_time,event_type,md_entry_px,md_entry_size,aggressor,en_s_px_1,en_b_px_1"
BOOK_ROW = b"PETR4,%d,2025-03-0%d 15:30:00.072423823+00:00,book,,,,%s,%s"
TRADE_ROW = b"PETR4,5841,2025-03-05 16:08:21+00:00,trade,35.02,13600.0,%s,35.4,35.93"
BLOCK = (
    b"TimeStamp,2014-01-09D04:21:26.224430600\n"
    b"667500.0,1.0,683000.0,2.0\n660000.0,100.0,684500.0,2.0\n640000.0,9.0,686000.0,2.0"
)


def rows_of(venue, instrument, *payloads):
    parser = venue.Parser(instrument)
    names = ["kind", "side", "price", "size", "flags"]
    parts = []
    for frame, payload in enumerate(payloads, 1):
        recv_ns = venue.received(payload) if hasattr(venue, "received") else 5
        parts.append(parser.parse(payload, recv_ns, frame).events[names].tolist())
    return parts


def test_one_side_a_row_carries_the_other_forward():
    assert rows_of(
        nbbo,
        IBM,
        b"14400554,1384000,700,0,0,P,1,0",
        b"14400554,0,0,1395000,20000,P,1,0",
        b"14404498,1385000,100,0,0,P,1,0",
        b"14404499,1385000,100,0,0,P,1,0",
    ) == [
        [(CLEAR, 0, 0, 0, F_SNAPSHOT), (DEPTH, BID, 1384000, 700, F_SNAPSHOT | F_LAST)],
        [(DEPTH, ASK, 1395000, 20000, F_LAST)],
        [(DEPTH, BID, 1385000, 100, 0), (DEPTH, BID, 1384000, 0, F_LAST)],
        [],
    ]


def test_a_trade_of_the_tape_has_no_aggressor():
    assert rows_of(nbbo, IBM, b"14404499,1395050,500,P,20002020,0") == [[(TRADE, 0, 1395050, 500, F_LAST)]]


def test_prices_without_sizes_say_so():
    assert rows_of(
        b3,
        PETR4,
        BOOK_ROW % (1, 5, b"34.81", b"34.800000000000004"),
        BOOK_ROW % (2, 5, b"34.81", b"34.81"),
        TRADE_ROW % b"4.0",
        TRADE_ROW % b"2.0",
        BOOK_ROW % (1, 6, b"34.81", b"34.81"),
    ) == [
        [
            (CLEAR, 0, 0, 0, F_SNAPSHOT | NO_TIME),
            (DEPTH, BID, 3480, 1, F_SNAPSHOT | NO_TIME),
            (DEPTH, ASK, 3481, 1, F_SNAPSHOT | NO_TIME | F_LAST),
        ],
        [(DEPTH, BID, 3481, 1, NO_TIME), (DEPTH, BID, 3480, 0, NO_TIME | F_LAST)],
        [(TRADE, BID, 3502, 13600, F_NO_EXCH_TIME | F_LAST)],
        [(TRADE, 0, 3502, 13600, F_NO_EXCH_TIME | F_LAST)],
        [
            (CLEAR, 0, 0, 0, F_SNAPSHOT | NO_TIME),
            (DEPTH, BID, 3481, 1, F_SNAPSHOT | NO_TIME),
            (DEPTH, ASK, 3481, 1, F_SNAPSHOT | NO_TIME | F_LAST),
        ],
    ]


def test_a_block_of_three_levels_is_told_as_changes():
    first, second = rows_of(sgx, CN, BLOCK, BLOCK.replace(b"683000.0,2.0", b"682500.0,3.0"))
    assert len(first) == 7
    assert second == [(DEPTH, ASK, 1365, 3, 0), (DEPTH, ASK, 1366, 0, F_LAST)]
    assert sgx.received(BLOCK) == 1389241286_224430600


@pytest.mark.parametrize(
    ("venue", "instrument", "payload", "reason"),
    [
        (nbbo, IBM, b"1,2,3", "wrong_columns"),
        (nbbo, IBM, b"14400554,1384000,700,0,0,P,1,1", "suspicious"),
        (nbbo, IBM, b"14400554,1384000,700,1395000,5,P,1,0", "both_sides"),
        (nbbo, IBM, b"14400554,0,0,0,0,P,1,0", "both_sides"),
        (nbbo, IBM, b"14400554,1384000,0,0,0,P,1,0", "zero_size"),
        (nbbo, IBM, b"14404499,1395050,500.5,P,20002020,0", "off_lot"),
        (nbbo, IBM, b"14404499,x,500,P,20002020,0", "bad_number"),
        (nbbo, IBM, b"14404499,-5,500,P,20002020,0", "negative"),
        (b3, PETR4, b"", "wrong_columns"),
        (b3, find("b3.VALE3"), BOOK_ROW % (1, 5, b"34.81", b"34.8"), "wrong_symbol"),
        (b3, PETR4, (BOOK_ROW % (1, 5, b"34.81", b"34.8")).replace(b"book", b"halt"), "unknown_frame"),
        (b3, PETR4, TRADE_ROW % b"1.0", "bad_side"),
        (b3, PETR4, BOOK_ROW % (1, 5, b"34.815", b"34.8"), "off_tick"),
        (b3, PETR4, BOOK_ROW % (1, 5, b"", b"34.8"), "bad_number"),
        (b3, PETR4, BOOK_ROW % (1, 5, b"0.0", b"34.8"), "out_of_range"),
        (sgx, CN, BLOCK.replace(b"D04", b"T04"), "bad_time"),
        (sgx, CN, BLOCK[:-30], "bad_levels"),
        (sgx, CN, BLOCK.replace(b",9.0,", b",9.0,5,"), "wrong_columns"),
        (sgx, CN, BLOCK.replace(b"683000.0", b"683100.0"), "off_tick"),
        (sgx, CN, BLOCK.replace(b",9.0,", b",0.0,"), "zero_size"),
        (sgx, CN, BLOCK.replace(b",9.0,", b",nan,"), "bad_number"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(venue, instrument, payload, reason):
    with pytest.raises(FrameError) as error:
        venue.Parser(instrument).parse(payload, 5, 1)
    assert error.value.reason == reason


def test_a_days_ticks_are_recognised_and_dated_by_what_is_packed(tmp_path):
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("20131007_ibm_Quote_Tick.csv", "14400554,1384000,700,0,0,P,1,0\n")
    assert nbbo.recognise(path) == IBM.key
    assert [frame[1] for frame in nbbo.frames(path)] == [1381118400 * 10**9 + 14400_554 * 10**6]


def test_several_stocks_and_days_come_one_after_the_other(tmp_path):
    path = tmp_path / "x"
    with tarfile.open(path, "w") as archive:
        for name, rows in {
            "a_06.csv": [BOOK_ROW % (1, 6, b"1", b"1")],
            "b_05.csv": [BOOK_ROW % (2, 5, b"1", b"1")],
            "c.csv": [(BOOK_ROW % (3, 5, b"1", b"1")).replace(b"PETR4", b"VALE3")],
        }.items():
            data = b"\n".join([HEADER, *rows])
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert b3.symbols(path) == ["PETR4", "VALE3"]
    assert b3.recognise(path) == "b3.*"
    assert [row.split(b",")[1] for _, _, row in b3.frames(path, "PETR4")] == [b"2", b"1"]
    assert [row.split(b",")[1] for _, _, row in b3.frames(path)] == [b"2", b"1", b"3"]


# rows in regular trading hours whose market is crossed and locked, and those that the vendor marked
DAYS = {
    "us_nbbo_ticks/ibm_20131007_quote.zip": (86, 648, 1),
    "us_nbbo_ticks/ibm_20131008_quote.zip": (79, 1_037, 1),
    "us_nbbo_ticks/ibm_20131009_quote.zip": (107, 586, 0),
    "us_nbbo_ticks/bac_20131007_quote.zip": (0, 8_472, 0),
}


@pytest.mark.parametrize("name", DAYS)
def test_a_day_of_quotes_is_crossed_and_locked_as_often_as_it_was(name):
    crossed, locked, suspicious = DAYS[name]
    path = capture(name)
    day = read(nbbo, path, find(nbbo.recognise(path)))
    assert day.rows == manifest_rows(name)
    assert day.rejected == Counter({"suspicious": suspicious} if suspicious else {})
    assert day.clock_back == 0
    opened = nbbo.midnight_ns(nbbo.day_in(path.name), nbbo.ZONE) + 9 * 3600 * 10**9 + 1800 * 10**9
    book, seen = Book(), Counter()
    good = iter(day.parts)
    for at in day.times[: len(day.parts)]:
        book.apply_batch(next(good))
        if opened <= at < opened + 6 * 3600 * 10**9 + 1800 * 10**9:
            seen[book.status] += 1
    assert (seen[CROSSED], seen[LOCKED], seen[EMPTY]) == (crossed, locked, 0)


@pytest.mark.parametrize(
    "name",
    [
        f"us_nbbo_ticks/{s}_2013100{d}_{what}.zip"
        for s in ("bac", "ibm")
        for d in (7, 8, 9)
        for what in ("quote", "trade")
    ],
)
def test_every_row_of_the_tape_is_there(name):
    path = capture(name)
    assert sum(1 for _ in lines(path)) == manifest_rows(name)
    assert nbbo.recognise(path) == f"us-nbbo.{name.split('/')[1][:3].upper()}"


def test_trades_of_the_tape_are_all_read():
    name = "us_nbbo_ticks/ibm_20131007_trade.zip"
    trades = read(nbbo, capture(name), IBM)
    assert (trades.rows, trades.rejected, len(trades.events)) == (manifest_rows(name), {}, 24_293)


def test_the_days_of_petr4_and_vale3_are_all_read():
    name = "b3_l1/petr4_vale3_2025.tar.xz"
    path = capture(name)
    assert b3.recognise(path) == "b3.*"
    rows = Counter()
    for symbol in b3.symbols(path):
        parser = b3.Parser(find(f"b3.{symbol}"))
        rows.update(parser.parse(row, recv_ns, frame).kind for frame, recv_ns, row in b3.frames(path, symbol))
    assert rows == {"trade": 126_232, "diff": 13_302}
    assert rows.total() == manifest_rows(name) == 139_534


def test_the_day_of_the_a50_is_locked_69_times_and_crossed_once():
    name = "sgx_a50_l3levels/order_book_3_2014_1_9.csv.xz"
    path = capture(name)
    assert sgx.recognise(path) == CN.key
    day = read(sgx, path, CN)
    assert f"{day.rows} snapshots" == manifest_rows(name)
    assert day.rejected == {}
    assert sum(a == b for a, b in zip(day.times, day.times[1:], strict=False)) == 1_027
    book, seen = Book(), Counter()
    for part in day.parts:
        book.apply_batch(part)
        seen[book.status] += 1
    assert seen == {0: 26_735, LOCKED: 69, CROSSED: 1}
