"""dYdX's API (v3): order book with offsets, and trades.

* ``subscribed`` brings the snapshot, each level with the offset it was last changed at; an update has one offset for
  its levels. Messages overtake each other, updates also their snapshot: a level keeps what has the larger offset.
* Every message of a connection carries ``message_id``, one more than the one made before it, whatever its market: the
  route sees when one has not come within the next hundred, and every book of the connection is then lost.
* The exchange matches apart from its book: the book may be crossed for a while.

Reasons: :data:`market.venues.formats.json_frames.REASONS`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    decoded,
    formed,
    id_of,
    ns_of_iso,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, both_sides
from market.venues.protocol import Parsed

_SIDES: Final = {"BUY": BID, "SELL": ASK}
_LATE: Final = 100  # messages by which another may be late
_NONE: Final[tuple[int, Level]] = (-1, (BID, "", ""))


def _offset(told: tuple[int, Level]) -> int:
    return told[0]


class _Frame(msgspec.Struct):
    type: Literal["subscribed", "channel_data"]
    channel: Literal["v3_orderbook", "v3_trades"]
    id: str
    contents: Any


class _Rest(msgspec.Struct):
    price: str
    size: str
    offset: str


class _Whole(msgspec.Struct):
    bids: list[_Rest]
    asks: list[_Rest]


class _Changes(msgspec.Struct):
    offset: str
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class _Trade(msgspec.Struct):
    price: str
    size: str
    side: Literal["BUY", "SELL"]
    createdAt: str  # noqa: N815 the wire's name


class _Trades(msgspec.Struct):
    trades: list[_Trade]


class Parser(JsonParser):
    """Reads the channels of one market; remembers the offset of every level, and updates that came too early."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._offsets: dict[tuple[int, int], int] | None = None
        self._early: dict[tuple[int, int], tuple[int, Level]] = {}

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if not (isinstance(value, dict) and "type" in value):
            raise unknown(payload, "a message with a type")
        if value["type"] in ("connected", "subscribe", "unsubscribed", "error"):
            return Parsed("other")
        said = formed(value, _Frame)
        self._check_symbol(said.id)
        if said.channel == "v3_trades":
            return self._trades(formed(said.contents, _Trades), said.type, recv_ns, frame)
        if said.type == "subscribed":
            return self._whole(formed(said.contents, _Whole), recv_ns, frame)
        return self._changes(formed(said.contents, _Changes), recv_ns, frame)

    def _whole(self, book: _Whole, recv_ns: int, frame: int) -> Parsed:
        levels: dict[tuple[int, int], tuple[int, Level]] = {}
        for side, row in both_sides(book.bids, book.asks):
            key, told = (
                (side, self._make.ticks(row.price)),
                (id_of(row.offset, "an offset"), (side, row.price, row.size)),
            )
            levels[key] = max(told, self._early.get(key, _NONE), key=_offset)
        levels = self._early | levels
        there = [level for _, level in levels.values() if self._make.lots(level[2])]
        events = self._make.snapshot((0, recv_ns), frame, there)
        self._offsets = {key: offset for key, (offset, _) in levels.items()}
        self._early = {}
        return Parsed("snapshot", events)

    def _changes(self, changes: _Changes, recv_ns: int, frame: int) -> Parsed:
        offset = id_of(changes.offset, "an offset")
        rows = [(side, *row) for side, row in both_sides(changes.bids, changes.asks)]
        keys = [(side, self._make.ticks(price)) for side, price, _ in rows]
        if self._offsets is None:
            for key, row in zip(keys, rows, strict=True):
                self._make.lots(row[2])
                self._early[key] = max((offset, row), self._early.get(key, _NONE), key=_offset)
            return Parsed("diff")
        known = self._offsets
        newer: list[Level] = [row for key, row in zip(keys, rows, strict=True) if known.get(key, -1) < offset]
        events = self._make.levels((0, recv_ns), frame, newer)
        known.update((key, max(offset, known.get(key, -1))) for key in keys)
        return Parsed("diff", events)

    def _trades(self, told: _Trades, kind: str, recv_ns: int, frame: int) -> Parsed:
        rows = [(ns_of_iso(each.createdAt), frame, _SIDES[each.side], each.price, each.size) for each in told.trades]
        if kind == "subscribed" or not rows:
            return Parsed("other")  # of before the session
        rows.reverse()  # newest first on the wire
        return self._trades_of(recv_ns, frame, rows)


class _Numbered(msgspec.Struct):
    message_id: int
    id: str | None = None


class Route:
    """Tells the market of a message, and whether messages of the connection are missing before it."""

    def __init__(self) -> None:
        self._first: int | None = None  # of those that have not come
        self._later: set[int] = set()  # came already
        self.missed = False

    def __call__(self, payload: bytes) -> str | None:
        self.missed = False
        try:
            said = formed(decoded(payload), _Numbered)
        except FrameError:
            return None
        if self._first is None:
            self._first = said.message_id
        if said.message_id >= self._first:
            self._later.add(said.message_id)
        while self._first in self._later:
            self._later.remove(self._first)
            self._first += 1
        if len(self._later) > _LATE:
            self.missed = True
            self._first, self._later = max(self._later) + 1, set()
        return said.id


VENUE: Final = recorded(
    name="dydx",
    addresses={"wss://api.dydx.exchange/v3/ws": "dydx"},
    parser=Parser,
    reasons=REASONS,
    rule="snapshots",
    route=Route,
)
