"""The invariants of every frame, however it is damaged.

A frame is read as written or rejected: with a reason that its venue names, a sentence, and no event. Events can be
validated by a book and written into the lake. Any consumer can apply the output of the normaliser, and where the
normaliser has no book no other consumer has one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from bench.fuzz.seeds import AT_NS, Seed
from market.books.order_book import REASONS as ORDER_REASONS
from market.books.order_book import OrderBook
from market.books.price_book import MAX_PRICE, MAX_SIZE, Book
from market.errors import FrameError
from market.events import ADD, CLEAR, DEPTH, EVENT, F_LAST, FILL, TICKER, TRADE, Events
from market.feeds.landing import _slow_rows
from market.feeds.normalise import Normaliser
from market.instruments import Instrument
from market.lake.rows import options_of, ticks_of
from market.venues.protocol import Parsed, Parser

_FLAGS = 127
_INT64 = 2**63
_BOOK_REASONS = {"book_refused", *ORDER_REASONS.values()}


class BrokenPromiseError(AssertionError):
    """An invariant did not hold."""


@dataclass
class _Watched:
    """A parser whose last result can be inspected."""

    inner: Parser
    parsed: Parsed | None = None
    refused: FrameError | None = None

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        self.parsed = self.refused = None
        try:
            self.parsed = self.inner.parse(payload, recv_ns, frame)
        except FrameError as error:
            self.refused = error
            raise
        return self.parsed


@dataclass
class Judge:
    """Feeds the frames of one session and checks every result. ``outcomes`` counts results by word."""

    seed: Seed
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        venue = self.seed.venue
        self._watched: _Watched | None = None
        self._normaliser = Normaliser(
            self.seed.instrument, "fuzz", venue=replace(venue, parser=self._watch(venue.parser))
        )
        self._route: Callable[[bytes], object] = venue.route() if venue.route else lambda _payload: None
        self._by_orders = venue.book is OrderBook
        self._open = venue.rule(self.seed.instrument) == "open"
        self._reader = Book()
        self._frame = 0
        self._events: list[Events] = []

    def _watch(self, parser: Callable[[Instrument], Parser]) -> Callable[[Instrument], Parser]:
        def watched(instrument: Instrument) -> Parser:
            self._watched = _Watched(parser(instrument))
            return self._watched

        return watched

    def feed(self, payload: bytes) -> str:
        """One word for the result.

        Raises:
            BrokenPromiseError: an invariant is broken; any other exception is as bad.
        """
        self._frame += 1
        recv_ns = AT_NS + self._frame * 1_000_000
        symbol = self._route(payload)
        _hold(symbol is None or isinstance(symbol, str), f"a route gives a symbol, saw {symbol!r}")
        _hold(self.seed.venue.rows(payload) >= 1, "a frame stands for a row at least")
        events = self._normaliser.feed(self._frame, recv_ns, payload)
        watched = self._watched
        assert watched is not None
        word = "events" if len(events) else "nothing"
        if watched.refused is not None:
            word = self._refused(watched.refused, events)
        elif watched.parsed is not None:
            self._parsed(watched.parsed, recv_ns)
        for rejected in self._normaliser.rejected:
            known = rejected.reason in self.seed.venue.reasons | _BOOK_REASONS
            _hold(known and bool(rejected.detail), f"a known reason, saw {rejected.reason!r}")
            _hold(rejected.payload == payload, "the bytes are kept")
            word = rejected.reason
        self._normaliser.rejected.clear()
        self._applied(events)
        self.outcomes[word] += 1
        return word

    def landed(self) -> None:
        """Check that the output can be written into the lake."""
        instrument, named = self.seed.instrument, {"source": "fuzz", "instrument": self.seed.instrument}
        if self._events:
            ticks_of(np.concatenate(self._events), batch=AT_NS // 60_000_000_000, **named)
        if self._normaliser.slow:
            _slow_rows("fuzz", instrument, self._normaliser.slow)
        if self._normaliser.options:
            options_of(self._normaliser.options, **named)

    def _refused(self, refused: FrameError, events: Events) -> str:
        _hold(refused.reason in self.seed.venue.reasons, f"a reason of {self.seed.venue.name}, saw {refused.reason!r}")
        _hold(bool(str(refused)), "a sentence with the reason")
        lone_clear = len(events) == 1 and events["kind"][0] == CLEAR
        _hold(len(events) == 0 or lone_clear, f"no event of a refused frame, saw {len(events)}")
        return refused.reason

    def _parsed(self, parsed: Parsed, recv_ns: int) -> None:
        _hold(all(0 <= n < _INT64 for n in (parsed.first, parsed.last, parsed.previous, parsed.exch_ns)), "ids fit")
        events = parsed.events
        if len(events) == 0:
            return
        _hold(events.dtype == EVENT, "the one dtype")
        if parsed.kind != "snapshot":
            _hold(parsed.kind in ("diff", "ticker", "trade"), f"events of a frame of kind {parsed.kind}")
        _hold(bool((events["frame"] == self._frame).all() and (events["recv_ns"] == recv_ns).all()), "frame and time")
        self._events_can_be(events)
        _hold(self._by_orders or bool(events["flags"][-1] & F_LAST), "the last event of a frame says so")

    def _events_can_be(self, events: Events) -> None:
        kind, price, size = events["kind"], events["price"], events["size"]
        for name in ("exch_ns", "seq", "order_id", "price", "size", "instrument"):
            _hold(bool((events[name] >= 0).all()), f"no {name} below zero")
        _hold(bool((price <= MAX_PRICE).all() and (size <= MAX_SIZE).all()), "prices and sizes that a book can hold")
        _hold(bool(((kind >= DEPTH) & (kind <= CLEAR)).all()), "kinds that there are")
        _hold(bool((np.abs(events["side"]) <= 1).all() and (events["flags"] <= _FLAGS).all()), "sides and flags")
        made = (kind == TRADE) | (kind == ADD)
        _hold(bool((size[made] > 0).all()), "trades and orders have a size")
        priced = made | (kind == DEPTH) | (kind == FILL) | ((kind == TICKER) & (size > 0))
        _hold(bool((price[priced] > 0).all()), "levels, orders and trades have a price")

    def _applied(self, events: Events) -> None:
        if len(events):
            self._reader.apply_batch(events)
            self._events = [*self._events[-20:], events]
        there = self._normaliser.synced or self._open or self._reader.counts() == (0, 0)
        _hold(there, "no consumer has a book where the feed has none")


def _hold(so: bool, promised: str) -> None:
    if not so:
        raise BrokenPromiseError(promised)
