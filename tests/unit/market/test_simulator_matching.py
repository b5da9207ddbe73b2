"""Our own orders in the simulated book: their queue position, what fills them, and what never does."""

from __future__ import annotations

import pytest

from market.clock import NS_PER_MS
from market.events import ASK, BID
from market.simulator import matching
from market.simulator.config import REGIMES, ExchangeConfig
from market.simulator.state import ASKS, BIDS, DIFF, EXPIRED, FILL, MAX_OWN, OWN_KEEP, TRADE
from market.simulator.world import Record, World


@pytest.fixture
def world() -> World:
    """A world in which no time passes: only what the test does happens."""
    return World(ExchangeConfig())


def best(world: World, side: int) -> tuple[int, int]:
    book = world.book(1)
    return (book.bids if side == BID else book.asks)[0]


def sell(world: World, size: int) -> list[Record]:
    """A market sell order of another participant."""
    matching.market(world._core, BIDS, size)
    return world._drain()


def others_cancel(world: World, price: int, size: int) -> None:
    matching.cancel_others(world._core, BIDS, price, size)


def placed(world: World, price: int, size: int, side: int = BID) -> int:
    verdict, order_id = world.place(side, price, size)
    assert verdict == matching.ACCEPTED
    return order_id


def fills(records: list[Record]) -> list[tuple[int, int, int]]:
    """(order id, this fill, filled so far)."""
    return [(r.ident, r.size, r.x0) for r in records if r.kind == FILL]


def test_an_order_joins_the_end_of_its_level(world: World) -> None:
    price, size = best(world, BID)
    order = placed(world, price, 40)
    assert world.resting() == {order: (40, size)}
    assert best(world, BID) == (price, size + 40)


def test_orders_ahead_are_filled_first_then_ours_in_part_then_in_full(world: World) -> None:
    price, ahead = best(world, BID)
    order = placed(world, price, 40)
    assert fills(sell(world, ahead - 5)) == []
    assert world.resting() == {order: (40, 5)}
    assert fills(sell(world, 5)) == []
    assert world.resting() == {order: (40, 0)}
    assert fills(sell(world, 15)) == [(order, 15, 15)]
    assert world.resting() == {order: (25, 0)}
    assert fills(sell(world, 25)) == [(order, 25, 40)]
    assert world.resting() == {}
    assert best(world, BID)[0] < price


def test_one_large_order_fills_those_ahead_ours_and_those_behind(world: World) -> None:
    price, ahead = best(world, BID)
    order = placed(world, price, 40)
    matching.add(world._core, BIDS, price, 100)
    records = sell(world, ahead + 40 + 30)
    assert fills(records) == [(order, 40, 40)]
    trades = [(r.price, r.size) for r in records if r.kind == TRADE]
    assert trades == [(price, ahead + 30), (price, 40)]
    assert best(world, BID) == (price, 70)


def test_every_fill_of_ours_has_its_print(world: World) -> None:
    price, ahead = best(world, BID)
    placed(world, price, 40)
    records = sell(world, ahead + 60)
    [fill] = [r for r in records if r.kind == FILL]
    [trade] = [r for r in records if r.kind == TRADE and r.ident == fill.x1]
    assert (trade.price, trade.size, trade.side) == (fill.price, fill.size, ASKS)
    assert fill.side == BIDS


def test_our_orders_on_one_level_are_filled_in_order_of_arrival(world: World) -> None:
    price, ahead = best(world, BID)
    first = placed(world, price, 10)
    gone = placed(world, price, 10)
    matching.add(world._core, BIDS, price, 7)
    second = placed(world, price, 20)
    world.cancel(gone)
    third = placed(world, price, 5)  # takes a freed slot, not a freed place
    assert world.resting() == {first: (10, ahead), second: (20, ahead + 7), third: (5, ahead + 7)}
    assert fills(sell(world, ahead + 10 + 2)) == [(first, 10, 10)]
    assert world.resting() == {second: (20, 5), third: (5, 5)}, "our own fill did not move the others ahead"
    assert fills(sell(world, 5 + 3)) == [(second, 3, 3)]
    assert fills(sell(world, 20)) == [(second, 17, 20), (third, 3, 3)]


def test_a_trade_through_the_level_fills_us_and_one_above_it_does_not(world: World) -> None:
    [(top, ahead), (next_price, next_size)] = world.book(2).bids
    deeper = placed(world, next_price, 10)
    assert fills(sell(world, ahead)) == []
    assert world.resting() == {deeper: (10, next_size)}
    records = sell(world, next_size + 10)
    assert fills(records) == [(deeper, 10, 10)]
    assert {r.price for r in records if r.kind == FILL} == {next_price}
    assert top > next_price


