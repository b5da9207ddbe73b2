"""The other process of the loop benchmark: attaches to two rings and quotes until the writer stops.

``python -m bench.quoter NAME BUNDLE``; prints how it is scheduled on stdout when it is ready.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import market
from market.bus.shm import ShmRing
from market.events import EVENT
from serving.hotpath import network
from serving.hotpath.loop import HotPath
from serving.quoting.policy import PolicyConfig
from serving.records import DECISION


def prefer_core(index: int) -> None:
    """Stay on one core if there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > index:
        os.sched_setaffinity(0, {cores[index]})


def main(name: str, bundle: Path) -> None:
    model = network.load(bundle)
    _compile(name, model)
    ring_in, ring_out = ShmRing.attach(f"{name}-in", EVENT), ShmRing.attach(f"{name}-out", DECISION)
    prefer_core(1)
    print(_priority(), flush=True)
    HotPath([model], PolicyConfig(), market.instrument()).spin(ring_in, ring_out)
    ring_in.close()
    ring_out.close()


def _compile(name: str, model: network.Model) -> None:
    """Run the loop once on a ring that has already stopped."""
    with (
        ShmRing.create(f"{name}-warm-in", EVENT, 16) as ring_in,
        ShmRing.create(f"{name}-warm-out", DECISION, 16) as ring_out,
    ):
        ring_in.stop()
        HotPath([model], PolicyConfig(), market.instrument()).spin(ring_in, ring_out)


def _priority() -> str:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except OSError as error:
        return f"ordinary (real-time priority refused: {error.strerror})"
    return "hot path with real-time priority (FIFO 10)"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
