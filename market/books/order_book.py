"""An order-level book (L3): every order by its id, and the queue at every price in the order it will be filled.

The price levels are a :mod:`market.books.price_book` array, so best, depth, status and top are the same words read by
the same functions. Next to it are two pools (:mod:`market.books.pool`): orders by id, and queues, one per level.
Nothing is allocated per event.

A queue is filled in price-time priority: from its head, while new orders join at the tail. A
:data:`~market.events.CHANGE` keeps its place where the price stays and the size does not grow; otherwise it goes to the
tail.

Some feeds start with resting orders that they never identify. A DEPTH event sets these *anonymous* lots of a level;
they rank ahead of every identified order, since they were there first. An event about an unknown order is applied to
them if it carries side, price and size and the level has that many; otherwise an unknown order is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.books import price_book as l2
from market.books.levels import CAPACITY, E_FULL, OK
from market.books.pool import IN_USE, KEY, NONE, find, free_all, give_back, new_pool, take
from market.books.price_book import E_KIND, E_PRICE, E_SIDE, E_SIZE, MAX_PRICE, MAX_SIZE, Book, Int64s
from market.compiled import compiled
from market.errors import BookError
from market.events import (
    ADD,
    ASK,
    BID,
    CHANGE,
    CLEAR,
    DEPTH,
    EVENT,
    EXECUTE,
    F_CHECKPOINT,
    F_LAST,
    F_SNAPSHOT,
    FILL,
    REMOVE,
    TICKER,
    TRADE,
    Events,
)

ORDERS: Final = 1 << 18  # room for resting orders

# return codes of applying an order event, besides those of market.books.price_book
E_UNKNOWN: Final = -20
E_DUPLICATE: Final = -21
E_OTHER_SIDE: Final = -22
E_TOO_MUCH: Final = -23
E_NO_ID: Final = -24
E_ORDERS_FULL: Final = -25

REASONS: Final = {
    E_KIND: "unknown_kind",
    E_SIDE: "bad_side",
    E_SIZE: "bad_size",
    E_PRICE: "bad_price",
    E_FULL: "book_full",
    E_UNKNOWN: "unknown_order",
    E_DUPLICATE: "duplicate_order",
    E_OTHER_SIDE: "other_side",
    E_TOO_MUCH: "more_than_left",
    E_NO_ID: "no_order_id",
    E_ORDERS_FULL: "book_full",
}
_SENTENCES: Final = {
    E_KIND: "kind {kind} is not one that a book knows",
    E_SIDE: "side {side} is neither BID nor ASK",
    E_SIZE: "size {size} is not between 1 and 2**57 lots",
    E_PRICE: "price {price} is not between 1 and 2**47 ticks",
    E_FULL: "no room for another level at price {price}",
    E_UNKNOWN: "order {order_id} is not in the book",
    E_DUPLICATE: "order {order_id} is already in the book",
    E_OTHER_SIDE: "order {order_id} does not rest on side {side} but on the other",
    E_TOO_MUCH: "order {order_id} has fewer than {size} lots left",
    E_NO_ID: "an order event without an order id",
    E_ORDERS_FULL: "no room for another order",
}

# words of an order's row, after its id
_QUEUE: Final = 1
_SIZE: Final = 2
_AHEAD: Final = 3  # the order before it in its queue, NONE at the head
_BEHIND: Final = 4

# words of a queue's row, after its key side * price
_HEAD: Final = 1
_TAIL: Final = 2
_COUNT: Final = 3
_ANONYMOUS: Final = 4
_LOTS: Final = 5  # total, equal to the size of the level


class State(NamedTuple):
    """The arrays that the compiled functions take, all int64.

    ``levels`` is a :mod:`market.books.price_book` array; rows, table and head of the two pools are as
    :mod:`market.books.pool` defines them.
    """

    levels: Int64s
    orders: Int64s
    orders_at: Int64s
    orders_head: Int64s
    queues: Int64s
    queues_at: Int64s
    queues_head: Int64s


def new_state(capacity: int = CAPACITY, orders: int = ORDERS) -> State:
    """An empty book with room for ``capacity`` levels a side and for ``orders`` resting orders."""
    return State(l2.new_book(capacity), *new_pool(orders), *new_pool(2 * capacity))


@compiled
def clear(state: State) -> None:
    """Remove every order."""
    l2.clear(state.levels)
    free_all(state.orders_at, state.orders_head)
    free_all(state.queues_at, state.queues_head)


@compiled
def _set_lots(state: State, side: int, price: int, change: int, seq: int) -> tuple[int, int]:
    """Change the total size of a level: OK and its queue, or a code and NONE. An empty level loses its queue."""
    queues = state.queues
    queue = find(queues, state.queues_at, side * price)
    lots = change + (queues[queue, _LOTS] if queue != NONE else 0)
    code = l2.apply(state.levels, DEPTH, side, price, lots, 0, seq)
    if code != OK:
        return code, NONE
    if queue == NONE and lots > 0:  # there is room, because the levels had some
        queue = take(queues, state.queues_at, state.queues_head, side * price)
        queues[queue, _HEAD], queues[queue, _TAIL] = NONE, NONE
    if queue != NONE:
        queues[queue, _LOTS] = lots
        if lots == 0:
            give_back(queues, state.queues_at, state.queues_head, queue)
    return OK, queue


@compiled
def _join(state: State, row: int, queue: int) -> None:
    """Put an order at the tail of a queue."""
    orders, queues = state.orders, state.queues
    tail = queues[queue, _TAIL]
    orders[row, _QUEUE], orders[row, _AHEAD], orders[row, _BEHIND] = queue, tail, NONE
    if tail == NONE:
        queues[queue, _HEAD] = row
    else:
        orders[tail, _BEHIND] = row
    queues[queue, _TAIL] = row
    queues[queue, _COUNT] += 1


@compiled
def _leave(state: State, row: int) -> None:
    """Take an order out of its queue."""
    orders, queues = state.orders, state.queues
    queue, ahead, behind = orders[row, _QUEUE], orders[row, _AHEAD], orders[row, _BEHIND]
    if ahead == NONE:
        queues[queue, _HEAD] = behind
    else:
        orders[ahead, _BEHIND] = behind
    if behind == NONE:
        queues[queue, _TAIL] = ahead
    else:
        orders[behind, _AHEAD] = ahead
    queues[queue, _COUNT] -= 1


@compiled
def _place_of(state: State, row: int) -> tuple[int, int]:
    """Side and price of an order."""
    key = state.queues[state.orders[row, _QUEUE], KEY]
    return (BID, key) if key > 0 else (ASK, -key)


@compiled
def _add(state: State, order_id: int, side: int, price: int, size: int, seq: int) -> int:
    if find(state.orders, state.orders_at, order_id) != NONE:
        return E_DUPLICATE
    if state.orders_head[IN_USE] == len(state.orders):
        return E_ORDERS_FULL
    code, queue = _set_lots(state, side, price, size, seq)
    if code == OK:
        row = take(state.orders, state.orders_at, state.orders_head, order_id)
        state.orders[row, _SIZE] = size
        _join(state, row, queue)
    return code


@compiled
def _change(state: State, row: int, price: int, size: int, seq: int) -> int:
    side, before = _place_of(state, row)
    lots = state.orders[row, _SIZE]
    price = price if price > 0 else before
    moves = price != before
    code, queue = _set_lots(state, side, price, size if moves else size - lots, seq)
    if code != OK:
        return code
    if moves or size > lots:
        _leave(state, row)
        if moves:
            _set_lots(state, side, before, -lots, seq)
        _join(state, row, queue)
    state.orders[row, _SIZE] = size
    return OK


@compiled
def _lessen(state: State, row: int, size: int, seq: int) -> int:
    """Take lots from an order; taking its last lot removes it."""
    orders = state.orders
    side, price = _place_of(state, row)
    if size > orders[row, _SIZE]:
        return E_TOO_MUCH
    orders[row, _SIZE] -= size
    if orders[row, _SIZE] == 0:
        _leave(state, row)
        give_back(orders, state.orders_at, state.orders_head, row)
    return _set_lots(state, side, price, -size, seq)[0]


@compiled
def _set_anonymous(state: State, side: int, price: int, size: int, seq: int) -> int:
    """DEPTH: set the anonymous lots of a level, ahead of all identified orders."""
    queue = find(state.queues, state.queues_at, side * price)
    before = state.queues[queue, _ANONYMOUS] if queue != NONE else 0
    code, queue = _set_lots(state, side, price, size - before, seq)
    if queue != NONE:
        state.queues[queue, _ANONYMOUS] = size
    return code


@compiled
def _take_anonymous(state: State, side: int, price: int, size: int, seq: int) -> int:
    """An event about an order never identified: its lots are among the anonymous ones, or it is rejected."""
    queue = find(state.queues, state.queues_at, side * price)
    if size == 0 or queue == NONE or state.queues[queue, _ANONYMOUS] < size:
        return E_UNKNOWN
    return _set_anonymous(state, side, price, state.queues[queue, _ANONYMOUS] - size, seq)


@compiled
def _refusal(kind: int, side: int, price: int, size: int, order_id: int) -> int:
    """Checks on an order event or a DEPTH that do not depend on the book's contents."""
    whole = kind in (ADD, DEPTH)  # carries everything that it sets
    if side not in (BID, ASK) and (side != 0 or whole):
        return E_SIDE
    if size < 0 or size > MAX_SIZE or (size == 0 and kind not in (REMOVE, DEPTH)):
        return E_SIZE
    if price < 0 or price > MAX_PRICE or (price == 0 and whole):
        return E_PRICE
    return OK if order_id != 0 or kind in (FILL, DEPTH) else E_NO_ID


