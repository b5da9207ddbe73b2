"""A price-level book in one flat integer array, compiled.

A key is ``side * price``: ascending keys are better levels on both sides. A level lies in one of two places. The
*window* of a side has a word for each of :data:`WINDOW` keys in a row, with the size at that price or 0: a level there
is set without a search and without moving others. Levels worse than the window are *far*: sorted keys and their sizes,
best level last. A window goes with the best price. Where levels are so sparse that the next one would be looked for at
length it is *closed* and every level is far, until the best levels are close to one another when a batch ends.

The array is a header of :data:`HEADER` words, then for each side the far keys and the far sizes, then the two windows.
One array means: the hot path passes one address.

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
NEAR_LEVELS: Final = 5  # the best levels of a side are near the touch
WINDOW: Final = 16384  # prices a side: 128 KiB
_ABOVE: Final = WINDOW // 4  # how many of them are better than the best level when a window is placed
_CLOSED: Final = 2**62  # the base of a window that no key reaches
_DENSE: Final = 16  # a window is opened where the best ... levels
_SPAN: Final = 256  # ... are among this many prices, and closed where the best two are as far apart
_NO_KEY: Final = -(2**62)  # below every key

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
LAST_NEAR: Final = 15  # 1 if fewer than NEAR_LEVELS levels of its side were better
LIVE: Final = 16  # 1 once a batch ended with levels on both sides since the last CLEAR
# of each side two words: the bid's and the ask's
_BASE: Final = 18  # the lowest key of the window
_BEST: Final = 20  # the best key within the window, where it has a level
_WITHIN: Final = 22  # levels within the window
_LAST_KEY: Final = 24  # the key of the last level near the touch; _NO_KEY where there are fewer

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
MAX_PRICE: Final = 2**47  # somebody asks 888,888,004 euros for a coin of 1e-5 steps

_SENTENCES: Final = {
    E_KIND: "kind {kind} is none of DEPTH, TRADE, TICKER, CLEAR",
    E_SIDE: "side {side} is neither BID nor ASK",
    E_SIZE: "size {size} is not within 0 and 2**57 lots",
    E_PRICE: "price {price} is not within 1 and 2**47 ticks",
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
    book = np.zeros(HEADER + 4 * capacity + 2 * WINDOW, dtype=np.int64)
    book[_CAPACITY] = capacity
    clear(book)
    return book


@compiled
def clear(book: Int64s) -> None:
    """Forget every level and the ticker."""
    capacity = book[_CAPACITY]
    for s in range(2):
        if book[_WITHIN + s] > 0:
            first = _window(book, s)
            book[first : first + WINDOW] = 0
    book[:HEADER] = 0
    book[_CAPACITY] = capacity
    book[STATUS] = EMPTY
    book[_BASE] = book[_BASE + 1] = _CLOSED
    book[_LAST_KEY] = book[_LAST_KEY + 1] = _NO_KEY


@compiled
def _index(side: int) -> int:
    """0 of BID, 1 of ASK: what a side's words in the header are counted by."""
    return 0 if side == BID else 1


@compiled
def _far(book: Int64s, s: int) -> int:
    """Where the far keys of a side begin; their sizes are ``capacity`` words later."""
    first: int = HEADER + 2 * s * book[_CAPACITY]
    return first


@compiled
def _window(book: Int64s, s: int) -> int:
    """Where the window of a side begins."""
    first: int = HEADER + 4 * book[_CAPACITY] + s * WINDOW
    return first


@compiled
def best_level(book: Int64s, side: int) -> int:
    """The word that holds the size of a side's best level; 0 where it has none."""
    s = _index(side)
    n, word = book[N_BID + s], 0
    if book[_WITHIN + s] > 0:
        word = _window(book, s) + book[_BEST + s] - book[_BASE + s]
    elif n > 0:
        word = _far(book, s) + book[_CAPACITY] + n - 1
    return word


@compiled
def worse_level(book: Int64s, side: int, word: int) -> int:
    """The word that holds the size of the next worse level than that at ``word``; 0 where there is none."""
    s = _index(side)
    first, far_sizes = _window(book, s), _far(book, s) + book[_CAPACITY]
    if word < first:
        return word - 1 if word > far_sizes else 0
    word -= 1
    while word >= first:
        if book[word] > 0:
            return word
        word -= 1
    n: int = book[N_BID + s] - book[_WITHIN + s]
    return far_sizes + n - 1 if n > 0 else 0


@compiled
def level_key(book: Int64s, side: int, word: int) -> int:
    """The key, ``side * price``, of the level whose size is at ``word``."""
    s = _index(side)
    first = _window(book, s)
    key: int = book[_BASE + s] + word - first if word >= first else book[word - book[_CAPACITY]]
    return key


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
def _set_far(book: Int64s, s: int, key: int, size: int) -> int:
    """Set, insert or remove a level that is worse than the window."""
    capacity = book[_CAPACITY]
    keys = _far(book, s)
    sizes = keys + capacity
    n = book[N_BID + s] - book[_WITHIN + s]
    i = _find(book, keys, n, key)
    found = i < n and book[keys + i] == key
    book[LAST_DELTA] = size - (book[sizes + i] if found else 0)
    if found and size > 0:
        book[sizes + i] = size
    elif found:
        _move(book.ctypes.data, keys + i, keys + i + 1, n - i - 1)
        _move(book.ctypes.data, sizes + i, sizes + i + 1, n - i - 1)
        book[N_BID + s] -= 1
    elif size > 0:
        if book[N_BID + s] == capacity:
            return E_FULL
        _move(book.ctypes.data, keys + i + 1, keys + i, n - i)
        _move(book.ctypes.data, sizes + i + 1, sizes + i, n - i)
        book[keys + i] = key
        book[sizes + i] = size
        book[N_BID + s] += 1
    return OK


