"""A book as a venue wrote it, kept beside the events, to compute the venue's checksum of it."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nlargest

from market.errors import FrameError
from market.events import ASK, BID
from market.venues.formats.json_frames import Level, Maker


class Proven:
    """Levels by price in ticks, with price and size as text."""

    def __init__(self, make: Maker) -> None:
        self._make = make
        self._sides: dict[int, dict[int, tuple[str, str]]] = {BID: {}, ASK: {}}

    def changed(self, levels: Iterable[Level], depth: int = 0) -> list[Level]:
        """Apply levels; with a ``depth``, forget what lies beyond it and answer that, as removals.

        Raises:
            FrameError: ``bad_levels`` for text that a checksum cannot be made of, or as :class:`Maker`.
        """
        for side, price, size in levels:
            if not (isinstance(price, str) and isinstance(size, str) and price.isascii() and size.isascii()):
                raise FrameError("bad_levels", f"expected price and size in text, saw {price!r} and {size!r}")
            if self._make.lots(size):
                self._sides[side][self._make.ticks(price)] = (price, size)
            else:
                self._sides[side].pop(self._make.ticks(price), None)
        return [level for side in (BID, ASK) for level in self._beyond(side, depth)] if depth else []

    def best(self, side: int, n: int) -> list[tuple[str, str]]:
        """Price and size of the best ``n`` levels of a side, best first."""
        levels = self._sides[side]
        return [levels[ticks] for ticks in nlargest(n, levels, key=side.__mul__)]

    def _beyond(self, side: int, depth: int) -> list[Level]:
        levels = self._sides[side]
        too_many = len(levels) - depth
        if too_many <= 0:
            return []
        far = nlargest(too_many, levels, key=(-side).__mul__)
        return [(side, levels.pop(ticks)[0], 0) for ticks in far]
