"""The order desk: reads a client's requests, passes them to the world when they arrive, replies and reports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from market.events import ASK, BID
from market.instruments import Instrument
from market.simulator import frames, matching
from market.simulator.frames import Change, Line, OwnOrder
from market.simulator.state import EXPIRED, FILL
from market.simulator.world import Record, World

# Binance's error codes for the errors possible here
UNREADABLE = (-1102, "Mandatory parameter was not sent, was empty or malformed: ")
BAD_SYMBOL = (-1121, "Invalid symbol.")
BAD_TIME_IN_FORCE = (-1115, "Invalid timeInForce: only LIMIT orders with GTX are taken here.")
BAD_SIDE = (-1117, "Invalid side.")
BAD_PRICE = (-4014, "Price not increased by tick size.")
BAD_QUANTITY = (-4003, "Quantity less than or equal to zero, or no multiple of the step size.")
DUPLICATE_ID = (-4116, "ClientOrderId is duplicated.")
UNKNOWN_ORDER = (-2011, "Unknown order sent.")
UNKNOWN_METHOD = (-1020, "This operation is not supported.")

_VERDICTS = {
    matching.WOULD_CROSS: (-5022, "Due to the order could not be executed as maker, the Post Only order is rejected."),
    matching.OUT_OF_REACH: (-4131, "The price is too far from the best price (PERCENT_PRICE)."),
    matching.TOO_MANY: (-4045, "Reach max open order limit."),
}


class RefusedError(Exception):
    """A request to be answered with an error; internal to the desk."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class _Request:
    at_ns: int
    ident: object
    method: str | None  # None: unreadable
    params: dict[str, Any]


class Desk:
    """The orders of one client. They live as long as its connection: :meth:`close` cancels those still resting."""

    def __init__(self, world: World, instrument: Instrument, latency_ns: int) -> None:
        self._world = world
        self._instrument = instrument
        self._latency_ns = latency_ns
        self._waiting: deque[_Request] = deque()
        self._by_client: dict[str, OwnOrder] = {}
        self._by_order: dict[int, OwnOrder] = {}

    def receive(self, message: bytes | str) -> int:
        """Accept a message of newline-separated requests; returns how many of them ask for the next step."""
        steps = 0
        for text in (message.encode() if isinstance(message, str) else message).split(b"\n"):
            try:
                request = orjson.loads(text)
                method, ident = str(request["method"]), request.get("id")
                params = dict(request.get("params") or {})
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
                method, ident, params = None, None, {"text": text[:80].decode(errors="replace")}
            if method == "keel.step":
                steps += 1
            else:
                at_ns = self._world.now_ns + self._latency_ns
                self._waiting.append(_Request(at_ns=at_ns, ident=ident, method=method, params=params))
        return steps

    def next_arrival_ns(self) -> int | None:
        """World time at which the next request reaches the matching engine."""
        return self._waiting[0].at_ns if self._waiting else None

    def execute_next(self) -> list[Line]:
        """Execute the next request now; returns the reply, and the report when an order changed."""
        request = self._waiting.popleft()
        try:
            if request.method == "order.place":
                order, status = self._place(request.params), "NEW"
            elif request.method == "order.cancel":
                order, status = self._cancel(request.params), "CANCELED"
            elif request.method is None:
                raise RefusedError(UNREADABLE[0], f"{UNREADABLE[1]}{request.params['text']}")
            else:
                raise RefusedError(*UNKNOWN_METHOD)
        except RefusedError as refused:
            return [(self._world.stamp(), frames.refusal(request.ident, refused.code, str(refused)))]
        answer = frames.reply(request.ident, frames.order_fields(self._instrument.symbol, order, status))
        return [(self._world.stamp(), answer), self._report(order, status)]

    def report(self, record: Record) -> Line | None:
        """The user-data line of a FILL or EXPIRED record; None for records of other kinds and of earlier clients."""
        if record.kind not in (FILL, EXPIRED):
            return None
        order = self._by_order.get(record.ident)
        if order is None:
            return None
        if record.kind == EXPIRED:
            self._forget(order)
            change = Change(execution="EXPIRED", t_ns=record.t_ns)
        else:
            order.filled = record.x0
            change = Change(
                execution="TRADE",
                t_ns=record.t_ns,
                last_price=record.price,
                last_size=record.size,
                trade_id=record.x1,
            )
            if order.filled == order.size:
                self._forget(order)
        return record.recv_ns, frames.order_update(self._instrument.symbol, order, change)

    def close(self) -> None:
        """Cancel all resting orders."""
        self._waiting.clear()
        for order in list(self._by_order.values()):
            self._world.cancel(order.order_id)
            self._forget(order)

    def _place(self, params: dict[str, Any]) -> OwnOrder:
        if params.get("symbol") != self._instrument.symbol:
            raise RefusedError(*BAD_SYMBOL)
        if params.get("type") != "LIMIT" or params.get("timeInForce") != "GTX":
            raise RefusedError(*BAD_TIME_IN_FORCE)
        side = {"BUY": BID, "SELL": ASK}.get(str(params.get("side")))
        if side is None:
            raise RefusedError(*BAD_SIDE)
        price = _steps(params.get("price"), self._instrument.tick, BAD_PRICE)
        size = _steps(params.get("quantity"), self._instrument.lot, BAD_QUANTITY)
        client_id = str(params.get("newClientOrderId") or f"keel-{self._world.update_id}")
        if client_id in self._by_client:
            raise RefusedError(*DUPLICATE_ID)
        verdict, order_id = self._world.place(side, price, size)
        if verdict != matching.ACCEPTED:
            raise RefusedError(*_VERDICTS[verdict])
        order = OwnOrder(client_id=client_id, order_id=order_id, side=side, price=price, size=size)
        self._by_client[order.client_id] = self._by_order[order_id] = order
        return order

    def _cancel(self, params: dict[str, Any]) -> OwnOrder:
        order = self._by_client.get(str(params.get("origClientOrderId")))
        if order is None or self._world.cancel(order.order_id) < 0:
            raise RefusedError(*UNKNOWN_ORDER)
        self._forget(order)
        return order

    def _forget(self, order: OwnOrder) -> None:
        self._by_client.pop(order.client_id, None)
        self._by_order.pop(order.order_id, None)

    def _report(self, order: OwnOrder, execution: str) -> Line:
        change = Change(execution=execution, t_ns=self._world.now_ns)
        return self._world.stamp(), frames.order_update(self._instrument.symbol, order, change)


def _steps(text: object, step: Decimal, refusal: tuple[int, str]) -> int:
    try:
        steps = Decimal(str(text)) / step
        whole = int(steps)
    except (ArithmeticError, ValueError):  # includes decimals that are not a number or out of range
        raise RefusedError(*refusal) from None
    if steps != whole or not 0 < whole < 2**40:
        raise RefusedError(*refusal)
    return whole
