"""The compiled book of the simulated exchange: levels, price-time priority, and our own orders' places in the queue.

Sizes of a level include our own orders. For all others only the sum is known, so each of our orders carries ``ahead``:
how much of the others' size is ahead of it. Trades take from the front; cancellations are spread evenly over the
others' size (the proportional rule of queue models, e.g. Rigtorp, "Estimating Order Queue Position", 2013).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from market.compiled import compiled
from market.simulator.chance import normal
from market.simulator.state import ASKS, BIDS, EXPIRED, FILL, KEEP, MASK, MAX_OUT, OWN_KEEP, OWN_REACH, TRADE, Core

SWEEP_LEVELS = 40  # a market order never walks further: its remainder expires

# Verdicts on an order
ACCEPTED = 0
WOULD_CROSS = 1
OUT_OF_REACH = 2
TOO_MANY = 3


@compiled
def stamp(core: Core, t_ns: int) -> int:
    """Receive time of something sent at ``t_ns``: about 0.3 to 1 ms later, and later than anything before it."""
    s = core.state[0]
    delay_ns = int(np.exp(13.0 + 0.35 * normal(core.wire_chance)))
    s.recv_ns = max(s.recv_ns + 200, t_ns + delay_ns)
    stamped: int = s.recv_ns
    return stamped


@compiled
def emit(core: Core, kind: int, side: int, ident: int, price: int, size: int) -> Any:
    """A new output record, stamped; the caller fills x0 to x2."""
    s = core.state[0]
    record = core.out[min(s.n_out, MAX_OUT - 1)]
    s.n_out += 1
    record.kind = kind
    record.side = side
    record.t_ns = s.t_ns
    record.recv_ns = stamp(core, s.t_ns)
    record.id = ident
    record.price = price
    record.size = size
    record.x0 = 0
    record.x1 = 0
    record.x2 = 0
    return record


@compiled
def size_at(core: Core, side: int, price: int) -> int:
    """Size of a level, ours included."""
    size: int = core.sizes[side, price & MASK]
    return size


@compiled
def set_size(core: Core, side: int, price: int, size: int) -> None:
    """Write a level: one update id, one entry in the next diff; keeps the best price correct."""
    s = core.state[0]
    core.sizes[side, price & MASK] = size
    s.update_id += 1
    if core.marked[side, price & MASK] == 0:
        core.marked[side, price & MASK] = 1
        core.changed[s.n_changed] = price * 2 + side
        s.n_changed += 1
    step = -1 if side == BIDS else 1
    best = core.best[side]
    if size > 0 and (price - best) * step < 0:
        core.best[side] = price
    elif size == 0 and price == best:
        limit = s.low_edge if side == BIDS else s.high_edge
        while core.sizes[side, best & MASK] == 0 and best != limit:
            best += step
        core.best[side] = best


@compiled
def own_size(core: Core, side: int, price: int) -> int:
    """Our own resting size in a level."""
    total = 0
    for k in range(len(core.own)):
        order = core.own[k]
        if order.id != 0 and order.side == side and order.price == price:
            total += order.left
    return total


@compiled
def add(core: Core, side: int, price: int, size: int) -> None:
    """Add others' size to the end of a level."""
    set_size(core, side, price, size_at(core, side, price) + size)


