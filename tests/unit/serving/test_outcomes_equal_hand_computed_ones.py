"""Spreads of fills, by hand: rows at known times, known mids, known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from market.clock import NS_PER_MS, NS_PER_S
from serving.outcomes import (
    UNKNOWN,
    Outcomes,
    Quoted,
    block_metrics,
    direction_log_loss,
    from_columns,
    mids_at_fills,
)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def made(**changes: np.ndarray) -> Outcomes:
    one = {
        "side": ints(1),
        "price": ints(1000),
        "size": ints(3),
        "fill_ns": ints(0),
        "mid2_fill": ints(2001),
        "mid2_100ms": ints(2000),
        "mid2_1s": ints(1996),
        "arm": ints(0),
        "block": ints(0),
        "mid2_quote": ints(2002),
    }
    return Outcomes(**{**one, **changes})


def test_a_buy_below_a_falling_mid_earned_half_a_tick_and_lost_five() -> None:
    # bought at 1000 with the mid at 1000.5; one second later the mid is 998
    outcome = made()
    assert outcome.effective.tolist() == [1.0]
    assert outcome.realised_100ms.tolist() == [0.0]
    assert outcome.realised_1s.tolist() == [-4.0]
    assert outcome.adverse_100ms.tolist() == [1.0]
    assert outcome.adverse_1s.tolist() == [5.0]


def test_slippage_is_measured_from_the_mid_of_the_decision() -> None:
    # the bid at 1000 was decided with the mid at 1001; the mid fell half a tick before it was filled
    outcome = made()
    assert outcome.slippage.tolist() == [-2.0]
    assert (outcome.slippage + outcome.effective).tolist() == [-1.0], "what the mid did for us while the quote stood"
    # a sale at 1001, decided with the mid at 1002: it cost a tick
    assert made(side=ints(-1), price=ints(1001), mid2_quote=ints(2004)).slippage.tolist() == [2.0]
    assert math.isnan(made(mid2_quote=ints(UNKNOWN)).slippage[0])


def test_a_sale_above_a_falling_mid_earned_more_afterwards() -> None:
    # sold at 1001 with the mid at 1000.5; one second later the mid is 998
    outcome = made(side=ints(-1), price=ints(1001))
    assert outcome.effective.tolist() == [1.0]
    assert outcome.realised_1s.tolist() == [6.0]
    assert outcome.adverse_1s.tolist() == [-5.0]


def test_an_unknown_mid_gives_no_number() -> None:
    outcome = made(mid2_1s=ints(UNKNOWN))
    assert math.isnan(outcome.realised_1s[0])
    assert outcome.realised_100ms.tolist() == [0.0]


def test_mids_are_those_just_before_the_fill_and_of_the_last_row_by_then() -> None:
    ms = NS_PER_MS
    recv_ns = ints(0, 50 * ms, 50 * ms, 149 * ms, 150 * ms, 151 * ms, 1050 * ms, 2000 * ms)
    mid2 = ints(10, 20, 21, 30, 31, 32, 40, 50)
    fills = ints(50 * ms, 0, 1000 * ms, 1950 * ms)
    before, soon, later = mids_at_fills(fills, recv_ns, mid2, end_ns=2000 * ms)
    assert before.tolist() == [10, UNKNOWN, 32, 40]
    assert soon.tolist() == [31, 21, 40, UNKNOWN]  # the last needs 2050 ms, the rows end at 2000 ms
    assert later.tolist() == [40, 32, 50, UNKNOWN]


def test_blocks_count_what_was_filled_in_them_and_empty_blocks_made_nothing() -> None:
    second = NS_PER_S
    recv_ns = ints(*(i * second for i in range(30)))
    arm = ints(*([0] * 10 + [1] * 10 + [0] * 10))
    outcomes = made(
        side=ints(1, -1, 1),
        price=ints(1000, 1001, 1000),
        size=ints(3, 1, 2),
        fill_ns=ints(1 * second, 5 * second, 12 * second),
        mid2_fill=ints(2001, 2001, 2001),
        mid2_100ms=ints(2001, 2001, 2001),
        mid2_1s=ints(1996, 1996, UNKNOWN),
        arm=ints(0, 0, 1),
        block=ints(0, 0, 1),
        mid2_quote=ints(2002, 2001, UNKNOWN),
    )
    quoted = Quoted(recv_ns=ints(0, 4 * second, 11 * second), lots=ints(10, 6, 20))
    first, second_block, third = block_metrics(outcomes, recv_ns, arm, block_ns=10 * second, quoted=quoted)
    assert (first.block, first.arm, first.rows, first.fills, first.lots) == (0, 0, 10, 2, 4)
    assert first.pnl_half_ticks == 3 * -4 + 1 * 6
    assert first.effective_half_ticks == 1.0
    assert first.adverse_half_ticks == (3 * 5 + 1 * -5) / 4
    assert first.adverse_100ms_half_ticks == 0.0
    assert first.slippage_half_ticks == (3 * -2 + 1 * -1) / 4
    assert (first.lots_quoted, first.fill_ratio) == (16, 4 / 16)
    assert second_block.fill_ratio == 2 / 20
    assert math.isnan(second_block.slippage_half_ticks)
    assert math.isnan(third.fill_ratio), "nothing was quoted"
    assert first.seconds == 9.0
    assert first.pnl_per_minute == pytest.approx(-40.0)
    assert (second_block.fills, second_block.pnl_half_ticks) == (1, 0.0), "its later mid is unknown"
    assert (third.arm, third.fills, third.pnl_half_ticks, third.pnl_per_minute) == (0, 0, 0.0, 0.0)
    assert math.isnan(third.adverse_half_ticks)


def test_no_rows_are_no_blocks() -> None:
    assert block_metrics(made(), ints(), ints(), block_ns=10) == ()


def test_log_loss_looks_at_the_mid_one_horizon_later() -> None:
    recv_ns, mid2 = ints(0, 4, 10, 12, 30), ints(100, 100, 102, 99, 99)
    probs = np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    loss = direction_log_loss(recv_ns, mid2, probs, 10, threshold_half_ticks=0)
    expected = [0.5, 0.2, 0.6, 0.8]  # up (row at 10), down (the row at 12), down, none
    assert loss[:4].tolist() == pytest.approx([-math.log(p) for p in expected])
    assert math.isnan(loss[4])


def test_columns_of_the_lake_are_read_back_with_none_for_unknown() -> None:
    names = ("side", "price", "size", "fill_ns", "mid2_fill", "mid2_100ms", "arm", "block")
    read = from_columns({**{n: [int(getattr(made(), n)[0])] for n in names}, "mid2_1s": [None]})
    assert read.mid2_1s.tolist() == [UNKNOWN]
    assert read.effective.tolist() == [1.0]
    assert read.mid2_quote.tolist() == [UNKNOWN], "nobody looked it up"
