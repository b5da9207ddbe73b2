"""The interface shared by every transport of records.

Records are numpy structured arrays of one dtype: events in one direction, decisions in the other. A publisher never
waits for a subscriber; a subscriber that falls too far behind loses records, and can see how many.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]  # shape (n,)


class Publisher(Protocol):
    """The one writer."""

    def publish(self, records: Records) -> None:
        """Send ``records`` (n,) in order."""

    def stop(self) -> None:
        """Tell subscribers that no more records will come."""


class Subscriber(Protocol):
    """One of the readers; each has its own position."""

    def poll(self, limit: int) -> Records:
        """Records that came since the last poll, at most ``limit``; empty when there are none. Never waits."""

    @property
    def lost(self) -> int:
        """How many records were overwritten before this subscriber read them."""

    @property
    def stopped(self) -> bool:
        """Whether the publisher has stopped and everything was polled."""


def layout_of(dtype: np.dtype[np.void]) -> int:
    """32 bits that differ if names, types or offsets of the fields do: writer and reader must agree on them."""
    return zlib.crc32(repr(np.lib.format.dtype_to_descr(dtype)).encode())