@compiled
def _apply_to_orders(state: State, event: Any) -> int:
    """Apply DEPTH and all order-level kinds, except for the end of the batch."""
    kind, side, price, size = event["kind"], int(event["side"]), event["price"], event["size"]
    order_id, seq = event["order_id"], event["seq"]
    code = _refusal(kind, side, price, size, order_id)
    if code != OK or kind == FILL:
        return code
    if kind in (ADD, DEPTH):
        add = kind == ADD
        return _add(state, order_id, side, price, size, seq) if add else _set_anonymous(state, side, price, size, seq)
    row = find(state.orders, state.orders_at, order_id)
    if row == NONE:
        return _take_anonymous(state, side, price, size, seq) if kind != CHANGE else E_UNKNOWN
    if side not in (0, _place_of(state, row)[0]):
        return E_OTHER_SIDE
    if kind == CHANGE:
        return _change(state, row, price, size, seq)
    return _lessen(state, row, state.orders[row, _SIZE] if kind == REMOVE else size, seq)


@compiled
def apply(state: State, event: Any) -> int:
    """Apply one event. Returns OK or an error code; a rejected event leaves the book unchanged.

    The levels validate and store a TRADE or TICKER as in :func:`market.books.price_book.apply`.
    """
    kind, flags = event["kind"], event["flags"]
    if kind in (TRADE, TICKER):
        side = int(event["side"])
        return l2.apply(state.levels, kind, side, event["price"], event["size"], flags, event["seq"])
    if kind == CLEAR:
        clear(state)
        if flags & F_CHECKPOINT:
            state.levels[l2.DEPTH_SEQ] = event["seq"]
    elif kind == DEPTH or ADD <= kind <= FILL:
        code = _apply_to_orders(state, event)
        if code != OK:
            return code
    else:
        return E_KIND
    if flags & F_LAST:
        l2.end_batch(state.levels)
    return OK


