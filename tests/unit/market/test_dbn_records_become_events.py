"""Databento records made by the library itself; and CME's ES where it is kept."""

from __future__ import annotations

import pytest
from kit.captured import capture, manifest_rows, read, refused, statuses

from market.books.order_book import OrderBook
from market.books.price_book import CROSSED
from market.errors import CaptureError, FrameError
from market.events import (
    ADD,
    ASK,
    BID,
    CHANGE,
    CLEAR,
    DEPTH,
    F_LAST,
    F_NO_EXCH_TIME,
    F_SNAPSHOT,
    FILL,
    REDUCE,
    TRADE,
)
from market.instruments import find

dbn = pytest.importorskip("databento_dbn", reason="databento-dbn is not installed here; install the project again")
venue = pytest.importorskip("market.venues.dbn")

ES = find("cme.ESH4")
AT = 1_703_422_805_000_000_000
LAST, SNAPSHOT = 128, 32


def mbo(action, side="B", *, price=4799_000_000_000, size=2, order_id=7, flags=LAST, ts_event=AT):
    letters = {each.value: each for each in dbn.Action.variants()}, {each.value: each for each in dbn.Side.variants()}
    return bytes(
        dbn.MBOMsg(
            1, 17077, ts_event, order_id, price, size, letters[0][action], letters[1][side], AT + 5, flags, 0, 0, 682
        )
    )


def rows_of(*payloads, parser=None):
    parser = parser or venue.Parser(ES)
    out = []
    for frame, payload in enumerate(payloads, 1):
        out += (
            parser.parse(payload, AT + 5, frame).events[["kind", "side", "price", "size", "order_id", "flags"]].tolist()
        )
    return out


def test_each_action_is_an_event():
    assert rows_of(
        mbo("R", "N", price=dbn.UNDEF_PRICE, size=0, order_id=0, flags=SNAPSHOT | 8),
        mbo("A", flags=SNAPSHOT | LAST),
        mbo("M", "A", price=4799_250_000_000, flags=0),
        mbo("T", "A"),
        mbo("F", "N"),
        mbo("C", size=1),
        mbo("N"),
    ) == [
        (CLEAR, 0, 0, 0, 0, F_SNAPSHOT),
        (ADD, BID, 19196, 2, 7, F_SNAPSHOT | F_LAST),
        (CHANGE, ASK, 19197, 2, 7, 0),
        (TRADE, ASK, 19196, 2, 0, F_LAST),
        (FILL, 0, 19196, 2, 7, F_LAST),
        (REDUCE, BID, 19196, 1, 7, F_LAST),
    ]


def test_a_snapshot_without_a_clear_is_given_one_once():
    assert [row[0] for row in rows_of(mbo("A", flags=SNAPSHOT), mbo("A", order_id=8, flags=SNAPSHOT))] == [
        CLEAR,
        ADD,
        ADD,
    ]


def test_both_clocks_are_kept_and_a_missing_one_is_said():
    event = venue.Parser(ES).parse(mbo("A"), AT + 5, 3).events[0]
    assert (event["exch_ns"], event["recv_ns"], event["seq"], event["frame"]) == (AT, AT + 5, 682, 3)
    event = venue.Parser(ES).parse(mbo("A", ts_event=dbn.UNDEF_TIMESTAMP), AT + 5, 3).events[0]
    assert (event["exch_ns"], event["flags"]) == (0, F_LAST | F_NO_EXCH_TIME)


def mbp(levels, action=None):
    pairs = [dbn.BidAskPair(bid, ask, bid_size, ask_size, 1, 1) for bid, bid_size, ask, ask_size in levels]
    action = action or dbn.Action.ADD
    args = (1, 17077, AT, 4799_000_000_000, 2, action, dbn.Side.BID, 0, AT + 5, LAST, 0, 682)
    return bytes(dbn.MBP10Msg(*args, pairs + [dbn.BidAskPair()] * (10 - len(pairs))))


def test_levels_by_price_are_told_as_changes_after_the_trade():
    first = [(4799_000_000_000, 5, 4799_250_000_000, 6)]
    second = [(4798_750_000_000, 9, 4799_250_000_000, 6)]
    assert rows_of(mbp(first), mbp(second, dbn.Action.TRADE)) == [
        (CLEAR, 0, 0, 0, 0, F_SNAPSHOT),
        (DEPTH, BID, 19196, 5, 0, F_SNAPSHOT),
        (DEPTH, ASK, 19197, 6, 0, F_SNAPSHOT | F_LAST),
        (TRADE, BID, 19196, 2, 0, 0),
        (DEPTH, BID, 19195, 9, 0, 0),
        (DEPTH, BID, 19196, 0, 0, F_LAST),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not_dbn"),
        (b"x" * 56, "not_dbn"),
        (mbo("A")[:50], "not_dbn"),
        (mbo("A") * 2, "not_dbn"),
        (mbo("A")[:38] + b"Z" + mbo("A")[39:], "unknown_frame"),
        (mbo("A", "N"), "bad_side"),
        (mbo("A", price=4799_100_000_000), "off_tick"),
        (mbo("A", price=-5), "negative"),
        (mbo("A", price=0), "out_of_range"),
        (mbo("A", size=0), "zero_size"),
        (mbo("A", order_id=0), "out_of_range"),
        (mbo("A", order_id=2**63), "out_of_range"),
    ],
    ids=str,
)
def test_a_bad_record_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        venue.Parser(ES).parse(payload, AT, 1)
    assert error.value.reason == reason


def test_a_file_that_is_no_dbn_is_not_recognised_and_a_damaged_one_says_so(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"hello")
    assert venue.recognise(path) is None
    path.write_bytes(b"DBN\x01" + bytes(100))
    with pytest.raises(CaptureError, match="damaged"):
        venue.recognise(path)


FILES = {
    "cme_mbo_dbn/esh4-glbx-mdp3-20231224.mbo.dbn.zst": ("cme.ESH4", 8_725, {0: 1}),
    "cme_mbo_dbn/esh4-glbx-mdp3-20231225.mbo.dbn.zst": ("cme.ESH4", 68_792, {0: 46_131, CROSSED: 891}),
    "cme_mbo_dbn/esm4_2024-05-08_2s.mbo.dbn.zst": ("cme.ESM4", 13_796, {0: 185}),
}


@pytest.mark.parametrize("name", FILES)
def test_every_order_of_es_finds_its_place(name):
    key, rows, ends = FILES[name]
    path = capture(name)
    assert venue.recognise(path) == key
    day = read(venue, path, find(key))
    assert day.rows == manifest_rows(name) == rows
    assert day.rejected == {}
    assert refused(day.events)[1] == {}
    assert statuses(OrderBook(), day.events) == ends


def test_a_truncated_recording_gives_what_it_has_and_then_an_error(tmp_path):
    data = capture("cme_mbo_dbn/esm4_2024-05-08_2s.mbo.dbn.zst").read_bytes()
    path = tmp_path / "x.dbn.zst"
    path.write_bytes(data[: len(data) // 2])
    seen: list[tuple[int, int, bytes]] = []
    with pytest.raises(CaptureError, match=r"x\.dbn\.zst: (truncated|damaged)"):
        seen.extend(venue.frames(path))
    assert len(seen) > 1_000
