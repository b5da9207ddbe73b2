"""Turns the wanted quote into orders at the exchange: places, cancels, and tracks holdings.

At most one working order a side. A new price or size is a cancel and a new post-only order in one go; a partly filled
order keeps working, since replacing it would give up its place in the queue. An order's client id carries the number
of the decision that caused it, which is the way back from a fill to the quote, and a running number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from market.events import ASK, BID
from market.feeds import orders
from market.feeds.orders import Report
from market.instruments import Instrument

_LETTER = {BID: "b", ASK: "a"}


class Stage(Enum):
    """Stage in an order's life."""

    SENT = "sent"  # not yet acknowledged by the exchange
    WORKING = "working"
    CANCELLING = "cancelling"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The two orders we want: prices in ticks, sizes in lots, a size of 0 for none. ``n`` is the deciding number."""

    n: int
    bid_price: int = 0
    bid_size: int = 0
    ask_price: int = 0
    ask_size: int = 0

    @staticmethod
    def of(decision: np.void) -> Quote:
        """The quote of a DECISION record."""
        names = ("n", "bid_price", "bid_size", "ask_price", "ask_size")
        return Quote(**{name: int(decision[name]) for name in names})

    @property
    def empty(self) -> bool:
        """Whether no order is wanted."""
        return self.bid_size <= 0 and self.ask_size <= 0

    def same_orders(self, other: Quote) -> bool:
        """Whether both want the same orders, regardless of their decisions."""
        return self.side(BID) == other.side(BID) and self.side(ASK) == other.side(ASK)

    def side(self, side: int) -> tuple[int, int]:
        """Price and size wanted on a side; (0, 0) for no order."""
        price, size = (self.bid_price, self.bid_size) if side == BID else (self.ask_price, self.ask_size)
        return (price, size) if size > 0 else (0, 0)


@dataclass(kw_only=True)
class Order:
    """One of our orders. ``quote_n`` is the decision that last wanted it; the one it came from is in ``client_id``."""

    client_id: str
    quote_n: int
    side: int
    price: int
    size: int
    stage: Stage = Stage.SENT
    filled: int = 0


@dataclass(frozen=True, kw_only=True)
class Fill:
    """What was traded: ``side`` is ours (BID: we bought), price in ticks, size in lots."""

    client_id: str
    quote_n: int
    side: int
    price: int
    size: int
    recv_ns: int


@dataclass(kw_only=True)
class Holdings:
    """What the fills add up to: ``inventory`` in lots, ``cash`` in ticks times lots."""

    inventory: int = 0
    cash: int = 0

    def add(self, fill: Fill) -> None:
        self.inventory += fill.side * fill.size
        self.cash -= fill.side * fill.price * fill.size

    def worth2(self, mid2: int) -> int:
        """Twice the value at a mid (``mid2`` = bid + ask in ticks), in ticks times lots."""
        return 2 * self.cash + self.inventory * mid2


@dataclass(kw_only=True)
class QuoteEngine:
    """Orders of one session on one instrument. ``tag`` makes client ids unique among sessions (at most 20 characters,
    since the exchange takes 36).

    Methods return the requests to send; nothing is sent here.
    """

    instrument: Instrument
    tag: str
    holdings: Holdings = field(default_factory=Holdings)
    rejected: int = 0

    def __post_init__(self) -> None:
        self._placed = 0
        self._orders: dict[str, Order] = {}
        self._working: dict[int, Order | None] = {BID: None, ASK: None}

    @property
    def open_orders(self) -> int:
        """Orders that may still trade."""
        return len(self._orders)

    @property
    def quoted(self) -> frozenset[int]:
        """Numbers of the decisions that own the orders that may still trade."""
        return frozenset(order.quote_n for order in self._orders.values())

    def want(self, quote: Quote) -> list[bytes]:
        """Requests that turn what is working into ``quote``."""
        cancels: list[bytes] = []
        places: list[bytes] = []
        for side in (BID, ASK):
            price, size = quote.side(side)
            working = self._working[side]
            if working is not None and (working.price, working.size) == (price, size):
                working.quote_n = quote.n  # the decision that keeps an order working owns its fills
                continue
            if working is not None:
                cancels.append(self._cancel(working))
            if size > 0:
                places.append(self._place(quote.n, side, price, size))
        return cancels + places

    def cancel_all(self) -> list[bytes]:
        """Requests that take every order out of the market."""
        return [self._cancel(order) for order in list(self._orders.values()) if order.stage is not Stage.CANCELLING]

    def on_report(self, report: Report) -> Fill | None:
        """Apply the exchange's report on one of our orders; returns the fill if it is one.

        A report about another session's order changes nothing.
        """
        order = self._orders.get(report.client_id)
        if order is None:
            return None
        if report.execution == "NEW" and order.stage is Stage.SENT:
            order.stage = Stage.WORKING
        fill = self._fill(order, report) if report.execution == "TRADE" else None
        if report.status in ("FILLED", "CANCELED", "EXPIRED", "REJECTED"):
            self._done(order)
        return fill

    def on_refusal(self, request_id: str) -> None:
        """The exchange answered a request with an error.

        A refused place is no order (post-only, would have traded at once). A refused cancel means that the order is
        already gone; its last report says how.
        """
        order = self._orders.get(request_id)
        if order is not None:
            self.rejected += 1
            self._done(order)

    def _fill(self, order: Order, report: Report) -> Fill | None:
        if report.filled_size <= order.filled:
            return None  # reported twice
        order.filled = report.filled_size
        fill = Fill(
            client_id=order.client_id,
            quote_n=order.quote_n,
            side=order.side,
            price=report.last_price,
            size=report.last_size,
            recv_ns=report.recv_ns,
        )
        self.holdings.add(fill)
        return fill

    def _place(self, n: int, side: int, price: int, size: int) -> bytes:
        self._placed += 1
        client_id = f"{self.tag}.{n}{_LETTER[side]}{self._placed}"
        order = Order(client_id=client_id, quote_n=n, side=side, price=price, size=size)
        self._orders[order.client_id] = order
        self._working[side] = order
        return orders.place(self.instrument, order.client_id, side=side, price=price, size=size)

    def _cancel(self, order: Order) -> bytes:
        order.stage = Stage.CANCELLING
        self._release(order)
        return orders.cancel(self.instrument, order.client_id)

    def _done(self, order: Order) -> None:
        order.stage = Stage.DONE
        self._orders.pop(order.client_id, None)
        self._release(order)

    def _release(self, order: Order) -> None:
        if self._working[order.side] is order:
            self._working[order.side] = None
