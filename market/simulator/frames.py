"""The wire format of the simulated exchange: Binance USD-M frames, byte for byte in the documented form.

Hand-built bytes, because every field has a fixed place. Prices have two decimals and sizes three, as Binance prints
BTCUSDT; the tick is 0.1 and the lot 0.001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from market.clock import NS_PER_MS
from market.events import BID
from market.simulator.state import BIDS, DIFF, MARK, TICKER, TRADE
from market.simulator.world import BookImage, Record

Line = tuple[int, bytes]  # receive ns, payload

DEPTH_STREAM = "depth"
TICKER_STREAM = "bookTicker"
TRADE_STREAM = "trade"
MARK_STREAM = "markPrice"

_STREAM_OF_KIND = {
    int(DIFF): DEPTH_STREAM,
    int(TICKER): TICKER_STREAM,
    int(TRADE): TRADE_STREAM,
    int(MARK): MARK_STREAM,
}


def price_text(ticks: int) -> str:
    """A price as Binance prints it."""
    return f"{ticks // 10}.{ticks % 10}0"


def size_text(lots: int) -> str:
    """A size as Binance prints it."""
    return f"{lots // 1000}.{lots % 1000:03d}"


def _e8_text(value: int) -> str:
    sign, value = ("-", -value) if value < 0 else ("", value)
    return f"{sign}{value // 100_000_000}.{value % 100_000_000:08d}"


def market_frame(record: Record, names: Mapping[str, str], symbol: str) -> bytes | None:
    """The combined-stream frame of a record; None when its stream is not among ``names`` (kind -> subscribed name)."""
    kind = _STREAM_OF_KIND.get(record.kind)
    name = names.get(kind) if kind else None
    if name is None:
        return None
    body = _BODIES[record.kind](record, symbol, record.t_ns // NS_PER_MS)
    return f'{{"stream":"{name}","data":{body}}}'.encode()


def _trade(r: Record, symbol: str, ms: int) -> str:
    maker_buys = "false" if r.side == BIDS else "true"
    return (
        f'{{"e":"trade","E":{ms},"T":{ms},"s":"{symbol}","t":{r.ident},"p":"{price_text(r.price)}",'
        f'"q":"{size_text(r.size)}","X":"MARKET","m":{maker_buys}}}'
    )


def _ticker(r: Record, symbol: str, ms: int) -> str:
    return (
        f'{{"e":"bookTicker","u":{r.ident},"s":"{symbol}","b":"{price_text(r.price)}","B":"{size_text(r.size)}",'
        f'"a":"{price_text(r.x0)}","A":"{size_text(r.x1)}","T":{ms},"E":{ms}}}'
    )


def _diff(r: Record, symbol: str, ms: int) -> str:
    bids: list[str] = []
    asks: list[str] = []
    for code, size in sorted(r.levels):
        (asks if code & 1 else bids).append(f'["{price_text(code >> 1)}","{size_text(size)}"]')
    return (
        f'{{"e":"depthUpdate","E":{ms},"T":{ms},"s":"{symbol}","U":{r.x0},"u":{r.ident},"pu":{r.x1},'
        f'"b":[{",".join(bids)}],"a":[{",".join(asks)}]}}'
    )


def _mark(r: Record, symbol: str, ms: int) -> str:
    return (
        f'{{"e":"markPriceUpdate","E":{ms},"s":"{symbol}","p":"{_e8_text(r.x0)}","P":"{_e8_text(r.x2)}",'
        f'"i":"{_e8_text(r.x1)}","r":"{_e8_text(r.price)}","T":{r.ident}}}'
    )


_BODIES = {int(TRADE): _trade, int(TICKER): _ticker, int(DIFF): _diff, int(MARK): _mark}


def snapshot_body(book: BookImage) -> bytes:
    """The REST depth snapshot, as also found inside recordings."""
    bids = ",".join(f'["{price_text(p)}","{size_text(q)}"]' for p, q in book.bids)
    asks = ",".join(f'["{price_text(p)}","{size_text(q)}"]' for p, q in book.asks)
    head = f'{{"lastUpdateId":{book.update_id},"E":{book.t_ms},"T":{book.t_ms}'
    return f'{head},"bids":[{bids}],"asks":[{asks}]}}'.encode()


def step_line(t_ns: int, number: int) -> bytes:
    """The mark at the end of a step."""
    return b'{"stream":"keel@step","data":{"E":%d,"k":%d}}' % (t_ns // NS_PER_MS, number)


def end_line(t_ns: int, number: int) -> bytes:
    """The mark at the end of a stream."""
    return b'{"stream":"keel@end","data":{"E":%d,"k":%d}}' % (t_ns // NS_PER_MS, number)


@dataclass(kw_only=True)
class OwnOrder:
    """One order of the connected client, as the exchange keeps it. ``side`` as in events, ticks and lots."""

    client_id: str
    order_id: int
    side: int
    price: int
    size: int
    filled: int = 0


def order_fields(symbol: str, order: OwnOrder, status: str) -> dict[str, object]:
    """The ``result`` of a reply."""
    return {
        "orderId": order.order_id,
        "symbol": symbol,
        "status": status,
        "clientOrderId": order.client_id,
        "price": price_text(order.price),
        "origQty": size_text(order.size),
        "executedQty": size_text(order.filled),
        "timeInForce": "GTX",
        "type": "LIMIT",
        "side": "BUY" if order.side == BID else "SELL",
    }


def reply(ident: object, result: Mapping[str, object]) -> bytes:
    """The reply to a request that was executed."""
    return orjson.dumps({"id": ident, "status": 200, "result": result})


def refusal(ident: object, code: int, message: str) -> bytes:
    """The reply to a request that was rejected."""
    return orjson.dumps({"id": ident, "status": 400, "error": {"code": code, "msg": message}})


@dataclass(frozen=True, kw_only=True)
class Change:
    """An event of an order: ``execution`` NEW, TRADE, CANCELED or EXPIRED at ``t_ns``; a trade also has its numbers."""

    execution: str
    t_ns: int
    last_price: int = 0
    last_size: int = 0
    trade_id: int = 0


def order_update(symbol: str, order: OwnOrder, change: Change) -> bytes:
    """The ``ORDER_TRADE_UPDATE`` of the user data stream."""
    status = change.execution
    if status == "TRADE":
        status = "FILLED" if order.filled == order.size else "PARTIALLY_FILLED"
    ms = change.t_ns // NS_PER_MS
    fields = {
        "s": symbol,
        "c": order.client_id,
        "S": "BUY" if order.side == BID else "SELL",
        "o": "LIMIT",
        "f": "GTX",
        "p": price_text(order.price),
        "q": size_text(order.size),
        "x": change.execution,
        "X": status,
        "l": size_text(change.last_size),
        "L": price_text(change.last_price),
        "z": size_text(order.filled),
        "i": order.order_id,
        "t": change.trade_id,
        "T": ms,
        "m": change.execution == "TRADE",
    }
    update = {"e": "ORDER_TRADE_UPDATE", "E": ms, "T": ms, "o": fields}
    return orjson.dumps({"stream": "userData", "data": update})


def joined(lines: Sequence[Line]) -> bytes:
    """Stamped lines of one message."""
    return b"\n".join([b"%d %s" % line for line in lines])