@compiled
def _leave(book: Int64s, s: int, below: int) -> None:
    """Levels of the window whose keys are less than ``below`` become far."""
    first, base = _window(book, s), book[_BASE + s]
    keys = _far(book, s)
    at = 0
    while at < min(below - base, WINDOW) and book[_WITHIN + s] > 0:
        size = book[first + at]
        if size > 0:
            n = book[N_BID + s] - book[_WITHIN + s]
            book[keys + n] = base + at
            book[keys + book[_CAPACITY] + n] = size
            book[first + at] = 0
            book[_WITHIN + s] -= 1
        at += 1


@compiled
def _close(book: Int64s, s: int) -> None:
    """Every level of the window becomes far."""
    _leave(book, s, book[_BASE + s] + WINDOW)
    book[_BASE + s] = _CLOSED


@compiled
def _open(book: Int64s, s: int) -> None:
    """Place the window, which holds no level, around the best of the far ones; close it where those are sparse."""
    keys = _far(book, s)
    sizes = keys + book[_CAPACITY]
    n = book[N_BID + s]
    if n < _DENSE or book[keys + n - 1] - book[keys + n - _DENSE] >= _SPAN:
        book[_BASE + s] = _CLOSED
        return
    best = book[keys + n - 1]
    base = best + _ABOVE - WINDOW
    first = _window(book, s)
    while n > 0 and book[keys + n - 1] >= base:
        n -= 1
        book[first + book[keys + n] - base] = book[sizes + n]
        book[_WITHIN + s] += 1
    book[_BASE + s], book[_BEST + s] = base, best


@compiled
def _follow(book: Int64s, s: int, key: int) -> None:
    """Move the window to ``key``, which is better than all of it; close it where none of its levels stays in it."""
    base = key + _ABOVE - WINDOW
    shift = base - book[_BASE + s]
    _leave(book, s, base)
    if book[_WITHIN + s] == 0:
        book[_BASE + s] = _CLOSED
        return
    first = _window(book, s)
    _move(book.ctypes.data, first, first + shift, WINDOW - shift)
    book[first + WINDOW - shift : first + WINDOW] = 0
    book[_BASE + s] = base


@compiled
def _set_near(book: Int64s, s: int, key: int, size: int) -> int:
    """Set, insert or remove a level in the window."""
    word = _window(book, s) + key - book[_BASE + s]
    before = book[word]
    book[LAST_DELTA] = size - before
    if before == 0 and size > 0:
        if book[N_BID + s] == book[_CAPACITY]:
            return E_FULL
        book[N_BID + s] += 1
        book[_WITHIN + s] += 1
        book[_BEST + s] = max(book[_BEST + s], key)
    book[word] = size
    if size == 0 and before > 0:
        book[N_BID + s] -= 1
        book[_WITHIN + s] -= 1
        if key == book[_BEST + s]:
            _find_best(book, s, word)
    return OK


@compiled
def _find_best(book: Int64s, s: int, word: int) -> None:
    """After the best level of the window, at ``word``, went away."""
    if book[_WITHIN + s] == 0:
        _open(book, s)
        return
    gap = 0
    while book[word] == 0:
        word -= 1
        gap += 1
    book[_BEST + s] -= gap
    if gap >= _SPAN:
        _close(book, s)
    elif book[_BEST + s] - book[_BASE + s] < _ABOVE:
        _close(book, s)
        _open(book, s)


@compiled
def _set_level(book: Int64s, side: int, price: int, size: int) -> int:
    """Set, insert or remove one level; leaves its change, and whether it is near the touch, in the header."""
    s = _index(side)
    key, count = side * price, book[N_BID + s]
    near = key >= book[_LAST_KEY + s]
    book[LAST_DELTA], book[LAST_NEAR] = 0, near
    if key - book[_BASE + s] >= WINDOW and size > 0:
        _follow(book, s, key)
    at = key - book[_BASE + s]
    code = OK
    if at < 0:
        code = _set_far(book, s, key, size)
    elif at < WINDOW:  # no level is beyond it
        code = _set_near(book, s, key, size)
    if near and book[N_BID + s] != count:
        _find_last_key(book, side)
    return code


@compiled
def _find_last_key(book: Int64s, side: int) -> None:
    """After a level near the touch came or went."""
    word = best_level(book, side)
    for _ in range(NEAR_LEVELS - 1):
        if word > 0:
            word = worse_level(book, side, word)
    book[_LAST_KEY + _index(side)] = level_key(book, side, word) if word > 0 else _NO_KEY


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
        for s in range(2):
            if book[_BASE + s] == _CLOSED:
                _open(book, s)
    return OK


@compiled
def levels(book: Int64s, side: int, n: int, out: Int64s) -> int:
    """Write the best ``n`` levels of a side, best first, into ``out`` (n, 2) as price and size; answers how many."""
    n = min(n, book[N_BID + _index(side)])
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


def window_base(book: Int64s, side: int) -> int | None:
    """The lowest key of a side's window; None where it is closed."""
    base = int(book[_BASE + _index(side)])
    return None if base == _CLOSED else base


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
