"""Shanghai Stock Exchange tick by tick, as ``key=value`` text: orders, trades and ten-level snapshots of one security.

A line begins with ``//SecurityIDSource=101`` (Shanghai); ``MsgType`` says what it is: 192 an order, 191 a trade, 111 a
snapshot. Prices and sizes are integers, times 1000.

* The lines of a recording are in no order. ``BizIndex`` numbers orders and trades as the exchange made them, and in its
  order their times never run back: :func:`frames` gives them so, each snapshot after what happened before its second.
* An order is added (``OrdType`` A) once it rests, that is with what its first trades left of it; those come before it.
  So a trade executes the one side that rests: ``ExecType`` B the offer, S the bid, and N, in an auction, both.
* Snapshots come from another channel, to the second. They give no event; :meth:`Parser.view` reads them as a proof.
  In an auction they show its indicative price, and what would be left unmatched as a level without a price.
* One clock, the exchange's, hundredths of a second in Shanghai: receive and exchange time are equal. The day is only in
  the name of the file.

Reasons: ``not_text``, ``missing_field``, ``wrong_symbol``, ``unknown_frame``, ``bad_side``, ``bad_time``,
``bad_number``, ``zero_size``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from market.books.order_book import OrderBook
from market.clock import NS_PER_S
from market.errors import FrameError
from market.events import ADD, ASK, BID, EXECUTE, F_LAST, REMOVE
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.depth_rows import Levels
from market.venues.formats.text_rows import (
    Words,
    day_in,
    events_of,
    integer,
    midnight_ns,
    numbered,
    positive,
    priced,
    steps_of_scaled,
    units,
    within_a_day,
    words,
)
from market.venues.protocol import NO_STAMP, Parsed, Venue, always, listed

EXCHANGE: Final = "sse"
ZONE: Final = ZoneInfo("Asia/Shanghai")
DECIMALS: Final = 3  # of prices and sizes
LEVELS: Final = 10

_START: Final = b"//SecurityIDSource=101 "
_ORDER, _TRADE, _SNAPSHOT = "192", "191", "111"
_KINDS: Final = {"65": ADD, "68": REMOVE}  # letters by their codes: A, D
_BUY, _SELL, _AUCTION = "66", "83", "78"  # B, S, N
_SIDES: Final = {_BUY: BID, _SELL: ASK}
_NS_PER_CS: Final = NS_PER_S // 100
_SHOWN: Final = 80


def recognise(path: Path) -> str | None:
    """``sse.CODE`` where the first line is of this form, else None."""
    for _, line in islice(lines(path), 1):
        code = _fields(line).get("SecurityID") if line.startswith(_START) else None
        if code:
            return f"{EXCHANGE}.{code}"
    return None


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, line; in the order of the exchange, not of the file."""
    received = partial(_received, midnight_ns(day_in(path.name), ZONE))
    stamped = [(recv_ns, row) for _, recv_ns, row in numbered((line for _, line in lines(path)), received)]
    stamped.sort(key=lambda each: _place(*each))
    for frame, (recv_ns, row) in enumerate(stamped, 1):
        yield frame, recv_ns, row


def _place(recv_ns: int, row: bytes) -> tuple[int, int]:
    """Orders and trades by their number; a snapshot before those of its second; lines without a time first."""
    index = _fields(row).get("BizIndex", "")
    return recv_ns, int(index) if index.isdigit() and recv_ns != NO_STAMP else -1


def _received(midnight: int, row: bytes) -> int:
    fields = _fields(row)
    if fields.get("MsgType") == _SNAPSHOT:
        return midnight + _clock_ns(_field(fields, "DataTimeStamp"), NS_PER_S)
    return midnight + _clock_ns(_field(fields, "TransactTime"), _NS_PER_CS)


