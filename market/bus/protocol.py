"""What every way of carrying records has in common.

Records are numpy structured arrays of one dtype: events one way, decisions the other. A publisher never waits for a
subscriber; a subscriber that falls too far behind loses records, and is told how many.
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
        """Tell subscribers that nothing more will come."""


class Subscriber(Protocol):
    """One of the readers, each with a place of its own."""

    def poll(self, limit: int) -> Records:
        """What has come since the last poll, at most ``limit`` records; empty when nothing has. Never waits."""

    @property
    def lost(self) -> int:
        """How many records were overwritten before this subscriber took them."""

    @property
    def stopped(self) -> bool:
        """The publisher has stopped and everything was polled."""


def layout_of(dtype: np.dtype[np.void]) -> int:
    """32 bits that differ where names, types or places of the fields do: writer and reader must agree on them."""
    return zlib.crc32(repr(np.lib.format.dtype_to_descr(dtype)).encode())
