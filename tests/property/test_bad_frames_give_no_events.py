"""Random bytes and damaged frames: nothing crashes, and no event comes out that a plain reader does not see too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kit.budget import examples
from kit.wire_frames import SPOT, START_NS, USDM, ToyExchange, bytes_of, depth, mark_price, snapshot, ticker, trade
from slow_binance import events_of

from market.books.price_book import Book
from market.errors import FrameError
from market.feeds.normalise import Normaliser
from market.venues.binance import Parser
from market.venues.formats.lines import read_line

PARSERS = {instrument.key: Parser(instrument) for instrument in (SPOT, USDM)}
GOOD = [
    *(
        depth(5, 9, previous=4, bids=[("60000.1", "1.5"), ("59999.0", "0")], asks=[("60000.2", "2")], on=i)
        for i in (SPOT, USDM)
    ),
    *(ticker(9, ("60000.1", "2"), ("60000.2", "3.001"), on=i) for i in (SPOT, USDM)),
    *(trade(3, "60000.1", "2", on=i) for i in (SPOT, USDM)),
    snapshot(100, [("60000.1", "1"), ("60000.0", "2")], [("60000.2", "3")]),
    mark_price("28155.10000000", "28165.04857143", "0.00002760"),
]
REASONS = {
    "not_json", "unknown_frame", "missing_field", "wrong_type", "wrong_symbol", "bad_number", "negative", "off_tick",
    "off_lot", "out_of_range", "bad_levels", "zero_size",
}  # fmt: skip


@st.composite
def damaged(draw) -> bytes:
    """A good frame with bytes replaced, removed, inserted, doubled or cut off."""
    payload = bytearray(bytes_of(draw(st.sampled_from(GOOD))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(payload) - 1)))
        end = min(len(payload), at + draw(st.integers(0, 6)))
        what = draw(st.sampled_from(["replace", "insert", "remove", "double", "cut"]))
        if what == "replace":
            payload[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
        elif what == "insert":
            payload[at:at] = draw(
                st.sampled_from([b"0", b"9", b"-", b".", b'"', b",", b"[", b"]", b"{", b"}", b" ", b"\\", b"e5"])
            )
        elif what == "remove":
            del payload[at:end]
        elif what == "double":
            payload[at:at] = payload[at:end]
        else:
            del payload[at:]
    return bytes(payload)


def check(payload: bytes) -> None:
    for instrument in (SPOT, USDM):
        try:
            parsed = PARSERS[instrument.key].parse(payload, START_NS, 1)
        except FrameError as error:
            refused = error
        else:
            refused = None
        if refused is not None:
            assert refused.reason in REASONS
            assert str(refused)
            continue
        expected = [] if parsed.kind in ("other", "slow") else events_of(payload, instrument)
        seen = parsed.events[["kind", "side", "price", "size", "seq"]].tolist()
        assert seen == expected


@settings(max_examples=examples(1500), deadline=None)
@given(damaged())
def test_a_damaged_frame_is_rejected_or_read_as_written(payload):
    check(payload)


@settings(max_examples=examples(500), deadline=None)
@given(st.binary(max_size=200))
@example(b"[" * 5000)
@example(b'{"data":' * 2000)
@example(b'{"lastUpdateId":1,"bids":[' + b"[" * 3000)
@example(b'{"lastUpdateId":1e400,"bids":[],"asks":[]}')
@example(b'{"lastUpdateId":99999999999999999999999,"bids":[],"asks":[]}')
def test_random_bytes_are_rejected(payload):
    check(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(1000), deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_any_field_with_any_value_is_rejected_or_read_as_written(frame, data):
    inner = dict(frame.get("data", frame))
    inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(json_values)
    check(
        bytes_of({**frame, "data": inner} if "data" in frame else inner)
        .replace(b"NaN", b"1")
        .replace(b"Infinity", b"1")
    )


@settings(max_examples=examples(500), deadline=None)
@given(st.binary(max_size=60))
def test_a_line_gives_a_time_or_the_reason_why_not(line):
    try:
        recv_ns, payload = read_line(line)
    except FrameError as error:
        recv_ns, payload, reason = 0, b"", error.reason
    else:
        reason = "clock_unreadable"
    assert reason == "clock_unreadable"
    assert 0 <= recv_ns < 10**19
    assert line.endswith(payload)


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([SPOT, USDM]), st.data())
def test_no_wrong_book_is_shown_whatever_happens_to_the_frames(seed, instrument, data):
    """Frames are damaged, lost, doubled and swapped; a synced book is still the exchange's book, or there is none."""
    exchange = ToyExchange(instrument, seed=seed)
    normaliser, reader = Normaliser(instrument, "s"), Book()
    rng = np.random.default_rng(seed)
    numbers = iter(range(1, 10**6))
    true_books = {}

    def feed(payload: bytes) -> None:
        number = next(numbers)
        events = normaliser.feed(number, START_NS + number, payload)
        reader.apply_batch(events)
        assert normaliser.synced or reader.counts() == (0, 0)
        if normaliser.synced and reader.counts() != (0, 0):
            bids, asks = true_books[reader.seq]
            assert dict(reader.bids(999).tolist()) == bids
            assert dict(reader.asks(999).tolist()) == asks

    held = None
    for i in range(150):
        frame = exchange.snapshot() if i % 25 == 10 else exchange.frame(START_NS // 10**6)
        true_books[exchange.update] = (dict(exchange.levels["b"]), dict(exchange.levels["a"]))
        fate = rng.random()
        payload = bytes_of(frame)
        if fate < 0.03:
            feed(payload[: data.draw(st.integers(0, len(payload) - 1))])
        elif fate < 0.06:
            continue
        elif fate < 0.09:
            feed(payload)
            feed(payload)
        elif fate < 0.12 and held is None:
            held = payload
            continue
        else:
            feed(payload)
        if held is not None:
            feed(held)
            held = None


def test_the_second_reader_rejects_what_it_should():
    with pytest.raises(AssertionError):
        events_of(bytes_of(trade(3, "60000.15", "2")), USDM)
