"""The compiled order flow: what all other participants do, and when the exchange publishes.

Eight kinds of events arrive as a marked point process: market orders, near limit orders and near cancellations of each
side, and churn of the far levels. The first six excite themselves and each other with a fast (80 ms) and a slow (1 s)
exponential kernel (Hawkes, "Spectra of some self-exciting and mutually exciting point processes", Biometrika 58, 1971);
they are drawn by thinning (Ogata, "On Lewis' simulation method for point processes", IEEE Trans. Inf. Theory 27, 1981).

Their base rates are tilted by a hidden, mean-reverting *pressure*: limit orders and cancellations respond at once,
market orders later. So cancellations and depth predict trades to come, and all of them predict the price. The regime
(:class:`~market.simulator.config.Regime`) sets how strongly, and with which sign.

Hidden processes move on a 10 ms grid of world time and everything else between two grid points, so that the world does
not depend on how its time is cut into steps.
"""

from __future__ import annotations

import numpy as np

from market.compiled import compiled
from market.simulator.chance import exponential, normal, uniform
from market.simulator.matching import add, cancel_others, emit, market, own_size, set_size, size_at, trim
from market.simulator.state import ASKS, BIDS, DIFF, MARK, MASK, MAX_LEVELS, MAX_OUT, NEAR, REACH, RING, TICKER, Core

SLICE_NS = 10_000_000
DIFF_NS = 100_000_000
MARK_NS = 1_000_000_000
TICKER_NS = 35_000_000
FUNDING_MS = 8 * 3600 * 1000

FAST_PER_S = 12.0
SLOW_PER_S = 1.0
SKEW_S = 15.0
ALARM_S = 0.6
SIZE_SPREAD = 0.8  # of the log size of limit orders and cancellations

# Kinds of events: market orders that buy and sell, limit orders, cancellations, far churn.
BUY, SELL, ADD_BID, ADD_ASK, CANCEL_BID, CANCEL_ASK, FAR_BID, FAR_ASK = range(8)

# EXCITE[of, by]: expected children of kind `of` by one event of kind `by`, split evenly over the fast and slow kernel.
EXCITE = np.array(
    [
        # BUY   SELL   +BID   +ASK   -BID   -ASK
        [0.45, 0.05, 0.00, 0.00, 0.00, 0.03],  # BUY
        [0.05, 0.45, 0.00, 0.00, 0.03, 0.00],  # SELL
        [0.40, 0.20, 0.20, 0.05, 0.10, 0.05],  # ADD_BID
        [0.20, 0.40, 0.05, 0.20, 0.05, 0.10],  # ADD_ASK
        [0.00, 0.90, 0.05, 0.00, 0.45, 0.00],  # CANCEL_BID
        [0.90, 0.00, 0.00, 0.05, 0.00, 0.45],  # CANCEL_ASK
    ]
)
FAST_SHARE = 0.5

# Where near limit orders and cancellations go, by ticks from the best price of their side.
ADD_AT = np.array([0.36, 0.15, 0.11, 0.08, 0.07, 0.06, 0.05, 0.05, 0.04, 0.03])
CANCEL_AT = np.array([1.2, 1.0, 1.0, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8])
# Resting size by distance, in units of the regime's depth.
SHAPE = np.array([1.0, 0.55, 0.4, 0.33, 0.3, 0.28, 0.27, 0.26, 0.25, 0.25])


@compiled
def _lognormal(core: Core, median: float, spread: float) -> int:
    return max(1, int(median * np.exp(spread * normal(core.flow_chance))))


@compiled
def _resting(core: Core, distance: int) -> float:
    """The size that a level this many ticks from the best reverts to."""
    depth = core.params[0].depth
    if distance < NEAR:
        return float(depth * SHAPE[distance])
    return float(depth * 0.25 * (1.0 + distance / 20.0) / (1.0 + (distance / 90.0) ** 2))


@compiled
def _fullness(core: Core, side: int) -> float:
    """Near size over the size it reverts to."""
    step = -1 if side == BIDS else 1
    size, target = 0.0, 0.0
    for d in range(NEAR):
        size += size_at(core, side, core.best[side] + step * d)
        target += core.params[0].depth * SHAPE[d]
    full: float = size / (target * np.exp(-step * core.state[0].skew))
    return full


