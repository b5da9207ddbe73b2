"""The benchmarks' shortcut from the simulator's core to events gives the same as the frames on the wire."""

from __future__ import annotations

import numpy as np
import pytest
from kit.simulated_market import INSTRUMENT, STREAMS

from bench.drift import alarms
from bench.simulated import LEVERS, Market, Mix, Shift
from market.clock import NS_PER_S
from market.features import kernels
from market.feeds.normalise import Normaliser
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.exchange import Exchange, Subscription
from pipelines.monitoring.drift import verdict
from pipelines.monitoring.monitor import MonitorConfig

SECONDS = 15
VOLATILE = Mix(shares={"volatile": 1.0}, dwell_s=1e9)


def test_rows_without_frames_are_bit_identical_to_those_from_frames() -> None:
    exchange = Exchange(ExchangeConfig(seed=3, regime="volatile"))
    normaliser = Normaliser(INSTRUMENT, "wire")
    wanted = Subscription.of({"streams": [STREAMS]}, INSTRUMENT.symbol)
    start_ns = exchange._world.now_ns
    parts = [normaliser.feed(1, start_ns, exchange.take_snapshot()[1])]
    lines = exchange.lines_until(start_ns + SECONDS * NS_PER_S, Desk(exchange._world, INSTRUMENT, 0), wanted)[0]
    parts += [normaliser.feed(i, *line) for i, line in enumerate(lines, 2)]
    rows = kernels.compute(np.concatenate([part for part in parts if len(part)]))

    ours = Market(seed=3, mix=VOLATILE).advance(SECONDS)
    assert len(ours.recv_ns) == rows.warm.sum() > 100
    np.testing.assert_array_equal(ours.features[:, : kernels.N_TICK], rows.features[rows.warm])
    np.testing.assert_array_equal(ours.mid2, rows.mid2[rows.warm])
    np.testing.assert_array_equal(ours.bid_depth, rows.bid_depth[rows.warm])


@pytest.mark.parametrize("form", ["abrupt", "gradual", "recurring"])
def test_a_shift_begins_when_it_should_and_has_its_size(form: str) -> None:
    shift = Shift(lever="depth", factor=2.0, form=form, start_ns=100 * NS_PER_S)  # type: ignore[arg-type]
    minutes = [shift.strength((100 + 60 * m) * NS_PER_S) for m in (-1, 0, 10, 25, 60)]
    expected = {"abrupt": [1, 2, 2, 2, 2], "gradual": [1, 1, 1 + 1 / 6, 1 + 25 / 60, 2], "recurring": [1, 2, 2, 1, 1]}
    assert minutes == pytest.approx(expected[form])


@pytest.mark.parametrize("lever", list(LEVERS))
def test_a_lever_of_one_changes_nothing_and_of_two_does(lever: str) -> None:
    def rows(factor: float) -> np.ndarray:
        shift = Shift(lever=lever, factor=factor, form="abrupt", start_ns=0)  # type: ignore[arg-type]
        return Market(seed=5, mix=VOLATILE, shift=shift).advance(12).mid2

    plain = Market(seed=5, mix=VOLATILE).advance(12).mid2
    np.testing.assert_array_equal(rows(1.0), plain)
    assert not np.array_equal(rows(2.0), plain)


def test_a_drift_that_continues_is_one_alarm() -> None:
    config = MonitorConfig(instrument=INSTRUMENT.key)
    violated = np.zeros(15 * 8, bool)
    violated[30:75] = True  # the third, fourth and fifth look
    violated[105:] = True  # the last
    assert alarms(lambda end: verdict(violated[:end], k=config.k, n=config.n)[0], len(violated), 15) == (8, 4, 2)
