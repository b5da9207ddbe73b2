"""Rows that show the best few levels of a book, turned into what changed since the row before.

What leaves the rows at their far end was pushed out of sight, not necessarily cancelled; it is removed all the same, so
that the book is the row. New and changed levels are said first and removals last: while they are applied, a level that
is pushed out is already beyond the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from market.decimals import Unit
from market.errors import FrameError
from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_SNAPSHOT, Events
from market.venues.formats.text_rows import Words, events_of, positive, priced, words

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


def levels_of(row: Mapping[str, Any], names: Iterable[tuple[str, str]], tick: Unit, lot: Unit) -> Levels:
    """Levels of one side from the named columns (price, size) of doubles; one without a price, or nothing, is empty.

    Raises:
        FrameError: ``bad_levels`` for a price without a size or the other way round, ``wrong_type``, or as
            :meth:`Unit.of_float`, ``zero_size``, ``out_of_range``.
    """
    levels: Levels = {}
    for price_name, size_name in names:
        price, size = row.get(price_name), row.get(size_name)
        if price is None and size is None:
            continue
        if price is None or size is None:
            raise FrameError("bad_levels", f"{price_name} is {price!r} while {size_name} is {size!r}")
        if not isinstance(price, float) or not isinstance(size, float):
            raise FrameError(
                "wrong_type", f"expected numbers, saw {price!r} in {price_name} and {size!r} in {size_name}"
            )
        levels[priced(tick.of_float(price))] = positive(lot.of_float(size))
    return levels
