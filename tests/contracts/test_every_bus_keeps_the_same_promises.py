"""One protocol, two ways to carry records: what holds of one holds of both, with the same words.

A ring is small enough to be overrun; memory loses nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from market.bus.memory import MemoryBus
from market.bus.protocol import Publisher, Records, Subscriber
from market.bus.shm import ShmRing

PAIR = np.dtype([("n", "<i8"), ("twice", "<i8")])
SLOTS = 64
PATIENCE_S = 60


@dataclass(kw_only=True)
class Bus:
    """A publisher, and how a reader joins."""

    publisher: Publisher
    subscribe: Callable[[], Any]
    opened: list[Any] = field(default_factory=list)

    def reader(self) -> Subscriber:
        found = self.subscribe()
        self.opened.append(found)
        return found  # type: ignore[no-any-return]


def memory_bus(_request: pytest.FixtureRequest, _stack: ExitStack) -> Bus:
    bus = MemoryBus(PAIR)
    return Bus(publisher=bus, subscribe=bus.subscribe)


def ring_bus(_request: pytest.FixtureRequest, stack: ExitStack) -> Bus:
    name = f"promises-{os.getpid()}"
    ring = stack.enter_context(ShmRing.create(name, PAIR, SLOTS))

    def attached() -> Subscriber:
        mine = ShmRing.attach(name, PAIR)
        stack.callback(mine.close)
        return mine.subscribe()

    return Bus(publisher=ring, subscribe=attached)


@pytest.fixture(params=[memory_bus, ring_bus])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    with ExitStack() as stack:
        yield request.param(request, stack)


def pairs(first: int, count: int) -> Records:
    out = np.zeros(count, dtype=PAIR)
    out["n"] = np.arange(first, first + count)
    out["twice"] = 2 * out["n"]
    return out


def take(reader: Subscriber, last: int, limit: int = 1000) -> Records:
    """Poll until record ``last`` has come."""
    parts: list[Records] = [np.empty(0, PAIR)]
    deadline = time.monotonic() + PATIENCE_S
    while not any(last in part["n"] for part in parts):
        assert time.monotonic() < deadline, f"record {last} did not come; {sum(map(len, parts))} others did"
        parts.append(reader.poll(limit))
        assert len(parts[-1]) <= limit
        if not len(parts[-1]):
            time.sleep(0.01)
    return np.concatenate(parts)


def stopped(reader: Subscriber) -> bool:
    """Whether the reader is told that it is over, given time for the news to arrive."""
    deadline = time.monotonic() + PATIENCE_S
    while not reader.stopped and time.monotonic() < deadline:
        assert len(reader.poll(10)) == 0
        time.sleep(0.01)
    return reader.stopped


def test_records_come_out_in_order_and_once_however_they_are_polled(bus: Bus) -> None:
    reader = bus.reader()
    bus.publisher.publish(pairs(1, 20))
    bus.publisher.publish(pairs(21, 0))
    bus.publisher.publish(pairs(21, 30))
    got = take(reader, 50, limit=7)
    assert got.tobytes() == pairs(1, 50).tobytes()
    assert got.dtype == PAIR
    assert len(reader.poll(7)) == 0
    assert reader.lost == 0


def test_readers_have_places_of_their_own(bus: Bus) -> None:
    quick, slow = bus.reader(), bus.reader()
    bus.publisher.publish(pairs(1, 10))
    assert take(quick, 10)["n"].tolist() == list(range(1, 11))
    bus.publisher.publish(pairs(11, 10))
    assert take(slow, 20)["n"].tolist() == list(range(1, 21))
    assert take(quick, 20)["n"].tolist() == list(range(11, 21))
    assert (quick.lost, slow.lost) == (0, 0)


def test_what_was_published_and_what_was_polled_do_not_share_memory(bus: Bus) -> None:
    reader, other = bus.reader(), bus.reader()
    sent = pairs(1, 5)
    bus.publisher.publish(sent)
    sent["n"] = 0
    got = take(reader, 5)
    if got.flags.writeable:
        got["n"] = 0
    assert take(other, 5).tobytes() == pairs(1, 5).tobytes()


def test_a_reader_has_stopped_only_when_nothing_is_left(bus: Bus) -> None:
    reader = bus.reader()
    assert not reader.stopped
    bus.publisher.publish(pairs(1, 30))
    bus.publisher.stop()
    first = take(reader, 5, limit=5)
    assert not reader.stopped
    assert np.concatenate([first, take(reader, 30, limit=5)]).tobytes() == pairs(1, 30).tobytes()
    assert stopped(reader)


def test_a_reader_that_fell_behind_resumes_with_the_newest_and_learns_how_many_it_lost(bus: Bus) -> None:
    reader = bus.reader()
    bus.publisher.publish(pairs(1, 10))
    before = take(reader, 10)
    for first in range(11, 1001, 10):
        bus.publisher.publish(pairs(first, 10))
    after = take(reader, 1000)
    assert len(before) + reader.lost + len(after) == 1000
    assert after.tobytes() == pairs(1001 - len(after), len(after)).tobytes()
    bus.publisher.publish(pairs(1001, 3))
    assert take(reader, 1003)["n"].tolist() == [1001, 1002, 1003]
