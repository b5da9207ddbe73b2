"""The estimate of the offset between two clocks: the minimum of receive minus exchange time in a window."""

from __future__ import annotations

import random

from kit.wire_frames import START_NS, USDM, bytes_of, trade

from market.clock import NS_PER_MS, NS_PER_S
from market.feeds.clock_offset import WINDOW_S, MinFilter
from market.feeds.normalise import Normaliser


def test_before_the_first_frame_there_is_no_estimate():
    assert MinFilter().ns is None


def test_the_estimate_is_the_offset_plus_the_shortest_transit_time():
    """Clocks are 1.3 s apart, transit times are 4 ms with a long tail: the mean would be far off."""
    chance, found = random.Random(3), MinFilter()
    for n in range(5_000):
        way_ms = 4 + chance.expovariate(1 / 40)
        found.saw(START_NS + n * 10 * NS_PER_MS, int((way_ms - 1300) * NS_PER_MS))
    assert -1300 * NS_PER_MS < found.ns - 4 * NS_PER_MS < -1299 * NS_PER_MS


def test_what_is_older_than_the_window_is_forgotten():
    found = MinFilter()
    found.saw(START_NS, 5)
    for second in range(1, WINDOW_S):
        found.saw(START_NS + second * NS_PER_S, 100 + second)
    assert found.ns == 5
    found.saw(START_NS + WINDOW_S * NS_PER_S, 700)
    assert found.ns == 101
    found.saw(START_NS + 10 * WINDOW_S * NS_PER_S, 900)
    assert found.ns == 900


def test_a_clock_that_was_set_back_is_measured_again():
    found = MinFilter()
    found.saw(START_NS, 5)
    found.saw(START_NS - 30 * NS_PER_S, 80)
    assert found.ns == 80


def test_a_feed_keeps_its_own_estimate():
    feed = Normaliser(USDM, "s")
    for n, late_ms in enumerate((40, 12, 90)):
        at_ms = START_NS // NS_PER_MS + n
        feed.feed(n + 1, (at_ms + late_ms) * NS_PER_MS, bytes_of(trade(n, "60000.1", "1", at_ms=at_ms)))
    assert feed.clock_offset.ns == 12 * NS_PER_MS
