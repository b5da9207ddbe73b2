"""What parsers of JSON frames share: numbers exactly as written, fields of a checked form, events of levels and trades.

The ``seq`` of these events is the frame's number where a venue's own numbers do not order its levels and tickers alike.
Reasons given here: ``not_json``, ``missing_field``, ``wrong_type``, ``bad_number``, ``bad_side``, ``bad_time``,
``negative``, ``off_tick``, ``off_lot``, ``out_of_range``, ``zero_size``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeVar

import msgspec

from market.clock import NS_PER_MS
from market.decimals import Unit
from market.errors import FrameError
from market.events import ASK, BID, CLEAR, DEPTH, F_LAST, F_NO_EXCH_TIME, F_SNAPSHOT, TICKER, TRADE, Events
from market.instruments import Instrument
from market.venues.formats.text_rows import Words, events_of, positive, priced, units, words
from market.venues.protocol import Slow, listed

REASONS: Final = listed(
    "not_json missing_field wrong_type bad_number bad_side bad_time negative off_tick off_lot out_of_range zero_size "
    "unknown_frame wrong_symbol"
)

T = TypeVar("T")

Number = str | int  # a JSON string, or a JSON number as it was written
Level = tuple[int, Number, Number]  # side, price, size
Traded = tuple[int, int, int, Number, Number]  # exchange ns, trade id, aggressor's side, price, size

_SHOWN: Final = 80
_MS_RANGE: Final = (10**12, 2**63 // NS_PER_MS - 1000)  # years 2001 to 2262: ns of the whole second must fit 64 bits
_FARTHEST: Final = 30  # powers of ten that a number with an exponent may have
_E8: Final = Unit(Decimal("1e-8"), limit=2**62, off_step="bad_number")
_decode = msgspec.json.Decoder(float_hook=str).decode


def decoded(payload: bytes) -> Any:
    """JSON, numbers with a point or an exponent as the text they are.

    Raises:
        FrameError: ``not_json``.
    """
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError("not_json", f"expected JSON: {error}; saw {payload[:_SHOWN]!r}") from None


def formed(value: Any, form: type[T]) -> T:
    """``value`` as a structure that is checked field by field.

    Raises:
        FrameError: ``missing_field`` or ``wrong_type``.
    """
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        reason = "missing_field" if "missing required" in str(error) else "wrong_type"
        raise FrameError(reason, f"{form.__name__}: {error}; saw {str(value)[:_SHOWN]}") from None
    except (RecursionError, OverflowError) as error:
        raise FrameError("wrong_type", f"a value is too deep or too large: {error}") from None


def unknown(payload: bytes, expected: str) -> FrameError:
    """The refusal of a frame of a kind that is not read."""
    return FrameError("unknown_frame", f"expected {expected}; saw {payload[:_SHOWN]!r}")


def checked_symbol(seen: str, instrument: Instrument) -> None:
    """Nothing, where ``seen`` is the instrument's symbol.

    Raises:
        FrameError: ``wrong_symbol``.
    """
    if seen != instrument.symbol:
        raise FrameError("wrong_symbol", f"expected symbol {instrument.symbol}, saw {seen[:40]!r}")


def side_of(name: str, names: Mapping[str, int]) -> int:
    """The side that a venue calls ``name``.

    Raises:
        FrameError: ``bad_side``.
    """
    if name not in names:
        raise FrameError("bad_side", f"expected one of {', '.join(names)}, saw {name[:40]!r}")
    return names[name]


def ns_of_ms(time: Number) -> int:
    """An exchange time in ms as ns.

    Raises:
        FrameError: ``bad_time``.
    """
    ms = int(time) if isinstance(time, int) or (time.isascii() and time.isdigit() and len(time) < 20) else 0
    if not _MS_RANGE[0] <= ms < _MS_RANGE[1]:
        raise FrameError("bad_time", f"expected a time in ms since 1970, saw {str(time)[:40]!r}")
    return ms * NS_PER_MS


def ns_of_us(time: Number) -> int:
    """An exchange time in us as ns.

    Raises:
        FrameError: ``bad_time``.
    """
    us = str(time)
    if not (us.isascii() and us.isdigit()):
        raise FrameError("bad_time", f"expected a time in us since 1970, saw {us[:40]!r}")
    return ns_of_ms(us[:-3]) + int(us[-3:]) * 1000


def ns_of_seconds(text: Number) -> int:
    """An exchange time in seconds with a fraction, as ns.

    Raises:
        FrameError: ``bad_time``.
    """
    whole, _, part = str(text).partition(".")
    digits = part[:9].ljust(9, "0")
    if not (whole.isascii() and whole.isdigit() and len(whole) == 10 and digits.isascii() and digits.isdigit()):
        raise FrameError("bad_time", f"expected seconds since 1970, saw {str(text)[:40]!r}")
    return ns_of_ms(int(whole) * 1000) + int(digits)


def ns_of_iso(text: str) -> int:
    """A UTC time ``2021-04-17T16:43:37.079420Z`` as ns.

    Raises:
        FrameError: ``bad_time``.
    """
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None or not text.isascii():
            raise ValueError
        whole = int(time.timestamp() // 1)
    except (ValueError, OverflowError):
        raise FrameError(
            "bad_time", f"expected a UTC time such as 2021-04-17T16:43:37.079420Z, saw {text[:40]!r}"
        ) from None
    return ns_of_ms(whole * 1000) + time.microsecond * 1000


def id_of(value: Number, what: str) -> int:
    """An id or sequence number, below 2**62.

    Raises:
        FrameError: ``out_of_range`` or ``bad_number``.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise FrameError("bad_number", f"expected {what} in digits, saw {text[:40]!r}")
    if len(text) > 18:
        raise FrameError("out_of_range", f"{what} {text[:40]} is larger than any can be")
    return int(text)


