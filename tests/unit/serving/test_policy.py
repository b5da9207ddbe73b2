import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples

from market import heads
from market.errors import SettingsError
from market.labels import HORIZONS_NS, N_OUTPUTS
from serving.quoting.policy import SAFE, PolicyConfig, decide, parameters
from serving.records import R_BASE, R_INVENTORY, R_PULL_ASK, R_PULL_BID, R_SAFE, R_SHRINK, R_WIDEN

CONFIG = PolicyConfig(size_lots=10, max_inventory_lots=50, skew_ticks=2.0)
TOP = (99_999, 7, 100_000, 9)


def word(*, down=0.2, up=0.2, bid_fall=0.1, ask_fall=0.1):
    probs = np.full(N_OUTPUTS, 0.2, dtype=np.float32)
    first = heads.column(HORIZONS_NS.index(CONFIG.horizon_ns), 0)
    probs[first : first + heads.GROUP] = down, 1 - down - up, up, bid_fall, ask_fall
    return probs


def quote(probs, *, top=TOP, inventory=0, config=CONFIG):
    out = np.zeros(4, dtype=np.int64)
    reasons = decide(probs, top, inventory, parameters(config), out)
    return tuple(out.tolist()), reasons


def test_without_danger_it_quotes_the_base_about_the_mid():
    assert quote(word()) == ((99_999, 10, 100_000, 10), R_BASE)


def test_when_a_fall_of_price_and_bid_is_likely_the_bid_is_15_bp_lower_and_30_percent_smaller():
    (bid, bid_size, ask, ask_size), reasons = quote(word(down=0.7, bid_fall=0.6))
    assert bid == 99_999 - 150
    assert (bid_size, ask, ask_size) == (7, 100_000, 10)
    assert reasons == R_BASE | R_WIDEN | R_SHRINK


def test_the_ask_mirrors_the_bid():
    (bid, bid_size, ask, ask_size), _ = quote(word(up=0.7, ask_fall=0.6))
    assert (bid, bid_size) == (99_999, 10)
    assert ask == 100_000 + 150
    assert ask_size == 7


def test_half_the_danger_is_half_the_response():
    (bid, bid_size, *_), _ = quote(word(down=0.6, bid_fall=0.9))
    assert bid == 99_999 - 75
    assert bid_size == 8


def test_a_likely_move_alone_changes_nothing():
    assert quote(word(down=0.95, bid_fall=0.3)) == quote(word())


def test_above_the_pull_thresholds_the_side_is_not_quoted():
    (bid, bid_size, ask, ask_size), reasons = quote(word(down=0.9, bid_fall=0.8))
    assert (bid, bid_size) == (0, 0)
    assert (ask, ask_size) == (100_000, 10)
    assert reasons & R_PULL_BID
    assert not reasons & R_PULL_ASK


def test_a_full_long_position_is_not_bid_for_and_leans_to_sell():
    (bid, bid_size, ask, ask_size), reasons = quote(word(), inventory=50, top=(99_990, 5, 100_010, 5))
    assert (bid, bid_size) == (0, 0)
    assert ask == 99_999  # half a tick above the mid of 100,000 less two ticks
    assert ask_size == 10
    assert reasons == R_BASE | R_INVENTORY


@given(
    st.lists(st.floats(0, 1, width=32), min_size=N_OUTPUTS, max_size=N_OUTPUTS),
    st.integers(1, 10**6),
    st.integers(1, 100),
    st.integers(-60, 60),
)
@settings(max_examples=examples(300), deadline=None)
def test_a_quote_never_crosses_the_touch_and_never_exceeds_its_limits(probs, bid, spread, inventory):
    top = (bid, 3, bid + spread, 4)
    quoted, _ = quote(np.array(probs, dtype=np.float32), top=top, inventory=inventory)
    assert quoted[0] < top[2]
    assert quoted[2] == 0 or quoted[2] > top[0]
    assert 0 <= quoted[1] <= max(min(10, 50 - inventory), 0)
    assert 0 <= quoted[3] <= max(min(10, 50 + inventory), 0)
    assert all((price > 0) == (size > 0) for price, size in (quoted[:2], quoted[2:]))


@given(*[st.floats(0, 1, width=32)] * 3)
@settings(max_examples=examples(200), deadline=None)
def test_more_danger_never_means_a_better_bid(down_low, down_high, bid_fall):
    low, high = sorted((down_low, down_high))
    (bid_low, size_low, *_), _ = quote(word(down=low, bid_fall=bid_fall))
    (bid_high, size_high, *_), _ = quote(word(down=high, bid_fall=bid_fall))
    assert bid_high <= bid_low
    assert size_high <= size_low


def test_in_the_safe_state_both_sides_are_further_away_and_smaller_and_danger_comes_on_top():
    words = parameters(CONFIG)
    words[SAFE] = 1.0
    for probs, reasons in ((word(), 0), (word(down=0.7, bid_fall=0.6), R_WIDEN | R_SHRINK)):
        usual, out = quote(probs)[0], np.zeros(4, dtype=np.int64)
        assert decide(probs, TOP, 0, words, out) == R_BASE | R_SAFE | reasons
        bid, bid_size, ask, ask_size = out.tolist()
        assert (usual[0] - bid, ask - usual[2]) == (10, 10)
        assert (bid_size, ask_size) == (usual[1] // 2, 5)


@pytest.mark.parametrize("wrong", [{"safe_cut": 1.5}, {"safe_widen_ticks": -1.0}])
def test_an_impossible_safe_state_is_refused(wrong):
    with pytest.raises(SettingsError, match="safe_cut"):
        PolicyConfig(**wrong)


def test_thresholds_out_of_order_are_refused():
    with pytest.raises(SettingsError, match="move_from < move_full"):
        PolicyConfig(move_from=0.9)
    with pytest.raises(SettingsError, match="horizon"):
        PolicyConfig(horizon_ns=7)


@pytest.mark.parametrize(
    "broken", [["down"], ["up"], ["bid_fall"], ["ask_fall"], ["down", "up", "bid_fall", "ask_fall"]]
)
def test_a_non_finite_probability_pulls_its_side(broken):
    (_, bid_size, _, ask_size), reasons = quote(word(**dict.fromkeys(broken, float("nan"))))
    bid_is_broken, ask_is_broken = bool({"down", "bid_fall"} & set(broken)), bool({"up", "ask_fall"} & set(broken))
    assert (bid_size == 0, ask_size == 0) == (bid_is_broken, ask_is_broken)
    assert (bool(reasons & R_PULL_BID), bool(reasons & R_PULL_ASK)) == (bid_is_broken, ask_is_broken)
