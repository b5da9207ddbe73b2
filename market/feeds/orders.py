"""Orders on the wire: Binance's WebSocket API form for placing and cancelling, and the reports that come back.

Only what a market maker needs: post-only limit orders (``timeInForce`` GTX) and cancels. Prices and sizes are integer
ticks and lots here and exact decimals on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import orjson

from market.errors import FrameError
from market.events import ASK, BID
from market.instruments import Instrument

USER_DATA_PREFIX = b'{"stream":"userData"'

_SIDES = {"BUY": BID, "SELL": ASK}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report of the exchange about one of our orders (``ORDER_TRADE_UPDATE``).

    ``execution`` is NEW, TRADE, CANCELED or EXPIRED; ``status`` NEW, PARTIALLY_FILLED, FILLED, CANCELED or EXPIRED.
    ``last_price`` (ticks), ``last_size`` (lots) and ``trade_id`` belong to this fill and are 0 for other reports;
    ``filled_size`` is the sum of all fills. ``side`` is BID for a buy.
    """

    client_id: str
    order_id: int
    side: int
    price: int
    size: int
    execution: str
    status: str
    last_price: int
    last_size: int
    filled_size: int
    trade_id: int
    exch_ms: int
    recv_ns: int


def place(instrument: Instrument, client_id: str, *, side: int, price: int, size: int) -> bytes:
    """An ``order.place`` request for a post-only limit order; ``price`` in ticks, ``size`` in lots."""
    params = {
        "symbol": instrument.symbol,
        "side": "BUY" if side == BID else "SELL",
        "type": "LIMIT",
        "timeInForce": "GTX",
        "price": str(instrument.price_of(price)),
        "quantity": str(instrument.size_of(size)),
        "newClientOrderId": client_id,
    }
    return orjson.dumps({"id": client_id, "method": "order.place", "params": params})


def cancel(instrument: Instrument, client_id: str) -> bytes:
    """An ``order.cancel`` request; its reply carries ``id`` = ``c-`` + the order's client id."""
    params = {"symbol": instrument.symbol, "origClientOrderId": client_id}
    return orjson.dumps({"id": f"c-{client_id}", "method": "order.cancel", "params": params})


def read_report(instrument: Instrument, recv_ns: int, payload: bytes) -> Report | None:
    """The report in a user-data line; None when the line is user data of another kind.

    Raises:
        FrameError: the line does not match the exchange's documentation.
    """
    try:
        data = orjson.loads(payload)["data"]
        if data["e"] != "ORDER_TRADE_UPDATE":
            return None
        order = data["o"]
        return Report(
            client_id=order["c"],
            order_id=order["i"],
            side=_SIDES[order["S"]],
            price=_steps(order["p"], instrument.tick),
            size=_steps(order["q"], instrument.lot),
            execution=order["x"],
            status=order["X"],
            last_price=_steps(order["L"], instrument.tick),
            last_size=_steps(order["l"], instrument.lot),
            filled_size=_steps(order["z"], instrument.lot),
            trade_id=order["t"],
            exch_ms=data["T"],
            recv_ns=recv_ns,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, InvalidOperation, ValueError) as error:
        raise FrameError("user_data", f"expected an ORDER_TRADE_UPDATE, saw {payload[:120]!r} ({error})") from None


def _steps(text: str, step: Decimal) -> int:
    steps = Decimal(text) / step
    if steps != int(steps):
        raise ValueError(f"{text} is not a multiple of {step}")
    return int(steps)
