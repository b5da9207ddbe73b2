"""hftbacktest: ``python -m bench.peers.hft FILE CUT KEY TICK LOT`` in an environment that has it.

Its converter is used unchanged. Its book is driven by its own backtest, which runs to the end in one call, so that no
Python runs between two events. The backtest keeps an exchange's book and a local one; with the exchange's share of the
events taken out of the data it keeps the local one alone.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from hftbacktest import BacktestAsset, HashMapMarketDepthBacktest, ROIVectorMarketDepthBacktest
from hftbacktest.data.utils.binancefutures import convert
from hftbacktest.types import (
    DEPTH_CLEAR_EVENT,
    DEPTH_EVENT,
    DEPTH_SNAPSHOT_EVENT,
    EXCH_EVENT,
    LOCAL_EVENT,
    TRADE_EVENT,
)
from numba import njit

from bench.peers.turns import Stopwatch, Work, serve

_ROOM = 5_000_000  # rows that convert may fill: pages it does not write cost nothing
_KIND = 0xFF


@njit
def _run(hbt: Any) -> int:
    return hbt.elapse(2**62)


@njit
def _top(hbt: Any, out: Any) -> None:
    """The best five levels of each side, (2, 5, 2) price in ticks and size."""
    depth = hbt.depth(0)
    price, n = depth.best_bid_tick, 0
    while n < 5:
        size = depth.bid_qty_at_tick(price)
        if size > 0:
            out[0, n, 0], out[0, n, 1] = price, size
            n += 1
        price -= 1
    price, n = depth.best_ask_tick, 0
    while n < 5:
        size = depth.ask_qty_at_tick(price)
        if size > 0:
            out[1, n, 0], out[1, n, 1] = price, size
            n += 1
        price += 1


def works(path: str, cut: str, steps: tuple[float, float]) -> dict[str, Work]:
    both = convert(cut, buffer_size=_ROOM)
    local = both[both["ev"] & LOCAL_EVENT != 0].copy()
    local["ev"] &= ~np.uint64(EXCH_EVENT)
    makers = {"hash map": HashMapMarketDepthBacktest, "vector": ROIVectorMarketDepthBacktest}
    data = {"both books": both, "local book": local}
    found: dict[str, Work] = {"frames": lambda stopwatch: _frames(stopwatch, path)}
    for maker_name, maker in makers.items():
        for data_name, events in data.items():
            found[f"{maker_name}, {data_name}"] = _book_of(maker, events, steps)
    for name, work in found.items():
        if name != "frames":
            work(Stopwatch())  # compiled
    return found


def _frames(stopwatch: Stopwatch, path: str) -> dict[str, Any]:
    with stopwatch:
        events = convert(path, opt="t", buffer_size=_ROOM)
    kind = (events["ev"] & _KIND)[events["ev"] & LOCAL_EVENT != 0]
    depth = np.isin(kind, (DEPTH_EVENT, DEPTH_SNAPSHOT_EVENT))
    return {
        "levels": int(depth.sum()),
        "trades": int((kind == TRADE_EVENT).sum()),
        "tickers": int((kind == 103).sum()),
    }


def _book_of(maker: Any, events: Any, steps: tuple[float, float]) -> Work:
    tick, lot = steps
    kind = events["ev"] & _KIND
    prices = events["px"][kind != DEPTH_CLEAR_EVENT]
    levels = int(((events["ev"] & LOCAL_EVENT != 0) & (kind != DEPTH_CLEAR_EVENT)).sum())

    def work(stopwatch: Stopwatch) -> dict[str, Any]:
        asset = (
            BacktestAsset()
            .data([events])
            .linear_asset(1.0)
            .constant_order_latency(0, 0)
            .risk_adverse_queue_model()
            .no_partial_fill_exchange()
            .trading_value_fee_model(0, 0)
            .tick_size(tick)
            .lot_size(lot)
            .roi_lb(float(prices.min()) - tick)
            .roi_ub(float(prices.max()) + tick)
        )
        hbt = maker([asset])
        with stopwatch:
            _run(hbt)
        out = np.zeros((2, 5, 2))
        _top(hbt, out)
        hbt.close()
        out[:, :, 0] *= tick
        return {"levels": levels, "top": out.tolist()}

    return work


if __name__ == "__main__":
    serve(lambda: works(sys.argv[1], sys.argv[2], (float(sys.argv[4]), float(sys.argv[5]))))
