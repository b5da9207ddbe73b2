"""The source of time. Code that needs the time takes a :class:`Clock`; nothing reads the wall clock directly."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
BATCH_NS = 60 * NS_PER_S  # a batch of the lake is a minute of receive time


class Clock(Protocol):
    """Nanoseconds since the Unix epoch."""

    def now_ns(self) -> int: ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()


class ManualClock:
    """A clock that stands still until it is moved: for tests and for simulated time."""

    def __init__(self, start_ns: int = 1_700_000_000 * NS_PER_S) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def move_to(self, ns: int) -> None:
        """Set the time; it may go back, as real clocks do."""
        self._now_ns = ns

    def advance(self, ns: int) -> None:
        self._now_ns += ns


def utc(ns: int) -> str:
    """A time in readable form: ``2026-01-31 12:00:00 UTC``."""
    return datetime.fromtimestamp(ns / NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
