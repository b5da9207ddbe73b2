"""LOBSTER messages with a deep book, a shallow one and none; and the days of 2012 where they are kept."""

from __future__ import annotations

import lzma

import pytest
from kit.captured import capture, manifest_rows, read, refused, statuses

from market.books.order_book import OrderBook
from market.books.price_book import Book
from market.errors import CaptureError, FrameError
from market.events import ADD, ASK, BID, CLEAR, DEPTH, EVENT, EXECUTE, F_LAST, F_SNAPSHOT, REDUCE, REMOVE, TRADE
from market.instruments import find
from market.venues import lobster

MSFT = find("nasdaq.MSFT")
T0 = 1340236800 * 10**9 + 4 * 3600 * 10**9  # midnight in New York, 2012-06-21
AT = T0 + 34200_017459617
DAY = "2012-06-21_34200000_57600000"


def rows_of(*payloads):
    parser = lobster.Parser(MSFT)
    out = []
    for frame, payload in enumerate(payloads, 1):
        out += parser.parse(payload, AT, frame).events[["kind", "side", "price", "size", "order_id", "flags"]].tolist()
    return out


def test_messages_alone_are_orders():
    assert rows_of(
        b"34200.017459617,1,77,100,308700,1",
        b"34200.017459617,2,77,30,308700,1",
        b"34200.017459617,4,77,20,308700,1",
        b"34200.017459617,3,77,50,308700,1",
        b"34200.017459617,5,0,10,308750,-1",
        b"34200.017459617,6,-1,10,308750,-1".replace(b"-1,10", b"0,10"),
        b"34200.017459617,7,0,0,0,-1",
    ) == [
        (ADD, BID, 308700, 100, 77, F_LAST),
        (REDUCE, BID, 308700, 30, 77, F_LAST),
        (EXECUTE, BID, 308700, 20, 77, F_LAST),
        (REMOVE, BID, 308700, 50, 77, F_LAST),
        (TRADE, BID, 308750, 10, 0, F_LAST),
        (TRADE, 0, 308750, 10, 0, F_LAST),
    ]


def test_a_shallow_book_is_told_as_changes_of_its_levels_after_the_trade():
    assert rows_of(
        b"34200.1,1,7,21,2238100,1\n2239500,100,2238100,21",
        b"34200.2,4,7,21,2238100,1\n2239500,100,2237500,100",
    ) == [
        (CLEAR, 0, 0, 0, 0, F_SNAPSHOT),
        (DEPTH, BID, 2238100, 21, 0, F_SNAPSHOT),
        (DEPTH, ASK, 2239500, 100, 0, F_SNAPSHOT | F_LAST),
        (TRADE, ASK, 2238100, 21, 7, 0),
        (DEPTH, BID, 2237500, 100, 0, 0),
        (DEPTH, BID, 2238100, 0, 0, F_LAST),
    ]


def deep(bid, size):
    levels = [(2239500 + 100 * i, 100, bid - 100 * i, size if i == 0 else 100) for i in range(10)]
    return b",".join(b"%d,%d,%d,%d" % level for level in levels)


def test_a_deep_book_begins_with_the_lots_of_nobody_and_goes_on_with_orders():
    first = b"34200.1,1,7,21,2238100,1\n" + deep(2238100, 121)
    rows = rows_of(first, b"34200.2,3,5,100,2238100,1\n" + deep(2238100, 21))
    assert rows[1] == (DEPTH, BID, 2238100, 121, 0, F_SNAPSHOT)
    assert rows[21:] == [(REMOVE, BID, 2238100, 100, 5, F_LAST)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "wrong_columns"),
        (b"34200.1,1,7,21,2238100", "wrong_columns"),
        (b"34200.1,9,7,21,2238100,1", "unknown_frame"),
        (b"34200.1,1,7,21,2238100,0", "bad_side"),
        (b"86400,1,7,21,2238100,1", "bad_time"),
        (b"x,1,7,21,2238100,1", "bad_number"),
        (b"34200.1,1,7,0,2238100,1", "zero_size"),
        (b"34200.1,1,7,-5,2238100,1", "negative"),
        (b"34200.1,1,7,5,22381.5,1", "bad_number"),
        (b"34200.1,1,7,5,0,1", "out_of_range"),
        (b"34200.1,1,7,5.5,2238100,1", "off_lot"),
        (b"34200.1,1,7,5,2238100,1\n2239500,100,2238100", "bad_levels"),
        (b"34200.1,1,7,5,2238100,1\n2239500,x,2238100,5", "bad_number"),
    ],
)
def test_a_bad_message_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        lobster.Parser(MSFT).parse(payload, AT, 1)
    assert error.value.reason == reason


def test_both_lines_are_one_frame_with_the_day_from_the_name(tmp_path):
    messages = tmp_path / f"MSFT_{DAY}_message_1.csv"
    messages.write_bytes(b"34200.017459617,5,0,1,2238200,-1\n")
    assert lobster.recognise(messages) == MSFT.key
    assert list(lobster.frames(messages)) == [(1, AT, b"34200.017459617,5,0,1,2238200,-1")]
    book = tmp_path / f"MSFT_{DAY}_orderbook_1.csv"
    book.write_bytes(b"2239500,100,2231800,100\n")
    assert [frame[2] for frame in lobster.frames(messages)] == [messages.read_bytes() + b"2239500,100,2231800,100"]
    book.write_bytes(b"2239500,100,2231800,100\n" * 2)
    with pytest.raises(CaptureError, match="not as many lines"):
        list(lobster.frames(messages))


AMZN_MESSAGES = f"lobster/AMZN_{DAY}_message_1.csv.xz"
MSFT_MESSAGES = "lobster/MSFT_2012-06-21_34200000_37800000_message_50.csv.xz"


def test_the_day_of_amzn_is_the_book_it_shows():
    day = read(lobster, capture(AMZN_MESSAGES), find("nasdaq.AMZN"))
    assert day.rows == manifest_rows(AMZN_MESSAGES) == 57_515
    assert day.rejected == {}
    assert sum(a == b for a, b in zip(day.times, day.times[1:], strict=False)) == 4_232
    assert statuses(Book(), day.events) == {0: 57_515}
    assert (day.events["kind"] == TRADE).sum() == 8_974 + 2_445


def test_the_orders_of_msft_build_the_book_that_lobster_shows():
    path = capture(MSFT_MESSAGES)
    session = read(lobster, path, find("nasdaq.MSFT"))
    assert session.rows == manifest_rows(MSFT_MESSAGES) == 1_000
    book = OrderBook()
    with lzma.open(str(path).replace("message", "orderbook")) as shown:
        for part, line in zip(session.parts, shown, strict=True):
            book.apply_batch(part)
            numbers = [int(text) for text in line.split(b",")]
            for side, levels in ((ASK, book.asks(20)), (BID, book.bids(20))):
                at = 0 if side == ASK else 2
                assert levels.ravel().tolist() == [x for i in range(20) for x in numbers[4 * i + at : 4 * i + at + 2]]


def test_the_hour_of_aapl_has_messages_only():
    name = "lobster/AAPL_2012-06-21_34200000_37800000_message_50.csv.xz"
    hour = read(lobster, capture(name), find("nasdaq.AAPL"))
    assert hour.rows == manifest_rows(name) == 91_997
    assert (hour.events["kind"] == TRADE).sum() == 2_201
    book, why = refused(hour.events)
    assert why == {"unknown_order": 84}  # they rested before the first message
    assert len(book) == 380
    assert hour.events.dtype == EVENT