def _clock_ns(text: str, unit_ns: int) -> int:
    """ns after midnight of ``HMMSS`` in seconds or ``HMMSScc`` in hundredths."""
    rest, part = divmod(integer(text, "a time of day"), NS_PER_S // unit_ns)
    hours, minutes, seconds = rest // 10_000, rest // 100 % 100, rest % 100
    if minutes > 59 or seconds > 59:
        raise FrameError("bad_time", f"expected a time of day HMMSS, saw {text!r}")
    return within_a_day(((hours * 60 + minutes) * 60 + seconds) * NS_PER_S + part * unit_ns)


def _fields(row: bytes) -> Mapping[str, str]:
    try:
        parts = [field.partition("=") for field in row.decode("ascii").lstrip("/").split()]
    except UnicodeDecodeError:
        raise FrameError("not_text", f"expected a row of text, saw {row[:_SHOWN]!r}") from None
    return {name: value for name, _, value in parts}


def _field(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise FrameError("missing_field", f"the row has no field {name!r}")
    return fields[name]


class Parser:
    """Reads the lines of one security. It remembers nothing."""

    def __init__(self, instrument: Instrument) -> None:
        self._tick, self._lot = units(instrument)
        self._symbol = instrument.symbol

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one line.

        Raises:
            FrameError: see the module.
        """
        fields = _fields(payload)
        if _field(fields, "SecurityID") != self._symbol:
            raise FrameError("wrong_symbol", f"expected {self._symbol}, saw {fields['SecurityID'][:_SHOWN]!r}")
        form = _field(fields, "MsgType")
        if form == _SNAPSHOT:
            self.view(payload)
            return Parsed("other")
        if form not in (_ORDER, _TRADE):
            raise FrameError("unknown_frame", f"expected MsgType 192, 191 or 111, saw {form[:_SHOWN]!r}")
        head = (recv_ns, recv_ns, integer(_field(fields, "BizIndex"), "a BizIndex"), frame)
        said = self._order(fields, head) if form == _ORDER else self._trade(fields, head)
        return Parsed("diff", events_of(*said), exch_ns=recv_ns)

    def view(self, payload: bytes) -> tuple[Levels, Levels]:
        """Bids and asks of a snapshot, best first: those of its ten levels that have a price and a size.

        Raises:
            FrameError: see the module.
        """
        fields = _fields(payload)
        return self._levels(fields, "Bid"), self._levels(fields, "Ask")

    def _levels(self, fields: Mapping[str, str], side: str) -> Levels:
        levels: Levels = {}
        for level in range(LEVELS):
            price = steps_of_scaled(self._tick, _field(fields, f"{side}Level[{level}].Price"), DECIMALS)
            size = self._size(_field(fields, f"{side}Level[{level}].Qty"))
            if price and size:
                levels[price] = size
        return levels

    def _order(self, fields: Mapping[str, str], head: tuple[int, int, int, int]) -> list[Words]:
        kind, side = _field(fields, "OrdType"), _field(fields, "Side")
        if kind not in _KINDS:
            raise FrameError("unknown_frame", f"expected OrdType 65 (A) or 68 (D), saw {kind[:_SHOWN]!r}")
        if side not in _SIDES:
            raise FrameError("bad_side", f"expected Side 66 (B) or 83 (S), saw {side[:_SHOWN]!r}")
        place = (_SIDES[side], self._price(_field(fields, "Price")), positive(self._size(_field(fields, "OrderQty"))))
        return [words(head, _order_id(fields, "OrderNo"), place, (_KINDS[kind], F_LAST))]

    def _trade(self, fields: Mapping[str, str], head: tuple[int, int, int, int]) -> list[Words]:
        aggressor = _field(fields, "ExecType")
        if aggressor not in (_BUY, _SELL, _AUCTION):
            raise FrameError("bad_side", f"expected ExecType 66 (B), 83 (S) or 78 (N), saw {aggressor[:_SHOWN]!r}")
        price, size = self._price(_field(fields, "LastPx")), positive(self._size(_field(fields, "LastQty")))
        bid, offer = _order_id(fields, "BidApplSeqNum"), _order_id(fields, "OfferApplSeqNum")
        sold = words(head, bid, (BID, price, size), (EXECUTE, F_LAST))
        bought = words(head, offer, (ASK, price, size), (EXECUTE, F_LAST))
        if aggressor == _AUCTION:
            return [words(head, bid, (BID, price, size), (EXECUTE, 0)), bought]
        return [bought if aggressor == _BUY else sold]

    def _price(self, text: str) -> int:
        return priced(steps_of_scaled(self._tick, text, DECIMALS))

    def _size(self, text: str) -> int:
        return steps_of_scaled(self._lot, text, DECIMALS)


def _order_id(fields: Mapping[str, str], name: str) -> int:
    return integer(_field(fields, name), f"an order number in {name}")


VENUE: Final = Venue(
    name="sse",
    parser=Parser,
    reasons=listed(
        "bad_number bad_side bad_time missing_field negative not_text off_lot off_tick out_of_range "
        "unknown_frame wrong_symbol zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    book=OrderBook,
)
