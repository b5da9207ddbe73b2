"""kill -9 of a ring's readers and of its writer: nobody else notices, and nothing that is read was torn."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event as Begun

import numpy as np
from kit.forked import Forked, server

from market.bus.shm import ShmRing

PAIR = np.dtype([("n", "<i8"), ("twice", "<i8", (7,))])
SEED = 7


def read(name: str, begun: Begun) -> None:
    reader = ShmRing.attach(name, PAIR).subscribe(from_start=True)
    reader.poll(1)
    begun.set()
    while True:
        reader.poll(64)


def write(name: str, begun: Begun) -> None:
    ring = ShmRing.create(name, PAIR, 64)
    first = 1
    while True:
        ring.publish(pairs(first, 1000))
        begun.set()
        first += 1000


def start(work: Callable[[str, Begun], None], name: str) -> Forked:
    begun = server().Event()
    child = Forked(work, name, begun)
    assert begun.wait(60)
    return child


def pairs(first: int, count: int) -> np.ndarray:
    out = np.zeros(count, dtype=PAIR)
    out["n"] = np.arange(first, first + count)
    out["twice"] = 2 * out["n"][:, None]
    return out


def test_a_reader_that_is_killed_disturbs_neither_the_writer_nor_the_other_readers() -> None:
    chance = random.Random(SEED)
    name = f"kills-{os.getpid()}"
    with ShmRing.create(name, PAIR, 4096) as ring:
        other = ring.subscribe()
        got, first = [], 1
        for _ in range(3):
            child = start(read, name)
            kill_at = first + 1000 * chance.randrange(1, 20)
            for _ in range(20):
                if first == kill_at:
                    assert child.kill()
                ring.publish(pairs(first, 1000))
                got.append(other.poll(4096))
                first += 1000
        assert np.concatenate(got).tobytes() == pairs(1, first - 1).tobytes()
        assert other.lost == 0
        again = ShmRing.attach(name, PAIR)  # the reader that comes in the place of the killed one
        back = again.subscribe(from_start=True)
        assert back.poll(4096)["n"][-1] == first - 1
        again.close()


def test_a_writer_that_is_killed_leaves_whole_records_and_its_name_to_the_next() -> None:
    chance = random.Random(SEED)
    name = f"killed-{os.getpid()}"
    for _ in range(3):
        writer = start(write, name)
        attached = ShmRing.attach(name, PAIR)
        reader = attached.subscribe(from_start=True)
        time.sleep(chance.uniform(0, 0.05))
        assert writer.kill()
        got = reader.poll(64)
        assert len(got) > 0
        assert got.tobytes() == pairs(got["n"][0], len(got)).tobytes()
        assert reader.lost + len(got) == got["n"][-1] >= attached.published
        assert not reader.stopped
        assert len(reader.poll(64)) == 0  # a record that was half written when it died is never handed out
        attached.close()
    with ShmRing.create(name, PAIR, 64) as fresh:
        assert fresh.published == 0
