"""Random but possible event streams: for hypothesis, and as long seeded runs."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from market.events import ASK, BID, CLEAR, DEPTH, EVENT, F_CHECKPOINT, F_LAST, F_RESYNC, F_SNAPSHOT, TICKER, TRADE

START = 1_700_000_000_000_000_000
MID = 1000  # ticks


def record(kind, side=0, price=0, size=0, *, flags=0, seq=0, recv_ns=START):
    out = np.zeros((), dtype=EVENT)
    for name, value in {"kind": kind, "side": side, "price": price, "size": size, "flags": flags}.items():
        out[name] = value
    out["seq"], out["recv_ns"], out["exch_ns"] = seq, recv_ns, recv_ns
    return out


def snapshot(recv_ns, seq, rng, flags=F_SNAPSHOT, levels=12):
    rows = [record(CLEAR, flags=flags, seq=seq, recv_ns=recv_ns)]
    for side in (BID, ASK):
        for i in range(levels):
            price = MID - 1 - i if side == BID else MID + 1 + i
            rows.append(record(DEPTH, side, price, int(rng.integers(1, 50)), flags=flags, seq=seq, recv_ns=recv_ns))
    rows[-1]["flags"] |= F_LAST
    return rows


def frame(draw_int, recv_ns, seq):
    """One frame: a depth diff near the touch, a ticker or a trade. ``draw_int(low, high)`` gives the choices."""
    kind = draw_int(0, 2)
    if kind == 0:
        n = draw_int(1, 4)
        rows = []
        for _ in range(n):
            side = BID if draw_int(0, 1) else ASK
            price = MID - side * draw_int(-1, 14)
            rows.append(record(DEPTH, side, price, draw_int(0, 3) * draw_int(1, 40), seq=seq, recv_ns=recv_ns))
    elif kind == 1:
        bid = MID + draw_int(-4, 3)
        ask = bid + draw_int(0, 3)
        rows = [record(TICKER, BID, bid, draw_int(0, 40), seq=seq, recv_ns=recv_ns)]
        rows.append(record(TICKER, ASK, ask, draw_int(0, 40), seq=seq, recv_ns=recv_ns))
    else:
        rows = [record(TRADE, draw_int(-1, 1), MID, draw_int(1, 60), seq=seq, recv_ns=recv_ns)]
    rows[-1]["flags"] |= F_LAST
    return rows


def stream(draw_int, frames, seed):
    """Snapshot, then frames; clocks that jump both ways, resynchronisations, checkpoints, late update ids."""
    rng = np.random.default_rng(seed)
    recv_ns, seq = START, 100
    rows = snapshot(recv_ns, seq, rng)
    for _ in range(frames):
        jump = draw_int(0, 30)
        recv_ns += -5_000_000 if jump == 0 else 3_000_000_000 if jump == 1 else jump * jump * 200_000
        seq += draw_int(0, 3)
        what = draw_int(0, 40)
        if what == 0:
            rows += snapshot(recv_ns, seq, rng)
        elif what == 1:
            rows += snapshot(recv_ns, seq, rng, F_SNAPSHOT | F_CHECKPOINT)
        else:
            part = frame(draw_int, recv_ns, seq - (2 if what == 2 else 0))
            for row in part:
                row["flags"] |= F_RESYNC if what == 3 else 0
            rows += part
    return np.array(rows, dtype=EVENT)


def random_stream(seed, frames):
    rng = np.random.default_rng(seed)
    return stream(lambda low, high: int(rng.integers(low, high + 1)), frames, seed)


@st.composite
def streams(draw, max_frames=40):
    def draw_int(low, high):
        return draw(st.integers(low, high))

    return stream(draw_int, draw(st.integers(1, max_frames)), draw(st.integers(0, 5)))


@st.composite
def wild_records(draw):
    """An arbitrary record, as a broken feed might send."""
    out = np.zeros(draw(st.integers(1, 30)), dtype=EVENT)
    extremes = [0, 1, -1, 999, 1000, 1001, 2**40, 2**47, 2**57, 2**62, -(2**63), 2**63 - 1]
    for row in out:
        row["kind"] = draw(st.sampled_from([0, DEPTH, TRADE, TICKER, CLEAR, 255]))
        row["side"] = draw(st.sampled_from([-128, ASK, 0, BID, 2]))
        row["flags"] = draw(st.integers(0, 63))
        for name in ("price", "size", "seq", "recv_ns"):
            row[name] = draw(st.sampled_from(extremes) | st.integers(900, 1100))
    return out
