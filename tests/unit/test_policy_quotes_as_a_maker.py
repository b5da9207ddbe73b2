import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.errors import SettingsError
from market.labels import HORIZON_NAMES, N_OUTPUTS
from serving.hotpath.records import R_BASE, R_INVENTORY, R_PULL_ASK, R_PULL_BID, R_SHRINK, R_WIDEN
from serving.quoting.policy import PolicyConfig, decide

BID, ASK = 999_999, 1_000_001  # mid 1,000,000 ticks: 15 bp are 1,500
FLAT = PolicyConfig(skew_ticks=0)


def probs(*, down=0.1, up=0.1, bid_falls=0.1, ask_falls=0.1, horizon="500ms"):
    out = np.tile(np.array([0.1, 0.8, 0.1, 0.1, 0.1], np.float32), N_OUTPUTS // 5)
    first = 5 * HORIZON_NAMES.index(horizon)
    out[first : first + 5] = down, 1 - down - up, up, bid_falls, ask_falls
    return out


def quote(config=FLAT, inventory=0, **said):
    return decide(config.compiled(), probs(**said), BID, ASK, inventory)


def test_without_a_threat_the_base_quote_stands_at_the_touch():
    assert quote() == (BID, ASK, 10, 10, R_BASE)


def test_a_spread_of_one_tick_is_quoted_at_its_touch():
    assert decide(FLAT.compiled(), probs(), 500, 501, 0)[:2] == (500, 501)


def test_a_fall_of_70_percent_with_bids_going_at_60_moves_the_bid_15_bp_and_cuts_its_size_by_30_percent():
    assert quote(down=0.71, bid_falls=0.61) == (BID - 1500, ASK, 7, 10, R_BASE | R_WIDEN | R_SHRINK)


def test_a_rise_does_the_same_to_the_ask():
    assert quote(up=0.71, ask_falls=0.61) == (BID, ASK + 1500, 10, 7, R_BASE | R_WIDEN | R_SHRINK)


def test_between_the_thresholds_the_response_is_graded_by_the_weaker_of_the_two():
    bid_price, _, bid_size, _, _ = quote(down=0.575, bid_falls=0.9)
    assert abs(bid_price - (BID - 750)) <= 1
    assert bid_size == 9
    assert quote(down=0.8, bid_falls=0.39) == quote()


def test_only_the_chosen_horizon_counts():
    said = probs(down=0.8, bid_falls=0.8, horizon="1s")
    assert decide(FLAT.compiled(), said, BID, ASK, 0) == quote()
    second = PolicyConfig(skew_ticks=0, horizon="1s")
    assert decide(second.compiled(), said, BID, ASK, 0)[0] == BID - 1500


def test_above_the_higher_threshold_the_side_is_pulled():
    assert quote(down=0.9, bid_falls=0.7) == (0, ASK, 0, 10, R_BASE | R_PULL_BID)
    assert quote(up=0.9, ask_falls=0.7) == (BID, 0, 10, 0, R_BASE | R_PULL_ASK)


def test_a_probability_that_is_no_number_pulls_both_sides():
    nothing = np.full(N_OUTPUTS, np.nan, np.float32)
    assert decide(FLAT.compiled(), nothing, BID, ASK, 0) == (0, 0, 0, 0, R_PULL_BID | R_PULL_ASK)


def test_inventory_leans_both_prices_against_it():
    config = PolicyConfig(skew_ticks=4, max_inventory_lots=100)
    long = quote(config, inventory=50)
    assert long == (BID - 2, ASK - 1, 10, 10, R_BASE | R_INVENTORY)  # the ask would be 2 lower, but that is the bid
    assert quote(config, inventory=-50)[1] == ASK + 2


def test_inventory_at_its_limit_pulls_the_side_that_would_add_to_it():
    assert quote(inventory=100) == (0, ASK, 0, 10, R_BASE | R_INVENTORY)
    assert quote(inventory=-100) == (BID, 0, 10, 0, R_BASE | R_INVENTORY)
    assert quote(inventory=96)[2] == 4


@settings(max_examples=300, deadline=None)
@given(
    down=st.floats(0, 1, width=32),
    fall=st.floats(0, 1, width=32),
    bid=st.integers(1, 2**30),
    spread=st.integers(1, 50),
    inventory=st.integers(-300, 300),
    lean=st.tuples(st.integers(1, 5), st.integers(0, 50)),
)
def test_no_quote_ever_reaches_the_opposite_touch_or_leads_beyond_the_limit(down, fall, bid, spread, inventory, lean):
    config = PolicyConfig(half_spread_ticks=lean[0], skew_ticks=lean[1])
    said = probs(down=down, up=1 - down, bid_falls=fall, ask_falls=fall)
    bid_price, ask_price, bid_size, ask_size, _ = decide(config.compiled(), said, bid, bid + spread, inventory)
    if bid_size:
        assert 0 < bid_price < bid + spread
        assert inventory + bid_size <= config.max_inventory_lots
    if ask_size:
        assert ask_price > bid
        assert inventory - ask_size >= -config.max_inventory_lots
    assert max(bid_size, ask_size) <= config.size_lots


@pytest.mark.parametrize("wrong", [{"size_lots": 0}, {"cut": 1.0}, {"p_move_from": 0.8}, {"horizon": "2s"}])
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(SettingsError, match="expected"):
        PolicyConfig(**wrong)
