"""When a venue trades: the minutes in which the quality gate expects to see batches.

Venues of crypto currencies never close. Those of exchanges with sessions follow the package ``exchange_calendars``; its
calendars are of regular hours, so that batches before and after them are welcome but not missed. It has no calendar of
Shanghai's futures, whose hours stand below, on the trading days of Shanghai's stocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Minutes = NDArray[np.int64]

_CALENDARS: Final = {"cme": "CMES", "sse": "XSHG", "nasdaq": "XNYS", "us-nbbo": "XNYS", "b3": "BVMF", "shfe": "XSHG"}
# no dates, or hours of which no calendar is at hand
_UNKNOWN: Final = frozenset({"fi2010", "sgx"})
_A_DAY: Final = 1440
# Shanghai's futures (steel), minutes of Beijing's day: three stretches, and the evening before a trading day, unless a
# holiday lies between. https://www.shfe.com.cn/eng/Market/Futures/Metal/rb_f/
_SHFE_DAY: Final = ((540, 615), (630, 690), (810, 900))
_SHFE_EVENING: Final = (1260, 1380)
_CME_PAUSE: Final = 16  # the hour of Chicago's day in which Globex is down for maintenance; the calendar spans it
_BEIJING: Final = 480  # minutes east of UTC
_MOST_DAYS_BETWEEN: Final = 3  # a weekend; after a longer pause there was no evening session


def minutes(venue: str, first: int, last: int) -> Minutes | None:
    """Minutes (UTC minutes since the epoch, ascending, both ends included) in which ``venue`` trades.

    None where that is not known: a venue without dates, or days from before the calendar's.
    """
    if venue in _UNKNOWN:
        return None
    if venue not in _CALENDARS:
        return np.arange(first, last + 1)
    calendar = _calendar(_CALENDARS[venue])
    if not _within(calendar, first, last):
        return None
    found = _shfe(calendar, first, last) if venue == "shfe" else _regular(calendar, first, last, venue)
    return found[(found >= first) & (found <= last)]


@cache
def _calendar(name: str) -> Any:
    from exchange_calendars import get_calendar

    return get_calendar(name, start="2007-01-01")


def _within(calendar: Any, first: int, last: int) -> bool:
    start, end = (int(each.value) // 86_400_000_000_000 for each in (calendar.first_session, calendar.last_session))
    return start < first // _A_DAY and last // _A_DAY < end


def _regular(calendar: Any, first: int, last: int, venue: str) -> Minutes:
    import pandas as pd

    found = calendar.minutes_in_range(pd.Timestamp(first * 60, unit="s"), pd.Timestamp(last * 60, unit="s"))
    if venue == "cme":
        found = found[found.tz_convert("America/Chicago").hour != _CME_PAUSE]
    return np.asarray(found.tz_localize(None).astype("datetime64[s]").astype(np.int64)) // 60


def _shfe(calendar: Any, first: int, last: int) -> Minutes:
    import pandas as pd

    days = calendar.sessions_in_range(
        pd.Timestamp((first - 5 * _A_DAY) // _A_DAY, unit="D"), pd.Timestamp((last + 5 * _A_DAY) // _A_DAY, unit="D")
    )
    numbers = np.asarray(days.astype("datetime64[s]").astype(np.int64)) // 86_400
    parts = [day * _A_DAY - _BEIJING + np.arange(*hours) for day in numbers for hours in _SHFE_DAY]
    evenings = numbers[:-1][np.diff(numbers) <= _MOST_DAYS_BETWEEN]
    parts += [day * _A_DAY - _BEIJING + np.arange(*_SHFE_EVENING) for day in evenings]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
