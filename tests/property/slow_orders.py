"""A slow, obvious order-level book, after the docstring of market.books.order_book: the fast one must equal it."""

from __future__ import annotations

from market.events import (
    ADD,
    ASK,
    BID,
    CHANGE,
    CLEAR,
    DEPTH,
    EXECUTE,
    F_LAST,
    FILL,
    REDUCE,
    REMOVE,
    TICKER,
    TRADE,
)

MAX_SIZE, MAX_PRICE = 2**57, 2**47


class RefusedError(Exception):
    """``args[0]`` is the reason."""


class SlowOrders:
    """``queues[side, price]`` is a list of [order id, lots] in execution order; anonymous lots have the id 0."""

    def __init__(self, capacity=10**9, orders=10**9):
        self.capacity, self.room = capacity, orders
        self.queues = {}

    def levels(self, side):
        lots = {p: sum(q for _, q in queue) for (s, p), queue in self.queues.items() if s == side}
        return sorted(lots.items(), key=lambda level: -side * level[0])

    def place(self, order_id):
        found = [at for at, queue in self.queues.items() if order_id and order_id in [i for i, _ in queue]]
        return found[0] if found else None

    def named(self):
        return sum(i != 0 for queue in self.queues.values() for i, _ in queue)

    def apply(self, e):
        """Levels (side, price) whose lots the event set, in order; a RefusedError leaves the book unchanged."""
        kind, side, price, size, order_id = (int(e[k]) for k in ("kind", "side", "price", "size", "order_id"))
        if kind == CLEAR:
            self.queues = {}
            return []
        self._judge(kind, side, price, size, order_id)
        if kind in (TRADE, TICKER, FILL):
            return []
        if kind in (DEPTH, ADD):
            return self._set_anonymous(side, price, size) if kind == DEPTH else self._add(order_id, side, price, size)
        place = self.place(order_id)
        if place is None:
            return self._from_anonymous(kind, side, price, size)
        if side not in (0, place[0]):
            raise RefusedError("other_side")
        entry = next(entry for entry in self.queues[place] if entry[0] == order_id)
        if kind == CHANGE:
            return self._change(place, entry, price, size)
        return self._lessen(place, entry, entry[1] if kind == REMOVE else size)

    def _lessen(self, place, entry, gone):
        queue = self.queues[place]
        if gone > entry[1]:
            raise RefusedError("more_than_left")
        entry[1] -= gone
        if not entry[1]:
            queue.remove(entry)
        self._forget_empty(place)
        return [place]

    def _judge(self, kind, side, price, size, order_id):
        if kind not in (DEPTH, TRADE, TICKER, ADD, CHANGE, REDUCE, REMOVE, EXECUTE, FILL):
            raise RefusedError("unknown_kind")
        sided = kind in (DEPTH, TICKER, ADD)
        if side not in (BID, ASK) and (sided or side != 0):
            raise RefusedError("bad_side")
        may_be_zero = kind in (DEPTH, TICKER, TRADE, REMOVE)
        if not (0 if may_be_zero else 1) <= size <= MAX_SIZE:
            raise RefusedError("bad_size")
        free = kind in (CHANGE, REDUCE, REMOVE, EXECUTE, FILL) or (kind == TICKER and size == 0)
        if not (0 if free else 1) <= price <= MAX_PRICE:
            raise RefusedError("bad_price")
        if kind in (ADD, CHANGE, REDUCE, REMOVE, EXECUTE) and order_id == 0:
            raise RefusedError("no_order_id")

    def _check_level(self, side, price, change):
        lots = dict(self.levels(side))
        if lots.get(price, 0) + change > MAX_SIZE:
            raise RefusedError("bad_size")
        if price not in lots and change and len(lots) >= self.capacity:
            raise RefusedError("book_full")

    def _add(self, order_id, side, price, size):
        if self.place(order_id):
            raise RefusedError("duplicate_order")
        if self.named() >= self.room:
            raise RefusedError("book_full")
        self._check_level(side, price, size)
        self.queues.setdefault((side, price), []).append([order_id, size])
        return [(side, price)]

    def _change(self, place, entry, price, size):
        side, before = place
        price = price or before
        self._check_level(side, price, size if price != before else size - entry[1])
        if price == before and size <= entry[1]:
            entry[1] = size
            return [place]
        self.queues[place].remove(entry)
        self.queues.setdefault((side, price), []).append([entry[0], size])
        self._forget_empty(place)
        return [place] if price == before else [place, (side, price)]

    def _set_anonymous(self, side, price, size):
        queue = self.queues.get((side, price), [])
        before = sum(q for i, q in queue if i == 0)
        self._check_level(side, price, size - before)
        named = [entry for entry in queue if entry[0]]
        self.queues[side, price] = ([[0, size]] if size else []) + named
        self._forget_empty((side, price))
        return [(side, price)]

    def _from_anonymous(self, kind, side, price, size):
        have = sum(q for i, q in self.queues.get((side, price), []) if i == 0)
        if kind == CHANGE or not size or have < size:
            raise RefusedError("unknown_order")
        return self._set_anonymous(side, price, have - size)

    def _forget_empty(self, place):
        if not self.queues.get(place):
            self.queues.pop(place, None)


def said_to_levels(book, events):
    """(kind, side, price, size, ends the batch) that a book of levels must receive, and the reason of each event."""
    out, reasons, begun, traded = [], [], 0, None
    for e in events:
        kind, side, price, size, order_id = (int(e[k]) for k in ("kind", "side", "price", "size", "order_id"))
        place = book.place(order_id) or (side, price)
        try:
            changed = book.apply(e)
            reasons.append(None)
            if kind in (TRADE, TICKER, CLEAR):
                out.append([kind, side, price, size, False])
            if kind == EXECUTE and traded != e["seq"]:
                out.append([TRADE, -place[0], price or place[1], size, False])
            lots = {place: sum(q for _, q in queue) for place, queue in book.queues.items()}
            out += [[DEPTH, *at, lots.get(at, 0), False] for at in changed]
        except RefusedError as refused:
            reasons.append(refused.args[0])
        traded = e["seq"] if kind == EXECUTE and reasons[-1] is None else None
        if e["flags"] & F_LAST:
            if len(out) > begun:
                out[-1][-1] = True
            begun = len(out)
    return [tuple(row) for row in out], reasons
