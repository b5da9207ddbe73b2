"""Binance's market data on the wire: spot, USD-M and COIN-M futures, combined or single streams, and REST snapshots.

One frame in, its events out, or a :class:`FrameError` with a stable reason and no event at all. Numbers are decimals in
text and become integer ticks and lots exactly, without floating point. Which updates may be applied to a book is not
decided here (:mod:`market.feeds.resync`); their ids are passed on.

Reasons: ``not_json``, ``unknown_frame``, ``missing_field``, ``wrong_type``, ``wrong_symbol``, ``bad_number``,
``negative``, ``off_tick``, ``off_lot``, ``out_of_range``, ``bad_levels``, ``zero_size``.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from market.books.price_book import MAX_PRICE, MAX_SIZE
from market.compiled import compiled
from market.decimals import E_QUOTE, E_RANGE, E_STEP, MAX_DIGITS, REASONS, Unit, read_quoted
from market.errors import FrameError
from market.events import (
    ASK,
    BID,
    CLEAR,
    DEPTH,
    EVENT,
    F_LAST,
    F_NO_EXCH_TIME,
    F_SNAPSHOT,
    TICKER,
    TRADE,
    Events,
)
from market.instruments import Instrument
from market.venues.formats.line_files import frames, recognised_key
from market.venues.formats.text_rows import positive
from market.venues.protocol import Parsed, Slow, Venue, listed

T = TypeVar("T")

Market = Literal["spot", "futures"]

_SNAPSHOTS: Final = {
    "binance-spot": "https://api.binance.com/api/v3/depth",
    "binance-usdm": "https://fapi.binance.com/fapi/v1/depth",
    "binance-coinm": "https://dapi.binance.com/dapi/v1/depth",
}
_NS_PER_MS, _NS_PER_US = 1_000_000, 1_000
_FIRST_MS, _END_MS = 10**12, 2**63 // _NS_PER_MS  # years 2001 to 2262: ns must fit 64 bits
_FIRST_US, _END_US = 10**15, 2**63 // _NS_PER_US
_WORDS: Final = EVENT.itemsize // 8  # an event as int64 words: six times and numbers, price at 5, size at 6, then
_SINGLE, _PAIR = struct.Struct("<8q").pack, struct.Struct("<16q").pack  # the fastest way to one or two events
_PRICE, _SIZE, _TAIL = 5, 6, 7  # kind, side, flags and instrument together in the last


def _tail(kind: int, side: int, flags: int) -> int:
    """The last word of an event: kind u1, side i1, flags u2, instrument u4 (0), little-endian."""
    return kind | (side & 0xFF) << 8 | flags << 16


# by what :func:`_exchange_time` says: of bid and ask, and of a buyer's and a seller's trade
_TICKER_TAILS: Final = {
    flags: (_tail(TICKER, BID, flags), _tail(TICKER, ASK, flags | F_LAST)) for flags in (0, F_NO_EXCH_TIME)
}
_TRADE_TAILS: Final = {
    flags: (_tail(TRADE, BID, flags | F_LAST), _tail(TRADE, ASK, flags | F_LAST)) for flags in (0, F_NO_EXCH_TIME)
}


def market_of(instrument: Instrument) -> Market:
    """Which rules of continuity hold: ``binance-spot`` has its own, both futures markets (and the simulator) share."""
    return "spot" if instrument.venue.endswith("spot") else "futures"


def snapshot_url(instrument: Instrument, stream_url: str) -> str | None:
    """Where the depth snapshot that belongs to a stream of Binance's own servers is fetched; None for others."""
    if not (urlsplit(stream_url).hostname or "").endswith(("binance.com", "binance.vision")):
        return None
    address = _SNAPSHOTS.get(instrument.venue)
    return f"{address}?symbol={instrument.symbol}&limit=1000" if address else None


def parse(payload: bytes, instrument: Instrument, recv_ns: int, frame: int) -> Parsed:
    """Read one frame. For many, keep a :class:`Parser`.

    Raises:
        FrameError: the frame cannot be read; its ``reason`` is one of the module's words.
    """
    return Parser(instrument).parse(payload, recv_ns, frame)


