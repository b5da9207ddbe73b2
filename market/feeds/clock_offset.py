"""The offset of the receiving clock from the exchange's: the smallest difference over a window.

Receive minus exchange time is the clocks' offset plus the transit time of the frame, which is never shorter than its
minimum and often longer. Its minimum over a window is therefore the best estimate that one direction allows: the offset
plus the shortest transit time (V. Paxson, "On Calibrating Measurements of Packet Transit Times", SIGMETRICS 1998; the
clock filter of NTP, RFC 5905 section 10, takes the sample with the least delay of its last eight for the same reason).
Below zero, the receiving clock is behind by at least that much.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from market.clock import NS_PER_S

WINDOW_S: Final = 60


class MinFilter:
    """The minimum over the last :data:`WINDOW_S` seconds of receive time, kept by whole seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=WINDOW_S)

    def saw(self, recv_ns: int, offset_ns: int) -> None:
        """Add a frame. A clock that was set back starts again: earlier measurements belong to another clock."""
        second = recv_ns // NS_PER_S
        seconds = self._seconds
        if seconds and seconds[-1][0] == second:
            if offset_ns < seconds[-1][1]:
                seconds[-1] = (second, offset_ns)
            return
        if seconds and second < seconds[-1][0]:
            seconds.clear()
        while seconds and seconds[0][0] <= second - WINDOW_S:
            seconds.popleft()
        seconds.append((second, offset_ns))

    @property
    def ns(self) -> int | None:
        """The estimate; None before the first frame with both times."""
        return min(offset for _, offset in self._seconds) if self._seconds else None