@compiled
def _apply_all(state: State, events: Any) -> tuple[int, int]:
    """Apply events in order; returns (index, code) of the first rejected one, or (n, OK)."""
    for i in range(len(events)):
        code = apply(state, events[i])
        if code != OK:
            return i, code
    return len(events), OK


@compiled
def _say_level(state: State, event: Any, place: tuple[int, int], out: Any) -> None:
    """The current size of the level at ``place`` (side, price), as a DEPTH event like ``event``."""
    side, price = place
    queue = find(state.queues, state.queues_at, side * price)
    out["exch_ns"], out["recv_ns"], out["seq"] = event["exch_ns"], event["recv_ns"], event["seq"]
    out["frame"], out["order_id"], out["price"] = event["frame"], 0, price
    out["size"] = state.queues[queue, _LOTS] if queue != NONE else 0
    out["kind"], out["side"], out["flags"] = DEPTH, side, event["flags"] & ~F_LAST
    out["instrument"] = event["instrument"]


@compiled
def _sift(state: State, events: Any, out: Any, codes: NDArray[np.int8]) -> int:
    """Apply the valid events; writes their effect on the levels to ``out`` (3 n,) and returns how many events."""
    n, begun = 0, 0  # events written, and where the current batch began among them
    traded = NONE  # the previous event, if it was an EXECUTE that was applied
    for i in range(len(events)):
        event = events[i]
        kind = event["kind"]
        row = find(state.orders, state.orders_at, event["order_id"]) if CHANGE <= kind <= EXECUTE else NONE
        place = _place_of(state, row) if row != NONE else (int(event["side"]), event["price"])
        codes[i] = apply(state, event)
        if codes[i] == OK and kind != FILL:
            other_side = kind == EXECUTE and traded != NONE and events[traded]["seq"] == event["seq"]
            if kind in (TRADE, TICKER, CLEAR, EXECUTE) and not other_side:
                out[n] = event
                out[n]["flags"] &= ~F_LAST
                if kind == EXECUTE:
                    out[n]["kind"], out[n]["side"] = TRADE, -place[0]
                    out[n]["price"] = event["price"] if event["price"] > 0 else place[1]
                n += 1
            if kind not in (TRADE, TICKER, CLEAR):
                _say_level(state, event, place, out[n])
                n += 1
            if kind == CHANGE and event["price"] not in (0, place[1]):
                _say_level(state, event, (place[0], event["price"]), out[n])
                n += 1
        traded = i if kind == EXECUTE and codes[i] == OK else NONE
        if event["flags"] & F_LAST:
            if codes[i] != OK:
                l2.end_batch(state.levels)
            if n > begun:
                out[n - 1]["flags"] |= F_LAST
            begun = n
    return n


