"""Bitstamp's orders in both forms, hand-made; and the recordings of 2015 and 2026 where they are kept."""

from __future__ import annotations

import pytest
from kit.captured import capture, manifest_rows, read, refused

from market.errors import FrameError
from market.events import ADD, ASK, BID, CHANGE, CLEAR, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT, REMOVE, TRADE
from market.instruments import find
from market.venues import bitstamp

BTC = find("bitstamp.BTCUSD")
LOG = b'1430438404518 order_%s {"price": "%s", "amount": "%s", "datetime": "1430438404", "id": 7, "order_type": %d}'
ORDER_HEADER = b"id,timestamp,exchange_timestamp,price,volume,action,direction"
TRADE_HEADER = b"trade_id,timestamp,exchange_timestamp,price,amount,buy_order_id,sell_order_id,side"
NO_EXCH = F_NO_EXCH_TIME | F_LAST


def rows_of(*payloads, parser=None):
    parser = parser or bitstamp.Parser(BTC)
    out = []
    for frame, payload in enumerate(payloads, 1):
        parsed = parser.parse(payload, bitstamp.received(payload), frame)
        out += parsed.events[["kind", "side", "price", "size", "order_id", "flags"]].tolist()
    return out


def test_orders_of_the_log_are_added_changed_and_removed():
    assert rows_of(
        LOG % (b"created", b"236.47", b"2.00000000", 0),
        LOG % (b"changed", b"236.47", b"1.78855669", 0),
        LOG % (b"deleted", b"236.47", b"0.00000000", 1),
    ) == [
        (ADD, BID, 23647, 200000000, 7, F_LAST),
        (CHANGE, BID, 23647, 178855669, 7, NO_EXCH),
        (REMOVE, ASK, 23647, 0, 7, NO_EXCH),
    ]


def test_only_a_creation_has_an_exchange_time_and_it_is_in_seconds():
    created, deleted = (
        bitstamp.Parser(BTC).parse(LOG % (what, b"1.00", b"1", 0), 5, 1).events[0] for what in (b"created", b"deleted")
    )
    assert (created["exch_ns"], created["recv_ns"]) == (1430438404 * 10**9, 5)
    assert deleted["exch_ns"] == 0


def test_a_trade_of_the_log_is_read_back_from_doubles():
    assert rows_of(b'1430438404645 trade {"price": 236.61000000000001, "amount": 9.9999999999999995e-07, "id": 9}') == [
        (TRADE, 0, 23661, 100, 0, NO_EXCH)
    ]


def test_a_view_of_the_book_gives_no_event():
    assert rows_of(b'1430438405885 order_book {"bids": [["236.47", "1.7"]], "asks": []}') == []


def test_rows_begin_with_the_recorders_snapshot_and_end_with_its_deletions():
    assert rows_of(
        b"1,1777689383201,1777689380521,78318.0,7.18e-06,created,bid",
        b"2,1777689383201,1777689380521,78319.0,1.5,created,ask",
        b"3,1777689381332,1777689381262,78318.0,0.075,created,bid",
        b"3,1777689381333,1777689381262,78319.0,0.07,changed,bid",
        b"2,1777689381334,1777689381262,78319.0,0.0,deleted,ask",
        b"1,1777691180507,1777691180507,78318.0,7.18e-06,deleted,bid",
    ) == [
        (CLEAR, 0, 0, 0, 0, F_SNAPSHOT),
        (ADD, BID, 7831800, 718, 1, F_SNAPSHOT),
        (ADD, ASK, 7831900, 150000000, 2, F_SNAPSHOT),
        (ADD, BID, 7831800, 7500000, 3, F_LAST),
        (CHANGE, BID, 0, 7000000, 3, F_LAST),
        (REMOVE, ASK, 7831900, 0, 2, F_LAST),
    ]