@compiled
def cancel_others(core: Core, side: int, price: int, size: int) -> None:
    """Remove ``size`` of the others from a level (at most what they have), evenly ahead of and behind our orders."""
    others = size_at(core, side, price) - own_size(core, side, price)
    size = min(size, others)
    if size <= 0:
        return
    for k in range(len(core.own)):
        order = core.own[k]
        if order.id != 0 and order.side == side and order.price == price:
            order.ahead -= (size * order.ahead + others // 2) // others  # rounded: at most `ahead`, as size <= others
    set_size(core, side, price, size_at(core, side, price) - size)


@compiled
def _take(core: Core, side: int, price: int, size: int) -> None:
    """An aggressor takes ``size`` (not more than there is) from a level: prints, our fills, queue positions."""
    s = core.state[0]
    taken_from_us = 0
    own_before = 0
    fills = np.zeros(len(core.own), np.int64)
    for rank in range(len(core.own)):  # slots are in order of arrival
        order = core.own[rank]
        if order.id != 0 and order.side == side and order.price == price:
            fills[rank] = min(order.left, max(0, size - order.ahead - own_before))
            own_before += order.left
            taken_from_us += fills[rank]
    from_others = size - taken_from_us
    set_size(core, side, price, size_at(core, side, price) - size)
    if from_others > 0:
        s.trade_id += 1
        emit(core, TRADE, 1 - side, s.trade_id, price, from_others)
    for rank in range(len(core.own)):
        order = core.own[rank]
        if order.id == 0 or order.side != side or order.price != price:
            continue
        order.ahead = max(0, order.ahead - from_others)
        if fills[rank] > 0:
            order.left -= fills[rank]
            s.trade_id += 1
            emit(core, TRADE, 1 - side, s.trade_id, price, fills[rank])
            fill = emit(core, FILL, side, order.id, price, fills[rank])
            fill.x0 = order.size - order.left
            fill.x1 = s.trade_id
            if order.left == 0:
                order.id = 0


@compiled
def market(core: Core, side: int, size: int) -> None:
    """A market order against ``side`` (ASKS: a buyer), level by level."""
    for _ in range(SWEEP_LEVELS):
        price = core.best[side]
        taken = min(size, size_at(core, side, price))
        if taken <= 0:
            return
        _take(core, side, price, taken)
        size -= taken


@compiled
def place_own(core: Core, side: int, price: int, size: int) -> tuple[int, int]:
    """Rest one of our post-only orders; returns (verdict, order id). A crossing one is rejected, never matched."""
    s = core.state[0]
    crosses = price >= core.best[ASKS] if side == BIDS else price <= core.best[BIDS]
    if crosses:
        return WOULD_CROSS, 0
    if abs(price - core.best[side]) > OWN_REACH:
        return OUT_OF_REACH, 0
    slot = _free_slot(core)
    if slot < 0:
        return TOO_MANY, 0
    ahead = size_at(core, side, price) - own_size(core, side, price)
    s.order_id += 1
    order = core.own[slot]
    order.id = s.order_id
    order.side = side
    order.price = price
    order.size = size
    order.left = size
    order.ahead = ahead
    set_size(core, side, price, size_at(core, side, price) + size)
    return ACCEPTED, order.id


@compiled
def _free_slot(core: Core) -> int:
    """Slot after the last live order; compacts the orders when needed, so that slots stay in order of arrival."""
    n = len(core.own)
    live = 0
    for k in range(n):
        if core.own[k].id != 0:
            if k != live:
                core.own[live] = core.own[k]
                core.own[k].id = 0
            live += 1
    return live if live < n else -1


@compiled
def cancel_own(core: Core, order_id: int) -> int:
    """Remove one of our orders; returns what was left of it, -1 when it does not rest."""
    for k in range(len(core.own)):
        order = core.own[k]
        if order.id == order_id and order_id != 0:
            left = order.left
            order.id = 0
            set_size(core, order.side, order.price, size_at(core, order.side, order.price) - left)
            return int(left)
    return -1


@compiled
def trim(core: Core) -> None:
    """Empty others' levels too far from the best price; expire our orders that are absurdly far."""
    s = core.state[0]
    while s.low_edge < core.best[BIDS] - KEEP:
        _leave_only_ours(core, BIDS, s.low_edge)
        s.low_edge += 1
    while s.high_edge > core.best[ASKS] + KEEP:
        _leave_only_ours(core, ASKS, s.high_edge)
        s.high_edge -= 1
    for k in range(len(core.own)):
        order = core.own[k]
        if order.id != 0 and abs(order.price - core.best[order.side]) > OWN_KEEP:
            ident, side, price = order.id, order.side, order.price
            emit(core, EXPIRED, side, ident, price, cancel_own(core, ident))


@compiled
def _leave_only_ours(core: Core, side: int, price: int) -> None:
    ours = own_size(core, side, price)
    if size_at(core, side, price) != ours:
        set_size(core, side, price, ours)
        for k in range(len(core.own)):
            if core.own[k].side == side and core.own[k].price == price:
                core.own[k].ahead = 0
