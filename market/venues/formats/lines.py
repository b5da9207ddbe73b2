"""The line format of recordings and of the simulator's stamped stream: ``<receive time> <json>``.

The time is in nanoseconds (19 digits) or, in recordings of 2023 and before, in microseconds (16 digits).
"""

from __future__ import annotations

from typing import Final

from market.errors import FrameError

MAX_LINE: Final = 64 * 2**20  # bytes; a snapshot of 5,000 levels a side is under 1 MiB

_SHOWN: Final = 60
_NS_DIGITS, _US_DIGITS = 19, 16
_LAST_NS: Final = 2**63 - 1  # the year 2262


def read_line(line: bytes) -> tuple[int, bytes]:
    """``(receive ns, payload)`` of one line without its line end.

    Raises:
        FrameError: ``clock_unreadable``, no time of 19 or 16 digits before the first blank, or one after 2262.
    """
    stamp, _, payload = line.partition(b" ")
    digits = len(stamp)
    # isdigit() of bytes is true for ASCII digits only
    if digits in (_NS_DIGITS, _US_DIGITS) and stamp.isdigit():
        recv_ns = int(stamp) if digits == _NS_DIGITS else int(stamp) * 1000
        if recv_ns <= _LAST_NS:
            return recv_ns, payload
    raise FrameError(
        "clock_unreadable",
        f"expected `<time> <json>` with a time of 19 digits (ns) or 16 (us), saw {line[:_SHOWN]!r}",
    )