_NOTHING: Final = Raw(b"")  # a field that is not there


class _Data(msgspec.Struct, gc=False):
    """Every field of every frame that is read, by its name on the wire; what a kind needs is checked by kind."""

    e: str | None = None
    event_ms: int | None = msgspec.field(default=None, name="E")
    matched_ms: int | None = msgspec.field(default=None, name="T")
    symbol: str | None = msgspec.field(default=None, name="s")
    t: int | None = None
    first: int | None = msgspec.field(default=None, name="U")
    last: int | None = msgspec.field(default=None, name="u")
    previous: int | None = msgspec.field(default=None, name="pu")
    b: Raw = _NOTHING
    a: Raw = _NOTHING
    bid_size: str | None = msgspec.field(default=None, name="B")
    ask_size: str | None = msgspec.field(default=None, name="A")
    p: str | None = None
    q: str | None = None
    i: str | None = None
    r: str | None = None
    m: bool | None = None
    X: str | None = None


class _Frame(_Data, gc=False):
    """A combined stream's wrapper, a bare frame of a single stream, or a snapshot."""

    stream: str | None = None
    data: _Data | None = None
    snapshot_id: int | None = msgspec.field(default=None, name="lastUpdateId")
    bids: Raw = _NOTHING
    asks: Raw = _NOTHING
    snapshot_symbol: str | None = msgspec.field(default=None, name="symbol")


class _Label(msgspec.Struct):
    e: Any = None
    data: Any = None
    stream: Any = None
    lastUpdateId: Any = None  # noqa: N815 the wire's name


_decode = msgspec.json.Decoder(_Frame).decode
_decode_label = msgspec.json.Decoder(_Label).decode
_decode_number = msgspec.json.Decoder(int).decode
_decode_text = msgspec.json.Decoder(str).decode
_KNOWN_KINDS: Final = ("depthUpdate", "bookTicker", "trade", "markPriceUpdate", "aggTrade")


