"""What parsers of one-row-a-record recordings share: the fields of a row, its times, and the events made of them."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from market.books.price_book import MAX_PRICE, MAX_SIZE
from market.clock import NS_PER_S
from market.decimals import Unit
from market.errors import FrameError
from market.events import EVENT, Events
from market.instruments import Instrument
from market.venues.protocol import NO_STAMP

Words = tuple[int, int, int, int, int, int, int, int]  # one event

_DAY_NS: Final = 86_400 * NS_PER_S
_SHOWN: Final = 80
_DAY: Final = re.compile(r"(?<!\d)((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")
_MAX_ID: Final = 2**63
_MAX_DIGITS: Final = 19


def units(instrument: Instrument) -> tuple[Unit, Unit]:
    """Price and size units of an instrument, which refuse with ``off_tick`` and ``off_lot``."""
    return (
        Unit(instrument.tick, limit=MAX_PRICE, off_step="off_tick"),
        Unit(instrument.lot, limit=MAX_SIZE, off_step="off_lot"),
    )


def words(head: tuple[int, int, int, int], order_id: int, place: tuple[int, int, int], what: tuple[int, int]) -> Words:
    """One event as integers: head (exch_ns, recv_ns, seq, frame), place (side, price, size), what (kind, flags)."""
    side, price, size = place
    kind, flags = what
    return (*head, order_id, price, size, kind | (side & 0xFF) << 8 | flags << 16)


def events_of(*each: Words) -> Events:
    """Events (n,) of their words."""
    flat = [word for one in each for word in one]
    return np.ndarray(len(each), EVENT, bytearray(struct.pack(f"<{len(flat)}q", *flat)))


def fields_of(payload: bytes, count: int, separator: str = ",") -> list[str]:
    """The fields of a text row.

    Raises:
        FrameError: ``not_text``, or ``wrong_columns`` where there are not ``count``.
    """
    try:
        fields = payload.decode("ascii").split(separator)
    except UnicodeDecodeError:
        raise FrameError("not_text", f"expected a row of text, saw {payload[:_SHOWN]!r}") from None
    if len(fields) != count:
        raise FrameError("wrong_columns", f"expected {count} fields, saw {len(fields)} in {payload[:_SHOWN]!r}")
    return fields


def integer(text: str, what: str) -> int:
    """An integer that is not negative and fits an int64.

    Raises:
        FrameError: ``bad_number`` or ``out_of_range``.
    """
    if not (text.isascii() and text.isdigit()):
        raise FrameError("bad_number", f"expected {what} in digits, saw {text[:_SHOWN]!r}")
    if len(text) > _MAX_DIGITS or int(text) >= _MAX_ID:
        raise FrameError("out_of_range", f"{what} {text[:_SHOWN]} does not fit 64 bits")
    return int(text)


def instant(text: str, what: str, unit_ns: int) -> int:
    """A time since the epoch in ns, of a count of units.

    Raises:
        FrameError: ``bad_time``.
    """
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS or int(text) * unit_ns >= _MAX_ID:
        raise FrameError("bad_time", f"expected {what}, saw {text[:_SHOWN]!r}")
    return int(text) * unit_ns


def decimal_float(text: str, what: str) -> float:
    """A double, as a program wrote it.

    Raises:
        FrameError: ``bad_number``.
    """
    try:
        return float(text)
    except ValueError:
        raise FrameError("bad_number", f"expected {what}, saw {text[:_SHOWN]!r}") from None


def steps_of_scaled(unit: Unit, text: str, decimals: int) -> int:
    """Steps of an integer that counts ``10**-decimals``.

    Raises:
        FrameError: as :meth:`Unit.of`.
    """
    if not (text.isascii() and text.isdigit()):
        return unit.of(text if "." not in text else "?")  # says why not
    padded = text.rjust(decimals + 1, "0")
    return unit.of(f"{padded[:-decimals]}.{padded[-decimals:]}")


def positive(size: int) -> int:
    """``size`` where it is not zero.

    Raises:
        FrameError: ``zero_size``.
    """
    if size == 0:
        raise FrameError("zero_size", "expected a size, saw zero: nothing rests and nothing was traded")
    return size


def priced(ticks: int) -> int:
    """``ticks`` where they are not zero.

    Raises:
        FrameError: ``out_of_range``.
    """
    if ticks == 0:
        raise FrameError("out_of_range", "expected a price, saw zero")
    return ticks


def day_in(name: str) -> date | None:
    """The day that a file's name speaks of (YYYYMMDD or YYYY-MM-DD), where it does: some recordings have no other."""
    found = _DAY.search(name)
    try:
        return date(*(int(part) for part in found.groups())) if found else None
    except ValueError:
        return None


def midnight_ns(day: date | None, zone: ZoneInfo) -> int:
    """Local midnight of a day in ns since the epoch; that of the epoch where the day is not known."""
    if day is None:
        return 0
    return int(datetime.combine(day, time(), zone).timestamp()) * NS_PER_S


def within_a_day(ns: int) -> int:
    """A time since midnight in ns.

    Raises:
        FrameError: ``bad_time``.
    """
    if not 0 <= ns < _DAY_NS:
        raise FrameError("bad_time", f"expected a time within a day, saw {ns} ns after midnight")
    return ns


def numbered(rows: Iterable[bytes], received: Callable[[bytes], int]) -> Iterator[tuple[int, int, bytes]]:
    """``(frame number from 1, receive ns, row)``: NO_STAMP where ``received`` finds no time in the row."""
    for number, row in enumerate(rows, 1):
        try:
            recv_ns = received(row)
        except FrameError:
            recv_ns = NO_STAMP
        yield number, recv_ns, row
