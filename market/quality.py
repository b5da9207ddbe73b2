"""What a batch of ticks is judged by: figures over the whole batch, computed in one compiled pass.

A batch starts with a checkpoint or a snapshot when its book was live, so that its figures need nothing from before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.book import CROSSED, EMPTY, LIVE, LOCKED, STATUS, apply, new_book, refusal, top
from market.compiled import compiled
from market.events import DEPTH, F_CHECKPOINT, F_CLOCK_BACK, F_LAST, F_RESYNC, TRADE, Events

_NAMES: Final = (
    "rows",
    "crossed",
    "locked",
    "trades",
    "priced_trades",
    "trades_outside",
    "updates",
    "gaps",
    "clock_back",
    "largest_gap_ns",
    "largest_size",
    "worst_trade_ppm",
    "largest_jump_ppm",
    "largest_spread_ppm",
)
_INDEX: Final = {name: i for i, name in enumerate(_NAMES)}
_ROWS, _CROSSED, _LOCKED, _TRADES, _PRICED, _OUTSIDE, _UPDATES = 0, 1, 2, 3, 4, 5, 6
_GAPS, _CLOCK_BACK, _GAP_NS, _SIZE, _TRADE_PPM, _JUMP_PPM, _SPREAD_PPM = 7, 8, 9, 10, 11, 12, 13
_PPM_A_BP: Final = 100.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One batch. Rates are shares of the rows (crossed, locked) or of the trades that a book could judge.

    Distances are in basis points of the mid, ``largest_size`` in lots. ``refused`` says which event no book accepts;
    the figures end there.
    """

    frames: int
    events: int
    trades: int
    updates: int
    first_ns: int
    last_ns: int
    gaps: int
    largest_gap_ns: int
    clock_back: int
    crossed_rate: float
    locked_rate: float
    trade_outside_rate: float
    worst_trade_bp: float
    largest_jump_bp: float
    largest_spread_bp: float
    largest_size: int
    refused: str


def figures(events: Events, *, outside_bp: float) -> Figures:
    """Figures of one whole batch of events (n,), n > 0; a trade over ``outside_bp`` from the touch is *outside*."""
    counts = np.zeros(len(_NAMES), dtype=np.int64)
    code, index = _scan(new_book(), events, int(outside_bp * _PPM_A_BP), counts)
    found = {name: int(counts[i]) for name, i in _INDEX.items()}
    return Figures(
        frames=len(np.unique(events["frame"])),
        events=len(events),
        trades=found["trades"],
        updates=found["updates"],
        first_ns=int(events["recv_ns"].min()),
        last_ns=int(events["recv_ns"].max()),
        gaps=found["gaps"],
        largest_gap_ns=found["largest_gap_ns"],
        clock_back=found["clock_back"],
        crossed_rate=found["crossed"] / max(1, found["rows"]),
        locked_rate=found["locked"] / max(1, found["rows"]),
        trade_outside_rate=found["trades_outside"] / max(1, found["priced_trades"]),
        worst_trade_bp=found["worst_trade_ppm"] / _PPM_A_BP,
        largest_jump_bp=found["largest_jump_ppm"] / _PPM_A_BP,
        largest_spread_bp=found["largest_spread_ppm"] / _PPM_A_BP,
        largest_size=found["largest_size"],
        refused=str(refusal(code, events[index])) if code < 0 else "",
    )


@compiled
def _scan(book: NDArray[np.int64], events: Any, outside_ppm: int, counts: NDArray[np.int64]) -> tuple[int, int]:
    last_mid2, last_ns = 0, 0
    for i in range(len(events)):
        event = events[i]
        _count_event(book, event, outside_ppm, counts)
        if last_ns > 0:
            counts[_GAP_NS] = max(counts[_GAP_NS], event["recv_ns"] - last_ns)
        last_ns = event["recv_ns"]
        flags = event["flags"]
        code = apply(book, event["kind"], event["side"], event["price"], event["size"], flags, event["seq"])
        if code < 0:
            return code, i
        if flags & F_LAST:
            last_mid2 = _count_state(book, last_mid2, counts)
    return 0, 0


@compiled
def _count_event(book: NDArray[np.int64], event: Any, outside_ppm: int, counts: NDArray[np.int64]) -> None:
    flags = event["flags"]
    counts[_CLOCK_BACK] += 1 if flags & F_CLOCK_BACK else 0
    counts[_GAPS] += 1 if flags & F_RESYNC and flags & F_LAST else 0
    if event["kind"] == DEPTH and not flags & F_CHECKPOINT:
        counts[_UPDATES] += 1
        counts[_SIZE] = max(counts[_SIZE], event["size"])
    elif event["kind"] == TRADE:
        counts[_TRADES] += 1
        if book[LIVE] == 1 and not book[STATUS] & EMPTY:
            bid, _, ask, _ = top(book)
            away = max(bid - event["price"], event["price"] - ask, 0)
            ppm = 2_000_000 * away // max(1, bid + ask)
            counts[_PRICED] += 1
            counts[_OUTSIDE] += 1 if ppm > outside_ppm else 0
            counts[_TRADE_PPM] = max(counts[_TRADE_PPM], ppm)


@compiled
def _count_state(book: NDArray[np.int64], last_mid2: int, counts: NDArray[np.int64]) -> int:
    """Count what the book shows now; answers twice its mid, or the last one where it shows none."""
    if book[LIVE] == 0:
        return last_mid2
    status = book[STATUS]
    counts[_ROWS] += 1
    counts[_CROSSED] += 1 if status & CROSSED else 0
    counts[_LOCKED] += 1 if status & LOCKED else 0
    if status & EMPTY:
        return last_mid2
    bid, _, ask, _ = top(book)
    mid2 = bid + ask
    counts[_SPREAD_PPM] = max(counts[_SPREAD_PPM], 2_000_000 * max(0, ask - bid) // mid2)
    if last_mid2 > 0:
        counts[_JUMP_PPM] = max(counts[_JUMP_PPM], 1_000_000 * abs(mid2 - last_mid2) // last_mid2)
    return mid2
