"""A price-level book in one flat integer array, compiled.

:mod:`market.books.levels` defines the layout of the levels. With a single array the hot path passes one address.

The book keeps two views of the best bid and ask. *Levels* come from the depth stream. The *ticker* (TICKER events) is
often newer; it is stored separately and never written into the levels. The *top* is whichever of the two carries the
larger update id when a batch ends. Deeper levels and depth near the touch always come from the levels.

A book that is empty on a side, locked (bid = ask) or crossed (bid > ask), in its levels or in its ticker, is flagged,
never repaired. Continuity of update ids is the venue's rule; the feed checks it, not the book.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.books.levels import (
    CAPACITY,
    E_FULL,
    HEADER,
    OK,
    OWN,
    best_level,
    clear_levels,
    count_levels,
    level_key,
    new_levels,
    place_windows,
    set_level,
    worse_level,
)
from market.compiled import compiled
from market.errors import BookError
from market.events import (
    ASK,
    BID,
    CLEAR,
    DEPTH,
    EVENT,
    F_CHECKPOINT,
    F_LAST,
    F_SNAPSHOT,
    TICKER,
    TRADE,
    Events,
)

Int64s = NDArray[np.int64]

# header words, after those of market.books.levels
STATUS: Final = OWN
DEPTH_SEQ: Final = OWN + 1
TICKER_SEQ: Final = OWN + 2
LIVE: Final = OWN + 3  # 1 once a batch ended with levels on both sides since the last CLEAR
_TICKER: Final = OWN + 4  # four words: bid price, bid size, ask price, ask size
TOP: Final = OWN + 8  # four words, as the ticker

# status bits, as of the last batch that ended
EMPTY: Final = 1
LOCKED: Final = 2
CROSSED: Final = 4

# return codes of apply(), besides OK and E_FULL
E_KIND: Final = -1
E_SIDE: Final = -2
E_SIZE: Final = -3
E_PRICE: Final = -4

# Large enough for 1.4 billion coins in lots of 1e-8; the sizes of up to 32 levels add up to less than 2**63.
MAX_SIZE: Final = 2**57
MAX_PRICE: Final = 2**47  # real data hold an ask of 888,888,004 euros for a coin with a step of 1e-5

_SENTENCES: Final = {
    E_KIND: "kind {kind} is not one of DEPTH, TRADE, TICKER, CLEAR",
    E_SIDE: "side {side} is neither BID nor ASK",
    E_SIZE: "size {size} is not between 0 and 2**57 lots",
    E_PRICE: "price {price} is not between 1 and 2**47 ticks",
    E_FULL: "no room for another level at price {price}",
}


def new_book(capacity: int = CAPACITY) -> Int64s:
    """An empty book with room for ``capacity`` levels a side."""
    book = new_levels(capacity)
    book[STATUS] = EMPTY
    return book


@compiled
def clear(book: Int64s) -> None:
    """Remove every level and the ticker."""
    clear_levels(book)
    book[OWN:HEADER] = 0
    book[STATUS] = EMPTY


@compiled
def best(book: Int64s) -> tuple[int, int, int, int]:
    """Best bid price and size, best ask price and size of the levels (not the ticker); zeros where a side is empty."""
    bid_price, bid_size, ask_price, ask_size = 0, 0, 0, 0
    bid, ask = best_level(book, BID), best_level(book, ASK)
    if bid > 0:
        bid_price, bid_size = level_key(book, BID, bid), book[bid]
    if ask > 0:
        ask_price, ask_size = -level_key(book, ASK, ask), book[ask]
    return bid_price, bid_size, ask_price, ask_size


@compiled
def top(book: Int64s) -> tuple[int, int, int, int]:
    """The fused top as of the last batch that ended: bid price and size, ask price and size; see the module."""
    return book[TOP], book[TOP + 1], book[TOP + 2], book[TOP + 3]


@compiled
def _mark(bid_price: int, ask_price: int) -> int:
    return CROSSED if bid_price > ask_price else LOCKED if bid_price == ask_price else 0


@compiled
def end_batch(book: Int64s) -> None:
    """Refresh top and status: this is a state that the exchange published."""
    bid_price, bid_size, ask_price, ask_size = best(book)
    book[TOP], book[TOP + 1], book[TOP + 2], book[TOP + 3] = bid_price, bid_size, ask_price, ask_size
    if count_levels(book, BID) == 0 or count_levels(book, ASK) == 0:
        book[STATUS] = EMPTY
        return
    status = _mark(bid_price, ask_price)
    if book[TICKER_SEQ] > book[DEPTH_SEQ]:
        if book[_TICKER + 1] > 0 and book[_TICKER + 3] > 0:
            for word in range(4):
                book[TOP + word] = book[_TICKER + word]
            status |= _mark(book[_TICKER], book[_TICKER + 2])
        else:
            status |= EMPTY
    book[STATUS] = status
    book[LIVE] = 1


@compiled
def _refusal(kind: int, side: int, price: int, size: int) -> int:
    """Validate an event: OK or the code of why it is invalid."""
    if kind not in (DEPTH, TRADE, TICKER):
        return E_KIND
    if side not in (BID, ASK) and not (kind == TRADE and side == 0):
        return E_SIDE
    if size < 0 or size > MAX_SIZE:
        return E_SIZE
    if price > MAX_PRICE or price < 0 or (price == 0 and not (kind == TICKER and size == 0)):
        return E_PRICE
    return OK


@compiled
def apply(book: Int64s, kind: int, side: int, price: int, size: int, flags: int, seq: int) -> int:  # noqa: PLR0913, PLR0917
    """Apply one event. Returns OK or an error code; a rejected event leaves the book unchanged."""
    if kind == CLEAR:
        clear(book)
        if flags & F_CHECKPOINT:  # for an empty book this is the only record of the last update id
            book[DEPTH_SEQ] = seq
    else:
        code = _refusal(kind, side, price, size)
        if code == OK and kind == DEPTH:
            code = set_level(book, side, price, size)
            if code == OK and seq > book[DEPTH_SEQ]:
                book[DEPTH_SEQ] = seq
        elif code == OK and kind == TICKER and seq >= book[TICKER_SEQ]:
            word = _TICKER if side == BID else _TICKER + 2
            book[word], book[word + 1], book[TICKER_SEQ] = price, size, seq
        if code != OK:
            return code
    if flags & F_LAST:
        end_batch(book)
        place_windows(book)
    return OK


@compiled
def levels(book: Int64s, side: int, n: int, out: Int64s) -> int:
    """Write the best ``n`` levels of a side, best first, into ``out`` (n, 2) as price and size; returns how many."""
    n = min(n, count_levels(book, side))
    word = best_level(book, side)
    for i in range(n):
        out[i, 0], out[i, 1] = side * level_key(book, side, word), book[word]
        word = worse_level(book, side, word)
    return n


@compiled
def depth_near(book: Int64s, side: int, n: int) -> int:
    """Lots in the best ``n`` levels of a side."""
    word = best_level(book, side)
    total = 0
    for _ in range(n):
        if word == 0:
            break
        total += book[word]
        word = worse_level(book, side, word)
    return total


@compiled
def _apply_all(book: Int64s, events: Any) -> tuple[int, int]:
    """Apply events in order; returns (index, code) of the first rejected one, or (n, OK)."""
    for i in range(len(events)):
        e = events[i]
        code = apply(book, e.kind, e.side, e.price, e.size, e.flags, e.seq)
        if code != OK:
            return i, code
    return len(events), OK


def refusal(code: int, event: np.void) -> BookError:
    """The error that explains why ``event`` was rejected with ``code``."""
    fields = {name: int(event[name]) for name in ("kind", "side", "price", "size")}
    what = _SENTENCES[code].format(**fields)
    return BookError(
        f"frame {event['frame']} seq {event['seq']}: {what}; the event was not applied, resynchronise the book"
    )


class Book:
    """A book for Python callers: the same array and the same compiled functions as the hot path.

    ``array`` is the flat state; the module describes its layout.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.array = new_book(capacity)

    def apply(self, event: np.void) -> None:
        """Apply one record of dtype EVENT.

        Raises:
            BookError: the event is invalid; the book is unchanged.
        """
        fields = (int(event[name]) for name in ("kind", "side", "price", "size", "flags", "seq"))
        code = apply(self.array, *fields)
        if code != OK:
            raise refusal(code, event)

    def apply_batch(self, events: Events) -> None:
        """Apply events (n,) in order.

        Raises:
            BookError: an event is invalid; the events before it were applied, it and those after it were not.
        """
        i, code = _apply_all(self.array, events)
        if code != OK:
            raise refusal(code, events[i])

    def clear(self) -> None:
        clear(self.array)

    @property
    def status(self) -> int:
        """Bits EMPTY, LOCKED, CROSSED as of the last batch that ended; 0 = usable."""
        return int(self.array[STATUS])

    @property
    def empty(self) -> bool:
        return bool(self.array[STATUS] & EMPTY)

    @property
    def locked(self) -> bool:
        return bool(self.array[STATUS] & LOCKED)

    @property
    def crossed(self) -> bool:
        return bool(self.array[STATUS] & CROSSED)

    @property
    def seq(self) -> int:
        """Largest update id among the applied DEPTH events since the last CLEAR."""
        return int(self.array[DEPTH_SEQ])

    def top(self) -> tuple[int, int, int, int]:
        """Fused top: bid price, bid size, ask price, ask size (ticks, lots); zeros where there is none."""
        bid_price, bid_size, ask_price, ask_size = top(self.array)
        return int(bid_price), int(bid_size), int(ask_price), int(ask_size)

    def bids(self, n: int) -> Int64s:
        """Best ``n`` bids, best first: (<= n, 2) price in ticks and size in lots."""
        return self._levels(BID, n)

    def asks(self, n: int) -> Int64s:
        """Best ``n`` asks, best first: (<= n, 2) price in ticks and size in lots."""
        return self._levels(ASK, n)

    def counts(self) -> tuple[int, int]:
        """How many levels each side has: bids, asks."""
        return count_levels(self.array, BID), count_levels(self.array, ASK)

    def _levels(self, side: int, n: int) -> Int64s:
        out = np.zeros((min(n, sum(self.counts())), 2), dtype=np.int64)
        return out[: levels(self.array, side, len(out), out)]

    def snapshot_events(
        self, template: np.void, *, flags: int = F_SNAPSHOT | F_CHECKPOINT, limit: int = CAPACITY
    ) -> Events:
        """The levels as a CLEAR and DEPTH events that rebuild them, best first, the last with F_LAST.

        ``template`` provides times, frame and instrument; ``seq`` is the last applied update id. The ticker is left
        out: the next one is milliseconds away.
        """
        sides = [(BID, self.bids(limit)), (ASK, self.asks(limit))]
        out = np.empty(1 + sum(len(rows) for _, rows in sides), dtype=EVENT)
        out[:] = template
        out["seq"], out["order_id"], out["flags"] = self.seq, 0, flags
        out["kind"], out["side"], out["price"], out["size"] = CLEAR, 0, 0, 0
        at = 1
        for side, rows in sides:
            part = out[at : at + len(rows)]
            part["kind"], part["side"] = DEPTH, side
            part["price"], part["size"] = rows[:, 0], rows[:, 1]
            at += len(rows)
        out["flags"][-1] |= F_LAST
        return out
