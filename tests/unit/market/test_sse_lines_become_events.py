"""Shanghai's orders, trades and snapshots, hand-made; and a day of 600519 where it is kept."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from kit.captured import capture, manifest_rows, read, refused

from market.books.order_book import OrderBook
from market.clock import NS_PER_S
from market.errors import FrameError
from market.events import ADD, ASK, BID, EXECUTE, F_LAST, REMOVE
from market.instruments import find
from market.venues import sse

MOUTAI = find("sse.600519")
NAME = "sse_l3/AX_sbe_sse_600519_20230207.zip"
HEAD = b"//SecurityIDSource=101 MsgType=%d SecurityID=600519   ChannelNo=6 "
ORDER = HEAD % 192 + b"OrderNo=30  Price=1818880 OrderQty=100000  OrdType=%d Side=%d TransactTime=%d BizIndex=%d"
TRADE = HEAD % 191 + (
    b"BidApplSeqNum=30 OfferApplSeqNum=40 LastPx=1818880 LastQty=100000 ExecType=%d TransactTime=%d BizIndex=%d"
)
MIDNIGHT = 1675699200 * NS_PER_S  # 2023-02-07 in Shanghai


def snapshot(time, levels):
    """A snapshot whose first bids and asks are ``levels`` (side, price, quantity); the others are empty."""
    shown = {f"{side}Level[{i}].{what}": 0 for side in ("Bid", "Ask") for i in range(10) for what in ("Price", "Qty")}
    for i, (side, price, quantity) in enumerate(levels):
        shown |= {f"{side}Level[{i}].Price": price, f"{side}Level[{i}].Qty": quantity}
    text = " ".join(f"{name}={value}" for name, value in shown.items())
    return HEAD % 111 + b"DataTimeStamp=%d " % time + text.encode()


def rows_of(*payloads):
    parser = sse.Parser(MOUTAI)
    parts = [parser.parse(payload, 5, frame).events for frame, payload in enumerate(payloads, 1)]
    return [part[["kind", "side", "price", "size", "order_id", "flags"]].tolist() for part in parts]


def test_orders_are_added_and_removed_and_a_trade_executes_the_side_that_rests():
    assert rows_of(
        ORDER % (65, 66, 9150000, 1), ORDER % (68, 83, 9150000, 2), TRADE % (66, 9300000, 3), TRADE % (83, 9300000, 4)
    ) == [
        [(ADD, BID, 181888, 100, 30, F_LAST)],
        [(REMOVE, ASK, 181888, 100, 30, F_LAST)],
        [(EXECUTE, ASK, 181888, 100, 40, F_LAST)],
        [(EXECUTE, BID, 181888, 100, 30, F_LAST)],
    ]


def test_an_auctions_trade_executes_both_sides_and_is_one_trade():
    assert rows_of(TRADE % (78, 9250000, 3)) == [
        [(EXECUTE, BID, 181888, 100, 30, 0), (EXECUTE, ASK, 181888, 100, 40, F_LAST)]
    ]


def test_a_snapshot_gives_no_event_but_its_levels_can_be_read():
    line = snapshot(94521, [("Bid", 1798070, 200000), ("Ask", 1798650, 300000), ("Bid", 0, 5000)])
    assert rows_of(line) == [[]]
    assert sse.Parser(MOUTAI).view(line) == ({179807: 200}, {179865: 300})


def test_lines_come_in_the_order_of_the_exchange(tmp_path):
    path = tmp_path / "AX_sbe_sse_600519_20230207.log"
    lines = [
        ORDER % (65, 66, 9300050, 9),
        ORDER % (65, 66, 9300001, 8),
        snapshot(93000, []),
        ORDER % (65, 66, 9300001, 7),
        ORDER % (65, 66, 9609999, 6),
    ]
    path.write_bytes(b"\n".join(lines))
    assert sse.recognise(path) == MOUTAI.key
    nine = MIDNIGHT + (9 * 60 + 30) * 60 * NS_PER_S
    assert [(frame, recv_ns, lines.index(row)) for frame, recv_ns, row in sse.frames(path)] == [
        (1, -1, 4),
        (2, nine, 2),
        (3, nine + 10_000_000, 3),
        (4, nine + 10_000_000, 1),
        (5, nine + 500_000_000, 0),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "missing_field"),
        (b"\xff", "not_text"),
        (HEAD % 5, "unknown_frame"),
        (HEAD % 192, "missing_field"),
        ((ORDER % (65, 66, 1, 1)).replace(b"600519", b"600000"), "wrong_symbol"),
        (ORDER % (66, 66, 1, 1), "unknown_frame"),
        (ORDER % (65, 78, 1, 1), "bad_side"),
        (TRADE % (65, 1, 1), "bad_side"),
        ((ORDER % (65, 66, 1, 1)).replace(b"1818880", b"1818885"), "off_tick"),
        ((ORDER % (65, 66, 1, 1)).replace(b"1818880", b"0"), "out_of_range"),
        ((ORDER % (65, 66, 1, 1)).replace(b"=100000", b"=100500"), "off_lot"),
        ((ORDER % (65, 66, 1, 1)).replace(b"=100000", b"=0"), "zero_size"),
        ((ORDER % (65, 66, 1, 1)).replace(b"=100000", b"=-1"), "negative"),
        ((ORDER % (65, 66, 1, 1)).replace(b"=100000", b"=x"), "bad_number"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(payload, reason):
    with pytest.raises(FrameError) as error:
        sse.Parser(MOUTAI).parse(payload, 5, 1)
    assert error.value.reason == reason


def test_the_day_of_600519_is_proven_by_its_snapshots():
    path = capture(NAME)
    day = read(sse, path, MOUTAI)
    assert day.rows == manifest_rows(NAME) == 69_595
    assert day.rejected == {}
    assert day.kinds == {"diff": 45_764 + 18_685, "other": 5_146}
    assert day.clock_back == 0
    assert refused(day.events)[1] == {}
    seen = continuous(path)
    assert seen == {True: 4_865 - 1, False: 1}  # the last one before the closing auction


def continuous(path):
    """Snapshots of continuous trading that equal, or do not, the best ten levels within a second of their own."""
    book, parser, times, states, views = OrderBook(), sse.Parser(MOUTAI), [], [], []
    for frame, recv_ns, row in sse.frames(path):
        parsed = parser.parse(row, recv_ns, frame)
        if parsed.kind != "other":
            book.apply_batch(parsed.events)
            times.append(recv_ns)
            states.append((book.bids(10).tolist(), book.asks(10).tolist()))
        elif b" TradingPhase=2 " in row:
            views.append((recv_ns, tuple([list(level) for level in side.items()] for side in parser.view(row))))
    seen = {True: 0, False: 0}
    for at, view in views:
        near = slice(max(0, bisect_left(times, at - NS_PER_S) - 1), bisect_left(times, at + 2 * NS_PER_S))
        seen[view in states[near]] += 1
    return seen
