"""Random bytes and damaged rows of every recorded form: a reason that the module names, or valid events."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market.books.price_book import MAX_PRICE, MAX_SIZE
from market.errors import FrameError
from market.events import ADD, BID, EVENT, TRADE
from market.instruments import find
from market.venues import b3, bitstamp, cme_levels, deribit, deribit_marks, itch, lobster, nbbo, sgx, shfe_levels, sse
from market.venues.formats import parquet

AT = 1_700_000_000_000_000_000
_LEVELS = {f"{side}_{what}_{i}": 7.0 for side in ("bid", "offer") for what in ("price", "quantity") for i in range(5)}
_SESSION = {f"{side}{i}": 7.0 for side in ("bid", "ask", "bidSize", "askSize") for i in range(1, 6)}
_ITCH = dict.fromkeys(itch.COLUMNS, "") | {
    "source_message_sequence": "5", "timestamp_ns": "5", "message_type": "U", "order_id": "7", "old_order_id": "6.0",
    "size": "10", "old_size": "10", "price": "163.3", "old_price": "163.2", "direction": "1", "stock": "AAPL",
    "bid_price_1": "163.3", "bid_size_1": "10.0",
}  # fmt: skip
_SSE = b"//SecurityIDSource=101 MsgType=%d SecurityID=600519 BizIndex=7 TransactTime=9300000 "

FORMS = {
    "bitstamp": (bitstamp, "bitstamp.BTCUSD", [
        b'5 order_created {"price": "236.47", "amount": "2.0", "datetime": "1430438404", "id": 7, "order_type": 0}',
        b'1430438404645 trade {"price": 236.61000000000001, "amount": 9.9999999999999995e-07, "id": 9}',
        b'1430438405885 order_book {"bids": [["236.47", "1.7"]], "asks": []}',
        b"2,1777689383201,1777689380521,78319.0,1.5e-05,changed,ask",
        b"5,1777689383889,1777689383817,78319.0,0.121,11,22,buy",
    ]),
    "lobster": (lobster, "nasdaq.MSFT", [
        b"34200.017459617,4,77,100,308700,1", b"34200.1,1,7,21,2238100,1\n2239500,100,2238100,21",
    ]),
    "itch": (itch, "nasdaq.AAPL", [",".join(_ITCH.values()).encode()]),
    "sse": (sse, "sse.600519", [
        _SSE % 192 + b"OrderNo=30 Price=1818880 OrderQty=100000 OrdType=65 Side=66",
        _SSE % 191 + b"BidApplSeqNum=3 OfferApplSeqNum=4 LastPx=1818880 LastQty=100000 ExecType=78",
    ]),
    "nbbo": (nbbo, "us-nbbo.IBM", [b"14400554,1384000,700,0,0,P,1,0", b"14404499,1395050,500,P,20002020,0"]),
    "b3": (b3, "b3.PETR4", [
        b"PETR4,5,2025-03-05 15:30:00.072423823+00:00,book,,,,34.81,34.800000000000004",
        b"PETR4,5,2025-03-05 15:30:00.072423823+00:00,trade,35.02,13600.0,4.0,35.4,35.93",
    ]),
    "sgx": (sgx, "sgx.CN", [
        b"TimeStamp,2014-01-09D04:21:26.224430600\n667500.0,1.0,683000.0,2.0\n660000.0,1.0,684500.0,2.0\n640000.0,9.0,686000.0,2.0",
    ]),
    "cme_levels": (cme_levels, "cme.GCM3", [
        parquet.payload_of({"transact_time": AT, **_LEVELS}),
        parquet.payload_of({"transact_time": AT, "side": "O", "price": 1995.6, "quantity": 1.0}),
    ]),
    "shfe_levels": (shfe_levels, "shfe.rb2510", [
        parquet.payload_of({"instrumentID": "rb2510", "epochTime": AT // 1000, "updateTime": "20:59:00.5", **_SESSION}),
    ]),
    "deribit_marks": (deribit_marks, "deribit.BTC-PERPETUAL", [
        b",1767115875944,,,BTC-PERPETUAL,,,,,,,,,,,,,,,,,,,88539.0,,,",
    ]),
}  # fmt: skip


def reasons_of(module):
    """The reasons for rejected rows, from the module's docstring."""
    return set(re.findall(r"``(\w+)``", module.__doc__.split("Reasons:")[1]))


