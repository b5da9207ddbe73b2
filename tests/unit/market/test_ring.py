import os
import subprocess
import threading

import numpy as np
import pytest
from kit.forked import Forked

from market.bus.memory import MemoryBus
from market.bus.shm import ShmRing, pop
from market.compiled import compiled
from market.errors import InputError, ServiceError

PAIR = np.dtype([("n", "<i8"), ("payload", "<i8", (7,))])


def pairs(first, count):
    out = np.zeros(count, dtype=PAIR)
    out["n"] = np.arange(first, first + count)
    out["payload"] = out["n"][:, None] * 31 + np.arange(7)
    return out


@pytest.fixture
def ring():
    with ShmRing.create(f"test-{os.getpid()}", PAIR, 64) as made:
        yield made


@compiled
def _drain(ring, cursor, record, address, seen):
    while seen[0] < seen[2]:
        if pop(ring, cursor, address):
            for i in range(7):
                if record[1 + i] != record[0] * 31 + i:
                    seen[1] += 1
            if record[0] <= seen[3]:
                seen[1] += 1
            seen[3] = record[0]
            seen[0] = record[0]


def test_records_come_out_in_order_and_once(ring):
    reader = ring.subscribe()
    ring.publish(pairs(1, 10))
    assert reader.poll(4).tobytes() == pairs(1, 4).tobytes()
    ring.publish(pairs(11, 5))
    assert reader.poll(99).tobytes() == pairs(5, 11).tobytes()
    assert len(reader.poll(99)) == 0
    assert reader.lost == 0


def test_a_reader_that_is_overrun_is_told_how_much_it_lost(ring):
    reader = ring.subscribe()
    ring.publish(pairs(1, 1000))
    got = reader.poll(1000)
    assert got["n"].tolist() == list(range(1000 - 31, 1001))
    assert reader.lost + len(got) == 1000


def test_readers_have_places_of_their_own(ring):
    early = ring.subscribe()
    ring.publish(pairs(1, 5))
    late = ring.subscribe()
    whole = ring.subscribe(from_start=True)
    ring.publish(pairs(6, 2))
    assert [len(r.poll(99)) for r in (early, late, whole)] == [7, 2, 7]


def test_a_reader_has_stopped_only_when_nothing_is_left(ring):
    reader = ring.subscribe()
    ring.publish(pairs(1, 1))
    ring.stop()
    assert not reader.stopped
    reader.poll(9)
    assert reader.stopped


def test_nothing_is_torn_while_a_writer_runs_in_another_thread(ring):
    total = 200_000
    reader = ring.subscribe()
    record = np.zeros(8, dtype=np.int64)
    seen = np.array([0, 0, total, 0], dtype=np.int64)
    _drain(ring.address, reader.cursor, record, record.ctypes.data, np.array([0, 0, 0, 0]))  # compiled before the race
    thread = threading.Thread(target=_drain, args=(ring.address, reader.cursor, record, record.ctypes.data, seen))
    thread.start()
    for first in range(1, total + 1, 1000):
        ring.publish(pairs(first, 1000))
    thread.join(60)
    assert not thread.is_alive()
    assert seen[1] == 0


def sum_and_lost(name):
    reader = ShmRing.attach(name, PAIR).subscribe(from_start=True)
    total = 0
    while not reader.stopped:
        total += int(reader.poll(64)["n"].sum())
    return total, reader.lost


def test_another_process_attaches_by_name_and_does_not_take_the_ring_with_it(ring):
    name = ring.path.name.removeprefix("quotekeel-")
    ring.publish(pairs(1, 50))
    ring.stop()
    assert Forked(sum_and_lost, name).answer() == (1275, 0)
    assert ring.path.exists()


def test_the_name_is_gone_when_the_owner_closes():
    ring = ShmRing.create(f"gone-{os.getpid()}", PAIR, 8)
    other = ShmRing.attach(f"gone-{os.getpid()}", PAIR)
    ring.close()
    assert not ring.path.exists()
    other.close()
    with pytest.raises(ServiceError, match="start its writer"):
        ShmRing.attach(f"gone-{os.getpid()}", PAIR)


def test_a_name_in_use_is_refused_and_one_left_by_the_dead_is_replaced(ring):
    name = ring.path.name.removeprefix("quotekeel-")
    with pytest.raises(ServiceError, match="in use by process"):
        ShmRing.create(name, PAIR, 8)
    dead = subprocess.Popen(["true"])
    dead.wait()
    ring._words[5] = dead.pid
    ring.publish(pairs(1, 3))
    with ShmRing.create(name, PAIR, 8) as fresh:
        assert fresh.published == 0


def test_a_reader_of_another_record_type_is_refused(ring):
    with pytest.raises(InputError, match="different versions"):
        ShmRing.attach(ring.path.name.removeprefix("quotekeel-"), np.dtype([("n", "<i8")]))


def test_a_name_cannot_leave_the_memory_folder():
    with pytest.raises(InputError, match="ring name"):
        ShmRing.create("../escape", PAIR, 8)


def test_the_memory_bus_keeps_everything_for_those_who_came_before():
    bus = MemoryBus(PAIR)
    early = bus.subscribe()
    bus.publish(pairs(1, 5))
    late = bus.subscribe()
    bus.publish(pairs(6, 5))
    bus.stop()
    assert early.poll(3)["n"].tolist() == [1, 2, 3]
    assert early.poll(99)["n"].tolist() == list(range(4, 11))
    assert not late.stopped
    assert late.poll(99)["n"].tolist() == list(range(6, 11))
    assert late.stopped
    assert early.lost == 0
