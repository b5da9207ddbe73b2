"""Anomalies injected into a minute of events, each with the gate rule meant for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from market.clock import NS_PER_MS, NS_PER_S
from market.events import DEPTH, F_CLOCK_BACK, F_LAST, TICKER, TRADE, Events

Spoil = Callable[[Events, np.random.Generator], Events]


def _own(events: Events, kind: int) -> np.ndarray:
    return np.flatnonzero((events["kind"] == kind) & (events["frame"] > events["frame"][0]))


def trade_far_off(events: Events, rng: np.random.Generator) -> Events:
    at = rng.choice(_own(events, TRADE))
    events["price"][at] = events["price"][at] * rng.choice([95, 105]) // 100
    return events


def trade_twice(events: Events, rng: np.random.Generator) -> Events:
    at = rng.choice(_own(events, TRADE))
    return np.insert(events, at, events[at])


def trades_lost(events: Events, rng: np.random.Generator) -> Events:
    return np.delete(events, rng.choice(_own(events, TRADE), 3, replace=False))


def huge_level(events: Events, rng: np.random.Generator) -> Events:
    at = rng.choice(_own(events, DEPTH))
    events["size"][at] = 1 + events["size"].max() * 20_000
    return events


def mid_jumps(events: Events, rng: np.random.Generator) -> Events:
    frame = rng.choice(np.unique(events["frame"][_own(events, TICKER)]))
    here = (events["frame"] == frame) & (events["kind"] == TICKER)
    events["price"][here] = events["price"][here] * 103 // 100
    return events


def ticker_crossed(events: Events, rng: np.random.Generator) -> Events:
    frames = np.unique(events["frame"][_own(events, TICKER)])
    here = (events["kind"] == TICKER) & np.isin(events["frame"], rng.choice(frames, len(frames) // 10))
    events["price"][here] += 20 * events["side"][here]
    return events


def book_stands_still(events: Events, rng: np.random.Generator) -> Events:
    start = events["recv_ns"].min() + rng.integers(1, 15) * NS_PER_S
    within = (events["recv_ns"] >= start) & (events["recv_ns"] < start + 40 * NS_PER_S)
    return events[~within | (events["kind"] == TRADE)]


def feed_silent(events: Events, rng: np.random.Generator) -> Events:
    start = events["recv_ns"].min() + rng.integers(1, 15) * NS_PER_S
    return events[(events["recv_ns"] < start) | (events["recv_ns"] >= start + 40 * NS_PER_S)]


def clock_steps(events: Events, _rng: np.random.Generator) -> Events:
    events["recv_ns"] += 300 * NS_PER_MS
    return events


def one_event_late(events: Events, rng: np.random.Generator) -> Events:
    events["exch_ns"][rng.choice(_own(events, TRADE))] -= 90 * NS_PER_S
    return events


def receive_times_back(events: Events, rng: np.random.Generator) -> Events:
    frames = rng.choice(np.unique(events["frame"])[1:], 50, replace=False)
    events["flags"][np.isin(events["frame"], frames)] |= F_CLOCK_BACK
    return events


def frames_swapped(events: Events, rng: np.random.Generator) -> Events:
    ends = np.flatnonzero((events["kind"] == DEPTH) & (events["flags"] & F_LAST != 0))
    at = int(rng.integers(len(ends) // 2, len(ends) - 2))
    a, b, c = (int(ends[at + i]) + 1 for i in range(3))
    return np.concatenate([events[:a], events[b:c], events[a:b], events[c:]])


def volume_fifty_times(events: Events, _rng: np.random.Generator) -> Events:
    events["size"][_own(events, TRADE)] *= 50
    return events


def depth_a_twentieth(events: Events, _rng: np.random.Generator) -> Events:
    levels = events["kind"] == DEPTH
    events["size"][levels] = -(-events["size"][levels] // 20)
    return events


INJECTED: Final[dict[Spoil, str]] = {
    trade_far_off: "trade_outside_book",
    trade_twice: "repeated_trade",
    trades_lost: "missing_trade",
    huge_level: "size_outlier",
    mid_jumps: "price_jump",
    ticker_crossed: "crossed_book",
    book_stands_still: "stale_book",
    feed_silent: "silence",
    clock_steps: "clock_shift",
    one_event_late: "late_event",
    receive_times_back: "clock_back",
    frames_swapped: "sequence_back",
    volume_fifty_times: "volume_high",
    depth_a_twentieth: "unusual_depth",
}