@st.composite
def damaged(draw, rows):
    """A good row with bytes replaced, removed, inserted, doubled or cut off."""
    payload = bytearray(draw(st.sampled_from(rows)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(payload) - 1)))
        end = min(len(payload), at + draw(st.integers(0, 6)))
        what = draw(st.sampled_from(["replace", "insert", "remove", "double", "cut"]))
        if what == "replace":
            payload[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
        elif what == "insert":
            payload[at:at] = draw(
                st.sampled_from(
                    [b"0", b"9", b"-", b".", b",", b"=", b" ", b"e5", b"nan", b"inf", b"\n", b'"', b"_", b"9" * 20]
                )
            )
        elif what == "remove":
            del payload[at:end]
        elif what == "double":
            payload[at:at] = payload[at:end]
        else:
            del payload[at:]
    return bytes(payload)


def outcome(module, read):
    """The result of reading, or None if the row was rejected with one of the module's reasons and a sentence."""
    try:
        return read()
    except FrameError as error:
        known, said = error.reason in reasons_of(module), str(error)
    assert known, said
    assert said
    return None


def check(module, key, payload):
    if hasattr(module, "received"):
        at = outcome(module, lambda: module.received(payload))
        assert at is None or 0 <= at < 2**63
    parsed = outcome(module, lambda: module.Parser(find(key)).parse(payload, AT, 1))
    if parsed is None:
        return
    events = parsed.events
    assert events.dtype == EVENT
    assert (events["price"] >= 0).all()
    assert (events["price"] <= MAX_PRICE).all()
    assert (events["size"] >= 0).all()
    assert (events["size"] <= MAX_SIZE).all()
    assert (events["exch_ns"] >= 0).all()
    resting = events[(events["kind"] == ADD) | (events["kind"] == TRADE)]
    assert (resting["size"] > 0).all()
    assert (resting["price"] > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_the_reasons_in_the_docstring_match_the_table(form):
    assert reasons_of(FORMS[form][0]) == FORMS[form][0].VENUE.reasons


@pytest.mark.parametrize("form", FORMS)
def test_the_good_rows_are_good(form):
    module, key, rows = FORMS[form]
    for payload in rows:
        module.Parser(find(key)).parse(payload, AT, 1)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(400), deadline=None)
@given(st.data())
def test_a_damaged_row_is_rejected_or_can_be_validated(form, data):
    module, key, rows = FORMS[form]
    check(module, key, data.draw(damaged(rows)))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(150), deadline=None)
@given(st.binary(max_size=120))
@example(b"")
@example(b"\n\n\n\n")
@example(b"," * 60)
@example(b"\xff" * 60)
@example(b"{" * 2000)
@example(b"9" * 5000)
def test_random_bytes_are_rejected_or_can_be_validated(form, payload):
    module, key, _ = FORMS[form]
    check(module, key, payload)


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_a_damaged_option_is_rejected_or_becomes_a_record(data):
    good = dict.fromkeys(deribit.COLUMNS, "1.0") | {
        "timestamp": "2025-12-30T17:31:15.944181+00:00", "option_type": "call", "currency": "BTC",
        "expiry_datetime": "2026-01-16T08:00:00+00:00",
    }  # fmt: skip
    payload = data.draw(damaged([",".join(good.values()).encode()]))
    parsed = outcome(deribit, lambda: deribit.Parser(find("deribit.BTC")).parse(payload, AT, 1))
    if parsed is not None:
        summary = parsed.option
        assert min(summary.bid_e8, summary.ask_e8, summary.mark_e8, summary.open_interest_e8) >= 0
        assert summary.side in (BID, -BID)
