"""The processes of the latency benchmark; see :mod:`bench.latency`. All note CLOCK_MONOTONIC, which they share.

* ``python -m bench.wire exchange FOLDER COUNT PACE``: sends frames of the simulated market, unstamped as exchanges do,
  at ``PACE`` times their own speed, to one client after the other; prints its port, and writes the times to
  ``FOLDER/sent.npy``;
* ``... quoter FOLDER URL``: a quoting session; prints the name of its ring once it exists, and writes its clock
  readings to ``quoter.npy``;
* ``... reader FOLDER NAME``: reads the events and decisions of that session from shared memory (``taken.npy``);
* ``... bare FOLDER URL``: a client that only parses JSON (``bare.npy``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench import live_session, market
from market.bus.atomics import monotonic_ns
from market.bus.shm import ShmRing, is_stopped, pop
from market.clock import NS_PER_S
from market.compiled import compiled
from market.events import EVENT, F_LAST
from market.feeds import websocket
from market.simulator import frames
from serving.records import DECISION
from serving.session import drivers
from serving.session.session import QuotingSession

KEY = "binance-usdm.BTCUSDT"  # the simulated market under a name whose streams carry no stamps
_ROOM = 1_000_000


class NotingClock:
    """Wall time derived from the monotonic clock, so that a receive time means the same in every process. It records
    every reading: a session reads it when it has a frame, and again when the frame is landed and its events are made.
    """

    def __init__(self) -> None:
        self.offset_ns = time.time_ns() - time.monotonic_ns()
        self.asked: list[int] = []

    def now_ns(self) -> int:
        now = time.monotonic_ns()
        self.asked.append(now)
        return now + self.offset_ns


def exchange(folder: Path, count: int, pace: float) -> None:
    lines = market.lines()[:count]
    asyncio.run(_exchange(folder, lines, pace))


async def _exchange(folder: Path, lines: tuple[market.Line, ...], pace: float) -> None:
    async def talk(connection: ServerConnection) -> None:
        sent = await _send(connection, lines, pace)
        np.save(folder / "sent.npy", sent)
        await connection.send(frames.end_line(0, 0), text=True)
        await connection.wait_closed()
        print("sent", flush=True)

    async with serve(talk, "127.0.0.1", 0, compression=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.Event().wait()  # until it is ended


async def _send(connection: ServerConnection, lines: tuple[market.Line, ...], pace: float) -> NDArray[np.int64]:
    """When each frame was passed to the socket."""
    sent = np.zeros(len(lines), np.int64)
    first, began = lines[0][0], time.monotonic_ns()
    for number, (recv_ns, payload) in enumerate(lines):
        ahead = (recv_ns - first) / pace - (time.monotonic_ns() - began)
        if ahead > 0:
            await asyncio.sleep(ahead / NS_PER_S)
        sent[number] = time.monotonic_ns()
        await connection.send(payload, text=True)
    return sent


def quoter(folder: Path, url: str) -> None:
    clock = NotingClock()

    def drive(session: QuotingSession, until: drivers.Until) -> None:
        print(live_session.ring_name(), flush=True)
        sys.stdin.readline()  # the reader is attached
        clock.asked.clear()
        asyncio.run(drivers.trade(session, websocket.Session(url, clock=clock), until))

    session = live_session.run(KEY, folder, clock, drive)
    assert session.totals.decisions, "no decision was made"
    np.savez(folder / "quoter.npz", asked=np.array(clock.asked), offset=clock.offset_ns)


def reader(folder: Path, name: str) -> None:
    taken, decided = np.zeros((_ROOM, 3), np.int64), np.zeros((_ROOM, 2), np.int64)
    with ShmRing.create(f"{name}-warm", EVENT, 16) as warm:
        warm.stop()
        _take((warm, warm), taken, decided)
    with ShmRing.attach(f"{name}-events", EVENT) as events, ShmRing.attach(f"{name}-decisions", DECISION) as decisions:
        print("attached", flush=True)
        n, m = _take((events, decisions), taken, decided)
    np.savez(folder / "taken.npz", events=taken[:n], decisions=decided[:m])


def _take(rings: tuple[ShmRing, ShmRing], taken: Any, decided: Any) -> tuple[int, int]:
    cursors = tuple(ring.subscribe(from_start=True).cursor for ring in rings)
    event, decision = np.zeros(1, EVENT), np.zeros(1, DECISION)
    records = event, int(event.ctypes.data), decision, int(decision.ctypes.data)
    found: tuple[int, int] = _spin((rings[0].address, rings[1].address), cursors, records, taken, decided)
    assert cursors[0][1] == cursors[1][1] == 0, "the reader was too slow"
    return found


@compiled
def _spin(rings: Any, cursors: Any, records: Any, taken: Any, decided: Any) -> Any:
    """Note (frame, receive ns, now) of the last event of each frame and (frame, now) of each decision, to the end."""
    event, event_address, decision, decision_address = records
    n, m = 0, 0
    while True:
        stopped = is_stopped(rings[0])
        if pop(rings[0], cursors[0], event_address):
            if event[0].flags & F_LAST:
                taken[n, 0], taken[n, 1], taken[n, 2] = event[0].frame, event[0].recv_ns, monotonic_ns()
                n += 1
        elif pop(rings[1], cursors[1], decision_address):
            decided[m, 0], decided[m, 1] = decision[0].frame, monotonic_ns()
            m += 1
        elif stopped:
            return n, m


def bare(folder: Path, url: str) -> None:
    np.save(folder / "bare.npy", asyncio.run(_bare(url)))


async def _bare(url: str) -> NDArray[np.int64]:
    """When each frame had been parsed."""
    parsed: list[int] = []
    async with connect(url, compression=None, max_size=2**26, proxy=None) as connection:
        async for message in connection:
            said = orjson.loads(message)
            if said.get("stream") == "keel@end":
                break
            parsed.append(time.monotonic_ns())
    return np.array(parsed)


if __name__ == "__main__":
    role, place, *rest = sys.argv[1:]
    if role == "exchange":
        exchange(Path(place), int(rest[0]), float(rest[1]))
    else:
        {"quoter": quoter, "reader": reader, "bare": bare}[role](Path(place), rest[0])
