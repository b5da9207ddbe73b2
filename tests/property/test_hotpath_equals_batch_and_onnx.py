import numpy as np
import pytest
from event_streams import random_stream, stream, streams
from hypothesis import given, settings
from kit.budget import examples

from market import instruments
from market.features import kernels
from market.features.catalog import N_TICK
from serving.hotpath import network
from serving.hotpath.loop import HotPath
from serving.manifest import MODEL_FILE
from serving.quoting.policy import PolicyConfig
from serving.records import R_NO_BOOK, R_WARM_UP
from serving.runtimes.onnx import OnnxStep

INSTRUMENT = instruments.find("sim-usdm.BTCUSDT")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def bundles(write_seeded_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [write_seeded_bundle(folder / str(seed), seed=seed, registry_version=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def models(bundles):
    return [network.load(folder) for folder in bundles]


def long_segments(frames):
    """Two stretches of ``frames`` with no restart inside and no level beyond the mid: random_stream restarts and
    crosses too often for windows to fill."""

    def draw(rng):
        lowest = {40: 4, 14: 1}  # what comes next: an ordinary frame; how far a level lies from the mid
        return lambda low, high: int(rng.integers(lowest.get(high, low), high + 1))

    parts = [stream(draw(np.random.default_rng(seed)), frames, seed) for seed in (1, 2)]
    parts[1]["recv_ns"] += 3_600_000_000_000
    return np.concatenate(parts)


def one_by_one(bundle, features, segment):
    """Probabilities of ONNX Runtime, row after row, from zero where a segment begins."""
    step = OnnxStep((bundle / MODEL_FILE).read_bytes())
    out, of, state = [], None, None
    for i in range(len(features)):
        if segment[i] != of:
            state, of = np.zeros((1, 64), np.float32), segment[i]
        probs, state = step(features[i : i + 1], state)
        out.append(probs[0])
    return np.stack(out)


def test_both_arms_say_what_onnx_runtime_says_on_the_same_features(bundles, models):
    events = long_segments(1500)
    hotpath = HotPath(models, PolicyConfig(), INSTRUMENT)
    hotpath.set_slow((1.5, -3.0))
    decisions = hotpath.run(events)
    rows = kernels.compute(events)
    usable = decisions[decisions["mid2"] > 0]
    warm = usable[rows.warm]
    assert len(warm) > 1000
    assert len(np.unique(rows.segment[rows.warm])) == 2
    for arm, bundle in enumerate(bundles):
        again = one_by_one(bundle, warm["features"], rows.segment[rows.warm])
        assert np.abs(warm["probs"][:, arm] - again).max() <= TOLERANCE
    assert (warm["features"][:, N_TICK:] == np.array([1.5, -3.0], np.float32)).all()


@settings(max_examples=examples(60), deadline=None)
@given(events=streams())
def test_features_of_decisions_are_those_of_the_batch_to_the_bit(models, events):
    decisions = HotPath(models[:1], PolicyConfig(), INSTRUMENT).run(events)
    rows = kernels.compute(events)
    usable = decisions[decisions["mid2"] > 0]
    assert usable["features"][:, :N_TICK].tobytes() == rows.features.tobytes()
    assert (usable["mid2"] == rows.mid2).all()
    for name in ("frame", "seq", "recv_ns", "exch_ns"):
        assert (usable[name] == events[name][rows.event]).all()
    assert ((usable["reasons"] == R_WARM_UP) == ~rows.warm).all()
    assert np.isnan(usable["probs"][:, 0]).all(axis=1).tolist() == (~rows.warm).tolist()
    assert (decisions["reasons"][decisions["mid2"] == 0] == R_NO_BOOK).all()
    assert decisions["n"].tolist() == list(range(1, len(decisions) + 1))


def test_cutting_a_stream_into_calls_changes_nothing(models):
    events = np.concatenate([long_segments(300), random_stream(4, 500)])
    whole = HotPath(models, PolicyConfig(), INSTRUMENT).run(events)
    hotpath = HotPath(models, PolicyConfig(), INSTRUMENT)
    pieces = np.concatenate([hotpath.run(piece) for piece in np.array_split(events, 37)])
    for name in set(whole.dtype.names) - {"step_ns"}:
        assert whole[name].tobytes() == pieces[name].tobytes()
