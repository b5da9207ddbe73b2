"""Rows that show the best few levels of a book, turned into what changed since the row before.

What leaves the rows at their far end was pushed out of sight, not necessarily cancelled; it is removed all the same, so
that the book is the row. New and changed levels are said first and removals last: while they are applied, a level that
is pushed out is already beyond the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_SNAPSHOT, Events
from market.rows import Words, events_of, words

Levels = dict[int, int]  # ticks -> lots


class View:
    """The row before."""

    def __init__(self) -> None:
        self._seen = False
        self._sides: dict[int, Levels] = {BID: {}, ASK: {}}

    def changes(
        self,
        head: tuple[int, int, int, int],
        flags: int,
        bids: Levels,
        asks: Levels,
        *,
        first: Sequence[Words] = (),
    ) -> Events:
        """DEPTH events (n,) that make a book of the row before this row; the first row is a snapshot.

        ``head`` is (exch_ns, recv_ns, seq, frame) of the events, ``flags`` what all of them carry; ``first`` are events
        of the same batch that go before, such as the trade that made the change. Often none.
        """
        common = flags if self._seen else flags | F_SNAPSHOT
        said = list(first) if self._seen else [*first, words(head, 0, (0, 0, 0), (CLEAR, common))]
        gone: list[Words] = []
        for side, levels in ((BID, bids), (ASK, asks)):
            before = self._sides[side]
            said += [
                words(head, 0, (side, price, size), (DEPTH, common))
                for price, size in levels.items()
                if before.get(price) != size
            ]
            gone += [words(head, 0, (side, price, 0), (DEPTH, common)) for price in before if price not in levels]
            self._sides[side] = levels
        self._seen = True
        said += gone
        events = events_of(*said)
        if said:
            events["flags"][-1] |= F_LAST
        return events
