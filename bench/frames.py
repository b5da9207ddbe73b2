"""Raw frames to events: our parser and resynchronised book against the loop everybody writes first."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import orjson

from bench import market
from market.feeds.normalise import Normaliser
from market.venues.binance import Parser


def run() -> dict[str, Any]:
    lines = market.lines()
    parser = Parser(market.instrument())
    ours = _rate(lambda: [parser.parse(payload, recv_ns, i) for i, (recv_ns, payload) in enumerate(lines)], len(lines))
    whole = _rate(_normalise, len(lines))
    decimals = _rate(lambda: [_by_decimal(payload) for _, payload in lines], len(lines))
    floats = _rate(lambda: [_by_float(payload) for _, payload in lines], len(lines))
    return {
        "title": "Raw frames to events",
        "rows": [
            _row("frames parsed to integer events", ours, "json + Decimal", decimals),
            _row("frames parsed to integer events", ours, "orjson + float", floats),
            _row("frames parsed, resynchronised, through the book", whole, "orjson + float, no book", floats),
        ],
        "notes": [f"{len(lines):,} frames of the simulated exchange, volatile; one core; best of 3."],
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


def _rate(work: Any, count: int) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return count / best


def _row(what: str, value: float, peer: str, peer_value: float) -> dict[str, Any]:
    return {
        "what": what,
        "value": round(value),
        "unit": "frames/s",
        "peer": peer,
        "peer_value": round(peer_value),
        "ratio": value / peer_value,
        "goal": ">= 2x the fastest peer",
    }
