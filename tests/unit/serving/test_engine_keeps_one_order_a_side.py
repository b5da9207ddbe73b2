"""The engine's orders, requests and inventory, with the exchange's reports written by hand."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from market import instruments
from market.events import ASK, BID
from market.feeds.orders import Report
from serving.quoting.engine import Quote, QuoteEngine

INSTRUMENT = instruments.find("sim-usdm.BTCUSDT")


@pytest.fixture
def engine() -> QuoteEngine:
    return QuoteEngine(instrument=INSTRUMENT, tag="20261121T080000-1a2b")


def quote(n: int, bid: tuple[int, int] = (1000, 5), ask: tuple[int, int] = (1002, 5)) -> Quote:
    return Quote(n=n, bid_price=bid[0], bid_size=bid[1], ask_price=ask[0], ask_size=ask[1])


def read(requests: list[bytes]) -> list[tuple[str, str, str]]:
    """``(what, id, price or nothing)`` of requests."""
    told = []
    for request in map(orjson.loads, requests):
        params = request["params"]
        name = params.get("newClientOrderId") or params["origClientOrderId"]
        told.append((request["method"], name, params.get("price", "")))
    return told


def report(client_id: str, execution: str, status: str, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "order_id": 1,
        "side": BID,
        "price": 1000,
        "size": 5,
        "last_price": 0,
        "last_size": 0,
        "filled_size": 0,
        "trade_id": 0,
        "exch_ms": 0,
        "recv_ns": 99,
    }
    return Report(client_id=client_id, execution=execution, status=status, **{**fields, **changes})


def ids(requests: list[bytes]) -> list[str]:
    return [name for _, name, _ in read(requests)]


def test_the_first_quote_places_both_sides(engine: QuoteEngine) -> None:
    told = read(engine.want(quote(7)))
    assert [(what, price) for what, _, price in told] == [("order.place", "100.0"), ("order.place", "100.2")]
    assert [name for _, name, _ in told] == ["20261121T080000-1a2b.7b1", "20261121T080000-1a2b.7a2"]


def test_client_ids_fit_the_exchange_after_a_long_session(engine: QuoteEngine) -> None:
    engine._placed = 999_998
    assert max(len(name) for name in ids(engine.want(quote(9_999_999)))) <= 36


def test_the_same_quote_again_sends_nothing(engine: QuoteEngine) -> None:
    engine.want(quote(1))
    assert engine.want(quote(2)) == []


def test_a_fill_belongs_to_the_quote_that_last_wanted_the_order(engine: QuoteEngine) -> None:
    bid, _ = ids(engine.want(quote(1)))
    engine.want(quote(2))
    fill = engine.on_report(report(bid, "TRADE", "FILLED", last_price=1000, last_size=5, filled_size=5))
    assert fill is not None
    assert (fill.quote_n, fill.client_id) == (2, bid)


def test_a_moved_side_is_cancelled_and_placed_and_the_other_left_alone(engine: QuoteEngine) -> None:
    bid, _ = ids(engine.want(quote(1)))
    told = read(engine.want(quote(2, bid=(999, 5))))
    assert [(what, price) for what, _, price in told] == [("order.cancel", ""), ("order.place", "99.9")]
    assert told[0][1] == bid
    assert engine.open_orders == 3, "the cancelled one may still trade until the exchange says so"


def test_a_pulled_side_is_only_cancelled(engine: QuoteEngine) -> None:
    _, ask = ids(engine.want(quote(1)))
    assert read(engine.want(quote(2, ask=(1002, 0)))) == [("order.cancel", ask, "")]
    assert engine.want(quote(3, ask=(0, 0))) == []


def test_fills_add_up_to_inventory_and_cash(engine: QuoteEngine) -> None:
    bid, ask = ids(engine.want(quote(1)))
    fill = engine.on_report(report(bid, "TRADE", "PARTIALLY_FILLED", last_price=1000, last_size=2, filled_size=2))
    assert fill is not None
    assert (fill.quote_n, fill.side, fill.price, fill.size, fill.recv_ns) == (1, BID, 1000, 2, 99)
    engine.on_report(report(ask, "TRADE", "FILLED", side=ASK, last_price=1002, last_size=5, filled_size=5))
    assert engine.holdings.inventory == -3
    assert engine.holdings.cash == -2 * 1000 + 5 * 1002
    assert engine.holdings.worth2(2002) == 2 * (3010 - 3 * 1001)


def test_a_report_received_twice_counts_once(engine: QuoteEngine) -> None:
    bid, _ = ids(engine.want(quote(1)))
    partly = report(bid, "TRADE", "PARTIALLY_FILLED", last_price=1000, last_size=2, filled_size=2)
    assert engine.on_report(partly) is not None
    assert engine.on_report(partly) is None
    assert engine.holdings.inventory == 2


def test_a_partly_filled_order_keeps_working_and_a_filled_one_is_replaced(engine: QuoteEngine) -> None:
    bid, _ = ids(engine.want(quote(1)))
    engine.on_report(report(bid, "TRADE", "PARTIALLY_FILLED", last_price=1000, last_size=2, filled_size=2))
    assert engine.want(quote(2)) == []
    engine.on_report(report(bid, "TRADE", "FILLED", last_price=1000, last_size=3, filled_size=5))
    (again,) = read(engine.want(quote(1)))
    assert again[0] == "order.place"
    assert again[1] != bid, "an exchange refuses a client id that was used before"


def test_a_fill_that_overtakes_our_cancel_counts(engine: QuoteEngine) -> None:
    bid, _ = ids(engine.want(quote(1)))
    engine.want(quote(2, bid=(999, 5)))
    fill = engine.on_report(report(bid, "TRADE", "FILLED", last_price=1000, last_size=5, filled_size=5))
    assert fill is not None
    assert engine.holdings.inventory == 5
    engine.on_refusal(f"c-{bid}")
    assert engine.open_orders == 2
    assert engine.rejected == 0


@pytest.mark.parametrize("told", ["refusal", "expired"])
def test_a_post_only_order_that_would_trade_is_no_order(engine: QuoteEngine, told: str) -> None:
    bid, _ = ids(engine.want(quote(1)))
    if told == "refusal":
        engine.on_refusal(bid)
        assert engine.rejected == 1
    else:
        engine.on_report(report(bid, "EXPIRED", "EXPIRED"))
    assert engine.open_orders == 1
    assert [what for what, _, _ in read(engine.want(quote(2)))] == ["order.place"]


def test_everything_is_cancelled_once(engine: QuoteEngine) -> None:
    engine.want(quote(1))
    engine.want(quote(2, bid=(999, 5)))
    assert [what for what, _, _ in read(engine.cancel_all())] == ["order.cancel"] * 2
    assert engine.cancel_all() == []


def test_reports_of_other_sessions_change_nothing(engine: QuoteEngine) -> None:
    stranger = report("20261121T070000-ffff.1b1", "TRADE", "FILLED", last_price=1, last_size=5, filled_size=5)
    assert engine.on_report(stranger) is None
    assert engine.holdings.inventory == 0
