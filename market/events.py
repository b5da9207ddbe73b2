"""The event: the single record format shared by feeds, lake, book, features and hot path.

64 bytes, one cache line. A book update that arrives in one frame with many levels becomes many records of one *batch*;
the last of them carries :data:`F_LAST`, and only then is the book in a state that the exchange published. Prices are
integer ticks, sizes integer lots, times integer nanoseconds since the epoch. Both clocks are stored as received: in
real captures the receive time may precede the exchange time (clock offset); nothing is adjusted to hide it.
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
        ("frame", "<i8"),  # number of the raw frame in its source, from 1: links back to the bytes
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
# order-level kinds (market.books.order_book). The side is the resting order's. What a feed reports as an absolute value
# stays absolute (CHANGE), what it reports as a difference stays a difference (REDUCE, EXECUTE): parsers need no state.
ADD: Final = 4  # a new resting order, behind all others at its price; size = its lots
CHANGE: Final = 5  # its new price (0: unchanged) and lots left; it keeps its place unless it moves or grows
REDUCE: Final = 6  # this many of its lots were cancelled; it keeps its place
REMOVE: Final = 7  # it was removed, cancelled or filled; size = what it had left according to the feed (0: not stated)
EXECUTE: Final = 8  # this many of its lots were traded and left the book; price = the trade's. In an auction
# both orders rest: two in a row with one seq are the two sides of one trade
FILL: Final = 9  # it took part in a trade; what is left of it comes as a separate event
CLEAR: Final = 10  # clear the book; a snapshot follows

# sides
BID: Final = 1
ASK: Final = -1
NO_SIDE: Final = 0

# flags
F_SNAPSHOT: Final = 1  # part of an exchange snapshot
F_LAST: Final = 2  # last record of its batch: the book may be read
F_CHECKPOINT: Final = 4  # book state written by us at the start of a lake batch, so that the batch is self-contained
F_CLOCK_BACK: Final = 8  # this receive time is before the previous one of the same source
F_NO_EXCH_TIME: Final = 16
F_RESYNC: Final = 32  # first batch after a gap: windows over time must restart
F_NO_SIZE: Final = 64  # the feed gives no level sizes: 1 lot stands for "not empty"


def empty(n: int) -> Events:
    """``n`` zeroed events."""
    return np.zeros(n, dtype=EVENT)


def joined(parts: Sequence[NDArray[np.void]], dtype: np.dtype[np.void] = EVENT) -> NDArray[np.void]:
    """Records (n,) of all ``parts``, all of ``dtype``, in one new array.

    ``np.concatenate`` promotes a structured type again for each part, which takes 15 us; joining the bytes takes none.

    Raises:
        TypeError: a part is of another type, or not contiguous.
    """
    for part in parts:
        if part.dtype != dtype:
            raise TypeError(f"expected records of {dtype}, saw {part.dtype}")
    data = bytearray().join(parts)  # type: ignore[arg-type]  # arrays are buffers
    return np.ndarray(len(data) // dtype.itemsize, dtype, data)