def test_cancellations_of_others_move_us_forward_and_never_back(world: World) -> None:
    price, ahead = best(world, BID)
    order = placed(world, price, 40)
    matching.add(world._core, BIDS, price, ahead)  # as many behind us as ahead of us
    others_cancel(world, price, 100)
    assert world.resting()[order] == (40, ahead - 50)
    matching.add(world._core, BIDS, price, 500)
    assert world.resting()[order] == (40, ahead - 50)
    others_cancel(world, price, 10**9)
    assert world.resting()[order] == (40, 0)
    assert best(world, BID) == (price, 40)


@pytest.mark.parametrize("side", [BID, ASK])
def test_an_order_that_would_cross_is_rejected_and_nothing_is_traded(world: World, side: int) -> None:
    before = world.book()
    other = best(world, -side)[0]
    for price in (other, other + side, other + side * 500):
        assert world.place(side, price, 5) == (matching.WOULD_CROSS, 0)
    assert world.book() == before
    assert world._drain() == []
    assert world.resting() == {}


def test_an_order_inside_the_spread_is_the_new_best_and_first_in_its_queue(world: World) -> None:
    sell(world, best(world, BID)[1])  # the best level is gone: the spread is two ticks or more
    price = best(world, BID)[0] + 1
    assert price < best(world, ASK)[0]
    order = placed(world, price, 3)
    assert best(world, BID) == (price, 3)
    assert world.resting() == {order: (3, 0)}
    assert fills(sell(world, 1)) == [(order, 1, 1)]


def test_a_cancelled_order_leaves_the_level_to_the_others(world: World) -> None:
    price, size = best(world, BID)
    order = placed(world, price, 40)
    sell(world, 7)
    assert world.cancel(order) == 40
    assert best(world, BID) == (price, size - 7)
    assert world.cancel(order) == -1
    assert world.cancel(0) == -1


def test_orders_too_far_away_and_too_many_orders_are_rejected(world: World) -> None:
    price, _ = best(world, BID)
    assert world.place(BID, price - 3001, 1)[0] == matching.OUT_OF_REACH
    for n in range(MAX_OWN):
        placed(world, price - n, 1)
    assert world.place(BID, price, 1)[0] == matching.TOO_MANY
    world.cancel(next(iter(world.resting())))
    placed(world, price, 1)


def test_an_order_that_the_market_left_absurdly_far_behind_expires(world: World) -> None:
    order = placed(world, best(world, BID)[0] - 3000, 9)
    for _ in range(OWN_KEEP):  # the market walks up and leaves it behind
        core = world._core
        matching.market(core, ASKS, matching.size_at(core, ASKS, core.best[1]))
        matching.add(core, BIDS, core.best[1] - 1, 50)
        matching.trim(core)
        if order not in world.resting():
            break
        world.advance(world.now_ns + NS_PER_MS)
    [expired] = [r for r in world._drain() if r.kind == EXPIRED]
    assert (expired.ident, expired.size) == (order, 9)


def test_a_lonely_order_far_out_shows_in_the_book_and_in_the_diff(world: World) -> None:
    price = best(world, BID)[0] - 2500
    placed(world, price, 9)
    assert world.book().bids[-1] == (price, 9)
    [diff] = [r for r in world.advance(world.now_ns + 63 * NS_PER_MS) if r.kind == DIFF]
    assert [2 * price, 9] in diff.levels


@pytest.mark.parametrize("regime", list(REGIMES))
def test_in_a_running_market_the_queue_ahead_only_shrinks_and_fills_wait_for_it(regime: str) -> None:
    world = World(ExchangeConfig(regime=regime, seed=5))
    places: dict[int, tuple[int, int, int]] = {}  # order id -> price, left, ahead
    filled = 0
    for step in range(6000):
        if step % 50 == 0:
            for side in (BID, ASK):
                price = best(world, side)[0]
                verdict, order = world.place(side, price - side * (step // 50 % 3), 25)
                if verdict == matching.ACCEPTED:
                    places[order] = (price - side * (step // 50 % 3), *world.resting()[order])
        records = world.advance(world.now_ns + 5 * NS_PER_MS)
        resting = world.resting()
        for order, size, _ in fills(records):
            price, left, _ahead = places[order]
            assert {r.price for r in records if r.kind == FILL and r.ident == order} == {price}
            assert resting.get(order, (0, 0))[1] == 0, "whoever is being filled has nobody ahead"
            assert size <= left
            filled += 1
        for order, (price, left, ahead) in list(places.items()):
            now_left, now_ahead = resting.get(order, (0, 0))
            assert now_left <= left
            assert 0 <= now_ahead <= ahead
            places[order] = (price, now_left, now_ahead)
            if not now_left:
                del places[order]
    assert filled > 20
