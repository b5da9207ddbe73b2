"""Rows of eight integers looked up by key, compiled: a fixed pool that allocates nothing after it is created.

A pool is three arrays: the rows (n, 8), whose first word is the key, a table (2**k,) from key to row, and a head (4,)
that tracks the free rows. The table is open-addressed with linear probing, at most half full (Knuth, TAOCP 3, 6.4,
algorithms L and R: a deletion moves the rest up, so there are no tombstones).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.compiled import compiled

Int64s = NDArray[np.int64]

NONE: Final = -1  # no row
KEY: Final = 0  # first word of a row

# words of a head
_FREE: Final = 0  # first of the released rows
_USED: Final = 1  # rows ever taken: those beyond were never used
IN_USE: Final = 2

_WORDS: Final = 8  # a cache line
_NEXT: Final = 7  # in a free row: the next free one
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, Knuth's multiplicative hashing


def new_pool(rows: int) -> tuple[Int64s, Int64s, Int64s]:
    """Rows, table and head of an empty pool with room for ``rows``."""
    table = 1 << (2 * rows - 1).bit_length()
    return np.zeros((rows, _WORDS), np.int64), np.full(table, NONE, np.int64), np.array([NONE, 0, 0, 0], np.int64)


@compiled
def free_all(table: Int64s, head: Int64s) -> None:
    """Free every row."""
    table[:] = NONE
    head[_FREE], head[_USED], head[IN_USE] = NONE, 0, 0


@compiled
def _slot(table: Int64s, key: int) -> int:
    """Where the search for ``key`` begins."""
    spread = np.uint64(key) * _GOLDEN
    return np.int64((spread ^ (spread >> np.uint64(32))) & np.uint64(len(table) - 1))  # type: ignore[return-value]


@compiled
def find(rows: Int64s, table: Int64s, key: int) -> int:
    """Row of ``key`` in its pool, or NONE."""
    at = _slot(table, key)
    while table[at] != NONE:
        if rows[table[at], KEY] == key:
            return int(table[at])
        at = (at + 1) & (len(table) - 1)
    return NONE


@compiled
def take(rows: Int64s, table: Int64s, head: Int64s, key: int) -> int:
    """A row for ``key``, which has none yet: all zero but the key. NONE where the pool is full."""
    row = int(head[_FREE])
    if row != NONE:
        head[_FREE] = rows[row, _NEXT]
    elif head[_USED] < len(rows):
        row = int(head[_USED])
        head[_USED] += 1
    else:
        return NONE
    head[IN_USE] += 1
    rows[row] = 0
    rows[row, KEY] = key
    at = _slot(table, key)
    while table[at] != NONE:
        at = (at + 1) & (len(table) - 1)
    table[at] = row
    return row


@compiled
def give_back(rows: Int64s, table: Int64s, head: Int64s, row: int) -> None:
    """Free a row and close the gap that its key leaves in the table."""
    mask = len(table) - 1
    at = _slot(table, rows[row, KEY])
    while table[at] != row:
        at = (at + 1) & mask
    after = (at + 1) & mask
    while table[after] != NONE:
        wanted = _slot(table, rows[table[after], KEY])
        if (after - wanted) & mask >= (after - at) & mask:  # it may fill the gap
            table[at] = table[after]
            at = after
        after = (after + 1) & mask
    table[at] = NONE
    rows[row, _NEXT] = head[_FREE]
    head[_FREE] = row
    head[IN_USE] -= 1