@compiled
def intensities(core: Core, rates: np.ndarray) -> float:
    """Fill ``rates`` (8,) with events a second now; returns their sum."""
    s, p = core.state[0], core.params[0]
    tilt = np.tanh(s.pressure)
    wide = 1.0 + 0.5 * min(core.best[ASKS] - core.best[BIDS] - 1, 6)
    rates[BUY] = p.market_rate * np.exp(p.on_trades * s.drive)
    rates[SELL] = p.market_rate * np.exp(-p.on_trades * s.drive)
    for side in range(2):
        sign = 1.0 if side == BIDS else -1.0
        full = _fullness(core, side)
        rates[ADD_BID + side] = p.add_rate * np.exp(sign * p.on_adds * tilt - p.on_alarm * s.alarm) * wide
        rates[CANCEL_BID + side] = p.cancel_rate * np.exp(p.on_alarm * s.alarm - sign * p.on_cancels * tilt)
        for kind in (BUY + side, ADD_BID + side, CANCEL_BID + side):
            rates[kind] += core.fast[kind] + core.slow[kind]
        rates[ADD_BID + side] *= min(max(2.0 - full, 0.2), 2.0)
        rates[CANCEL_BID + side] *= min(max(full, 0.1), 3.0)
        rates[FAR_BID + side] = p.far_rate
    total = 0.0
    for kind in range(8):
        total += rates[kind]
    return total


@compiled
def _decay(core: Core) -> None:
    """Decay the excitation to now. Done where it is read, so that splitting a time step leaves no trace."""
    s = core.state[0]
    dt_s = (s.t_ns - s.excited_ns) / 1e9
    fast, slow = np.exp(-FAST_PER_S * dt_s), np.exp(-SLOW_PER_S * dt_s)
    for kind in range(6):
        core.fast[kind] *= fast
        core.slow[kind] *= slow
    s.excited_ns = s.t_ns


@compiled
def _excite(core: Core, by: int) -> None:
    scale = core.params[0].excitation
    for of in range(6):
        core.fast[of] += scale * EXCITE[of, by] * FAST_SHARE * FAST_PER_S
        core.slow[of] += scale * EXCITE[of, by] * (1.0 - FAST_SHARE) * SLOW_PER_S


@compiled
def _market_order(core: Core, side: int) -> None:
    p = core.params[0]
    size = _lognormal(core, p.market_size, p.size_spread)
    if uniform(core.flow_chance) < p.sweep:
        size = max(size, size_at(core, side, core.best[side]) + _lognormal(core, 2.0 * p.market_size, 1.0))
    market(core, side, size)


@compiled
def _limit_order(core: Core, side: int) -> None:
    s, p = core.state[0], core.params[0]
    step = -1 if side == BIDS else 1
    spread = core.best[ASKS] - core.best[BIDS]
    price = core.best[side]
    # orders that fill a wide spread follow the trades, so that moves persist
    if spread > 1 and uniform(core.flow_chance) < p.improve * (1.0 - 0.5 * p.on_trades * step * s.drive):
        price -= step * (1 + int(uniform(core.flow_chance) * min(spread - 1, 2)))
        add(core, side, price, _lognormal(core, 4.0 * p.order_size, SIZE_SPREAD))
        return
    u, d = uniform(core.flow_chance), 0
    while d < NEAR - 1 and u > ADD_AT[d]:
        u -= ADD_AT[d]
        d += 1
    add(core, side, price + step * d, _lognormal(core, p.order_size, SIZE_SPREAD))


@compiled
def _cancellation(core: Core, side: int) -> None:
    p = core.params[0]
    step = -1 if side == BIDS else 1
    total = 0.0
    for d in range(NEAR):
        total += CANCEL_AT[d] * size_at(core, side, core.best[side] + step * d)
    u, d = uniform(core.flow_chance) * total, 0
    while d < NEAR - 1:
        u -= CANCEL_AT[d] * size_at(core, side, core.best[side] + step * d)
        if u <= 0:
            break
        d += 1
    size = _lognormal(core, p.order_size, SIZE_SPREAD)
    if uniform(core.flow_chance) < p.pull:
        size *= 8
    cancel_others(core, side, core.best[side] + step * d, size)


