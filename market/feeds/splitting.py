"""Landing a recording of several instruments: each becomes its own source, and each frame goes to exactly one of them.

A frame without an instrument (a subscription reply, a heartbeat, an unreadable frame) belongs to the connection and is
landed under the symbol SESSION. Where frames of the connection are missing, every book is lost. Frames keep their
number in the recording, so the numbers of a source increase but are not consecutive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from market.errors import KeelError
from market.feeds.landing import Lander
from market.feeds.writer import Writer
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import source_of_symbol
from market.venues.protocol import SESSION, Frame, Venue

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Splitter:
    """Feeds each frame to the lander of its instrument; ``instrument`` returns the steps of a symbol.

    ``with Splitter(source, venue, lake, instrument) as splitter: splitter.feed(...)``; then ``landers`` by symbol.
    Leaving the block by an error leaves all sources unfinished, to be fed again.
    """

    def __init__(self, source: str, venue: Venue, lake: Lake, instrument: Callable[[str], Instrument]) -> None:
        self.landers: dict[str, Lander] = {}
        self._source = source
        self._venue = venue
        self._lake = lake
        self._instrument = instrument
        self._writer = Writer(Lake(lake.uri))
        self._route = venue.route() if venue.route else lambda _payload: None

    def feed(self, frame: Frame) -> None:
        """Land the next frame.

        Raises:
            InputError: another process is landing the same source.
            LakeError: an earlier commit failed.
        """
        number, recv_ns, payload = frame
        symbol = self._route(payload) or SESSION
        if getattr(self._route, "missed", False):
            for each in self.landers.values():
                each.lost(number, recv_ns)
        lander = self.landers.get(symbol)
        if lander is None:
            lander = Lander(
                source_of_symbol(self._source, symbol),
                self._instrument(symbol),
                self._lake,
                venue=self._venue,
                writer=self._writer,
            )
            self.landers[symbol] = lander
        lander.feed(number, recv_ns, payload)

    def note(self, reason: str, detail: str) -> None:
        """Record for every instrument that something after the last frame is missing."""
        for lander in self.landers.values():
            lander.note(reason, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            for lander in self.landers.values():
                lander.close()
            self._writer.finish()
        except KeelError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        for lander in self.landers.values():
            lander.abandon()
        self._writer.stop()
