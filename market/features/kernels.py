"""The compiled step that computes the tick features, after every event that ends a batch.

:func:`step` is used live; :func:`compute` is that step in a loop, so batch and live results are bit-identical.
:mod:`market.features.catalog` defines the meaning of each number.

The state is one flat integer array: a header, then a ring of the rows of the last second. Each window keeps a tail
index into the ring and running integer sums; a row that leaves a window is subtracted. If one second holds more than
:data:`RING` rows, the oldest leave their windows early.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from market.books.levels import LAST_DELTA, LAST_NEAR, NEAR_LEVELS, best_level, level_key, worse_level
from market.books.price_book import LIVE, STATUS, apply, new_book, refusal, top
from market.compiled import compiled
from market.events import BID, CLEAR, DEPTH, F_CHECKPOINT, F_LAST, F_RESYNC, TRADE, Events
from market.features.catalog import FEATURES, N_TICK, WARM_NS

Int64s = NDArray[np.int64]

# return codes of step(), besides the negative codes of market.books.price_book
NO_ROW: Final = 0  # the batch continues, or the event was a checkpoint that a live book does not need
ROW: Final = 1
UNUSABLE: Final = 2  # the batch ended, but the book is empty, locked or crossed

RING: Final = 8192  # rows

# one row of the ring: its time, then what it adds to the windows
_TIME: Final = 0
_OFI: Final = 1
_FLOW: Final = 2
_MOVE: Final = 3
_BID_NET: Final = 4
_ASK_NET: Final = 5
_BID_REMOVED: Final = 6
_ASK_REMOVED: Final = 7
_TRADES: Final = 8
_MOVE_SQ: Final = 9
_ROW: Final = 10  # words

# header words of the state
MID2: Final = 0  # of the last row: best bid + best ask, ticks
BID_DEPTH: Final = 1  # of the last row: lots in the best NEAR_LEVELS levels
ASK_DEPTH: Final = 2
WARM: Final = 3  # 1 when the last row's windows are full
RESTARTS: Final = 4  # how often windows began
_SEEN: Final = 5  # 1 once a timestamp was seen
_RECV: Final = 6
_NOW: Final = 7  # elapsed time, ns; never decreases
_RUNNING: Final = 8  # 1 once the windows have a first row
_SINCE: Final = 9  # when they began
_HEAD: Final = 10  # rows pushed
_TAIL: Final = 11  # four words: first row of each window
_PREVIOUS: Final = 15  # four words: the top of the previous row
_QUEUE: Final = 19  # two words: largest bid and ask size since their price became best
_MOVED: Final = 21  # when the mid last changed
_TRADED: Final = 22  # when a trade was last seen
_ROW_AT: Final = 23  # when the last row was
_PENDING: Final = 24  # _ROW words: accumulated since the last row
_SUMS: Final = 40  # four windows of _ROW words
_HEADER: Final = 96

# float64 words: the slow averages
_S_TOP: Final = 80
_S_BID: Final = 81
_S_ASK: Final = 82
_S_ROWS: Final = 83
_S_TRADES: Final = 84
_S_VARIANCE: Final = 85

_50MS: Final = 0
_100MS: Final = 1
_500MS: Final = 2
_1S: Final = 3
_WINDOWS: Final = (50_000_000, 100_000_000, 500_000_000, 1_000_000_000)

_TAU_VOL: Final = 10e9
_TAU_DEPTH: Final = 30e9
_TAU_RATE: Final = 60e9
_AGE: Final = 1e9
_LONGEST_STEP: Final = 3_600_000_000_000  # a gap longer than an hour counts as an hour
_LARGEST: Final = 2**49  # bounds on a row's contribution, which keep the sums of RING rows below 2**63
_LARGEST_MOVE: Final = 2**20

_CLIPS: Final = np.array([f.clip for f in FEATURES[:N_TICK]], dtype=np.float32)


def new_state() -> Int64s:
    """State before any event."""
    state = np.empty(_HEADER + RING * _ROW, dtype=np.int64)
    state.fill(0)  # touches every page now, not in the first second of trading
    return state


@compiled
def reset(state: Int64s) -> None:
    """Restart the windows at the next row: after a hole in the data. Time and the count of restarts continue."""
    state[WARM] = 0
    state[_RUNNING] = 0
    state[_PENDING:_HEADER] = 0


@compiled
def _pass_time(state: Int64s, recv_ns: int) -> None:
    """Advance by the time since the last event; a clock that steps back, or jumps far, cannot corrupt the windows."""
    if state[_SEEN] == 1:
        state[_NOW] += min(max(recv_ns - state[_RECV], 0), _LONGEST_STEP)
    state[_SEEN] = 1
    state[_RECV] = recv_ns


@compiled
def _bounded(amount: int) -> int:
    return min(max(amount, -_LARGEST), _LARGEST)


@compiled
def _add(state: Int64s, what: int, amount: int) -> None:
    word = _PENDING + what
    state[word] = _bounded(state[word] + amount)


@compiled
def _collect(book: Int64s, state: Int64s, kind: int, side: int, size: int) -> None:
    """Accumulate the effect of one event; it counts from the next row on."""
    if kind == TRADE:
        _add(state, _FLOW, side * size)
        _add(state, _TRADES, 1)
        state[_TRADED] = state[_NOW]
    elif kind == DEPTH and book[LIVE] == 1 and book[LAST_NEAR] == 1:
        delta = book[LAST_DELTA]
        _add(state, _BID_NET if side == BID else _ASK_NET, delta)
        if delta < 0:
            _add(state, _BID_REMOVED if side == BID else _ASK_REMOVED, -delta)


@compiled
def _order_flow(state: Int64s, now: tuple[int, int, int, int]) -> int:
    """e of Cont, Kukanov, Stoikov (2014), section 2.1, between the previous row and ``now``; lots."""
    bid, bid_size, ask, ask_size = now
    bid0, bid_size0, ask0, ask_size0 = (
        state[_PREVIOUS],
        state[_PREVIOUS + 1],
        state[_PREVIOUS + 2],
        state[_PREVIOUS + 3],
    )
    e = 0
    if bid >= bid0:
        e += bid_size
    if bid <= bid0:
        e -= bid_size0
    if ask <= ask0:
        e -= ask_size
    if ask >= ask0:
        e += ask_size0
    return e


@compiled
def _begin(state: Int64s, now: tuple[int, int, int, int]) -> None:
    """Start the windows at this row, as if it had been preceded by itself."""
    state[_RUNNING] = 1
    state[RESTARTS] += 1
    state[_SINCE] = state[_NOW]
    state[_ROW_AT] = state[_NOW]
    state[_MOVED] = state[_NOW]
    state[_TRADED] = state[_NOW]
    for window in range(4):
        state[_TAIL + window] = state[_HEAD]
    for word in range(4):
        state[_PREVIOUS + word] = now[word]
    state[_QUEUE], state[_QUEUE + 1] = now[1], now[3]


@compiled
def _push(state: Int64s, now: tuple[int, int, int, int]) -> None:
    """Turn the pending amounts into a row, add it to the windows, drop expired rows."""
    move = now[0] + now[2] - state[_PREVIOUS] - state[_PREVIOUS + 2]
    if move != 0:
        state[_MOVED] = state[_NOW]
    capped = min(abs(move), _LARGEST_MOVE)
    state[_PENDING + _TIME] = state[_NOW]
    state[_PENDING + _OFI] = _bounded(_order_flow(state, now))
    state[_PENDING + _MOVE] = move
    state[_PENDING + _MOVE_SQ] = capped * capped
    if state[_HEAD] - state[_TAIL + _1S] == RING:
        for window in range(4):
            if state[_TAIL + window] == state[_HEAD] - RING:
                _drop_oldest(state, window)
    at = _HEADER + (state[_HEAD] & (RING - 1)) * _ROW
    for word in range(_ROW):
        state[at + word] = state[_PENDING + word]
    for window in range(4):
        sums = _SUMS + window * _ROW
        for word in range(1, _ROW):
            state[sums + word] += state[_PENDING + word]
    for word in range(_ROW):
        state[_PENDING + word] = 0
    state[_HEAD] += 1
    for window in range(4):
        horizon = state[_NOW] - _WINDOWS[window]
        while state[_HEADER + (state[_TAIL + window] & (RING - 1)) * _ROW] <= horizon:
            _drop_oldest(state, window)


@compiled
def _drop_oldest(state: Int64s, window: int) -> None:
    sums = _SUMS + window * _ROW
    at = _HEADER + (state[_TAIL + window] & (RING - 1)) * _ROW
    for word in range(1, _ROW):
        state[sums + word] -= state[at + word]
    state[_TAIL + window] += 1


@compiled
def _slow_averages(state: Int64s, top_size: float) -> None:
    """Advance the slow averages to this row; the first row initialises them."""
    slow = state.view(np.float64)
    dt = float(state[_NOW] - state[_ROW_AT])
    age = float(state[_ROW_AT] - state[_SINCE])
    rows = float(state[_HEAD] - state[_TAIL + _100MS])
    trades = float(state[_SUMS + _1S * _ROW + _TRADES])
    if age + dt == 0.0:
        slow[_S_TOP], slow[_S_BID], slow[_S_ASK] = top_size, state[BID_DEPTH], state[ASK_DEPTH]
        slow[_S_ROWS], slow[_S_TRADES] = rows, trades
    elif dt > 0.0:
        depth_weight = dt / (min(_TAU_DEPTH, age) + dt)
        rate_weight = dt / (min(_TAU_RATE, age) + dt)
        slow[_S_TOP] += (top_size - slow[_S_TOP]) * depth_weight
        slow[_S_BID] += (state[BID_DEPTH] - slow[_S_BID]) * depth_weight
        slow[_S_ASK] += (state[ASK_DEPTH] - slow[_S_ASK]) * depth_weight
        slow[_S_ROWS] += (rows - slow[_S_ROWS]) * rate_weight
        slow[_S_TRADES] += (trades - slow[_S_TRADES]) * rate_weight
        slow[_S_VARIANCE] *= _TAU_VOL / (_TAU_VOL + dt)
    last = _HEADER + ((state[_HEAD] - 1) & (RING - 1)) * _ROW
    slow[_S_VARIANCE] += state[last + _MOVE_SQ]
    state[_ROW_AT] = state[_NOW]


@compiled
def _share(a: float, b: float) -> float:
    """(a - b) / (a + b) of two amounts; 0 when both are."""
    total = a + b
    return (a - b) / total if total > 0.0 else 0.0


@compiled
def _side(book: Int64s, side: int) -> tuple[float, float, float]:
    """Size of the best 5 and 10 levels, and the size-weighted distance of the 10 from the touch in ticks."""
    word = best_level(book, side)
    touch = level_key(book, side, word)
    near, total, weighted = 0, 0, 0.0
    for i in range(10):
        if word == 0:
            break
        size = book[word]
        total += size
        weighted += float(size) * float(touch - level_key(book, side, word))
        if i < NEAR_LEVELS:
            near = total
        word = worse_level(book, side, word)
    return float(near), float(total), weighted / float(total)


@compiled
def _write_book(book: Int64s, state: Int64s, now: tuple[int, int, int, int], out: NDArray[np.float32]) -> None:
    """Write features 0 to 9, and the near depths into the state."""
    bid, bid_size, ask, ask_size = now
    bid_near, bid_total, bid_distance = _side(book, BID)
    ask_near, ask_total, ask_distance = _side(book, -BID)
    state[BID_DEPTH], state[ASK_DEPTH] = int(bid_near), int(ask_near)
    _slow_averages(state, 0.5 * float(bid_size + ask_size))
    slow = state.view(np.float64)
    spread = float(ask - bid)
    imbalance = _share(float(bid_size), float(ask_size))
    out[0] = spread
    out[1] = spread * imbalance
    out[2] = imbalance
    out[3] = _share(bid_near, ask_near)
    out[4] = _share(bid_total, ask_total)
    out[5] = _share(ask_distance, bid_distance)
    out[6] = _share(bid_near, slow[_S_BID])
    out[7] = _share(ask_near, slow[_S_ASK])
    for side in range(2):
        price, size = now[2 * side], now[2 * side + 1]
        same = price == state[_PREVIOUS + 2 * side]
        state[_QUEUE + side] = max(state[_QUEUE + side], size) if same else size
        out[8 + side] = float(size) / float(state[_QUEUE + side])


@compiled
def _write_flows(state: Int64s, out: NDArray[np.float32]) -> None:
    """Write features 10 to 20."""
    slow = state.view(np.float64)
    per_top = 1.0 / slow[_S_TOP]
    per_bid = 1.0 / slow[_S_BID]
    per_ask = 1.0 / slow[_S_ASK]
    w50, w100, w500, w1s = _SUMS, _SUMS + _ROW, _SUMS + 2 * _ROW, _SUMS + 3 * _ROW
    out[10] = state[w50 + _OFI] * per_top
    out[11] = state[w100 + _OFI] * per_top
    out[12] = state[w500 + _OFI] * per_top
    out[13] = state[w1s + _OFI] * per_top
    out[14] = state[w100 + _FLOW] * per_top
    out[15] = state[w500 + _FLOW] * per_top
    out[16] = state[w1s + _FLOW] * per_top
    out[17] = state[w500 + _BID_NET] * per_bid
    out[18] = state[w500 + _ASK_NET] * per_ask
    out[19] = state[w1s + _BID_REMOVED] * per_bid
    out[20] = state[w1s + _ASK_REMOVED] * per_ask


@compiled
def _write_moves_and_times(state: Int64s, out: NDArray[np.float32]) -> None:
    """Write features 21 to 29."""
    slow = state.view(np.float64)
    to_bp = 1e4 / float(state[MID2])
    w100, w500, w1s = _SUMS + _ROW, _SUMS + 2 * _ROW, _SUMS + 3 * _ROW
    out[21] = state[w100 + _MOVE] * to_bp
    out[22] = state[w500 + _MOVE] * to_bp
    out[23] = state[w1s + _MOVE] * to_bp
    out[24] = sqrt(float(state[w1s + _MOVE_SQ])) * to_bp
    out[25] = sqrt(slow[_S_VARIANCE]) * to_bp
    moved = float(state[_NOW] - state[_MOVED])
    traded = float(state[_NOW] - state[_TRADED])
    out[26] = moved / (moved + _AGE)
    out[27] = traded / (traded + _AGE)
    out[28] = _share(float(state[_HEAD] - state[_TAIL + _100MS]), slow[_S_ROWS])
    out[29] = _share(float(state[w1s + _TRADES]), slow[_S_TRADES])


@compiled
def _row(book: Int64s, state: Int64s, out: NDArray[np.float32]) -> None:
    now = top(book)
    if state[_RUNNING] == 0:
        _begin(state, now)
    _push(state, now)
    state[MID2] = now[0] + now[2]
    _write_book(book, state, now, out)
    _write_flows(state, out)
    _write_moves_and_times(state, out)
    for i in range(N_TICK):
        out[i] = min(max(out[i], -_CLIPS[i]), _CLIPS[i])
    for word in range(4):
        state[_PREVIOUS + word] = now[word]
    state[WARM] = 1 if state[_NOW] - state[_SINCE] >= WARM_NS else 0


@compiled
def step(book: Int64s, state: Int64s, event: Any, out: NDArray[np.float32]) -> int:
    """Apply one event (a record of dtype EVENT) to book and state; at the end of a batch write a row.

    Returns ROW with the tick features in ``out[:N_TICK]``, UNUSABLE, NO_ROW, or a negative code of
    :mod:`market.books.price_book` (the event was rejected; resynchronise). After ROW the state's words MID2, BID_DEPTH,
    ASK_DEPTH, WARM and RESTARTS describe the row. Checkpoints are skipped while the book is live: they matter only
    after a hole, and the caller must announce a hole by clearing the book and calling :func:`reset`.
    """
    flags = event.flags
    if flags & F_CHECKPOINT and book[LIVE] == 1:
        return NO_ROW
    _pass_time(state, event.recv_ns)
    if event.kind == CLEAR or flags & F_RESYNC:
        reset(state)
    code = apply(book, event.kind, event.side, event.price, event.size, flags, event.seq)
    if code < 0:
        return code
    _collect(book, state, event.kind, event.side, event.size)
    if not flags & F_LAST:
        return NO_ROW
    if book[STATUS] != 0:
        return UNUSABLE
    _row(book, state, out)
    return ROW


@dataclass(frozen=True, kw_only=True)
class Rows:
    """``n`` rows as parallel arrays, one for each event that ended a batch with a usable book.

    Attributes:
        event: (n,) int64, index of that event in the input events.
        features: (n, N_TICK) float32.
        mid2: (n,) int64, best bid + best ask in ticks.
        bid_depth, ask_depth: (n,) int64, lots in the best NEAR_LEVELS levels.
        warm: (n,) bool, windows were full.
        segment: (n,) int64, how often windows had been started by then: rows with one number form a segment.
    """

    event: Int64s
    features: NDArray[np.float32]
    mid2: Int64s
    bid_depth: Int64s
    ask_depth: Int64s
    warm: NDArray[np.bool_]
    segment: Int64s

    def __len__(self) -> int:
        return len(self.event)


@compiled
def _loop(book: Int64s, state: Int64s, events: Any, features: Any, facts: Any) -> tuple[int, int, int]:
    """Step through all events; returns (rows, index, code), where code < 0 is that of the rejected event at index."""
    n = 0
    for i in range(len(events)):
        code = step(book, state, events[i], features[n])
        if code < 0:
            return n, i, code
        if code == ROW:
            facts[n, 0] = i
            facts[n, 1] = state[MID2]
            facts[n, 2] = state[BID_DEPTH]
            facts[n, 3] = state[ASK_DEPTH]
            facts[n, 4] = state[WARM]
            facts[n, 5] = state[RESTARTS]
            n += 1
    return n, len(events), 0


def compute(events: Events, *, book: Int64s | None = None, state: Int64s | None = None) -> Rows:
    """Rows of ``events`` (m,), from scratch or continuing from ``book`` and ``state``, which are advanced in place.

    Raises:
        BookError: an event was rejected.
    """
    book = new_book() if book is None else book
    state = new_state() if state is None else state
    most = int(np.count_nonzero(events["flags"] & F_LAST))
    features = np.empty((most + 1, N_TICK), dtype=np.float32)  # one spare row, for the step after the last
    facts = np.empty((most + 1, 6), dtype=np.int64)
    n, at, code = _loop(book, state, events, features, facts)
    if code < 0:
        raise refusal(code, events[at])
    columns = [np.ascontiguousarray(facts[:n, i]) for i in range(6)]
    return Rows(
        event=columns[0],
        features=features[:n],
        mid2=columns[1],
        bid_depth=columns[2],
        ask_depth=columns[3],
        warm=columns[4].astype(np.bool_),
        segment=columns[5],
    )
