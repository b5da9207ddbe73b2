"""Whatever happens to the simulated book: nothing is lost, nothing is created, no order jumps the queue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kit.budget import examples
from kit.simulated_market import bytes_of_world, sides_of_world

from market.clock import NS_PER_MS
from market.events import ASK, BID
from market.simulator import matching
from market.simulator.config import REGIMES, ExchangeConfig
from market.simulator.state import ASKS, BIDS, EXPIRED, FILL, TRADE
from market.simulator.world import Record, World

SIDES = st.sampled_from([BID, ASK])
SIZES = st.one_of(st.integers(1, 60), st.integers(1, 6000))
DISTANCES = st.integers(0, 4)
ACTIONS = st.one_of(
    st.tuples(st.just("market"), SIDES, SIZES),
    st.tuples(st.just("add"), SIDES, DISTANCES, SIZES),
    st.tuples(st.just("cancel_others"), SIDES, DISTANCES, SIZES),
    st.tuples(st.just("place"), SIDES, st.integers(-3, 4), SIZES),
    st.tuples(st.just("cancel"), st.integers(0, 10)),
)


def do(world: World, action: tuple) -> None:
    core = world._core
    kind, *said = action
    if kind == "cancel":
        ours = list(world.resting())
        world.cancel(ours[said[0] % len(ours)] if ours else 12345)
        return
    row = 0 if said[0] == BID else 1
    if kind == "market":
        matching.market(core, (BIDS, ASKS)[row], said[1])
        return
    price = int(core.best[row]) - said[0] * said[1]
    if kind == "place":
        world.place(said[0], price, said[2])
    else:
        {"add": matching.add, "cancel_others": matching.cancel_others}[kind](core, (BIDS, ASKS)[row], price, said[2])


def ahead_by_level(world: World) -> dict[tuple[int, int], list[int]]:
    """Others ahead of our orders, per level, in order of arrival."""
    levels: dict[tuple[int, int], list[int]] = {}
    for order in sorted(world._core.own[world._core.own["id"] != 0].tolist()):
        levels.setdefault(order[1:3], []).append(order[5])
    return levels


def taken_from_others(world: World, order_id: int, records: list[Record]) -> int:
    """What trades took from others on the level of one of our orders."""
    [order] = [o for o in world._core.own if o["id"] == order_id]
    ours = {r.x1 for r in records if r.kind == FILL}
    return sum(
        r.size
        for r in records
        if r.kind == TRADE and r.ident not in ours and (1 - r.side, r.price) == (order["side"], order["price"])
    )


@given(st.lists(ACTIONS, max_size=60))
@settings(max_examples=examples(150), deadline=None)
def test_nothing_is_lost_or_created_and_queue_order_is_kept(actions: list[tuple]) -> None:
    world = World(ExchangeConfig())
    for action in actions:
        before, resting, update = sides_of_world(world), world.resting(), world.update_id
        do(world, action)
        records, after, now_resting = world._drain(), sides_of_world(world), world.resting()
        _sizes_add_up(action, before, after, records)
        for order, (left, ahead) in now_resting.items():
            was_left, was_ahead = resting.get(order, (left, ahead))
            filled = sum(r.size for r in records if r.kind == FILL and r.ident == order)
            assert left == was_left - filled > 0
            assert 0 <= ahead <= was_ahead
            assert not filled or ahead == 0
            if action[0] == "market":
                assert ahead == max(0, was_ahead - taken_from_others(world, order, records))
        for (side, price), queue in ahead_by_level(world).items():
            ours = sum(int(o["left"]) for o in world._core.own if (o["side"], o["price"]) == (side, price) and o["id"])
            assert queue == sorted(queue), "an earlier order has no more others ahead than a later one"
            assert queue[-1] <= after[side][price] - ours
        assert max(after[0]) < min(after[1])
        assert min([*after[0].values(), *after[1].values()]) > 0
        assert (world.update_id > update) == (after != before)


def _sizes_add_up(action: tuple, before: tuple, after: tuple, records: list[Record]) -> None:
    changes = [
        {price: now.get(price, 0) - was.get(price, 0) for price in {*was, *now} if now.get(price) != was.get(price)}
        for was, now in zip(before, after, strict=True)
    ]
    trades = [r for r in records if r.kind == TRADE]
    fills = {r.x1: r for r in records if r.kind == FILL}
    if action[0] != "market":
        assert not records
        assert sum(map(len, changes)) <= 1, "one action changes one level"
        return
    hit = 0 if action[1] == BID else 1
    taken: dict[int, int] = {}
    for trade in trades:
        taken[trade.price] = taken.get(trade.price, 0) - trade.size
    assert changes[hit] == taken, "the prints equal what left the book"
    assert not changes[1 - hit]
    assert sum(trade.size for trade in trades) <= action[2]
    assert {trade.side for trade in trades} <= {1 - hit}
    for trade in trades:
        assert trade.ident not in fills or (fills[trade.ident].price, fills[trade.ident].size) == trade[5:7]
    assert set(fills) <= {trade.ident for trade in trades}


@given(
    seed=st.integers(0, 2**32),
    regime=st.sampled_from(list(REGIMES)),
    cuts_ms=st.lists(st.floats(0.001, 400.0), max_size=20),
    orders=st.lists(st.tuples(SIDES, DISTANCES, st.integers(1, 500)), max_size=4),
)
@settings(max_examples=examples(40), deadline=None)
def test_the_world_does_not_depend_on_how_its_time_is_split(
    seed: int, regime: str, cuts_ms: list[float], orders: list[tuple[int, int, int]]
) -> None:
    whole, pieces = (World(ExchangeConfig(seed=seed, regime=regime)) for _ in range(2))
    records: list[Record] = []
    again: list[Record] = []
    for side, distance, size in [*orders, (BID, 0, 1)]:
        for world in (whole, pieces):
            world.place(side, int(world._core.best[0 if side == BID else 1]) - side * distance, size)
        until_ns = whole.now_ns + 400 * NS_PER_MS
        records += whole.advance(until_ns)
        for cut_ns in sorted(until_ns - int(ms * NS_PER_MS) for ms in cuts_ms):
            again += pieces.advance(cut_ns)
        again += pieces.advance(until_ns)
    assert again == records
    assert bytes_of_world(pieces) == bytes_of_world(whole)
    assert not [r for r in records if r.kind == EXPIRED]