@compiled
def _queue_rows(state: State, queue: int, out: Int64s) -> int:
    """Write (order id, lots) from the head of a queue into ``out`` (room, 2); anonymous lots have the id 0."""
    n = 0
    if state.queues[queue, _ANONYMOUS] > 0:
        out[0, 0], out[0, 1] = 0, state.queues[queue, _ANONYMOUS]
        n = 1
    row = state.queues[queue, _HEAD]
    while row != NONE:
        out[n, 0], out[n, 1] = state.orders[row, KEY], state.orders[row, _SIZE]
        n += 1
        row = state.orders[row, _BEHIND]
    return n


@compiled
def ahead(state: State, order_id: int) -> tuple[int, int]:
    """How many orders and lots are ahead of this one at its price, or NONE twice; anonymous lots count as one order."""
    row = find(state.orders, state.orders_at, order_id)
    if row == NONE:
        return NONE, NONE
    lots = state.queues[state.orders[row, _QUEUE], _ANONYMOUS]
    orders = 1 if lots > 0 else 0
    row = state.orders[row, _AHEAD]
    while row != NONE:
        orders += 1
        lots += state.orders[row, _SIZE]
        row = state.orders[row, _AHEAD]
    return orders, lots


def refusal(code: int, event: np.void) -> BookError:
    """The error that explains why ``event`` was rejected with ``code``."""
    fields = {name: int(event[name]) for name in ("kind", "side", "price", "size", "order_id")}
    return BookError(
        f"frame {event['frame']} seq {event['seq']}: {_SENTENCES[code].format(**fields)}; the event was not applied"
    )


@dataclass(frozen=True, kw_only=True)
class Order:
    """A resting order: ``side`` BID or ASK, ``price`` in ticks, ``size`` in lots."""

    side: int
    price: int
    size: int


