"""One frame of each kind and market, and one of each way to be wrong."""

from __future__ import annotations

import json

import pytest
from kit.wire_frames import COINM, SPOT, USDM, bytes_of, depth, mark_price, snapshot, ticker, trade

from market.errors import FrameError
from market.events import ASK, BID, CLEAR, DEPTH, EVENT, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT, TICKER, TRADE
from market.venues.binance import parse

RECV = 1_723_161_240_123_456_789
EXCH = 1_723_161_240_000 * 1_000_000


def read(frame, on=USDM):
    return parse(frame if isinstance(frame, bytes) else bytes_of(frame), on, RECV, 7)


def rows(events, *names):
    return [tuple(int(event[name]) for name in names) for event in events]


def test_the_event_record_is_eight_words_in_the_order_the_parser_writes():
    offsets = {name: EVENT.fields[name][1] for name in EVENT.names}
    assert EVENT.itemsize == 64
    assert [offsets[n] for n in ("exch_ns", "recv_ns", "seq", "frame", "order_id", "price", "size")] == list(
        range(0, 56, 8)
    )
    assert [offsets[n] for n in ("kind", "side", "flags", "instrument")] == [56, 57, 58, 60]


@pytest.mark.parametrize("on", [SPOT, USDM, COINM], ids=lambda i: i.key)
def test_a_diff_gives_an_event_a_level_and_the_last_one_ends_the_batch(on):
    whole = on is COINM
    sizes = ("12", "0") if whole else ("1.50000000", "0.000")
    parsed = read(depth(5, 9, previous=4, bids=[("60000.10", sizes[0])], asks=[("60000.2", sizes[1])], on=on), on)
    assert (parsed.kind, parsed.first, parsed.last) == ("diff", 5, 9)
    assert parsed.previous == (0 if on is SPOT else 4)
    lots = 12 if whole else int(1.5 / float(on.lot))
    ticks = [round(p / float(on.tick)) for p in (60000.1, 60000.2)]
    assert rows(parsed.events, "kind", "side", "price", "size", "flags") == [
        (DEPTH, BID, ticks[0], lots, 0),
        (DEPTH, ASK, ticks[1], 0, F_LAST),
    ]
    assert (
        rows(parsed.events, "exch_ns", "recv_ns", "seq", "frame", "order_id", "instrument")
        == [(EXCH, RECV, 9, 7, 0, 0)] * 2
    )


def test_a_diff_without_levels_still_carries_its_ids():
    parsed = read(depth(5, 9, previous=4))
    assert len(parsed.events) == 0
    assert (parsed.first, parsed.last, parsed.previous) == (5, 9, 4)


def test_a_ticker_gives_bid_and_ask_and_on_spot_no_exchange_time():
    parsed = read(ticker(9, ("60000.1", "2"), ("60000.2", "3.001")))
    assert rows(parsed.events, "kind", "side", "price", "size", "flags", "seq") == [
        (TICKER, BID, 600001, 2000, 0, 9),
        (TICKER, ASK, 600002, 3001, F_LAST, 9),
    ]
    spot = read(ticker(9, ("60000.1", "2"), ("60000.2", "3"), on=SPOT), SPOT)
    assert rows(spot.events, "exch_ns", "flags") == [(0, F_NO_EXCH_TIME), (0, F_NO_EXCH_TIME | F_LAST)]


def test_an_empty_side_of_a_ticker_is_a_zero_price_with_a_zero_size():
    assert rows(read(ticker(9, ("0", "0"), ("60000.2", "3"))).events, "price", "size")[0] == (0, 0)
    assert reason_of(ticker(9, ("0", "1"), ("60000.2", "3"))) == "out_of_range"


def test_the_side_of_a_trade_is_the_aggressors():
    sold, bought = read(trade(1, "60000.1", "2", maker_bought=True)), read(trade(2, "60000.1", "2"))
    assert rows(sold.events, "kind", "side", "flags", "seq") == [(TRADE, ASK, F_LAST, 1)]
    assert rows(bought.events, "kind", "side", "flags", "seq") == [(TRADE, BID, F_LAST, 2)]


def test_the_fills_of_one_order_at_one_price_are_one_trade():
    single = trade(7, "60000.1", "2")
    told = changed(single, e="aggTrade", t=..., a=7, f=3, l=4)
    assert read(told).events.tolist() == read(single).events.tolist()


def test_a_trade_of_the_insurance_fund_is_no_event():
    parsed = read(trade(1, "0", "0", X="INSURANCE_FUND"))
    assert (parsed.kind, len(parsed.events)) == ("other", 0)


@pytest.mark.parametrize(
    "more", [{}, {"E": 1_723_161_240_000, "T": 1_723_161_240_000, "symbol": "BTCUSDT", "pair": "BTCUSDT"}]
)
def test_a_snapshot_is_clear_then_levels(more):
    parsed = read(snapshot(100, [("60000.1", "1"), ("60000.0", "2")], [("60000.2", "3")]) | more)
    assert (parsed.kind, parsed.last) == ("snapshot", 100)
    assert rows(parsed.events, "kind", "side", "price", "size") == [
        (CLEAR, 0, 0, 0),
        (DEPTH, BID, 600001, 1000),
        (DEPTH, BID, 600000, 2000),
        (DEPTH, ASK, 600002, 3000),
    ]
    time = 0 if more else F_NO_EXCH_TIME
    assert rows(parsed.events, "flags") == [(F_SNAPSHOT | time,)] * 3 + [(F_SNAPSHOT | F_LAST | time,)]


