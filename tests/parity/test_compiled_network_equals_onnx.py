from dataclasses import replace

import msgspec
import numpy as np
import pytest

from market.clock import NS_PER_S
from market.errors import ManifestError, TamperedError
from market.features import catalog, meaning
from market.heads import DIRECTIONS, by_horizon
from market.labels import N_OUTPUTS
from serving.bundle import check_golden, load_bundle
from serving.hotpath import network
from serving.manifest import MANIFEST_FILE, MODEL_FILE, WEIGHTS_FILE, Manifest
from serving.runtimes.onnx import OnnxStep

NOW_NS = 1_790_000_001 * NS_PER_S
TOLERANCE = 1e-5


@pytest.mark.parametrize("hidden", [1, 8, 20, 64, 96])
def test_golden_vectors_are_met(write_seeded_bundle, tmp_path, hidden):
    folder = write_seeded_bundle(tmp_path / "b", seed=hidden, hidden=hidden)
    bundle = load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set())
    step = network.step_function(network.load(folder))
    assert check_golden(step, bundle.golden, TOLERANCE, "the compiled network") <= TOLERANCE


def test_thousands_of_large_inputs_stay_within_tolerance_of_onnx_runtime(write_seeded_bundle, tmp_path):
    folder = write_seeded_bundle(tmp_path / "b", seed=3)
    ours, theirs = network.step_function(network.load(folder)), OnnxStep((folder / MODEL_FILE).read_bytes())
    rng = np.random.default_rng(0)
    rows = (rng.standard_t(2, size=(5000, catalog.N_INPUTS)) * 4).astype(np.float32)
    mine = other = np.zeros((1, 64), np.float32)
    worst = 0.0
    for i in range(len(rows)):
        p, mine = ours(rows[i : i + 1], mine)
        q, other = theirs(rows[i : i + 1], other)
        worst = max(worst, float(np.abs(p - q).max()), float(np.abs(mine - other).max()))
    assert worst <= TOLERANCE


def test_normalisation_and_temperature_of_the_manifest_are_applied(write_seeded_bundle, tmp_path):
    from training.models.family import Widths
    from training.models.heads import Normalisation
    from training.models.registry import FAMILIES

    folder = write_seeded_bundle(tmp_path / "b", seed=5)
    rng = np.random.default_rng(1)
    mean, scale = rng.normal(size=(2, catalog.N_INPUTS)).astype(np.float32)
    temperature = tuple(rng.uniform(0.5, 2.5, 12).tolist())
    widths = Widths(inputs=catalog.N_INPUTS, hidden=64, outputs=N_OUTPUTS)
    plain = FAMILIES["gru"].seeded(widths, seed=5)
    changed = replace(plain, normalisation=Normalisation(mean=mean, scale=scale, clip=3.0), temperature=temperature)
    manifest = msgspec.structs.replace(
        msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest),
        norm_mean=tuple(mean.tolist()),
        norm_scale=tuple(scale.tolist()),
        norm_clip=3.0,
        temperature=temperature,
    )
    ours = network.step_function(network.lay_out(plain.tensors, manifest))
    theirs = OnnxStep(FAMILIES["gru"].step_model(changed).SerializeToString())
    state = np.zeros((1, 64), np.float32)
    for row in rng.normal(size=(200, 1, catalog.N_INPUTS)).astype(np.float32) * 3:
        p, after = ours(row, state)
        q, state = theirs(row, state)
        assert np.abs(p - q).max() <= TOLERANCE
        assert np.abs(after - state).max() <= TOLERANCE


def test_probabilities_are_probabilities(write_seeded_bundle, tmp_path):
    step = network.step_function(network.load(write_seeded_bundle(tmp_path / "b")))
    row = np.full((1, catalog.N_INPUTS), 1e6, np.float32)
    probs, state = step(row, np.zeros((1, 64), np.float32))
    groups = by_horizon(probs)[0]
    assert np.allclose(groups[:, :DIRECTIONS].sum(axis=1), 1, atol=1e-6)
    assert ((probs >= 0) & (probs <= 1)).all()
    assert (np.abs(state) <= 1).all()


def test_changed_weights_are_refused(write_seeded_bundle, tmp_path):
    folder = write_seeded_bundle(tmp_path / "b")
    contents = bytearray((folder / WEIGHTS_FILE).read_bytes())
    contents[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(contents)
    with pytest.raises(TamperedError, match="fetch the version again"):
        network.load(folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="cannot read the bundle"):
        network.load(tmp_path)