class OrderBook(Book):
    """An order-level book for Python callers; it exposes the price levels as a :class:`~market.books.price_book.Book`.

    ``array`` is the book of levels, ``state`` the whole state.
    """

    def __init__(self, capacity: int = CAPACITY, orders: int = ORDERS) -> None:
        self.state = new_state(capacity, orders)
        self.array = self.state.levels

    def apply(self, event: np.void) -> None:
        """Apply one record of dtype EVENT.

        Raises:
            BookError: the event is invalid; the book is unchanged.
        """
        self.apply_batch(np.array([event], dtype=EVENT))

    def apply_batch(self, events: Events) -> None:
        """Apply events (n,) in order.

        Raises:
            BookError: an event is invalid; the events before it were applied, it and those after it were not.
        """
        i, code = _apply_all(self.state, events)
        if code != OK:
            raise refusal(code, events[i])

    def sift(self, events: Events) -> tuple[Events, NDArray[np.int8]]:
        """Apply the valid ones among the events (n,) and skip the others.

        Returns their effect on the price levels, as events for a :class:`~market.books.price_book.Book` (DEPTH, TRADE,
        CLEAR, TICKER; batch boundaries are kept), and for each event OK or the code of its rejection (n,), a key of
        :data:`REASONS`.
        """
        out = np.zeros(3 * len(events), dtype=EVENT)
        codes = np.zeros(len(events), dtype=np.int8)
        return out[: _sift(self.state, events, out, codes)], codes

    def clear(self) -> None:
        clear(self.state)

    def __len__(self) -> int:
        """Number of identified resting orders."""
        return int(self.state.orders_head[IN_USE])

    def order(self, order_id: int) -> Order | None:
        """The order with this id, if it rests."""
        row = find(self.state.orders, self.state.orders_at, order_id)
        if row == NONE:
            return None
        side, price = _place_of(self.state, row)
        return Order(side=int(side), price=int(price), size=int(self.state.orders[row, _SIZE]))

    def ahead(self, order_id: int) -> tuple[int, int]:
        """How many orders and lots are ahead of this one at its price; anonymous lots count as one order.

        Raises:
            BookError: there is no such resting order.
        """
        orders, lots = ahead(self.state, order_id)
        if orders == NONE:
            raise BookError(f"order {order_id} is not in the book; it was filled, cancelled or never seen")
        return int(orders), int(lots)

    def queue(self, side: int, price: int) -> Int64s:
        """The queue of a level in execution order: (n, 2) order id and lots; anonymous lots come first, with id 0."""
        row = find(self.state.queues, self.state.queues_at, side * price)
        if row == NONE:
            return np.zeros((0, 2), dtype=np.int64)
        out = np.zeros((1 + int(self.state.queues[row, _COUNT]), 2), dtype=np.int64)
        return out[: _queue_rows(self.state, row, out)]

    def order_events(
        self, template: np.void, *, flags: int = F_SNAPSHOT | F_CHECKPOINT, limit: int = CAPACITY
    ) -> Events:
        """All queues of the best ``limit`` levels as a CLEAR, DEPTH (anonymous lots) and ADD events that rebuild them.

        As :meth:`snapshot_events`, which rebuilds the levels alone, for a book of levels.
        """
        levels = [(BID, int(price)) for price in self.bids(limit)[:, 0]]
        levels += [(ASK, int(price)) for price in self.asks(limit)[:, 0]]
        queues = [self.queue(side, price) for side, price in levels]
        out = np.empty(1 + sum(len(queue) for queue in queues), dtype=EVENT)
        out[:] = template
        out["seq"], out["flags"] = self.seq, flags
        out["kind"], out["side"], out["price"], out["size"], out["order_id"] = CLEAR, 0, 0, 0, 0
        at = 1
        for (side, price), queue in zip(levels, queues, strict=True):
            part = out[at : at + len(queue)]
            part["kind"] = np.where(queue[:, 0] == 0, DEPTH, ADD)
            part["side"], part["price"] = side, price
            part["order_id"], part["size"] = queue[:, 0], queue[:, 1]
            at += len(queue)
        out["flags"][-1] |= F_LAST
        return out
