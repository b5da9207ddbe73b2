"""Faults one by one: which bytes are sent in place of which."""

from __future__ import annotations

import inspect

import pytest

from market.clock import NS_PER_S
from market.errors import InputError
from market.simulator import faults
from market.simulator.faults import DEFAULT_SECONDS, Faults
from market.simulator.state import DIFF, TICKER, TRADE
from market.simulator.world import Record


def record(kind: int, t_ns: int = 0) -> Record:
    return Record(kind, 0, t_ns, t_ns, 1, 1000, 5, 0, 0, 0, [])


def sent(wrong: Faults, *frames: str, every_ns: int = 0) -> list[str]:
    """What is sent for these frames: those named d... are diffs, all others are tickers."""
    out: list[str] = []
    for n, name in enumerate(frames):
        kind = DIFF if name.startswith("d") else TICKER
        out += [frame.decode() for frame in wrong.frames(record(kind, n * every_ns), name.encode())]
    return out


def injected(kind: str, seconds: float = 0.0) -> Faults:
    wrong = Faults()
    wrong.inject(kind, seconds, 0)
    return wrong


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("drop_diff", ["t1", "t2", "d2", "d3", "d4"]),
        ("duplicate_diff", ["t1", "d1", "d1", "t2", "d2", "d3", "d4"]),
        ("reorder_diffs", ["t1", "t2", "d2", "d1", "d3", "d4"]),
        ("malformed", ["t", "t1", "d1", "t2", "d2", "d3", "d4"]),
        ("disconnect", ["t1", "d1", "t2", "d2", "d3", "d4"]),
        ("late_snapshot", ["t1", "d1", "t2", "d2", "d3", "d4"]),
    ],
)
def test_a_fault_affects_its_target_once_and_nothing_else(kind: str, expected: list[str]) -> None:
    assert sent(injected(kind), "t1", "d1", "t2", "d2", "d3", "d4") == expected


def test_a_gap_lasts_for_its_seconds() -> None:
    frames = ("d0", "t1", "d2", "d3", "t4", "d5")
    assert sent(injected("gap", 3.0), *frames, every_ns=NS_PER_S) == ["t1", "d3", "t4", "d5"]


def test_trades_are_off_for_their_seconds_and_nothing_else_is() -> None:
    wrong = injected("trade_price", 2.0)
    prices = [wrong.distort(record(TRADE, second * NS_PER_S)).price for second in range(4)]
    assert prices == [1200, 1200, 1000, 1000]
    assert wrong.distort(record(TICKER)).price == 1000


def test_a_late_snapshot_is_late_once() -> None:
    wrong = injected("late_snapshot", 2.5)
    assert [wrong.take_snapshot_delay() for _ in range(2)] == [2_500_000_000, 0]


def test_the_clock_stays_back_until_the_connection_ends() -> None:
    wrong = injected("clock_back", 1.0)
    wrong.inject("clock_back", 0.5, 0)
    lines = [(5 * NS_PER_S, b"a"), (6 * NS_PER_S, b"b")]
    assert wrong.stamped(lines) == [(3_500_000_000, b"a"), (4_500_000_000, b"b")]
    wrong.connection_ended()
    assert wrong.stamped(lines) == lines


def test_the_table_lists_exactly_the_faults() -> None:
    rows = [line.split()[0] for line in inspect.getdoc(faults).splitlines() if line and not line.startswith("=")]
    listed = rows[rows.index("kind") + 1 :]
    assert listed == list(DEFAULT_SECONDS)


def test_the_clock_steps_ahead_too() -> None:
    assert injected("clock_ahead", 1.5).stamped([(NS_PER_S, b"a")]) == [(2_500_000_000, b"a")]


def test_silence_lasts_for_its_seconds_and_a_slow_consumer_is_cut_after_them() -> None:
    frames = ("d0", "t1", "d2", "d3", "t4")
    assert sent(injected("silence", 3.0), *frames, every_ns=NS_PER_S) == ["d3", "t4"]
    slow = injected("slow_consumer", 3.0)
    assert sent(slow, "d0", "t1", "d2", every_ns=NS_PER_S) == []
    assert not slow.disconnect
    assert sent(slow, *frames, every_ns=NS_PER_S) == []
    assert slow.disconnect
    slow.connection_ended()
    assert (slow.disconnect, sent(slow, "d0", "t1")) == (False, ["d0", "t1"])


def test_an_unknown_fault_is_rejected() -> None:
    with pytest.raises(InputError, match="unknown fault 'fire'; expected one of trade_price, "):
        Faults().inject("fire", 1.0, 0)
