"""Binance's streams as a data processor flattened them to CSV: one row a level or trade, spot, USD-M and COIN-M.

A diff is as many rows as it has levels, which repeat its times and ids; so is a snapshot. A frame is the consecutive
rows of one message, as a JSON array of objects of text by column. Market and symbol are in the name of the file.

* Rows belong to one message where their last update id is that of the row before, or their receive time and one more of
  what a message says once. Where they then do not agree in all of that, nobody knows what it said: ``mixed_rows``.
* A merged file begins with ``FINAL_DEPTH_SNAPSHOT`` rows, the levels of the day before with the diff each came from.
* The receive time in us orders a merged file; that of a snapshot is later than the one in ms, where the processor put
  it.
* Lines that begin with ``#`` are the processor's reports about the file, no rows of it. Its receive times are in ms or
  us.

Reasons: :data:`market.venues.formats.json_frames.REASONS` (but ``unknown_frame``), ``mixed_rows``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument
from market.venues.binance import market_of
from market.venues.formats.archives import lines
from market.venues.formats.json_frames import (
    REASONS,
    Level,
    Maker,
    checked_symbol,
    decoded,
    formed,
    id_of,
    ns_of_ms,
    ns_of_us,
    side_of,
)
from market.venues.protocol import NO_STAMP, Frame, Parsed, Venue

_NAME: Final = re.compile(r"_(spot|usd_m_futures|coin_m_futures)_([a-z0-9]+(?:_perp)?)_\d\d-\d\d-\d{4}")
_MARKETS: Final = {"spot": "binance-spot", "usd_m_futures": "binance-usdm", "coin_m_futures": "binance-coinm"}
_COLUMN: Final = "TimestampOfReceive"
_OWN: Final = ("IsAsk", "Price", "Quantity", "IsLast", "ServiceId")  # columns in which rows of a message differ
_SAID_ONCE: Final = (_COLUMN, "EventTime", "FirstUpdateId", "FinalUpdateId", "LastUpdateId")
_LOOKED_AT: Final = 200  # lines before the header
_SIDES: Final = {"0": BID, "1": ASK}
_AGGRESSORS: Final = {"0": BID, "1": ASK}  # by whether the buyer was the maker: then a seller came
_FINAL: Final = "FINAL_DEPTH_SNAPSHOT"
_PLACED: Final = "DEPTH_SNAPSHOT"
_US_DIGITS: Final = 16

Row = dict[str, str]


def recognise(path: Path) -> str | None:
    """The key in the name of a file with the processor's columns, else None."""
    name = _NAME.search(path.name)
    header = next((line for _, line in islice(lines(path), _LOOKED_AT) if not line.startswith(b"#")), b"")
    return f"{_MARKETS[name[1]]}.{name[2].upper()}" if name and header.startswith(_COLUMN.encode()) else None


def frames(path: Path) -> Iterator[Frame]:
    """Frame number, receive ns, rows of a message as JSON."""
    for number, message in enumerate(_messages(_rows(path)), 1):
        try:
            recv_ns = _received(message[0])
        except FrameError:
            recv_ns = NO_STAMP
        yield number, recv_ns, orjson.dumps(message)


def _rows(path: Path) -> Iterator[Row]:
    text = (line.decode("utf-8", "replace") for _, line in lines(path) if not line.startswith(b"#"))
    for row in csv.DictReader(text, restkey="more", restval=""):
        yield {name: str(value) for name, value in row.items()}


def _messages(rows: Iterable[Row]) -> Iterator[list[Row]]:
    message: list[Row] = []
    for row in rows:
        if message and not _together(message[-1], row):
            yield message
            message = []
        message.append(row)
    if message:
        yield message


def _together(before: Row, row: Row) -> bool:
    if row.get("IsAsk", "") == "" or row.get("StreamType") != before.get("StreamType"):
        return False
    same = {name for name in _SAID_ONCE if row.get(name) and row[name] == before.get(name)}
    if row.get("StreamType") == _FINAL:
        return _COLUMN in same
    return bool(same & {"FinalUpdateId", "LastUpdateId"}) or (_COLUMN in same and len(same) > 1)


def rows_of(payload: bytes) -> int:
    """How many rows of the file a frame is."""
    return max(1, payload.count(b"},{") + 1)


def _received(row: Row) -> int:
    text = row.get("TimestampOfReceiveUS") or row.get("TimestampOfReceive") or ""
    return _time(text)


def _time(text: str) -> int:
    return ns_of_us(text) if len(text) == _US_DIGITS else ns_of_ms(text)


