"""ITCH order messages in CSV, hand-made; and 28 seconds of AAPL where they are kept."""

from __future__ import annotations

import csv
import lzma

import pytest
from kit.captured import capture, manifest_rows, read, refused

from market.books.order_book import OrderBook
from market.errors import FrameError
from market.events import ADD, ASK, BID, CLEAR, DEPTH, EXECUTE, F_LAST, F_SNAPSHOT, REDUCE, REMOVE
from market.instruments import find
from market.venues import itch

AAPL = find("nasdaq.AAPL")
NAME = "nasdaq_itch/AAPL_events_10k_l10.csv.xz"
AT = 34200_000245396


def row(form="A", **changes):
    fields = dict.fromkeys(itch.COLUMNS, "")
    fields |= {"source_message_sequence": "5", "timestamp_ns": str(AT), "message_type": form, "order_id": "7"}
    fields |= {"size": "100", "price": "163.35", "direction": "1", "stock": "AAPL"}
    fields |= {"ask_price_1": "163.4", "ask_size_1": "20.0", "bid_price_1": "163.35", "bid_size_1": "120.0"}
    return ",".join({**fields, **changes}.values()).encode()


def rows_of(*payloads):
    parser = itch.Parser(AAPL)
    parts = [parser.parse(payload, AT, frame).events for frame, payload in enumerate(payloads, 1)]
    return [part[["kind", "side", "price", "size", "order_id", "flags"]].tolist() for part in parts]


def test_the_first_book_is_told_then_orders():
    first, *rest = rows_of(
        row(),
        row("F", order_id="8", direction="-1"),
        row("E", size="40"),
        row("C", size="10", execution_price="163.355"),
        row("X", size="10"),
        row("U", order_id="9", old_order_id="7.0", old_size="40.0", old_price="163.35", price="163.36"),
        row("D", order_id="9"),
    )
    assert first == [
        (CLEAR, 0, 0, 0, 0, F_SNAPSHOT),
        (DEPTH, BID, 1633500, 120, 0, F_SNAPSHOT),
        (DEPTH, ASK, 1634000, 20, 0, F_SNAPSHOT | F_LAST),
    ]
    assert rest == [
        [(ADD, ASK, 1633500, 100, 8, F_LAST)],
        [(EXECUTE, BID, 1633500, 40, 7, F_LAST)],
        [(EXECUTE, BID, 1633550, 10, 7, F_LAST)],
        [(REDUCE, BID, 1633500, 10, 7, F_LAST)],
        [(REMOVE, BID, 1633500, 40, 7, 0), (ADD, BID, 1633600, 100, 9, F_LAST)],
        [(REMOVE, BID, 1633500, 100, 9, F_LAST)],
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "wrong_columns"),
        (row("Z"), "unknown_frame"),
        (row(direction="0"), "bad_side"),
        (row(stock="MSFT"), "wrong_symbol"),
        (row(order_id="x"), "bad_number"),
        (row(price="163.35001"), "off_tick"),
        (row(size="0"), "zero_size"),
        (row(size="1.5"), "off_lot"),
        (row("U", old_order_id=""), "bad_number"),
        (row(bid_price_2="163.3"), "bad_number"),
        (row(bid_price_2="163.3", bid_size_2="0"), "zero_size"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        itch.Parser(AAPL).parse(payload, AT, 1)
    assert error.value.reason == reason


def test_a_file_is_recognised_by_its_header_and_dated_by_its_name(tmp_path):
    path = tmp_path / "AAPL_20220103.csv"
    path.write_bytes(",".join(itch.COLUMNS).encode() + b"\n" + row() + b"\n" + row(timestamp_ns="x") + b"\n")
    assert itch.recognise(path) == AAPL.key
    midnight = 1641186000 * 10**9
    assert [frame[:2] for frame in itch.frames(path)] == [(1, midnight + AT), (2, -1)]
    path.write_bytes(b"a,b\n1,2\n")
    assert itch.recognise(path) is None


def test_the_orders_of_aapl_build_the_book_the_sample_shows():
    path = capture(NAME)
    assert itch.recognise(path) == AAPL.key
    sample = read(itch, path, AAPL)
    assert sample.rows == manifest_rows(NAME) == 10_000
    assert sample.rejected == {}
    assert refused(sample.events)[1] == {"unknown_order": 30}  # rested beyond the ten levels that were shown first
    book = OrderBook()
    with lzma.open(path, "rt") as shown:
        for part, line in zip(sample.parts[:8_387], csv.DictReader(shown), strict=False):
            book.sift(part)
            for name, levels in (("bid", book.bids(3)), ("ask", book.asks(3))):
                expected = [(float(line[f"{name}_price_{n}"]), float(line[f"{name}_size_{n}"])) for n in (1, 2, 3)]
                assert [(price / 10_000, size) for price, size in levels.tolist()] == expected
    # after that the price has fallen to levels whose orders were there before and were never seen
