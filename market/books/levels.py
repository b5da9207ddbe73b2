"""The memory layout of a price-level book: both sides in one flat integer array, with compiled accessors.

A key is ``side * price``: ascending keys are better levels on both sides. A level is stored in one of two places. The
*window* of a side has one word for each of :data:`WINDOW` consecutive keys, holding the size at that price or 0:
setting a level there needs no search and moves no other level. Levels worse than the window are *far*: sorted keys and
their sizes, best level last. The window follows the best price. Where levels are so sparse that finding the next one
would take a long scan, the window is *closed* and every level is far, until :func:`place_windows` finds the best levels
close together.

The array is a header of :data:`HEADER` words, of which the first :data:`OWN` are used here, then for each side the far
keys and the far sizes, then the two windows. A level is identified by the index of the word that holds its size.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from market.compiled import compiled
from market.events import BID

Int64s = NDArray[np.int64]

CAPACITY: Final = 8192  # levels a side
NEAR_LEVELS: Final = 5  # the best levels of a side are near the touch
WINDOW: Final = 16384  # prices a side: 128 KiB
_ABOVE: Final = WINDOW // 4  # how many of them are better than the best level when a window is placed
_CLOSED: Final = 2**62  # the base of a window that no key reaches
_DENSE: Final = 16  # a window is opened where the best ... levels
_SPAN: Final = 256  # ... are among this many prices, and closed where the best two are as far apart
_NO_KEY: Final = -(2**62)  # below every key

# return codes of set_level()
OK: Final = 0
E_FULL: Final = -5

# header words
HEADER: Final = 64
OWN: Final = 16  # words from here on belong to the book
_CAPACITY: Final = 0
LAST_DELTA: Final = 1  # size change of the last level that was set, lots
LAST_NEAR: Final = 2  # 1 if fewer than NEAR_LEVELS levels of its side were better
# two words each: the bid's and the ask's
_COUNT: Final = 4  # levels, near and far
_BASE: Final = 6  # the lowest key of the window
_BEST: Final = 8  # the best key within the window, where it has a level
_WITHIN: Final = 10  # levels within the window
_LAST_KEY: Final = 12  # the key of the last level near the touch; _NO_KEY where there are fewer


@intrinsic  # type: ignore[untyped-decorator]
def _move(typingctx: Any, address: Any, target: Any, source: Any, count: Any) -> Any:  # noqa: ARG001
    """memmove of ``count`` int64 words within the array at ``address``: the areas may overlap."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        base = builder.inttoptr(args[0], context.get_value_type(types.int64).as_pointer())
        cgutils.raw_memmove(builder, builder.gep(base, [args[1]]), builder.gep(base, [args[2]]), args[3], 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


def new_levels(capacity: int = CAPACITY) -> Int64s:
    """No levels, with room for ``capacity`` a side."""
    book = np.zeros(HEADER + 4 * capacity + 2 * WINDOW, dtype=np.int64)
    book[_CAPACITY] = capacity
    clear_levels(book)
    return book


@compiled
def clear_levels(book: Int64s) -> None:
    """Remove every level."""
    for s in range(2):
        if book[_WITHIN + s] > 0:
            first = _window(book, s)
            book[first : first + WINDOW] = 0
    book[LAST_DELTA:OWN] = 0
    book[_BASE] = book[_BASE + 1] = _CLOSED
    book[_LAST_KEY] = book[_LAST_KEY + 1] = _NO_KEY


@compiled
def _index(side: int) -> int:
    """Offset of a side's words in the header: 0 for BID, 1 for ASK."""
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
    n, word = book[_COUNT + s], 0
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
    n: int = book[_COUNT + s] - book[_WITHIN + s]
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
    n = book[_COUNT + s] - book[_WITHIN + s]
    i = _find(book, keys, n, key)
    found = i < n and book[keys + i] == key
    book[LAST_DELTA] = size - (book[sizes + i] if found else 0)
    if found and size > 0:
        book[sizes + i] = size
    elif found:
        _move(book.ctypes.data, keys + i, keys + i + 1, n - i - 1)
        _move(book.ctypes.data, sizes + i, sizes + i + 1, n - i - 1)
        book[_COUNT + s] -= 1
    elif size > 0:
        if book[_COUNT + s] == capacity:
            return E_FULL
        _move(book.ctypes.data, keys + i + 1, keys + i, n - i)
        _move(book.ctypes.data, sizes + i + 1, sizes + i, n - i)
        book[keys + i] = key
        book[sizes + i] = size
        book[_COUNT + s] += 1
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
            n = book[_COUNT + s] - book[_WITHIN + s]
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
    n = book[_COUNT + s]
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
        if book[_COUNT + s] == book[_CAPACITY]:
            return E_FULL
        book[_COUNT + s] += 1
        book[_WITHIN + s] += 1
        book[_BEST + s] = max(book[_BEST + s], key)
    book[word] = size
    if size == 0 and before > 0:
        book[_COUNT + s] -= 1
        book[_WITHIN + s] -= 1
        if key == book[_BEST + s]:
            _find_best(book, s, word)
    return OK


@compiled
def _find_best(book: Int64s, s: int, word: int) -> None:
    """Find the new best level of the window after the one at ``word`` was removed."""
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
def set_level(book: Int64s, side: int, price: int, size: int) -> int:
    """Set, insert or remove one level; records its change, and whether it is near the touch, in the header."""
    s = _index(side)
    key, count = side * price, book[_COUNT + s]
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
    if near and book[_COUNT + s] != count:
        _find_last_key(book, side)
    return code


@compiled
def _find_last_key(book: Int64s, side: int) -> None:
    """Update the last key near the touch after a level there was added or removed."""
    word = best_level(book, side)
    for _ in range(NEAR_LEVELS - 1):
        if word > 0:
            word = worse_level(book, side, word)
    book[_LAST_KEY + _index(side)] = level_key(book, side, word) if word > 0 else _NO_KEY


@compiled
def place_windows(book: Int64s) -> None:
    """Open closed windows where the best levels are close together."""
    for s in range(2):
        if book[_BASE + s] == _CLOSED:
            _open(book, s)


@compiled
def count_levels(book: Int64s, side: int) -> int:
    """How many levels a side has."""
    n: int = book[_COUNT + _index(side)]
    return n


def window_base(book: Int64s, side: int) -> int | None:
    """The lowest key of a side's window; None where it is closed."""
    base = int(book[_BASE + _index(side)])
    return None if base == _CLOSED else base
