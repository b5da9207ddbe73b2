"""A price-level book in one flat integer array, compiled.

The array is a header of :data:`HEADER` words, then for each side the sorted keys and the sizes of its levels, best
level *last*, so that the usual update moves few words. A key is ``side * price``: ascending keys are better levels on
both sides. One array means: the hot path passes one address.

The book keeps two views of the best bid and ask. *Levels* come from the depth stream. The *ticker* (TICKER events) is
often newer and is kept beside, never written into the levels. The *top* is whichever of the two carries the larger
update id when a batch ends. Deeper levels and depth near the touch always come from the levels.

A book that is empty on a side, locked (bid = ask) or crossed (bid > ask), in its levels or in its ticker, is marked so,
never repaired. Continuity of update ids is the venue's rule and is checked by the feed, not here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

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

CAPACITY: Final = 8192  # levels a side

# header words
HEADER: Final = 64
_CAPACITY: Final = 0
N_BID: Final = 1
N_ASK: Final = 2
STATUS: Final = 3
DEPTH_SEQ: Final = 4
TICKER_SEQ: Final = 5
_TICKER: Final = 6  # four words: bid price, bid size, ask price, ask size
TOP: Final = 10  # four words, as the ticker
LAST_DELTA: Final = 14  # size change of the last DEPTH event, lots
LAST_RANK: Final = 15  # how many levels of its side were better, 0 = the best
LIVE: Final = 16  # 1 once a batch ended with levels on both sides since the last CLEAR

# status bits, as of the last batch that ended
EMPTY: Final = 1
LOCKED: Final = 2
CROSSED: Final = 4

# what apply() answers
OK: Final = 0
E_KIND: Final = -1
E_SIDE: Final = -2
E_SIZE: Final = -3
E_PRICE: Final = -4
E_FULL: Final = -5

# So large that 1.4 thousand million coins in lots of 1e-8 fit; the sizes of up to 32 levels add up to less than 2**63.
MAX_SIZE: Final = 2**57
MAX_PRICE: Final = 2**40

_SENTENCES: Final = {
    E_KIND: "kind {kind} is none of DEPTH, TRADE, TICKER, CLEAR",
    E_SIDE: "side {side} is neither BID nor ASK",
    E_SIZE: "size {size} is not within 0 and 2**57 lots",
    E_PRICE: "price {price} is not within 1 and 2**40 ticks",
    E_FULL: "no room for one more level at price {price}",
}


@intrinsic  # type: ignore[untyped-decorator]
def _move(typingctx: Any, address: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """memmove of ``count`` int64 words within the array at ``address``: the areas may overlap."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        base = builder.inttoptr(args[0], context.get_value_type(types.int64).as_pointer())
        cgutils.raw_memmove(builder, builder.gep(base, [args[1]]), builder.gep(base, [args[2]]), args[3], 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


def new_book(capacity: int = CAPACITY) -> Int64s:
    """An empty book with room for ``capacity`` levels a side."""
    book = np.zeros(HEADER + 4 * capacity, dtype=np.int64)
    book[_CAPACITY] = capacity
    book[STATUS] = EMPTY
    return book


@compiled
def clear(book: Int64s) -> None:
    """Forget every level and the ticker."""
    capacity = book[_CAPACITY]
    book[:HEADER] = 0
    book[_CAPACITY] = capacity
    book[STATUS] = EMPTY


@compiled
def _find(book: Int64s, first: int, n: int, key: int) -> int:
    """Smallest index i in 0..n with keys[i] >= key. Looks at the best first, then halves without branching."""
    if n == 0 or book[first + n - 1] < key:
        return n
    at, length = np.uint64(first), np.uint64(n)  # unsigned: no test for negative indices
    one = np.uint64(1)
    while length > one:
        half = length >> one
        at += half * np.uint64(book[at + half - one] < key)
        length -= half
    if book[at] < key:
        at += one
    return np.int64(at) - first  # type: ignore[return-value]


@compiled
def _set_level(book: Int64s, side: int, price: int, size: int) -> int:
    """Set, insert or remove one level; leaves its change and rank in the header."""
    capacity = book[_CAPACITY]
    count = N_BID if side == BID else N_ASK
    keys = HEADER if side == BID else HEADER + 2 * capacity
    sizes = keys + capacity
    n = book[count]
    key = side * price
    i = _find(book, keys, n, key)
    found = i < n and book[keys + i] == key
    before = book[sizes + i] if found else 0
    book[LAST_DELTA] = size - before
    book[LAST_RANK] = n - i - 1 if found else n - i
    if found and size > 0:
        book[sizes + i] = size
    elif found:
        _move(book.ctypes.data, keys + i, keys + i + 1, n - i - 1)
        _move(book.ctypes.data, sizes + i, sizes + i + 1, n - i - 1)
        book[count] = n - 1
    elif size > 0:
        if n == capacity:
            return E_FULL
        _move(book.ctypes.data, keys + i + 1, keys + i, n - i)
        _move(book.ctypes.data, sizes + i + 1, sizes + i, n - i)
        book[keys + i] = key
        book[sizes + i] = size
        book[count] = n + 1
    return OK


@compiled
def best(book: Int64s) -> tuple[int, int, int, int]:
    """Best bid price and size, best ask price and size of the levels (not the ticker); zeros where a side is empty."""
    capacity = book[_CAPACITY]
    bid_price, bid_size, ask_price, ask_size = 0, 0, 0, 0
    if book[N_BID] > 0:
        i = HEADER + book[N_BID] - 1
        bid_price, bid_size = book[i], book[i + capacity]
    if book[N_ASK] > 0:
        i = HEADER + 2 * capacity + book[N_ASK] - 1
        ask_price, ask_size = -book[i], book[i + capacity]
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
    """Refresh top and status: the exchange showed this state."""
    bid_price, bid_size, ask_price, ask_size = best(book)
    book[TOP], book[TOP + 1], book[TOP + 2], book[TOP + 3] = bid_price, bid_size, ask_price, ask_size
    if book[N_BID] == 0 or book[N_ASK] == 0:
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
    """Why an event cannot be: OK or an error code."""
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
    """Apply one event. Answers OK or the code of what is wrong; a refused event leaves the book as it was."""
    if kind == CLEAR:
        clear(book)
        if flags & F_CHECKPOINT:  # of a book that was empty nothing else tells how far it is
            book[DEPTH_SEQ] = seq
    else:
        code = _refusal(kind, side, price, size)
        if code == OK and kind == DEPTH:
            code = _set_level(book, side, price, size)
            if code == OK and seq > book[DEPTH_SEQ]:
                book[DEPTH_SEQ] = seq
        elif code == OK and kind == TICKER and seq >= book[TICKER_SEQ]:
            word = _TICKER if side == BID else _TICKER + 2
            book[word], book[word + 1], book[TICKER_SEQ] = price, size, seq
        if code != OK:
            return code
    if flags & F_LAST:
        end_batch(book)
    return OK


@compiled
def levels(book: Int64s, side: int, n: int, out: Int64s) -> int:
    """Write the best ``n`` levels of a side, best first, into ``out`` (n, 2) as price and size; answers how many."""
    capacity = book[_CAPACITY]
    first = HEADER if side == BID else HEADER + 2 * capacity
    have = book[N_BID] if side == BID else book[N_ASK]
    n = min(n, have)
    for i in range(n):
        word = first + have - 1 - i
        out[i, 0], out[i, 1] = side * book[word], book[word + capacity]
    return n


@compiled
def depth_near(book: Int64s, side: int, n: int) -> int:
    """Lots in the best ``n`` levels of a side."""
    capacity = book[_CAPACITY]
    have = book[N_BID] if side == BID else book[N_ASK]
    sizes = (HEADER if side == BID else HEADER + 2 * capacity) + capacity
    total = 0
    for i in range(sizes + max(0, have - n), sizes + have):
        total += book[i]
    return total


@compiled
def _apply_all(book: Int64s, events: Any) -> tuple[int, int]:
    """Apply events in order; answers (index, code) of the first that is refused, or (n, OK)."""
    for i in range(len(events)):
        e = events[i]
        code = apply(book, e.kind, e.side, e.price, e.size, e.flags, e.seq)
        if code != OK:
            return i, code
    return len(events), OK


def refusal(code: int, event: np.void) -> BookError:
    """The error that says in a sentence why ``event`` was refused with ``code``."""
    fields = {name: int(event[name]) for name in ("kind", "side", "price", "size")}
    what = _SENTENCES[code].format(**fields)
    return BookError(
        f"frame {event['frame']} seq {event['seq']}: {what}; the event was not applied, resynchronise the book"
    )


class Book:
    """A book for Python callers: the same array and the same compiled functions as the hot path.

    ``array`` is the flat state; see the module for what it holds.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.array = new_book(capacity)

    def apply(self, event: np.void) -> None:
        """Apply one record of dtype EVENT.

        Raises:
            BookError: the event cannot be; the book is as it was before.
        """
        fields = (int(event[name]) for name in ("kind", "side", "price", "size", "flags", "seq"))
        code = apply(self.array, *fields)
        if code != OK:
            raise refusal(code, event)

    def apply_batch(self, events: Events) -> None:
        """Apply events (n,) in order.

        Raises:
            BookError: an event cannot be; those before it were applied, it and those after it were not.
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
        return int(self.array[N_BID]), int(self.array[N_ASK])

    def _levels(self, side: int, n: int) -> Int64s:
        out = np.zeros((min(n, int(self.array[_CAPACITY])), 2), dtype=np.int64)
        return out[: levels(self.array, side, len(out), out)]

    def snapshot_events(
        self, template: np.void, *, flags: int = F_SNAPSHOT | F_CHECKPOINT, limit: int = CAPACITY
    ) -> Events:
        """The levels as a CLEAR and DEPTH events that rebuild them, best first, the last with F_LAST.

        ``template`` gives times, frame and instrument; ``seq`` is the last applied update id. The ticker is not part
        of it: the next one is milliseconds away.
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
