"""The INT8 candidate: kept only where it costs no accuracy and saves time, and provable afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from market.features import catalog, meaning
from market.labels import HORIZONS_NS
from serving.bundle import load_bundle
from serving.manifest import MODEL_FILE
from training.export.bundle import replace_model
from training.export.int8 import AccuracyGate, Candidate, int8_candidate

NOW_NS = 1_800_000_000_000_000_000
ALL = AccuracyGate(max_loss=9.0, max_gap=1.0, max_state_gap=2.0, least_saving=-99.0)


def candidate(bundle: Path, gate: AccuracyGate) -> Candidate:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(400, catalog.N_INPUTS)).astype(np.float32)
    labels = rng.integers(0, 2, size=(400, len(HORIZONS_NS), 3)).astype(np.int8)
    return int8_candidate((bundle / MODEL_FILE).read_bytes(), rows, labels, gate)


@pytest.mark.parametrize("hidden", [8, 64])
def test_a_bundle_whose_model_was_replaced_passes_its_checks(
    write_seeded_bundle: Callable[..., Path], tmp_path: Path, hidden: int
) -> None:
    folder = write_seeded_bundle(tmp_path / "bundle", hidden=hidden)
    before = load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set()).manifest
    found = candidate(folder, ALL)
    assert found.kept
    after = replace_model(folder, before, found.model, step_us=found.step_us)
    bundle = load_bundle(folder, now_ns=NOW_NS, feature_set=meaning.feature_set())
    assert (bundle.manifest, after.precision) == (after, "int8")
    assert 0 < bundle.golden_gap <= after.tolerance
    assert after.files[MODEL_FILE] != before.files[MODEL_FILE]


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (AccuracyGate(max_loss=-9.0), "log-loss rises"),
        (AccuracyGate(max_loss=9.0, max_gap=0.0), "a probability moves"),
        (AccuracyGate(max_loss=9.0, max_gap=1.0, max_state_gap=0.0), "the hidden state moves"),
        (AccuracyGate(max_loss=9.0, max_gap=1.0, max_state_gap=2.0, least_saving=1.0), "a step takes"),
    ],
)
def test_a_candidate_that_costs_accuracy_or_saves_nothing_is_not_kept(
    write_seeded_bundle: Callable[..., Path], tmp_path: Path, gate: AccuracyGate, why: str
) -> None:
    found = candidate(write_seeded_bundle(tmp_path / "bundle", hidden=8), gate)
    assert (found.kept, found.model) == (False, b"")
    assert found.why.startswith(f"not kept: {why}")