@compiled
def _far(core: Core, side: int) -> None:
    """Redraw one far level: emptied, or pulled towards the size it reverts to."""
    step = -1 if side == BIDS else 1
    u = uniform(core.flow_chance)
    distance = int(NEAR * (REACH / NEAR) ** u)  # as many changes in each octave of distance
    _redraw(core, side, core.best[side] + step * distance, distance)


@compiled
def _redraw(core: Core, side: int, price: int, distance: int) -> None:
    others = size_at(core, side, price) - own_size(core, side, price)
    size = 0
    if uniform(core.flow_chance) >= core.params[0].gaps:
        size = _lognormal(core, _resting(core, distance), 0.6)
    if size > others:
        add(core, side, price, size - others)
    elif size < others:
        cancel_others(core, side, price, others - size)


@compiled
def _populate(core: Core) -> None:
    """Fill the grid out to REACH where the price has moved away from it."""
    s = core.state[0]
    while s.low_edge > core.best[BIDS] - REACH:
        s.low_edge -= 1
        _redraw(core, BIDS, s.low_edge, core.best[BIDS] - s.low_edge)
    while s.high_edge < core.best[ASKS] + REACH:
        s.high_edge += 1
        _redraw(core, ASKS, s.high_edge, s.high_edge - core.best[ASKS])


@compiled
def open_book(core: Core) -> None:
    """The first book, around the configured price."""
    s = core.state[0]
    s.low_edge, s.high_edge = core.best[BIDS], core.best[ASKS]
    set_size(core, BIDS, core.best[BIDS], int(core.params[0].depth))
    set_size(core, ASKS, core.best[ASKS], int(core.params[0].depth))
    _populate(core)
    _forget_changes(core)


@compiled
def _forget_changes(core: Core) -> None:
    s = core.state[0]
    for k in range(s.n_changed):
        core.marked[core.changed[k] & 1, (core.changed[k] >> 1) & MASK] = 0
    s.n_changed = 0
    s.diff_id = s.update_id


@compiled
def _happen(core: Core, kind: int) -> None:
    if kind <= SELL:
        _market_order(core, ASKS if kind == BUY else BIDS)
    elif kind <= ADD_ASK:
        _limit_order(core, kind - ADD_BID)
    elif kind <= CANCEL_ASK:
        _cancellation(core, kind - CANCEL_BID)
    else:
        _far(core, kind - FAR_BID)
    if kind < FAR_BID:
        _excite(core, kind)


@compiled
def _slice(core: Core) -> None:
    """Move the hidden processes by one grid step."""
    s, p, dt = core.state[0], core.params[0], SLICE_NS / 1e9
    noise = normal(core.flow_chance)
    s.pressure += -s.pressure * dt / p.pressure_tau + np.sqrt(2.0 * dt / p.pressure_tau) * noise
    s.drive += (np.tanh(s.pressure) - s.drive) * dt / (p.trade_lag + dt)
    if uniform(core.flow_chance) * (p.alarm_lasts if s.alarmed > 0.0 else p.alarm_every) < dt:
        s.alarmed = 1.0 - s.alarmed
    s.alarm += (s.alarmed - s.alarm) * dt / ALARM_S
    s.skew += -s.skew * dt / SKEW_S + p.skew * np.sqrt(2.0 * dt / SKEW_S) * normal(core.flow_chance)
    mid = 0.5 * (core.best[BIDS] + core.best[ASKS])
    s.index += (mid - s.index) * dt / 20.0 + 0.02 * normal(core.flow_chance)
    s.premium += (3.0 * s.funding - s.premium) * dt / 30.0 + 1e-7 * normal(core.flow_chance)
    s.funding += (p.funding - s.funding) * dt / 45.0 + 1e-8 * normal(core.flow_chance)
    trim(core)
    _populate(core)
    s.slice_ns += SLICE_NS
    s.next_ns = 0