def text_of(number: Number) -> str:
    """A number in digits, without an exponent.

    Raises:
        FrameError: ``bad_number``.
    """
    text = str(number)
    if "e" not in text and "E" not in text:
        return text
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise FrameError("bad_number", f"expected a number, saw {text[:40]!r}") from None
    if not value.is_finite() or abs(value.adjusted()) > _FARTHEST:
        raise FrameError("bad_number", f"expected a price or size, saw {text[:40]!r}")
    return format(value, "f")


class Maker:
    """Makes the events of one instrument from a venue's numbers.

    All methods raise FrameError: ``bad_number``, ``negative``, ``off_tick``, ``off_lot``, ``out_of_range``.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._tick, self._lot = units(instrument)

    def ticks(self, price: Number) -> int:
        return priced(self._tick.of(text_of(price)))

    def lots(self, size: Number) -> int:
        return self._lot.of(text_of(size))

    def levels(self, times: tuple[int, int], frame: int, levels: Iterable[Level]) -> Events:
        """A batch of DEPTH events; ``times`` are exchange (0: none) and receive ns."""
        return self._batch(times, frame, levels, begin=())

    def snapshot(self, times: tuple[int, int], frame: int, levels: Iterable[Level]) -> Events:
        """CLEAR and the levels, all with F_SNAPSHOT; levels of size zero are refused (``zero_size``)."""
        head, flags = _head(times, frame)
        clear = words(head, 0, (0, 0, 0), (CLEAR, flags | F_SNAPSHOT))
        return self._batch(times, frame, levels, begin=(clear,))

    def _batch(self, times: tuple[int, int], frame: int, levels: Iterable[Level], begin: tuple[Words, ...]) -> Events:
        head, flags = _head(times, frame)
        if begin:
            flags |= F_SNAPSHOT
        rows = list(begin)
        for side, price, size in levels:
            lots = positive(self.lots(size)) if begin else self.lots(size)
            rows.append(words(head, 0, (side, self.ticks(price), lots), (DEPTH, flags)))
        events = events_of(*rows)
        if rows:
            events["flags"][-1] |= F_LAST
        return events

    def trades(self, recv_ns: int, frame: int, trades: Iterable[Traded]) -> Events:
        """One TRADE event each, every one a batch of its own; a trade of nothing is refused (``zero_size``)."""
        rows = []
        for exch_ns, trade_id, side, price, size in trades:
            head, flags = (exch_ns, recv_ns, trade_id, frame), F_LAST | (0 if exch_ns else F_NO_EXCH_TIME)
            rows.append(words(head, 0, (side, self.ticks(price), positive(self.lots(size))), (TRADE, flags)))
        return events_of(*rows)

    def ticker(
        self, times: tuple[int, int], frame: int, bid: tuple[Number, Number], ask: tuple[Number, Number]
    ) -> Events:
        """The best bid and ask, each price and size; a side without a size is empty."""
        head, flags = _head(times, frame)
        both = []
        for side, (price, size), more in ((BID, bid, 0), (ASK, ask, F_LAST)):
            lots = self.lots(size)
            ticks = self.ticks(price) if lots else 0
            both.append(words(head, 0, (side, ticks, lots), (TICKER, flags | more)))
        return events_of(*both)


def slow_of(
    times: tuple[int, int], frame: int, *, mark: Number, index: Number = 0, funding: Number = 0, next_ns: int = 0
) -> Slow:
    """A slow record of exchange and receive ns; prices to the 1e-8, funding as a fraction.

    Raises:
        FrameError: ``bad_number``, ``negative`` or ``out_of_range``.
    """
    rate = text_of(funding)
    unsigned = rate.removeprefix("-")
    if not (unsigned.isascii() and unsigned.replace(".", "", 1).isdigit()):
        raise FrameError("bad_number", f"expected a funding rate, saw {rate[:40]!r}")
    return Slow(
        frame=frame,
        recv_ns=times[1],
        exch_ns=times[0],
        funding_rate=float(rate),
        mark_e8=_E8.of(text_of(mark)),
        index_e8=_E8.of(text_of(index)),
        next_funding_ns=next_ns,
    )


def _head(times: tuple[int, int], frame: int) -> tuple[tuple[int, int, int, int], int]:
    exch_ns, recv_ns = times
    return (exch_ns, recv_ns, frame, frame), 0 if exch_ns else F_NO_EXCH_TIME