def test_a_trade_row_names_the_resting_order():
    row = b"568694537,1777689383889,1777689383817,78319.0,0.121,11,22,%s"
    assert rows_of(row % b"buy") == [(TRADE, BID, 7831900, 12100000, 22, F_LAST)]
    assert rows_of(row % b"sell") == [(TRADE, ASK, 7831900, 12100000, 11, F_LAST)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "wrong_columns"),
        (b"\xff\xff", "not_text"),
        (b"1430438404518 order_eaten {}", "unknown_frame"),
        (b"1430438404518 order_created {", "not_text"),
        (b"1430438404518 order_created {}", "missing_field"),
        ((LOG % (b"created", b"1.00", b"1", 0)).replace(b'"id": 7', b'"id": "7"'), "wrong_type"),
        ((LOG % (b"created", b"1.00", b"1", 0)).replace(b'"id": 7', b'"id": -7'), "out_of_range"),
        (LOG % (b"created", b"1.00", b"1", 2), "wrong_type"),
        (LOG % (b"created", b"1.005", b"1", 0), "off_tick"),
        (LOG % (b"created", b"1.00", b"0.000000001", 0), "off_lot"),
        (LOG % (b"created", b"0", b"1", 0), "out_of_range"),
        (LOG % (b"created", b"1", b"0", 0), "zero_size"),
        (LOG % (b"created", b"-1", b"1", 0), "negative"),
        (b'1430438404645 trade {"price": 236.615, "amount": 1.0, "id": 9}', "off_tick"),
        (b'1430438405885 order_book {"bids": [["x", "1"]], "asks": []}', "bad_number"),
        (b"1,1777689383201,1777689380521,78318.0,1.5,eaten,bid", "unknown_frame"),
        (b"1,1777689383201,1777689380521,78318.0,1.5,created,up", "bad_side"),
        (b"1,1777689383201,1777689380521,78318.0,nan,created,bid", "bad_number"),
        (b"1,1777689383201,1777689380521,78318.0,1e400,created,bid", "bad_number"),
        (b"1,1777689383201,1777689380521,78318.005,1.5,created,bid", "off_tick"),
        (b"1,1777689383201,1777689380521,1e30,1.5,created,bid", "out_of_range"),
        (b"1,1777689383201,-5,78318.0,1.5,created,bid", "bad_time"),
        (b"9" * 30 + b",1777689383201,1777689380521,78318.0,1.5,created,bid", "out_of_range"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        bitstamp.Parser(BTC).parse(payload, 5, 1)
    assert error.value.reason == reason


def test_recordings_are_recognised_by_their_first_row(tmp_path):
    for text in (ORDER_HEADER, TRADE_HEADER, LOG % (b"created", b"1", b"1", 0)):
        path = tmp_path / "x"
        path.write_bytes(text + b"\n")
        assert bitstamp.recognise(path) == BTC.key
    path.write_bytes(b"1430438404518 something else\n")
    assert bitstamp.recognise(path) is None


def test_a_row_without_a_readable_time_is_still_a_frame(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(ORDER_HEADER + b"\n1,x,5,1.0,1.0,created,bid\n\n1,7,5,1.0,1.0,created,bid\n")
    assert [frame[:2] for frame in bitstamp.frames(path)] == [(1, -1), (2, 7_000_000)]


@pytest.mark.parametrize("name", ["2015-05-01.log.bz2", "2026-05-02/orders.csv.gz"])
def test_the_first_rows_of_a_recording_are_all_read(name):
    begun = read(bitstamp, capture(f"bitstamp_l3/{name}"), BTC, most=20_000)
    assert begun.rows == 20_000
    assert set(begun.rejected) <= {"out_of_range", "zero_size"}
    book, why = refused(begun.events)
    assert set(why) <= {"unknown_order"}
    assert len(book) > 0


@pytest.mark.soak
def test_the_day_of_2015_has_559_events_of_orders_never_created():
    name = "bitstamp_l3/2015-05-01.log.bz2"
    path = capture(name)
    assert bitstamp.recognise(path) == BTC.key
    day = read(bitstamp, path, BTC)
    assert day.rows == manifest_rows(name) == 276_767
    assert day.rejected == {}
    assert day.kinds == {"diff": 242_524, "trade": 4_251, "other": 29_992}
    book, why = refused(day.events)
    assert why == {"unknown_order": 559}
    assert len(book) == 439


@pytest.mark.soak
def test_the_half_hour_of_2026_begins_with_a_snapshot_and_its_clock_runs_back_once():
    name = "bitstamp_l3/2026-05-02/orders.csv.gz"
    session = read(bitstamp, capture(name), BTC)
    assert session.rows == manifest_rows(name) == 314_057
    assert session.rejected == {"out_of_range": 49, "zero_size": 3}  # bids at a price of zero, market orders
    assert session.clock_back == 1
    book, why = refused(session.events)
    assert why == {"unknown_order": 28}
    assert len(book) == 6_496


def test_the_trades_of_2026_are_all_read():
    name = "bitstamp_l3/2026-05-02/trades.csv"
    trades = read(bitstamp, capture(name), BTC)
    assert (trades.rows, len(trades.events)) == (manifest_rows(name), 284)
    assert set(trades.events["kind"]) == {TRADE}
