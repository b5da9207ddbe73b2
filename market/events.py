"""The event: the one record that feeds, lake, book, features and hot path agree on.

64 bytes, one cache line. A book update that arrives in one frame with many levels is many records of one *batch*; the
last of them carries :data:`F_LAST`, and only there is the book in a state that the exchange showed. Prices are integer
ticks, sizes integer lots, times integer nanoseconds since the epoch. Both clocks are kept as they came: the receive
time may lie before the exchange time in real captures (clock offset); nothing is changed to hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

EVENT: Final = np.dtype(
    [
        ("exch_ns", "<i8"),  # exchange time; 0 with F_NO_EXCH_TIME where the feed has none
        ("recv_ns", "<i8"),  # local receive time
        ("seq", "<i8"),  # the venue's update or trade id
        ("frame", "<i8"),  # number of the raw frame in its source, from 1: the way back to the bytes
        ("order_id", "<i8"),  # order-level feeds: the resting order; 0 elsewhere, and where a feed does not say
        ("price", "<i8"),  # ticks
        ("size", "<i8"),  # lots: of the level (DEPTH, TICKER), traded (TRADE); of orders, see their kinds
        ("kind", "u1"),
        ("side", "i1"),  # BID or ASK of the level; for trades the aggressor's side
        ("flags", "<u2"),
        ("instrument", "<u4"),  # index in the process's instrument table
    ]
)

Events = NDArray[np.void]  # shape (n,), dtype EVENT

# kinds of price levels and trades
DEPTH: Final = 1  # a level's absolute size; 0 removes the level
TRADE: Final = 2
TICKER: Final = 3  # best bid or ask, faster than the depth stream; never written into the depth levels
# kinds of single orders (market.books.order_book). The side is the resting order's. What a feed tells as an absolute
# stays an absolute (CHANGE), what it tells as a difference stays a difference (REDUCE, EXECUTE): parsers need no
# memory.
ADD: Final = 4  # a new order rests, behind all others of its price; size = its lots
CHANGE: Final = 5  # its price (0: as before) and lots left are now these; it keeps its place unless it moves or grows
REDUCE: Final = 6  # so many of its lots were cancelled; it keeps its place
REMOVE: Final = 7  # it is gone, cancelled or filled; size = what the feed says it had left (0: not said)
EXECUTE: Final = 8  # so many of its lots were traded and are gone from the book; price = the trade's. In an auction
# both orders rest: two in a row with one seq are the two sides of one trade
FILL: Final = 9  # it took part in a trade; what that leaves of it comes as an event of its own
CLEAR: Final = 10  # forget the book; a snapshot follows

# sides
BID: Final = 1
ASK: Final = -1
NO_SIDE: Final = 0

# flags
F_SNAPSHOT: Final = 1  # part of an exchange snapshot
F_LAST: Final = 2  # last record of its batch: the book may be looked at
F_CHECKPOINT: Final = 4  # book state written by us at the start of a lake batch, so that a batch stands alone
F_CLOCK_BACK: Final = 8  # this receive time lies before the previous one of the same source
F_NO_EXCH_TIME: Final = 16
F_RESYNC: Final = 32  # first batch after a gap: windows over time must restart
F_NO_SIZE: Final = 64  # the feed says no size of levels: 1 lot stands for "there are some"


def empty(n: int) -> Events:
    """``n`` zeroed events."""
    return np.zeros(n, dtype=EVENT)


def joined(parts: Sequence[NDArray[np.void]], dtype: np.dtype[np.void] = EVENT) -> NDArray[np.void]:
    """Records (n,) of all ``parts``, which are of ``dtype``, in one new array.

    numpy's own way promotes a structured type anew for each part, which takes 15 us where the bytes take none.

    Raises:
        TypeError: a part is of another type, or not in one piece.
    """
    for part in parts:
        if part.dtype != dtype:
            raise TypeError(f"expected records of {dtype}, saw {part.dtype}")
    data = bytearray().join(parts)  # type: ignore[arg-type]  # arrays are buffers
    return np.ndarray(len(data) // dtype.itemsize, dtype, data)