class Parser:
    """Reads the frames of one instrument."""

    def __init__(self, instrument: Instrument) -> None:
        self.market = market_of(instrument)
        self._symbol = instrument.symbol
        self._tick = Unit(instrument.tick, limit=MAX_PRICE, off_step="off_tick")
        self._lot = Unit(instrument.lot, limit=MAX_SIZE, off_step="off_lot")
        self._units = np.array([*self._tick.words, *self._lot.words], dtype=np.int64)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one frame.

        Raises:
            FrameError: see the module.
        """
        try:
            if not payload.isascii():
                payload.decode()  # the JSON decoder looks only at the text of the fields it reads
            outer = _decode(payload)
        except msgspec.ValidationError as error:
            raise _wrong_form(payload, error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError("not_json", f"expected JSON: {error}; saw {payload[:60]!r}") from None
        data = outer if outer.data is None else outer.data
        kind = data.e
        if kind == "bookTicker" or (kind is None and data.bid_size is not None):
            return self._ticker(data, recv_ns, frame)
        if kind == "trade":
            return self._trade(data, recv_ns, frame)
        if kind == "depthUpdate":
            return self._diff(data, recv_ns, frame, payload.count(b"["))
        if kind == "markPriceUpdate":
            return self._slow(data, recv_ns, frame)
        if kind == "aggTrade":
            return self._fills(data, recv_ns, frame)
        if outer.snapshot_id is not None and outer.data is None:
            return self._snapshot(outer, recv_ns, frame, payload.count(b"["))
        raise FrameError("unknown_frame", f"expected one of {', '.join(_KNOWN_KINDS)}; saw {payload[:80]!r}")

    def _diff(self, data: _Data, recv_ns: int, frame: int, levels: int) -> Parsed:
        self._check_symbol(data.symbol)
        first, last = _id(data.first, "U"), _id(data.last, "u")
        previous = _id(data.previous, "pu") if self.market == "futures" else 0
        if first > last:
            raise FrameError("out_of_range", f"update ids run backwards: U {first} > u {last}")
        exch_ns, flags = _exchange_time(data)
        head = np.array([exch_ns, recv_ns, last, frame, 0, 0, 0, _tail(DEPTH, 0, flags)], dtype=np.int64)
        out = np.empty((levels, _WORDS), dtype=np.int64)
        events = self._levels(_given(data.b, "b"), _given(data.a, "a"), head, out)
        if len(events):
            events["flags"][-1] |= F_LAST
        return Parsed("diff", events, first, last, previous, exch_ns=exch_ns)

    def _snapshot(self, frame_data: _Frame, recv_ns: int, frame: int, levels: int) -> Parsed:
        if frame_data.snapshot_symbol is not None:
            self._check_symbol(frame_data.snapshot_symbol)
        last = _id(frame_data.snapshot_id, "lastUpdateId")
        exch_ns, flags = _exchange_time(frame_data)
        head = np.array([exch_ns, recv_ns, last, frame, 0, 0, 0, _tail(DEPTH, 0, flags | F_SNAPSHOT)], dtype=np.int64)
        out = np.empty((1 + levels, _WORDS), dtype=np.int64)
        out[0] = head
        rows = self._levels(_given(frame_data.bids, "bids"), _given(frame_data.asks, "asks"), head, out[1:])
        events = out[: 1 + len(rows)].view(EVENT).reshape(-1)
        events["kind"][0] = CLEAR
        events["flags"][-1] |= F_LAST
        return Parsed("snapshot", events, 0, last)

    def _levels(self, bids: Raw, asks: Raw, head: NDArray[np.int64], out: NDArray[np.int64]) -> Events:
        """DEPTH events of both sides, with the head's fields, in the memory of ``out``."""
        n = _read_levels(np.frombuffer(bids, np.uint8), np.frombuffer(asks, np.uint8), self._units, head, out)
        if n < 0:
            reason = _REASONS[n]
            raise FrameError(reason, _SENTENCES[reason].format(tick=self._tick.step, lot=self._lot.step))
        return out[:n].view(EVENT).reshape(n)

    def _ticker(self, data: _Data, recv_ns: int, frame: int) -> Parsed:
        """Two of three frames are tickers, so this one calls little."""
        if data.symbol != self._symbol:
            self._check_symbol(data.symbol)
        last = _id(data.last, "u")
        if data.bid_size is None or data.ask_size is None:
            raise _missing("B" if data.bid_size is None else "A")
        try:
            bid, ask = _decode_text(data.b), _decode_text(data.a)
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
            bid, ask = _text(data.b, "b"), _text(data.a, "a")  # says which of them, and what is wrong
        bid_size, ask_size = self._lot.of(data.bid_size), self._lot.of(data.ask_size)
        bid_price, ask_price = self._tick.of(bid), self._tick.of(ask)
        if bid_price == 0 or ask_price == 0:
            bid_price, ask_price = self._price(bid, bid_size), self._price(ask, ask_size)
        exch_ns, flags = _exchange_time(data)
        bid_tail, ask_tail = _TICKER_TAILS[flags]
        memory = bytearray(
            _PAIR(
                *(exch_ns, recv_ns, last, frame, 0, bid_price, bid_size, bid_tail),
                *(exch_ns, recv_ns, last, frame, 0, ask_price, ask_size, ask_tail),
            )
        )
        return Parsed("ticker", np.ndarray(2, EVENT, memory), last, last, exch_ns=exch_ns)

    def _trade(self, data: _Data, recv_ns: int, frame: int) -> Parsed:
        if data.symbol != self._symbol:
            self._check_symbol(data.symbol)
        trade_id = _id(data.t, "t")
        price, size = _present(data.p, "p"), _present(data.q, "q")
        maker_bought = _present(data.m, "m")
        if data.X is not None and data.X != "MARKET":
            return Parsed("other")
        exch_ns, flags = _exchange_time(data)
        lots = positive(self._lot.of(size))
        ticks = self._price(price, 1)
        tail = _TRADE_TAILS[flags][maker_bought]
        memory = bytearray(_SINGLE(exch_ns, recv_ns, trade_id, frame, 0, ticks, lots, tail))
        return Parsed("trade", np.ndarray(1, EVENT, memory), trade_id, trade_id, exch_ns=exch_ns)

    def _fills(self, data: _Data, recv_ns: int, frame: int) -> Parsed:
        """Fills of one order at one price, told as one trade."""
        try:
            number = _decode_number(_given(data.a, "a"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FrameError("wrong_type", f"expected a trade id in a, saw {bytes(data.a)[:40]!r}") from None
        data.t = number
        return self._trade(data, recv_ns, frame)

    def _slow(self, data: _Data, recv_ns: int, frame: int) -> Parsed:
        self._check_symbol(data.symbol)
        rate = _present(data.r, "r")
        next_ms = data.matched_ms or 0
        return Parsed(
            "slow",
            slow=Slow(
                frame=frame,
                recv_ns=recv_ns,
                exch_ns=_ns(_present(data.event_ms, "E")),
                funding_rate=_rate(rate) if rate else 0.0,  # dated futures have none
                mark_e8=_E8.of(_present(data.p, "p")),
                index_e8=_E8.of(data.i) if data.i is not None else 0,
                next_funding_ns=_ns(next_ms) if next_ms else 0,
            ),
        )

    def _price(self, text: str, size: int) -> int:
        """Ticks; a price may be zero only where there is no size (an empty side of the ticker)."""
        ticks = self._tick.of(text)
        if ticks == 0 and size > 0:
            raise FrameError("out_of_range", f"a price of zero with a size: {text!r}")
        return ticks

    def _check_symbol(self, symbol: str | None) -> None:
        if symbol != self._symbol:
            if symbol is None:
                raise _missing("s")
            raise FrameError("wrong_symbol", f"expected symbol {self._symbol}, saw {symbol[:40]!r}")


# prices and indices of slow records, to the 1e-8
_E8: Final = Unit(Decimal("1e-8"), limit=2**62, off_step="bad_number")

_E_LEVELS, _E_OFF_TICK, _E_OFF_LOT = -10, -11, -12
_REASONS: Final = {
    **REASONS,
    E_QUOTE: "bad_levels",
    _E_LEVELS: "bad_levels",
    _E_OFF_TICK: "off_tick",
    _E_OFF_LOT: "off_lot",
}
_SENTENCES: Final = {
    "bad_levels": 'expected levels [["price","size"], ...]',
    "bad_number": "a price or size is not a decimal number",
    "negative": "a price or size is negative",
    "off_tick": "a price is not a multiple of the tick {tick}",
    "off_lot": "a size is not a multiple of the lot {lot}",
    "out_of_range": "a price is zero, or a price or size is larger than any can be",
}
_COMMA, _OPEN, _CLOSE = 44, 91, 93
_BLANK, _TAB, _LINE_FEED, _RETURN = 32, 9, 10, 13


@compiled
def _read_levels(
    bids: NDArray[np.uint8],
    asks: NDArray[np.uint8],
    units: NDArray[np.int64],
    head: NDArray[np.int64],
    out: NDArray[np.int64],
) -> int:
    """Write the levels of both sides into ``out`` (room, 8); answers how many, or why not (negative)."""
    n = _read_side(bids, BID, units, head, out)
    if n < 0:
        return n
    more = _read_side(asks, ASK, units, head, out[n:])
    return n + more if more >= 0 else more


@compiled
def _read_side(
    text: NDArray[np.uint8], side: int, units: NDArray[np.int64], head: NDArray[np.int64], out: NDArray[np.int64]
) -> int:
    """One JSON array of levels; ``text`` is well-formed JSON already, so every index stays inside of it."""
    if text[0] != _OPEN:
        return _E_LEVELS
    n = 0
    at = _skip(text, 1)
    while text[at] != _CLOSE:
        if n == len(out):
            return _E_LEVELS
        at, price, size = _read_level(text, at, units)
        if at < 0:
            return at
        for word in range(_PRICE):
            out[n, word] = head[word]
        out[n, _PRICE], out[n, _SIZE], out[n, _TAIL] = price, size, head[_TAIL] | ((side & 0xFF) << 8)
        n += 1
        at = _skip(text, at)
        if text[at] == _COMMA:
            at = _skip(text, at + 1)
    return n


@compiled
def _read_level(text: NDArray[np.uint8], at: int, units: NDArray[np.int64]) -> tuple[int, int, int]:
    """``["price","size"]`` at ``at``: the place after it, ticks and lots; or a negative code."""
    if text[at] != _OPEN:
        return _E_LEVELS, 0, 0
    at, price = read_quoted(text, _skip(text, at + 1), units[:3])
    if at < 0 or price == 0:
        return (_E_OFF_TICK if at == E_STEP else at if at < 0 else E_RANGE), 0, 0
    at = _skip(text, at)
    if text[at] != _COMMA:
        return _E_LEVELS, 0, 0
    at, size = read_quoted(text, _skip(text, at + 1), units[3:])
    if at < 0:
        return (_E_OFF_LOT if at == E_STEP else at), 0, 0
    at = _skip(text, at)
    return (at + 1 if text[at] == _CLOSE else _E_LEVELS), price, size


@compiled
def _skip(text: NDArray[np.uint8], at: int) -> int:
    """The next place that is not JSON's white space."""
    while text[at] in (_BLANK, _TAB, _LINE_FEED, _RETURN):
        at += 1
    return at


def _exchange_time(data: _Data) -> tuple[int, int]:
    """Exchange ns and the flag for none. The matching engine's time where given, else when the frame was made."""
    time = data.matched_ms if data.matched_ms is not None else data.event_ms
    if time is None:
        return 0, F_NO_EXCH_TIME
    return (time * _NS_PER_MS if _FIRST_MS <= time < _END_MS else _ns(time)), 0


def _ns(time: int) -> int:
    """Binance sends milliseconds, or microseconds where the connection asked for them."""
    if _FIRST_MS <= time < _END_MS:
        return time * _NS_PER_MS
    if _FIRST_US <= time < _END_US:
        return time * _NS_PER_US
    raise FrameError("out_of_range", f"expected an exchange time in ms or us since 1970, saw {time}")


def _id(value: int | None, name: str) -> int:
    if value is None:
        raise _missing(name)
    if not 0 <= value < 2**62:
        raise FrameError("out_of_range", f"expected an id in {name}, saw {value}")
    return value


def _present(value: T | None, name: str) -> T:
    if value is None:
        raise _missing(name)
    return value


def _given(raw: Raw, name: str) -> Raw:
    if raw is _NOTHING:
        raise _missing(name)
    return raw


def _text(raw: Raw, name: str) -> str:
    try:
        return _decode_text(_given(raw, name))
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        raise FrameError("wrong_type", f"expected a number in text in {name}, saw {bytes(raw)[:40]!r}") from None


def _rate(text: str) -> float:
    unsigned = text[1:] if text[0] in "+-" else text
    if not (unsigned.isascii() and unsigned.replace(".", "", 1).isdigit()) or len(text) > MAX_DIGITS:
        raise FrameError("bad_number", f"expected a funding rate, saw {text[:40]!r}")
    return float(text)


def _missing(name: str) -> FrameError:
    return FrameError("missing_field", f"the frame has no field {name!r}")


def _wrong_form(payload: bytes, error: msgspec.ValidationError) -> FrameError:
    """JSON of another form: of a kind that is not read at all, or of ours with a field of a wrong type."""
    try:
        label = _decode_label(payload)
    except RecursionError:
        return FrameError("wrong_type", f"a field is not of its type and nested too deep: {error}")
    except msgspec.DecodeError:
        return FrameError("unknown_frame", f"expected a JSON object; saw {payload[:80]!r}")
    inner = label.data.get("e") if isinstance(label.data, dict) else label.e
    if inner in _KNOWN_KINDS or label.lastUpdateId is not None or str(label.stream).endswith("@bookTicker"):
        return FrameError("wrong_type", f"a field is not of its type: {error}")
    return FrameError("unknown_frame", f"expected one of {', '.join(_KNOWN_KINDS)}; saw {payload[:80]!r}")


VENUE: Final = Venue(
    name="binance",
    parser=Parser,
    reasons=listed(
        "not_json unknown_frame missing_field wrong_type wrong_symbol bad_number negative off_tick off_lot "
        "out_of_range bad_levels zero_size"
    ),
    rule=market_of,
    frames=frames,
    recognise=recognised_key,
    live=("binance-spot", "binance-usdm", "binance-coinm", "sim-usdm"),
)