class Parser:
    """Reads the messages of one instrument."""

    def __init__(self, instrument: Instrument) -> None:
        self._make = Maker(instrument)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the module.
        """
        rows = formed(decoded(payload), list[Row])
        if not rows:
            raise FrameError("missing_field", "expected the rows of a message, saw none")
        if rows[0].get("TradeId"):
            return self._trade(rows, recv_ns, frame)
        if rows[0].get("LastUpdateId"):
            return self._snapshot(rows, recv_ns, frame)
        if rows[0].get("StreamType") == _FINAL:
            return self._final(rows, recv_ns, frame)
        return self._diff(rows, recv_ns, frame)

    def _diff(self, rows: list[Row], recv_ns: int, frame: int) -> Parsed:
        self._agree(rows, _OWN)
        row = rows[0]
        checked_symbol(_given(row, "Symbol"), self._make.instrument)
        first, last = (id_of(_given(row, name), name) for name in ("FirstUpdateId", "FinalUpdateId"))
        if first > last:
            raise FrameError("out_of_range", f"update ids run backwards: {first} > {last}")
        exch_ns = _time(row.get("TransactionTime") or _given(row, "EventTime"))
        _time(_given(row, "EventTime"))
        previous = id_of(row.get("FinalUpdateIdInLastStream") or "0", "FinalUpdateIdInLastStream")
        events = self._make.levels((exch_ns, recv_ns), frame, self._levels(rows))
        events["seq"] = last
        return Parsed("diff", events, first, last, previous, exch_ns=exch_ns)

    def _snapshot(self, rows: list[Row], recv_ns: int, frame: int) -> Parsed:
        self._agree(rows, _OWN)
        last = id_of(_given(rows[0], "LastUpdateId"), "LastUpdateId")
        events = self._make.snapshot((0, recv_ns), frame, self._levels(rows))
        events["seq"] = last
        return Parsed("snapshot", events, 0, last)

    def _final(self, rows: list[Row], recv_ns: int, frame: int) -> Parsed:
        self._agree(rows, tuple(set(rows[0]) - {"TimestampOfReceiveUS", "TimestampOfReceive", "Symbol", "Market"}))
        checked_symbol(_given(rows[0], "Symbol"), self._make.instrument)
        last = max(id_of(_given(row, "FinalUpdateId"), "FinalUpdateId") for row in rows)
        events = self._make.snapshot((0, recv_ns), frame, self._levels(rows))
        events["seq"] = last
        return Parsed("snapshot", events, 0, last)

    def _trade(self, rows: list[Row], recv_ns: int, frame: int) -> Parsed:
        row = rows[0]
        if len(rows) != 1:
            raise FrameError("mixed_rows", f"expected one row a trade, saw {len(rows)}")
        checked_symbol(_given(row, "Symbol"), self._make.instrument)
        if row.get("XUnknownParameter", "MARKET") not in ("MARKET", None):
            return Parsed("other")  # no market participant made it
        exch_ns = _time(row.get("TransactionTime") or _given(row, "EventTime"))
        _time(_given(row, "EventTime"))
        side = side_of(_given(row, "IsBuyerMarketMaker"), _AGGRESSORS)
        trade = (exch_ns, id_of(row["TradeId"], "a trade id"), side, _given(row, "Price"), _given(row, "Quantity"))
        return Parsed("trade", self._make.trades(recv_ns, frame, [trade]), exch_ns=exch_ns)

    def _levels(self, rows: list[Row]) -> list[Level]:
        return [(side_of(_given(row, "IsAsk"), _SIDES), _given(row, "Price"), _given(row, "Quantity")) for row in rows]

    def _agree(self, rows: list[Row], own: tuple[str, ...]) -> None:
        """All rows say the same in every column but ``own``, and the two receive times of a row are one time."""
        said = [{name: value for name, value in row.items() if name not in own} for row in rows]
        if any(each != said[0] for each in said):
            raise FrameError("mixed_rows", "the rows of one message do not agree in its times, ids or symbol")
        exact, coarse = rows[0].get("TimestampOfReceiveUS"), rows[0].get("TimestampOfReceive")
        if (
            exact
            and coarse
            and rows[0].get("StreamType") != _PLACED
            and _time(exact) // 10**6 != _time(coarse) // 10**6
        ):
            raise FrameError("bad_time", f"two receive times that are not one: {exact[:20]} us and {coarse[:20]}")


def _given(row: Row, name: str) -> str:
    value = row.get(name)
    if not value:
        raise FrameError("missing_field", f"the row has no {name}")
    return value


VENUE: Final = Venue(
    name="binance-rows",
    parser=Parser,
    reasons=REASONS - {"unknown_frame"} | {"mixed_rows"},
    rule=market_of,
    frames=frames,
    recognise=recognise,
    rows=rows_of,
)