@compiled
def _publish_ticker(core: Core) -> None:
    s = core.state[0]
    bid, ask = core.best[BIDS], core.best[ASKS]
    core.ticker[0], core.ticker[1] = bid, size_at(core, BIDS, bid)
    core.ticker[2], core.ticker[3] = ask, size_at(core, ASKS, ask)
    record = emit(core, TICKER, BIDS, s.update_id, core.ticker[0], core.ticker[1])
    record.x0 = core.ticker[2]
    record.x1 = core.ticker[3]
    s.ticker_ns = s.t_ns


@compiled
def _top_changed(core: Core) -> bool:
    bid, ask = core.best[BIDS], core.best[ASKS]
    return bool(
        core.ticker[0] != bid
        or core.ticker[2] != ask
        or core.ticker[1] != size_at(core, BIDS, bid)
        or core.ticker[3] != size_at(core, ASKS, ask)
    )


@compiled
def _publish_diff(core: Core) -> None:
    s = core.state[0]
    s.diff_ns += DIFF_NS
    if s.n_changed == 0:
        return
    offset = s.n_levels
    for k in range(s.n_changed):
        code = core.changed[k]
        core.levels[s.n_levels, 0] = code
        core.levels[s.n_levels, 1] = core.sizes[code & 1, (code >> 1) & MASK]
        s.n_levels += 1
    record = emit(core, DIFF, BIDS, s.update_id, offset, s.n_changed)
    record.x0 = s.diff_id + 1
    record.x1 = s.diff_id
    _forget_changes(core)


@compiled
def _publish_mark(core: Core) -> None:
    s = core.state[0]
    s.mark_ns += MARK_NS
    now_ms = s.t_ns // 1_000_000
    record = emit(core, MARK, BIDS, now_ms - now_ms % FUNDING_MS + FUNDING_MS, int(np.rint(s.funding * 1e8)), BIDS)
    record.x0 = int(s.index * (1.0 + s.premium) * 1e7)  # ticks of 0.1 to units of 1e-8
    record.x1 = int(s.index * 1e7)
    record.x2 = int(s.index * (1.0 + 0.5 * s.premium) * 1e7)


@compiled
def _draw(core: Core, rates: np.ndarray) -> None:
    """Draw the next candidate event with the current intensity, which only decreases until an event happens."""
    s = core.state[0]
    _decay(core)
    s.bound = intensities(core, rates)
    s.next_ns = s.t_ns + 1 + int(1e9 * exponential(core.flow_chance) / s.bound)


@compiled
def _candidate(core: Core, rates: np.ndarray) -> None:
    """Accept the candidate as one kind of event, or reject it."""
    s = core.state[0]
    _decay(core)
    intensities(core, rates)
    u = uniform(core.flow_chance) * s.bound
    s.next_ns = 0
    for kind in range(8):
        u -= rates[kind]
        if u <= 0.0:
            _happen(core, kind)
            return


@compiled
def run(core: Core, until_ns: int) -> None:
    """Advance the world to ``until_ns``, or until its output is nearly full (then ``t_ns`` stays before it)."""
    s = core.state[0]
    rates = np.zeros(8)
    while s.n_out < MAX_OUT - 512 and s.n_levels < MAX_LEVELS - 2 * RING:
        if s.next_ns == 0:
            _draw(core, rates)
        ticker_ns = s.ticker_ns + TICKER_NS if _top_changed(core) else until_ns + 1
        to_ns = min(s.next_ns, s.slice_ns, s.diff_ns, s.mark_ns, max(ticker_ns, s.t_ns))
        if to_ns > until_ns:
            s.t_ns = max(s.t_ns, until_ns)
            return
        s.t_ns = to_ns
        if to_ns == s.slice_ns:
            _slice(core)
        elif to_ns == s.next_ns:
            _candidate(core, rates)
        elif to_ns == s.diff_ns:
            _publish_diff(core)
        elif to_ns == s.mark_ns:
            _publish_mark(core)
        else:
            _publish_ticker(core)
