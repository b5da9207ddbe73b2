"""OKX's API (v5): the 400-level ``books`` channel with checksums, trades and tickers.

* Every book message carries ``checksum``, the CRC-32 (as a signed 32-bit number) of the 25 best levels, bid and ask in
  turn, ``price:size`` as written, joined by colons (OKX, "Checksum"). It proves the book.
* A ticker is a summary, later than the book: it is ``other``.

Reasons: :data:`market.venues.formats.json_frames.REASONS`, ``checksum`` and ``bad_levels``.
"""

from __future__ import annotations

import zlib
from itertools import chain, zip_longest
from typing import Any, Final, Literal

import msgspec

from market.errors import ChecksumError, FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.formats.checksum_book import Proven
from market.venues.formats.cryptofeed import recorded
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    formed,
    id_of,
    ns_of_ms,
    unknown,
)
from market.venues.formats.json_streams import JsonParser, routed_by, text_at
from market.venues.protocol import Parsed

_SIDES: Final = {"buy": BID, "sell": ASK}
_BEST: Final = 25

_Row = tuple[str, str, str, str]


class _Arg(msgspec.Struct):
    channel: str
    instId: str  # noqa: N815 the wire's name


class _Frame(msgspec.Struct):
    arg: _Arg
    data: list[Any]
    action: Literal["snapshot", "update"] | None = None


class _Book(msgspec.Struct):
    asks: list[_Row]
    bids: list[_Row]
    ts: str
    checksum: int


class _Trade(msgspec.Struct):
    instId: str  # noqa: N815 the wire's name
    tradeId: str  # noqa: N815
    px: str
    sz: str
    side: Literal["buy", "sell"]
    ts: str


class Parser(JsonParser):
    """Reads the channels of one instrument; remembers its book as it was written."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__(instrument)
        self._book: Proven | None = None

    def _read(self, value: Any, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        if isinstance(value, dict) and ("event" in value or "op" in value):
            return Parsed("other")
        if not (isinstance(value, dict) and "arg" in value):
            raise unknown(payload, "a channel's message")
        said = formed(value, _Frame)
        self._check_symbol(said.arg.instId)
        if said.arg.channel == "books":
            return self._levels(said, recv_ns, frame)
        if said.arg.channel == "trades":
            return self._trades([formed(row, _Trade) for row in said.data], recv_ns, frame)
        if said.arg.channel == "tickers":
            return Parsed("other")
        raise unknown(payload, "a books, trades or tickers channel")

    def _levels(self, said: _Frame, recv_ns: int, frame: int) -> Parsed:
        if said.action is None or len(said.data) != 1:
            raise FrameError("missing_field", "expected one book and whether it is a snapshot or an update")
        told = formed(said.data[0], _Book)
        exch_ns = ns_of_ms(told.ts)
        levels: list[Level] = [
            (side, row[0], row[1]) for side, rows in ((ASK, told.asks), (BID, told.bids)) for row in rows
        ]
        times = (exch_ns, recv_ns)
        if said.action == "snapshot":
            events, book = self._make.snapshot(times, frame, levels), Proven(self._make)
        elif self._book is None:
            return Parsed("other")
        else:
            book, self._book = self._book, None  # lost, unless all of this goes well
            events = self._make.levels(times, frame, levels)
        book.changed(levels)
        _check(book, told.checksum)
        self._book = book
        kind: Literal["snapshot", "diff"] = "snapshot" if said.action == "snapshot" else "diff"
        return Parsed(kind, events, exch_ns=exch_ns, proved=True)

    def _trades(self, told: list[_Trade], recv_ns: int, frame: int) -> Parsed:
        for each in told:
            self._check_symbol(each.instId)
        rows = [
            (ns_of_ms(each.ts), id_of(each.tradeId, "a trade id"), _SIDES[each.side], each.px, each.sz) for each in told
        ]
        return self._trades_of(recv_ns, frame, rows) if rows else Parsed("other")


def _check(book: Proven, given: int) -> None:
    turns = zip_longest(book.best(BID, _BEST), book.best(ASK, _BEST))
    written = ":".join(f"{price}:{size}" for price, size in (level for level in chain(*turns) if level))
    own = zlib.crc32(written.encode("ascii"))
    if own != given % 2**32:
        raise ChecksumError(f"expected the checksum {given} of the book's best {_BEST} levels, computed {own}")


VENUE: Final = recorded(
    name="okx",
    addresses={"wss://ws.okx.com:8443/ws/v5/public": "okx"},
    parser=Parser,
    reasons=REASONS | {"checksum", "bad_levels"},
    rule="snapshots",
    route=routed_by(lambda value: text_at(value, "arg", "instId")),
)
