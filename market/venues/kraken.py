"""Kraken's spot API (v1): books with checksums, trades and tickers.

* A book's first message (``as``, ``bs``) is the snapshot; then changes (``a``, ``b``), sometimes both sides in a
  message of five. The book has as many levels as were subscribed: what a change pushes out is forgotten, and is told as
  removed.
* Every change ends with ``c``, the CRC-32 of the ten best levels of each side (asks first; price and volume as written,
  without their point and without leading zeros: Kraken, "Book checksum"). It proves the book.
* A ticker is a summary, later than the book: it is ``other``. Keys write the pair with a dash: ``XBT-USD``.

Reasons: :data:`market.venues.formats.json_frames.REASONS`, ``checksum`` and ``bad_levels``.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final, Literal

import msgspec

from market.errors import ChecksumError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.checksum_book import Proven
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    formed,
    id_of,
    ns_of_seconds,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"b": BID, "s": ASK}
_BOOK: Final = re.compile(r"book-(\d{1,4})")
_BEST: Final = 10
_EVENTS: Final = ("heartbeat", "systemStatus", "subscriptionStatus", "pong", "subscribe")


class _Trade(msgspec.Struct, array_like=True):
    price: str
    size: str
    time: str
    side: Literal["b", "s"]


class _Row(msgspec.Struct, array_like=True):
    price: str
    size: str
    time: str
    republished: Literal["r"] | None = None


class _Book(msgspec.Struct):
    as_: list[_Row] | None = msgspec.field(default=None, name="as")
    bs: list[_Row] | None = None
    a: list[_Row] = msgspec.field(default_factory=list)
    b: list[_Row] = msgspec.field(default_factory=list)
    c: str | None = None


class Parser(JsonParser):
    """Reads the channels of one pair; remembers its book as it was written."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._book: Proven | None = None

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and value.get("event") in _EVENTS:
            return Parsed("other")
        if not (isinstance(value, list) and len(value) >= 4 and all(isinstance(each, str) for each in value[-2:])):
            raise unknown(payload, "a channel's message")
        channel, pair = value[-2:]
        self._check_symbol(_symbol(pair))
        depth = _BOOK.fullmatch(channel)
        if depth:
            return self._levels(value[1:-2], int(depth[1]), recv_ns, frame)
        if channel == "trade":
            return self._trades(formed(value[1], list[_Trade]), recv_ns, frame)
        if channel == "ticker":
            return Parsed("other")
        raise unknown(payload, "a book, trade or ticker channel")

    def _levels(self, parts: list[Any], depth: int, recv_ns: int, frame: int) -> Parsed:
        books = [formed(part, _Book) for part in parts]
        if any(book.as_ is not None or book.bs is not None for book in books):
            return self._snapshot(books, recv_ns, frame)
        if self._book is None:
            return Parsed("other")
        book, self._book = self._book, None  # lost, unless all of this goes well
        rows = [(side, row) for each in books for side, rows in ((ASK, each.a), (BID, each.b)) for row in rows]
        levels: list[Level] = [(side, row.price, row.size) for side, row in rows]
        levels += book.changed(levels, depth)
        exch_ns = max((ns_of_seconds(row.time) for _, row in rows), default=0)
        events = self._make.levels((exch_ns, recv_ns), frame, levels)
        given = next((each.c for each in books if each.c is not None), None)
        if given is not None:
            _check(book, given)
        self._book = book
        return Parsed("diff", events, exch_ns=exch_ns, proved=given is not None)

    def _snapshot(self, books: list[_Book], recv_ns: int, frame: int) -> Parsed:
        rows = [(ASK, row) for each in books for row in each.as_ or ()]
        rows += [(BID, row) for each in books for row in each.bs or ()]
        levels: list[Level] = [(side, row.price, row.size) for side, row in rows]
        events = self._make.snapshot((0, recv_ns), frame, levels)
        self._book = Proven(self._make)
        self._book.changed(levels)
        return Parsed("snapshot", events)

    def _trades(self, told: list[_Trade], recv_ns: int, frame: int) -> Parsed:
        rows = [(ns_of_seconds(each.time), frame, _SIDES[each.side], each.price, each.size) for each in told]
        return self._trades_of(recv_ns, frame, rows) if rows else Parsed("other")


def _check(book: Proven, given: str) -> None:
    best = [*book.best(ASK, _BEST), *book.best(BID, _BEST)]
    written = "".join(text.replace(".", "").lstrip("0") for level in best for text in level)
    own = zlib.crc32(written.encode("ascii"))
    if own != id_of(given, "a checksum"):
        raise ChecksumError(f"expected the checksum {given} of the book's best ten levels, computed {own}")


def _symbol(pair: str) -> str:
    return pair.replace("/", "-")


def _symbol_of(value: Any) -> str | None:
    """The pair is the last word of a channel's message, and a field of the answer to a subscription."""
    pair = value[-1] if isinstance(value, list) and value else text_at(value, "pair")
    return _symbol(pair) if isinstance(pair, str) else None


VENUE: Final = recorded(
    name="kraken",
    addresses={"wss://ws.kraken.com": "kraken"},
    parser=Parser,
    reasons=REASONS | {"checksum", "bad_levels"},
    rule="snapshots",
    route=routed_by(_symbol_of),
)
