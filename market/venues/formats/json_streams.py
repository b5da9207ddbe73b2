"""What venues of JSON streams share: a parser that decodes and passes on, and routes by a symbol in the frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.json_frames import Maker, Traded, checked_symbol, decoded
from market.venues.protocol import Parsed, Route

Row = TypeVar("Row")


class JsonParser(ABC):
    """Reads the JSON frames of one instrument; a venue's own class says in :meth:`_read` what a frame means."""

    def __init__(self, instrument: Instrument) -> None:
        self._make = Maker(instrument)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the venue's module.
            ChecksumError: the book is not the venue's (only of venues that send checksums).
        """
        return self._read(decoded(payload), payload, recv_ns, frame)

    @abstractmethod
    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """The frame that was decoded to ``value``; ``payload`` is for showing it in a refusal."""

    def _check_symbol(self, symbol: str) -> None:
        """Raise FrameError (``wrong_symbol``) unless ``symbol`` is the instrument's."""
        checked_symbol(symbol, self._make.instrument)

    def _trades_of(self, recv_ns: int, frame: int, trades: Sequence[Traded]) -> Parsed:
        """A frame of trades, its exchange time that of the last one (0: there are none)."""
        return Parsed("trade", self._make.trades(recv_ns, frame, trades), exch_ns=trades[-1][0] if trades else 0)


def both_sides(bids: Iterable[Row], asks: Iterable[Row]) -> list[tuple[int, Row]]:
    """Each row with its side, bids first."""
    return [(BID, row) for row in bids] + [(ASK, row) for row in asks]


def text_at(value: Any, *names: str) -> str | None:
    """The text under these names, one inside the other; None where a name is missing or it is no text or empty."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value or None if isinstance(value, str) else None


def routed_by(symbol_of: Callable[[Any], str | None]) -> Callable[[], Route]:
    """A venue's ``route`` where every frame says whose it is.

    ``symbol_of`` tells the symbol of a decoded frame, None (or nothing) where the frame is of the connection; it may
    raise FrameError for a frame that it cannot read.
    """

    def route(payload: bytes) -> str | None:
        try:
            return symbol_of(decoded(payload)) or None
        except FrameError:
            return None

    return lambda: route
