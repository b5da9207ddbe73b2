"""Raw frames to events: our parser and resynchronised book against the obvious loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bench import market
from market.feeds.normalise import Normaliser
from market.venues.binance import Parser

ROUNDS = 9


def run() -> dict[str, Any]:
    lines = market.lines()
    parser = Parser(market.instrument())
    works = {
        "parsed": lambda: [parser.parse(payload, recv_ns, i) for i, (recv_ns, payload) in enumerate(lines)],
        "whole": _normalise,
        "json + Decimal": lambda: [_by_decimal(payload) for _, payload in lines],
        "orjson + float": lambda: [_by_float(payload) for _, payload in lines],
    }
    rates = _rates(works, len(lines))
    return {
        "title": "Raw frames to events",
        "rows": [
            _row("frames parsed to integer events", rates, ("parsed", "json + Decimal"), ""),
            _row("frames parsed to integer events", rates, ("parsed", "orjson + float"), ""),
            _row("frames parsed, resynchronised, through the book", rates, ("whole", "orjson + float"), ", no book"),
        ],
        "notes": [
            f"{len(lines):,} frames of the simulated exchange, volatile; one core; medians of {ROUNDS} rounds in which "
            "they alternate. A ratio is the median of the rounds' ratios: the machine's speed changes."
        ],
    }


def _normalise() -> None:
    normaliser = Normaliser(market.instrument(), "bench")
    for i, (recv_ns, payload) in enumerate(market.lines(), 1):
        normaliser.feed(i, recv_ns, payload)


def _by_decimal(payload: bytes) -> list[tuple[Decimal, Decimal]]:
    return _levels(json.loads(payload), Decimal)


def _by_float(payload: bytes) -> list[tuple[float, float]]:
    return _levels(orjson.loads(payload), float)


def _levels(frame: dict[str, Any], number: Any) -> list[Any]:
    data = frame.get("data", frame)
    levels = [*data.get("b", ()), *data.get("a", ())] if isinstance(data.get("b", []), list) else []
    return [(number(price), number(size)) for price, size in levels]


def _rates(works: dict[str, Callable[[], Any]], count: int) -> dict[str, NDArray[np.float64]]:
    """Frames per second of each contender in each round."""
    found = {name: np.empty(ROUNDS) for name in works}
    for turn in range(ROUNDS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            found[name][turn] = count / (time.perf_counter() - began)
    return found


def _row(what: str, rates: dict[str, NDArray[np.float64]], names: tuple[str, str], beside: str) -> dict[str, Any]:
    ours, peer = (rates[name] for name in names)
    return {
        "what": what,
        "value": round(float(np.median(ours))),
        "unit": "frames/s",
        "peer": names[1] + beside,
        "peer_value": round(float(np.median(peer))),
        "ratio": float(np.median(ours / peer)),
        "goal": ">= 2x the fastest peer",
    }
