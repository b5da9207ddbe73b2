"""The interface of a venue: how its recordings are read, how a frame becomes events, what keeps its book complete.

A :class:`Venue` is one wire format. An exchange that is recorded in two formats is two venues with the same
instruments. All venues are listed in one table, :mod:`market.venues.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import msgspec

from market.books.price_book import Book
from market.events import Events, empty
from market.instruments import Instrument

Kind = Literal["diff", "snapshot", "ticker", "trade", "slow", "other"]
Rule = Literal["spot", "futures", "stamped", "sequence", "previous", "snapshots", "open"]
"""Which diffs may be applied to a book.

* ``spot``, ``futures``: the snapshot comes from outside the stream and is joined to it by ids; see
  :mod:`market.feeds.resync`.
* ``stamped``: likewise, but by exchange times in ``last``; diffs have no numbers.
* ``sequence``: a snapshot in the stream, then each diff's ``first`` is the ``last`` before plus one.
* ``previous``: a snapshot in the stream, then each diff's ``previous`` is the ``last`` before.
* ``snapshots``: a snapshot in the stream and no numbers. An unreadable book frame loses the book. Where the venue sends
  checksums, the parser verifies the book with them and raises :class:`~market.errors.ChecksumError`.
* ``open``: every frame is self-contained, or the recording starts in the middle of a day; there is no waiting for a
  snapshot.
"""

Frame = tuple[int, int, bytes]  # number from 1, receive ns or NO_STAMP, payload
# a frame's symbol; None: of the connection, or unreadable. An attribute ``missed`` that is true after a call means that
# frames of the connection are missing before that frame
Route = Callable[[bytes], str | None]

NO_EVENTS: Final = empty(0)
NO_STAMP: Final = -1  # receive time of a frame whose time cannot be read
SEVERAL: Final = "*"  # the symbol of a recording of several instruments
SESSION: Final = "SESSION"  # the symbol under which frames without an instrument are landed


class Slow(msgspec.Struct, frozen=True, gc=False):
    """A mark price record, known from ``recv_ns`` on: ``funding_rate`` a fraction, prices times 1e8 (0: not given)."""

    frame: int
    recv_ns: int
    exch_ns: int
    funding_rate: float
    mark_e8: int
    index_e8: int
    next_funding_ns: int


class OptionSummary(msgspec.Struct, frozen=True, gc=False):
    """A venue's summary of one option, known from ``recv_ns`` on; fields as in the lake's table ``options``."""

    frame: int
    recv_ns: int
    exch_ns: int
    option: str
    side: int
    strike_e8: int
    expiry_ns: int
    bid_e8: int
    ask_e8: int
    mark_e8: int
    index_e8: int
    open_interest_e8: int
    volume_e8: int
    forward: float
    implied_volatility: float
    delta: float
    vega: float


class Parsed(msgspec.Struct, frozen=True, gc=False):
    """One frame; ``exch_ns`` is that of its events.

    ``first``, ``last`` and ``previous`` are the ids that the venue's :data:`Rule` refers to (0 where absent): for a
    Binance diff ``U``, ``u`` and ``pu``. ``last`` of a snapshot is the update it ends with; its events are CLEAR and
    the resting levels or orders, all with F_SNAPSHOT. ``other`` is a well-formed frame that is not market data (a
    heartbeat, a subscription reply) or that no participant caused, such as an insurance fund's trade: it has no events.
    ``slow`` and ``option`` may come with any kind. ``proved``: the venue's checksum confirmed the book after this
    frame.
    """

    kind: Kind
    events: Events = NO_EVENTS
    first: int = 0
    last: int = 0
    previous: int = 0
    slow: Slow | None = None
    option: OptionSummary | None = None
    exch_ns: int = 0
    proved: bool = False


class Parser(Protocol):
    """Reads the frames of one instrument. It may keep state, so pass it all of them, in order."""

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: it cannot be read; ``reason`` is one of :attr:`Venue.reasons`. It produced no event.
            ChecksumError: it was read, but the book differs from the venue's.
        """


def _alone(path: Path) -> tuple[Path, ...]:
    return (path,)


def _one(_payload: bytes) -> int:
    return 1


@dataclass(frozen=True, kw_only=True)
class Venue:
    """One wire format.

    ``name`` is what ``--venue`` takes. ``recognise`` returns the instrument key of a recording, ``venue.*``
    (:data:`SEVERAL`) if it holds several, None if it has another format. ``frames`` reads a recording into numbered
    payloads; ``parts`` are all files that it reads for it. ``route`` makes a function that returns the symbol of each
    frame in turn, for formats that may hold several instruments. ``rows`` returns how many rows of the recording a
    payload stands for. ``live`` are the names in instrument keys whose live stream has this format.
    """

    name: str
    parser: Callable[[Instrument], Parser]
    reasons: frozenset[str]
    rule: Callable[[Instrument], Rule]
    frames: Callable[[Path], Iterator[Frame]]
    recognise: Callable[[Path], str | None]
    parts: Callable[[Path], tuple[Path, ...]] = _alone
    route: Callable[[], Route] | None = None
    rows: Callable[[bytes], int] = _one
    book: type[Book] = Book
    live: tuple[str, ...] = ()


def always(rule: Rule) -> Callable[[Instrument], Rule]:
    """The same rule for every instrument."""
    return lambda _instrument: rule


def listed(words: str) -> frozenset[str]:
    """A list of reasons from its text."""
    return frozenset(words.split())
