"""From the exchange's write to a socket to the last event of the frame in another process: the path of a live session.

Four processes: an exchange, a quoting session as ``keel serve`` runs it (WebSocket client, landing, normaliser, ring in
shared memory, hot path), a reader of its rings, and, alternating with the session, a client that only parses JSON, as
the floor that Python and a socket set.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import live_session
from bench.wire import KEY

ROUNDS = 5
FRAMES = 8_000  # a round
PACE = 5.0  # times the simulated market's own speed: about 340 frames a second
_WARM = 2_000  # frames of a round that are not counted
_PARTS = {
    "socket to our client": "received",
    "frame to events, checked against the book, kept for landing": "made",
    "events through the ring to the reader": "taken",
}

Times = dict[str, NDArray[np.float64]]


def run() -> dict[str, Any]:
    rounds = []
    with tempfile.TemporaryDirectory() as name, _process("exchange", name, str(FRAMES), str(PACE)) as exchange:
        folder, url = Path(name), f"ws://127.0.0.1:{_said(exchange)}/stream"
        for number in range(ROUNDS):
            rounds.append({**_session(folder, url, exchange), **_bare(folder, url, exchange)})
            print(f"  round {number + 1} of {ROUNDS}", flush=True)
    whole = "written to the socket to last event in the reader"
    rows = [
        *(_row(f"{whole}, p{p:g}", rounds, "whole", p, "bare") for p in (50, 99, 99.9)),
        *(_row(f"{what}, p{p:g}", rounds, part, p) for what, part in _PARTS.items() for p in (50, 99, 99.9)),
        *(_row(f"written to the socket to decision in the reader, p{p:g}", rounds, "decided", p) for p in (50, 99)),
    ]
    return {"title": "Feed to ring", "rows": rows, "notes": _notes(rounds)}


def page(_found: dict[str, Any]) -> list[str]:
    return []


def _notes(rounds: list[Times]) -> list[str]:
    count = sum(len(each["whole"]) for each in rounds)
    return [
        f"{count:,} frames that gave events, of {ROUNDS} rounds of {FRAMES:,} frames of the simulated exchange, "
        f"volatile, at {PACE:g} times its speed, the first {_WARM:,} of each round not counted. Plain WebSocket on "
        "loopback, a message a frame. A percentile is the median of those of the rounds, as is a ratio.",
        "The session is what `keel serve` runs for an exchange to which no orders are sent: everything is landed on "
        "the way, with a commit of raw frames a second and one of predictions each 30 s of market. In a session the "
        "ring has its writer and the hot path in one process; the reader is one more, which spins.",
        "Peer: `websockets` and orjson.loads, nothing else; it has its turn at the same exchange, with no session "
        "running. A ratio below 1 tells how many times longer our whole path is.",
    ]


@contextmanager
def _process(role: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.wire", role, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if role == "exchange":
                process.terminate()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, f"{process.args} ended: {process.wait()}"
    return line


def _session(folder: Path, url: str, exchange: subprocess.Popen[str]) -> Times:
    """Microseconds of a session's frames."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        live_session.prepare(place, KEY)
        with _process("quoter", name, url) as quoter, _process("reader", name, _said(quoter)) as reader:
            _said(reader)
            assert quoter.stdin is not None
            print(file=quoter.stdin, flush=True)
            assert _said(exchange) == "sent"
            assert quoter.wait() == 0
            assert reader.wait() == 0
        clock, taken = np.load(place / "quoter.npz"), np.load(place / "taken.npz")
    return _split(np.load(folder / "sent.npy"), clock, taken)


def _split(sent: NDArray[np.int64], clock: Any, taken: Any) -> Times:
    frame, recv_ns, seen = taken["events"].T
    received = recv_ns - clock["offset"]
    made = clock["asked"][np.searchsorted(clock["asked"], received, "right")]
    written = sent[frame - 1]
    warm = frame > _WARM
    decided_frame, decided = taken["decisions"].T
    times = {
        "whole": (seen - written)[warm],
        "received": (received - written)[warm],
        "made": (made - received)[warm],
        "taken": (seen - made)[warm],
        "decided": (decided - sent[decided_frame - 1])[decided_frame > _WARM],
    }
    return {name: ns / 1e3 for name, ns in times.items()}


def _bare(folder: Path, url: str, exchange: subprocess.Popen[str]) -> Times:
    with _process("bare", str(folder), url) as bare:
        assert _said(exchange) == "sent"
        assert bare.wait() == 0
    return {"bare": (np.load(folder / "bare.npy") - np.load(folder / "sent.npy"))[_WARM:] / 1e3}


def _row(what: str, rounds: list[Times], name: str, percentile: float, peer: str = "") -> dict[str, Any]:
    ours = np.array([np.percentile(each[name], percentile) for each in rounds])
    row: dict[str, Any] = {"what": what, "value": round(float(np.median(ours)), 1), "unit": "us"}
    if peer:
        theirs = np.array([np.percentile(each[peer], percentile) for each in rounds])
        row |= {
            "peer": "websockets and orjson.loads alone",
            "peer_value": float(np.median(theirs)),
            "ratio": float(np.median(theirs / ours)),
        }
    return row
