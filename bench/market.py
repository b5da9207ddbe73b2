"""A stretch of the simulated market, the same for every part: benchmark input where no recording may be stored."""

from __future__ import annotations

from functools import cache

import numpy as np

from market.events import Events
from market.feeds.normalise import Normaliser
from market.instruments import Instrument, find
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.exchange import Exchange, Subscription

Line = tuple[int, bytes]
SECONDS = 600
_STREAMS = "btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade/btcusdt@markPrice@1s"


def instrument() -> Instrument:
    return find("sim-usdm.BTCUSDT")


@cache
def lines() -> tuple[Line, ...]:
    """Stamped frames of ten volatile minutes, a snapshot after the first tenth of a second."""
    config = ExchangeConfig(seed=3, regime="volatile")
    exchange = Exchange(config)
    desk = Desk(exchange._world, config.instrument, 0)
    wanted = Subscription.of({"streams": [_STREAMS]}, config.instrument.symbol)
    found: list[Line] = []
    for step in range(SECONDS * 10):
        found += exchange.lines_until(exchange.now_ns + 100_000_000, desk, wanted)[0]
        if step == 1:
            found.append(exchange.line(exchange.take_snapshot()[1]))
    return tuple(found)


@cache
def events() -> Events:
    """The same stretch as events."""
    normaliser = Normaliser(instrument(), "bench")
    parts = [normaliser.feed(i, recv_ns, payload) for i, (recv_ns, payload) in enumerate(lines(), 1)]
    return np.concatenate([part for part in parts if len(part)])
