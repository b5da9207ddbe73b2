"""Rules of the gate on batches in which nothing is wrong, and on batches with the same content in another order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples
from kit.small_lake import Market, events_of_market, with_checkpoints

from market.clock import NS_PER_S
from market.events import ASK, BID, CLEAR, DEPTH, EVENT, F_LAST, F_SNAPSHOT, TRADE, Events, empty
from market.quality.columns import columns
from market.quality.figures import FIGURES, Measured, measure
from market.quality.limits import Limits, learned
from market.quality.rules import PASS, RULES
from market.quality.usual import compared

MINUTE_NS = 60 * NS_PER_S


def always(first: int, last: int) -> np.ndarray:
    return np.arange(first, last + 1)


def steady(minute: int, *, frames: int, bid: int, spread: int, size: int, delay_ns: int) -> Events:
    """A minute of a market that does not move: a snapshot, then the same level and a trade at it, in turn."""
    first = np.array(
        [(CLEAR, 0, 0, 0), (DEPTH, BID, bid, size), (DEPTH, ASK, bid + spread, size)],
        dtype=[("kind", "u1"), ("side", "i1"), ("price", "i8"), ("size", "i8")],
    )
    out = np.zeros(3 + 2 * frames, dtype=EVENT)
    for name in ("kind", "side", "price", "size"):
        out[name][:3] = first[name]
        out[name][3::2], out[name][4::2] = first[name][1], first[name][1]
    out["kind"][4::2], out["side"][4::2] = TRADE, ASK
    out["flags"] = F_LAST
    out["flags"][:3] = F_SNAPSHOT, F_SNAPSHOT, F_SNAPSHOT | F_LAST
    out["frame"] = np.arange(len(out))
    out["frame"][:3] = 0
    out["seq"] = out["frame"] + 1
    step = np.arange(len(out)) - 2
    out["recv_ns"] = minute * MINUTE_NS + np.maximum(0, step) * (MINUTE_NS // (2 * frames + 1))
    out["exch_ns"] = out["recv_ns"] - delay_ns
    return out


def broken(measured: Measured, limits: Limits) -> list[str]:
    return [rule.name for rule in RULES if limits.of(rule).verdict(measured.values[rule.figure]) != PASS]


STEADY = {
    "frames": st.integers(5, 60),
    "bid": st.integers(10_000, 10_000_000),
    "spread": st.integers(1, 20),
    "size": st.integers(1, 10**6),
    "delay_ns": st.integers(-NS_PER_S, NS_PER_S),
}


@given(minutes=st.integers(1, 8), **STEADY)
@settings(max_examples=examples(60), deadline=None)
def test_no_rule_fires_on_a_market_that_does_not_move(minutes: int, **how: int) -> None:
    measured = [measure(columns(steady(28_333_333 + i, **how))) for i in range(minutes)]
    beside = compared(measured[: minutes // 2], measured[minutes // 2 :], always)
    assert [broken(each, Limits()) for each in beside] == [[]] * len(beside)


@given(minutes=st.integers(3, 8), **STEADY)
@settings(max_examples=examples(30), deadline=None)
def test_a_market_passes_the_limits_learned_from_it(minutes: int, **how: int) -> None:
    measured = [measure(columns(steady(28_333_333 + i, **how))) for i in range(minutes)]
    beside = compared([], measured, always)
    limits = learned(beside, (how["bid"], how["bid"] + how["spread"]))
    again = [measure(columns(steady(28_333_333 + i, **how), bounds=limits.bounds)) for i in range(minutes)]
    assert [broken(each, limits) for each in compared([], again, always)] == [[]] * minutes


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_an_empty_batch_breaks_no_rule(name: str) -> None:
    assert FIGURES[name](columns(empty(0))) == 0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=examples(40), deadline=None)
def test_levels_of_one_frame_may_come_in_any_order(seed: int) -> None:
    """They share their times and ids, and only what the book shows after the last of them counts."""
    rng = np.random.default_rng(seed)
    minute = with_checkpoints(events_of_market(Market(seconds=70.0, frames=8, seed=seed)))[0]
    shuffled = minute.copy()
    for frame in np.unique(minute["frame"]):
        at = np.flatnonzero((minute["frame"] == frame) & (minute["kind"] != CLEAR))
        if len(np.unique(minute[["side", "price"]][at])) == len(at):
            shuffled[at] = minute[rng.permutation(at)]
            shuffled["flags"][at] = minute["flags"][at]
    assert measure(columns(shuffled)) == measure(columns(minute))


@given(seed=st.integers(0, 10_000), n=st.integers(2, 80), ticks=st.integers(1, 5))
@settings(max_examples=examples(60), deadline=None)
def test_trades_of_one_time_may_come_in_any_order(seed: int, n: int, ticks: int) -> None:
    """Only the figures about ids look at the order; all others, and so their rules, stay as they are."""
    rng = np.random.default_rng(seed)
    trades = np.zeros(n, dtype=EVENT)
    trades["kind"], trades["side"], trades["flags"] = TRADE, ASK, F_LAST
    trades["recv_ns"] = 28_333_333 * MINUTE_NS + np.sort(rng.integers(0, 5, n)) * NS_PER_S
    trades["exch_ns"] = trades["recv_ns"] - 3_000_000
    trades["price"], trades["size"] = 1000 + rng.integers(0, ticks, n), rng.integers(1, 50, n)
    trades["seq"] = trades["frame"] = 1 + np.arange(n)
    order = np.lexsort((rng.random(n), trades["recv_ns"]))
    before, after = (measure(columns(each)).values for each in (trades, trades[order]))
    about_ids = {"seq_back", "missing_trades", "repeated_trades"}
    assert {name: before[name] for name in before if name not in about_ids} == {
        name: after[name] for name in after if name not in about_ids
    }
