"""A bundle as it was written before there were families: kept as bytes, never written again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from market.clock import NS_PER_S
from market.errors import ManifestError
from serving.bundle import check_golden, load_bundle
from serving.hotpath import network
from serving.manifest import MANIFEST_FILE, Manifest

BUNDLE = Path(__file__).parent / "data" / "bundle_schema_1"
NOW_NS = 1_790_000_001 * NS_PER_S


def manifest() -> Manifest:
    return msgspec.json.decode((BUNDLE / MANIFEST_FILE).read_bytes(), type=Manifest)


def test_it_loads_and_its_golden_vectors_are_met_by_onnx_runtime_and_the_hot_path() -> None:
    bundle = load_bundle(BUNDLE, now_ns=NOW_NS, feature_set=manifest().feature_set)
    assert bundle.golden_gap <= 1e-5
    assert (bundle.manifest.network.kind, bundle.manifest.precisions()) == ("gru", "fp32")
    step = network.step_function(network.load(BUNDLE))
    assert check_golden(step, bundle.golden, 1e-5, "the hot path") <= 1e-5


def test_a_family_that_this_code_does_not_know_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for file in BUNDLE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = (BUNDLE / MANIFEST_FILE).read_text().replace('"kind": "gru"', '"kind": "lstm"')
    (tmp_path / MANIFEST_FILE).write_text(text)
    wanted = r"expected a network of a family that this code serves \(gru, mlp\), saw 'lstm'; serve it with"
    with pytest.raises(ManifestError, match=wanted):
        load_bundle(tmp_path, now_ns=NOW_NS, feature_set=manifest().feature_set)
    with pytest.raises(ManifestError, match=wanted):
        network.load(tmp_path)