def test_a_mark_price_is_a_slow_record_with_exact_prices():
    slow = read(mark_price("28155.10000000", "28165.04857143", "-0.00002760")).slow
    assert (slow.mark_e8, slow.index_e8, slow.funding_rate) == (2815510000000, 2816504857143, -0.0000276)
    assert (slow.recv_ns, slow.exch_ns, slow.next_funding_ns, slow.frame) == (RECV, EXCH, EXCH + 10**9, 7)
    assert read(mark_price("1", "1", "")).slow.funding_rate == 0.0


def test_a_single_streams_frame_without_the_wrapper_is_read_too():
    assert read(trade(1, "60000.1", "2")["data"]).kind == "trade"


def test_exchange_times_may_be_in_microseconds():
    assert rows(read(trade(1, "60000.1", "2", at_ms=1_723_161_240_000_123)).events, "exch_ns") == [
        (1_723_161_240_000_123_000,)
    ]


def reason_of(frame, on=USDM):
    with pytest.raises(FrameError) as error:
        read(frame, on)
    assert len(str(error.value)) > 15
    return error.value.reason


def changed(frame, **fields):
    data = {**frame["data"], **fields}
    return {**frame, "data": {k: v for k, v in data.items() if v is not ...}}


LEVELS = {"bids": [("60000.1", "1")], "asks": [("60000.2", "1")]}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b'{"stream":"btcusdt@trade","data":{', "not_json"),
        (b"[1, 2]", "unknown_frame"),
        (b"null", "unknown_frame"),
        (b'"text"', "unknown_frame"),
        (b"{}", "unknown_frame"),
        (b'{"result":null,"id":1}', "unknown_frame"),
        (b'{"stream":"x@kline","data":{"e":"kline","s":"BTCUSDT","k":{}}}', "unknown_frame"),
        (b'{"stream":"x@aggTrade","data":{"e":"aggTrade","s":"BTCUSDT","a":5,"p":"1"}}', "missing_field"),
        (changed(depth(5, 9, **LEVELS), pu=...), "missing_field"),
        (changed(depth(5, 9, **LEVELS), U=...), "missing_field"),
        (changed(depth(5, 9, **LEVELS), b=...), "missing_field"),
        (changed(depth(5, 9, **LEVELS), s=...), "missing_field"),
        (changed(trade(1, "1.0", "1"), m=...), "missing_field"),
        (changed(ticker(1, ("1", "1"), ("2", "1")), A=...), "missing_field"),
        (changed(mark_price("1", "1", "0"), r=...), "missing_field"),
        (changed(depth(5, 9, **LEVELS), s="ETHUSDT"), "wrong_symbol"),
        (changed(depth(5, 9, **LEVELS), u="9"), "wrong_type"),
        (changed(ticker(1, ("1", "1"), ("2", "1")), b=5), "wrong_type"),
        (changed(trade(1, "1.0", "1"), m=3), "wrong_type"),
        (changed(depth(5, 9), b={}), "bad_levels"),
        (changed(depth(5, 9), b=[["1.0"]]), "bad_levels"),
        (changed(depth(5, 9), b=[["1.0", "1", "1"]]), "bad_levels"),
        (changed(depth(5, 9), b=[[1.0, 2]]), "bad_levels"),
        (changed(depth(5, 9), b=["1.0", "2"]), "bad_levels"),
        (changed(depth(5, 9), b=[[["1.0"], "2"]]), "bad_levels"),
        (depth(5, 9, bids=[("60000.15", "1")]), "off_tick"),
        (depth(5, 9, bids=[("60000.1", "1.0005")]), "off_lot"),
        (depth(5, 9, asks=[("60000.1", "-1")]), "negative"),
        (depth(5, 9, asks=[("-60000.1", "1")]), "negative"),
        (depth(5, 9, asks=[("60000.1", "")]), "bad_number"),
        (depth(5, 9, asks=[("60000.1", "1e3")]), "bad_number"),
        (depth(5, 9, asks=[("60000.", "1")]), "bad_number"),
        (depth(5, 9, asks=[(".5", "1")]), "bad_number"),
        (depth(5, 9, asks=[("1.2.3", "1")]), "bad_number"),
        (depth(5, 9, asks=[("0.0", "1")]), "out_of_range"),
        (depth(5, 9, asks=[("1", "9" * 17)]), "out_of_range"),
        (depth(5, 9, asks=[("1", "9" * 30)]), "out_of_range"),
        (depth(9, 5, **LEVELS), "out_of_range"),
        (depth(-9, 5, **LEVELS), "out_of_range"),
        (depth(5, 9, at_ms=12, **LEVELS), "out_of_range"),
        (trade(1, "60000.15", "1"), "off_tick"),
        (trade(1, "60000.1", "0.0001"), "off_lot"),
        (trade(1, "60000.1", "-1"), "negative"),
        (trade(1, "nan", "1"), "bad_number"),
        (trade(1, "٣", "1"), "bad_number"),
        (trade(1, "0", "1"), "out_of_range"),
        (mark_price("x", "1", "0"), "bad_number"),
        (mark_price("1", "1", "0.1.2"), "bad_number"),
    ],
    ids=str,
)
def test_a_bad_frame_is_refused_with_its_reason(frame, reason):
    assert reason_of(frame) == reason


def test_levels_may_be_laid_out_with_white_space():
    frame = json.dumps(depth(5, 9, previous=4, **LEVELS), indent=2).encode()
    assert rows(read(frame).events, "price") == [(600001,), (600002,)]


def test_text_with_escapes_is_not_taken_for_a_number():
    frame = bytes_of(depth(5, 9, **LEVELS)).replace(b'"60000.1"', b'"6\\u0030000.1"')
    assert reason_of(frame) == "bad_number"
