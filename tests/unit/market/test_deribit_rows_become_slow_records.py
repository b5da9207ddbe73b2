"""Deribit's option summaries and marks of futures, hand-made; and five months of them where they are kept."""

from __future__ import annotations

import pytest
from kit.captured import capture, manifest_rows

from market.errors import FrameError
from market.instruments import Instrument, find
from market.lake.lake import Lake
from market.lake.rows import options_of
from market.venues import deribit, deribit_marks

BTC, PERPETUAL = find("deribit.BTC"), find("deribit.BTC-PERPETUAL")
AT = 1_767_115_875_944_181_000


def row(**changes):
    fields = dict.fromkeys(deribit.COLUMNS, "")
    fields |= {"timestamp": "2025-12-30T17:31:15.944181+00:00", "instrument_name": "BTC-16JAN26-82000-C"}
    fields |= {"underlying": "88728.94666666667", "option_type": "call", "strike": "82000.0", "currency": "BTC"}
    fields |= {"expiry_datetime": "2026-01-16T08:00:00+00:00", "bid_price": "0.084", "mark_price": "3.69e-05"}
    fields |= {"implied_volatility": "0.43229999999999996", "delta": "0.81644", "vega": "50.27111"}
    fields |= {"open_interest": "0.30000000000000004", "volume": "0.0", "index_price": "88530.23"}
    return ",".join({**fields, **changes}.values()).encode()


def test_a_summary_is_exact_where_it_is_money_and_zero_where_nobody_quotes():
    one = deribit.Parser(BTC).parse(row(), AT, 3).option
    assert deribit.received(row()) == AT
    assert (one.option, one.side, one.strike_e8, one.frame) == ("BTC-16JAN26-82000-C", 1, 82000 * 10**8, 3)
    assert (one.bid_e8, one.ask_e8, one.mark_e8, one.index_e8) == (8_400_000, 0, 3_690, 8_853_023_000_000)
    assert (one.open_interest_e8, one.volume_e8) == (30_000_000, 0)
    assert one.expiry_ns == 1_768_550_400 * 10**9
    assert (one.forward, one.implied_volatility) == (88728.94666666667, 0.43229999999999996)
    assert (one.exch_ns, one.recv_ns) == (0, AT)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "wrong_columns"),
        (row(currency="ETH"), "wrong_symbol"),
        (row(option_type="future"), "bad_side"),
        (row(strike="0.0"), "out_of_range"),
        (row(strike=""), "bad_number"),
        (row(mark_price="-0.1"), "negative"),
        (row(bid_price="0.00000000001"), "bad_number"),
        (row(delta="nan"), "bad_number"),
        (row(expiry_datetime="2026-01-16"), "bad_time"),
    ],
)
def test_a_bad_summary_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        deribit.Parser(BTC).parse(payload, AT, 1)
    assert error.value.reason == reason


def test_summaries_are_rows_of_the_lake(tmp_path):
    lake, parser = Lake(tmp_path), deribit.Parser(BTC)
    records = [parser.parse(row(instrument_name=f"BTC-{i}"), AT + i, i).option for i in (1, 2)]
    lake.append("options", options_of(records, source="s", instrument=BTC), source="s", position=2)
    read = lake.read("options", instrument=BTC.key, columns=["option", "bid_e8", "date"])
    assert read.to_pylist() == [{"option": f"BTC-{i}", "bid_e8": 8_400_000, "date": "2025-12-30"} for i in (1, 2)]


def perpetual(name="BTC-PERPETUAL", mark="88539.0"):
    fields = [""] * 27
    fields[1], fields[4], fields[23] = "1767115875944", name, mark
    return ",".join(fields).encode()


def dated(name="BTC-25DEC26", mark="92617.64"):
    fields = [""] * 30
    fields[2], fields[9], fields[28] = name, "1767115875944", mark
    return ",".join(fields).encode()


def test_a_mark_of_a_future_is_a_slow_record():
    slow = deribit_marks.Parser(PERPETUAL).parse(perpetual(), deribit_marks.received(perpetual()), 4).slow
    assert (slow.mark_e8, slow.recv_ns, slow.frame) == (8_853_900_000_000, 1_767_115_875_944 * 10**6, 4)
    future = Instrument(venue="deribit", symbol="BTC-25DEC26", tick=PERPETUAL.tick, lot=PERPETUAL.lot)
    assert deribit_marks.Parser(future).parse(dated(), AT, 1).slow.mark_e8 == 9_261_764_000_000


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"1,2", "wrong_columns"),
        (perpetual("ETH-PERPETUAL"), "wrong_symbol"),
        (perpetual(mark=""), "bad_number"),
        (perpetual(mark="0.0"), "out_of_range"),
    ],
)
def test_a_bad_mark_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        deribit_marks.Parser(PERPETUAL).parse(payload, AT, 1)
    assert error.value.reason == reason


@pytest.mark.parametrize("month", ["202512", "202601", "202602", "202603", "202604"])
def test_every_option_of_a_month_is_read(month):
    name = f"deribit_options/{month}.tar.xz"
    path = capture(name)
    assert deribit.recognise(path) == "deribit.*"
    symbol_of = deribit.route()
    parsers = {currency: deribit.Parser(find(f"deribit.{currency}")) for currency in ("BTC", "ETH")}
    read, without_bid = 0, 0
    for frame, recv_ns, payload in deribit.frames(path):
        without_bid += parsers[symbol_of(payload)].parse(payload, recv_ns, frame).option.bid_e8 == 0
        read += 1
    assert read == manifest_rows(name)
    assert 0.02 < without_bid / read < 0.08


@pytest.mark.parametrize(
    ("name", "first"),
    [("perpetual_futures_prices", "BTC-PERPETUAL"), ("term_futures_marks", "BTC-25DEC26")],
)
def test_every_mark_is_read(name, first):
    file = f"deribit_options/{name}.csv.xz"
    path = capture(file)
    assert deribit_marks.recognise(path) == "deribit.*"
    assert first in deribit_marks.futures(path)
    read = 0
    for future in deribit_marks.futures(path):
        parser = deribit_marks.Parser(Instrument(venue="deribit", symbol=future, tick=BTC.tick, lot=BTC.lot))
        for frame, recv_ns, payload in deribit_marks.frames(path, future):
            assert parser.parse(payload, recv_ns, frame).slow.mark_e8 > 0
            read += 1
    assert read == manifest_rows(file)
