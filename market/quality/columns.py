"""A batch as columns: its events, and for each event what the book showed after it.

One compiled pass plays the events through a book; everything else about a batch is then vector arithmetic over columns.
A batch starts with a checkpoint or a snapshot if its book was live, so it needs nothing from before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.books.price_book import EMPTY, LIVE, STATUS, apply, depth_near, new_book, refusal, top
from market.compiled import compiled
from market.errors import SettingsError
from market.events import ASK, BID, CLEAR, DEPTH, F_CHECKPOINT, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT, TRADE, Events

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

DEPTH_LEVELS: Final = 5  # this many best levels per side are "depth near the touch"
_LIVE, _STATUS, _BID, _ASK, _NEAR, _WORDS = 0, 1, 2, 3, 4, 5
_REPLAYED: Final = F_SNAPSHOT | F_CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds that single events are checked against. Prices in ticks, sizes in lots, both ends allowed.

    ``outside_bp``: how far from the touch a trade may print before it counts as outside the book, in basis points.

    Raises:
        SettingsError: the bounds leave no room.
    """

    outside_bp: float = 50.0
    lowest_price: int = 1
    highest_price: int = 2**40
    largest_size: int = 2**45

    def __post_init__(self) -> None:
        if self.outside_bp < 0 or self.lowest_price > self.highest_price or self.largest_size < 1:
            raise SettingsError(
                "expected outside_bp >= 0, lowest_price <= highest_price and largest_size >= 1, saw "
                f"{self.outside_bp}, {self.lowest_price}, {self.highest_price} and {self.largest_size}"
            )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """One batch: ``events`` (n,) up to one that the book rejects, whose index is ``refused``; n may be 0.

    ``states`` (n, 5) int64 is what the book showed after each event: live, status, best bid and ask in ticks, and lots
    in the best levels of both sides (0 except where a batch of the wire ends).
    """

    events: Events
    states: Ints
    rows: Ints | None = None
    bounds: Bounds = field(default_factory=Bounds)
    refused: str = ""

    @cached_property
    def own(self) -> Bools:
        """Events that the feed sent live: neither from our checkpoints nor from an exchange snapshot."""
        return np.asarray(self._flagged(_REPLAYED) == 0)

    @cached_property
    def trade(self) -> Bools:
        return np.asarray(self.events["kind"] == TRADE)

    @cached_property
    def depth(self) -> Bools:
        """Level changes, without our checkpoints."""
        return np.asarray((self.events["kind"] == DEPTH) & (self._flagged(F_CHECKPOINT) == 0))

    @cached_property
    def shown(self) -> Bools:
        """Where the exchange showed a book that the feed was following, usable or not."""
        return np.asarray((self._flagged(F_LAST) != 0) & (self.states[:, _LIVE] == 1))

    @cached_property
    def quoted(self) -> Bools:
        """Where it showed both sides."""
        return np.asarray(self.shown & (self.status & EMPTY == 0))

    @cached_property
    def priced(self) -> Bools:
        """Trades that can be checked against the book shown before them."""
        usable = (self.states[:, _LIVE] == 1) & (self.status & EMPTY == 0)
        return np.asarray(self.trade & np.concatenate([[False], usable[:-1]]).astype(bool)[: len(usable)])

    @property
    def status(self) -> Ints:
        return self.states[:, _STATUS]

    @property
    def bid(self) -> Ints:
        return self.states[:, _BID]

    @property
    def ask(self) -> Ints:
        return self.states[:, _ASK]

    @property
    def near(self) -> Ints:
        """Lots in the best levels of both sides."""
        return self.states[:, _NEAR]

    @cached_property
    def sections(self) -> Ints:
        """Number of each event's stretch between two CLEARs: ids may restart there."""
        return np.cumsum(self.events["kind"] == CLEAR)

    @cached_property
    def offset_ns(self) -> Ints:
        """Receive minus exchange time of the feed's own events that have both."""
        timed = self.events[self.own & (self._flagged(F_NO_EXCH_TIME) == 0) & (self.events["exch_ns"] > 0)]
        return np.asarray(timed["recv_ns"] - timed["exch_ns"])

    def _flagged(self, bits: int) -> NDArray[np.uint16]:
        return np.asarray(self.events["flags"] & bits)


def columns(events: Events, *, bounds: Bounds | None = None, rows: Ints | None = None) -> Columns:
    """Columns of one whole batch of events (n,); ``rows`` (n,) are their positions in it according to the lake."""
    states = np.zeros((len(events), _WORDS), dtype=np.int64)
    code, index = _play(new_book(), events, states) if len(events) else (0, 0)
    end = index if code < 0 else len(events)
    return Columns(
        events=events[:end],
        states=states[:end],
        rows=rows,
        bounds=bounds or Bounds(),
        refused=str(refusal(code, events[index])) if code < 0 else "",
    )


@compiled
def _play(book: Ints, events: Any, states: Ints) -> tuple[int, int]:
    near = 0
    for i in range(len(events)):
        event = events[i]
        flags = event["flags"]
        code = apply(book, event["kind"], event["side"], event["price"], event["size"], flags, event["seq"])
        if code < 0:
            return code, i
        near = depth_near(book, BID, DEPTH_LEVELS) + depth_near(book, ASK, DEPTH_LEVELS) if flags & F_LAST else 0
        bid, _, ask, _ = top(book)
        states[i, _LIVE], states[i, _STATUS] = book[LIVE], book[STATUS]
        states[i, _BID], states[i, _ASK], states[i, _NEAR] = bid, ask, near
    return 0, 0
