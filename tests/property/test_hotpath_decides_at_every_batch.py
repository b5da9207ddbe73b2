import os
import threading

import numpy as np
import pytest
from event_streams import MID, START, random_stream, record, snapshot

from market import instruments
from market.bus.shm import ShmRing
from market.errors import InputError, ModelError
from market.events import BID, CLEAR, DEPTH, EVENT, F_LAST, F_SNAPSHOT, TRADE
from serving.hotpath import network
from serving.hotpath.loop import HotPath
from serving.quoting.policy import PolicyConfig
from serving.records import DECISION, R_BASE, R_NO_BOOK, R_SAFE, R_WARM_UP

INSTRUMENT = instruments.find("sim-usdm.BTCUSDT")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def models(write_seeded_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    made = [write_seeded_bundle(folder / str(seed), seed=seed, registry_version=seed) for seed in (1, 2, 3)]
    return [network.load(bundle) for bundle in made]


@pytest.fixture
def rings():
    name = f"test-hotpath-{os.getpid()}"
    with ShmRing.create(f"{name}-in", EVENT, 4096) as events, ShmRing.create(f"{name}-out", DECISION, 4096) as decided:
        yield events, decided


def make(models, **policy):
    return HotPath(models, PolicyConfig(**policy), INSTRUMENT)


def trades(first_s, count, every_ms=100):
    """Events that leave the book as it is and give a row each."""
    times = [START + int(first_s * SECOND) + i * every_ms * 1_000_000 for i in range(count)]
    return [record(TRADE, BID, MID, 1, flags=F_LAST, seq=500 + i, recv_ns=t) for i, t in enumerate(times)]


def calm(seconds=12, first_s=0):
    """A snapshot, then trades for long enough that windows are warm."""
    rows = snapshot(START + first_s * SECOND, 100, np.random.default_rng(0))
    return np.array(rows + trades(first_s + 0.1, seconds * 10), dtype=EVENT)


def same_but_for_time(a, b):
    return all(a[name].tobytes() == b[name].tobytes() for name in set(DECISION.names) - {"step_ns"})


def test_nothing_is_quoted_before_windows_are_warm_and_both_sides_are_after(models):
    decisions = make(models[:1]).run(calm())
    cold = decisions["reasons"] == R_WARM_UP
    assert cold[0]
    assert not cold[-1]
    assert (decisions["bid_size"][cold] == 0).all()
    assert np.isfinite(decisions["features"]).all()
    last = decisions[-1]
    assert last["reasons"] & R_BASE
    assert 0 < last["bid_price"] < last["ask_price"]
    assert last["step_ns"] > 0
    assert last["version"].tolist() == [1, 0]
    assert np.isnan(last["probs"][1]).all()


def test_before_the_first_usable_book_there_are_no_decisions(models):
    assert len(make(models[:1]).run(np.array(trades(0, 5), dtype=EVENT))) == 0
    assert len(make(models[:1]).run(np.empty(0, EVENT))) == 0


def test_a_book_that_becomes_unusable_withdraws_the_quote(models):
    hotpath = make(models[:1])
    hotpath.run(calm())
    crossing = record(DEPTH, BID, MID + 5, 3, flags=F_LAST, seq=900, recv_ns=START + 13 * SECOND)
    decision = hotpath.run(np.array([crossing], dtype=EVENT))[0]
    assert decision["reasons"] == R_NO_BOOK
    assert decision["bid_size"] == decision["ask_size"] == decision["mid2"] == 0


def test_a_refused_event_withdraws_the_quote_until_the_next_snapshot(models):
    hotpath = make(models[:1])
    hotpath.run(calm())
    wrong = record(99, flags=F_LAST, recv_ns=START + 13 * SECOND)
    assert hotpath.run(np.array([wrong], dtype=EVENT))["reasons"].tolist() == [R_NO_BOOK]
    assert hotpath.refused == 1
    assert len(hotpath.run(np.array(trades(14, 5), dtype=EVENT))) == 0
    decisions = hotpath.run(calm(first_s=20))
    assert decisions["reasons"][0] == R_WARM_UP
    assert decisions["reasons"][-1] & R_BASE


def test_a_network_starts_from_zero_where_windows_begin_anew(models):
    hotpath = make(models[:1])
    hotpath.run(random_stream(5, 400))
    hotpath.reset()
    again, fresh = hotpath.run(calm()), make(models[:1]).run(calm())
    warm = fresh["reasons"] != R_WARM_UP
    assert again["probs"][warm].tobytes() == fresh["probs"][warm].tobytes()


def test_the_acting_arm_is_the_one_that_was_set_and_both_are_stepped(models):
    hotpath = make(models[:2])
    first = hotpath.run(calm())[-1]
    hotpath.set_arm(1)
    second = hotpath.run(np.array(trades(13, 1), dtype=EVENT))[0]
    assert (first["arm"], second["arm"]) == (0, 1)
    assert np.isfinite(second["probs"]).all()
    assert second["version"].tolist() == [1, 2]
    with pytest.raises(InputError, match="arm"):
        hotpath.set_arm(2)


def test_inventory_and_slow_features_count_from_the_next_decision(models):
    hotpath = make(models[:1], max_inventory_lots=20)
    hotpath.run(calm())
    hotpath.set_inventory(20)
    hotpath.set_slow((1e9, float("nan")))
    decision = hotpath.run(np.array(trades(13, 1), dtype=EVENT))[0]
    assert decision["bid_size"] == 0
    assert decision["ask_size"] > 0
    assert decision["features"][-2:].tolist() == [100.0, 0.0]


def test_a_model_put_in_between_calls_starts_from_zero_and_leaves_the_rest_alone(models):
    swapped, kept = make(models[:2]), make(models[:2])
    events, later = calm(), np.array(trades(13, 20), dtype=EVENT)
    swapped.run(events)
    kept.run(events)
    swapped.replace_model(1, models[2])
    a, b = swapped.run(later), kept.run(later)
    assert a["features"].tobytes() == b["features"].tobytes()
    assert a["probs"][:, 0].tobytes() == b["probs"][:, 0].tobytes()
    assert a["version"].tolist() == [[1, 3]] * 20
    step, state = network.step_function(models[2]), np.zeros((1, 64), np.float32)
    for decision in a:
        probs, state = step(decision["features"][None], state)
        assert probs[0].tobytes() == decision["probs"][1].tobytes()


def test_a_line_up_takes_the_states_of_those_who_played_along(models):
    moved, kept = make(models[:2]), make(models[:2])
    events, later = calm(), np.array(trades(13, 20), dtype=EVENT)
    moved.run(events)
    kept.run(events)
    moved.set_arm(1)
    moved.line_up([models[1], models[0]])
    a, b = moved.run(later), kept.run(later)
    assert a["version"].tolist() == [[2, 1]] * 20
    assert a["probs"][:, 0].tobytes() == b["probs"][:, 1].tobytes()
    assert a["probs"][:, 1].tobytes() == b["probs"][:, 0].tobytes()
    assert (a["arm"] == 0).all(), "the first one acts"
    moved.line_up([models[1]])
    alone = moved.run(np.array(trades(16, 5), dtype=EVENT))
    assert alone["version"].tolist() == [[2, 0]] * 5
    assert np.isnan(alone["probs"][:, 1]).all()
    with pytest.raises(InputError, match="arm"):
        moved.set_arm(1)


def test_a_second_model_comes_in_from_zero_and_one_that_does_not_fit_changes_nothing(
    models, write_seeded_bundle, tmp_path
):
    hotpath = make(models[:1])
    hotpath.run(calm())
    other = network.load(write_seeded_bundle(tmp_path / "b", registry_version=9, instrument="binance-usdm.ETHUSDT"))
    with pytest.raises(ModelError, match="ETHUSDT"):
        hotpath.line_up([models[0], other])
    with pytest.raises(InputError, match="1 to 2 models"):
        hotpath.line_up([])
    assert hotpath.versions == (1,)
    hotpath.line_up([models[0], models[2]])
    decisions = hotpath.run(np.array(trades(13, 10), dtype=EVENT))
    step, state = network.step_function(models[2]), np.zeros((1, 64), np.float32)
    for decision in decisions:
        probs, state = step(decision["features"][None], state)
        assert probs[0].tobytes() == decision["probs"][1].tobytes()


def test_the_safe_state_counts_from_the_next_decision_and_is_recorded(models):
    hotpath = make(models[:1], safe_widen_ticks=50.0, safe_cut=0.5, widen_bp=0.0, cut=0.0)
    usual = hotpath.run(calm())[-1]
    hotpath.set_safe(True)
    safe = hotpath.run(np.array(trades(13, 1), dtype=EVENT))[0]
    hotpath.set_safe(False)
    again = hotpath.run(np.array(trades(14, 1), dtype=EVENT))[0]
    assert [bool(each["reasons"] & R_SAFE) for each in (usual, safe, again)] == [False, True, False]
    assert usual["bid_price"] - safe["bid_price"] == safe["ask_price"] - usual["ask_price"] == 50
    assert (usual["bid_size"], safe["bid_size"], safe["ask_size"], again["bid_size"]) == (10, 5, 5, 10)


def test_a_model_is_swapped_between_drains_of_a_ring(models, rings):
    ring_in, ring_out = rings
    reader, hotpath = ring_out.subscribe(), make(models[:1])
    ring_in.publish(calm())
    first = hotpath.drain(ring_in, ring_out)
    hotpath.replace_model(0, models[2])
    ring_in.publish(np.array(trades(13, 5), dtype=EVENT))
    assert hotpath.drain(ring_in, ring_out) == 5
    decisions = reader.poll(4096)
    assert decisions["version"][:, 0].tolist() == [1] * first + [3] * 5
    assert decisions["n"].tolist() == list(range(1, first + 6))
    assert (decisions["reasons"][first:] & R_BASE).all()


def test_rings_of_its_own_give_what_arrays_give(models):
    events = random_stream(8, 4000)
    with HotPath(models[:2], PolicyConfig(), INSTRUMENT, name=f"test-own-{os.getpid()}") as hotpath:
        through = hotpath.run(events)
        assert hotpath.lost == 0
    assert same_but_for_time(through, make(models[:2]).run(events))
    with pytest.raises(Exception, match="there is no ring"):
        ShmRing.attach(f"test-own-{os.getpid()}-events", EVENT)


def test_spinning_in_a_thread_decides_everything_before_it_ends(models, rings):
    ring_in, ring_out = rings
    events, hotpath, answers = random_stream(3, 900)[:3000], make(models[:1]), []
    reader = ring_out.subscribe()
    thread = threading.Thread(target=lambda: answers.append(hotpath.spin(ring_in, ring_out)))
    thread.start()
    for piece in np.array_split(events, 50):
        ring_in.publish(piece)
    ring_in.stop()
    thread.join(60)
    assert not thread.is_alive()
    seen = reader.poll(4096)
    assert answers == [len(seen)]
    assert same_but_for_time(seen, make(models[:1]).run(events))


def test_events_lost_in_the_ring_withdraw_the_quote_until_the_next_snapshot(models, rings):
    ring_in, ring_out = rings
    reader, hotpath = ring_out.subscribe(), make(models[:1])
    ring_in.publish(calm())
    before = hotpath.drain(ring_in, ring_out)
    ring_in.publish(np.array(trades(13, 5000, every_ms=1), dtype=EVENT))
    assert hotpath.drain(ring_in, ring_out) == 1
    assert hotpath.lost > 0
    assert reader.poll(4096)["reasons"][before:].tolist() == [R_NO_BOOK]
    ring_in.publish(calm(first_s=30))
    hotpath.drain(ring_in, ring_out)
    assert reader.poll(4096)["reasons"][-1] & R_BASE


def test_a_clear_alone_withdraws_the_quote(models):
    hotpath = make(models[:1])
    hotpath.run(calm())
    cleared = record(CLEAR, flags=F_SNAPSHOT | F_LAST, recv_ns=START + 13 * SECOND)
    assert hotpath.run(np.array([cleared], dtype=EVENT))["reasons"].tolist() == [R_NO_BOOK]


def test_models_that_do_not_fit_are_refused(models, write_seeded_bundle, tmp_path):
    with pytest.raises(InputError, match="1 to 2 models"):
        make([])
    other = network.load(write_seeded_bundle(tmp_path / "b", instrument="binance-usdm.ETHUSDT"))
    with pytest.raises(ModelError, match="ETHUSDT"):
        make([other])
    with pytest.raises(InputError, match="arm"):
        make(models[:1]).replace_model(1, models[1])
    wrong = np.dtype([("n", "<i8")])
    with ShmRing.create(f"test-wrong-{os.getpid()}", wrong, 8) as ring, pytest.raises(InputError, match="ring of"):
        make(models[:1]).drain(ring, ring)
