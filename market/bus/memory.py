"""The bus within one process: for tests, and where publisher and subscriber take turns."""

from __future__ import annotations

import numpy as np

from market.bus.protocol import Records
from market.events import joined


class MemoryBus:
    """Keeps all records of one dtype; nothing is ever lost."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self.dtype = dtype
        self._chunks: list[Records] = []
        self._stopped = False

    def publish(self, records: Records) -> None:
        if len(records):
            self._chunks.append(records.astype(self.dtype, copy=True))

    def stop(self) -> None:
        self._stopped = True

    def subscribe(self) -> MemorySubscriber:
        """A reader that starts with the next record published."""
        return MemorySubscriber(self, sum(map(len, self._chunks)))

    def since(self, position: int) -> Records:
        """Records from ``position`` on."""
        everything = joined(self._chunks, self.dtype)
        self._chunks = [everything]
        return everything[position:]

    @property
    def over(self) -> bool:
        return self._stopped


class MemorySubscriber:
    """One reader of a :class:`MemoryBus`."""

    lost = 0

    def __init__(self, bus: MemoryBus, position: int) -> None:
        self._bus = bus
        self._position = position

    def poll(self, limit: int) -> Records:
        records = self._bus.since(self._position)[:limit]
        self._position += len(records)
        return records.copy()

    @property
    def stopped(self) -> bool:
        return self._bus.over and not len(self._bus.since(self._position))
