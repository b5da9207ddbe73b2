"""Load a bundle; nothing in it is trusted before it is checked.

The checks, in order: exactly the expected files, their sha256, a manifest without unknown fields, not expired, the
feature set of this code, a matching family and signature, and finally the golden vectors, replayed through ONNX
Runtime. The bytes that are hashed are the bytes that are loaded, so a file cannot change in between.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from market.books.levels import NEAR_LEVELS
from market.clock import NS_PER_S
from market.errors import FeatureSetError, GoldenError, ManifestError, TamperedError
from market.features import catalog
from market.labels import HORIZONS_NS, N_OUTPUTS
from serving import families
from serving.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, SCHEMA_VERSION, WEIGHTS_FILE, Manifest
from serving.runtimes.onnx import OnnxStep
from serving.runtimes.protocol import Floats, Step

FILES = frozenset({MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE})
_AGAIN = "fetch the version again (keel deploy), or export the run again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Consecutive rows from the zero state and the expected model outputs: (T, F), (T, P), (T, S), float32."""

    features: Floats
    probs: Floats
    state: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A bundle that passed every check. ``manifest_sha256`` is what the registry keeps; ``golden_gap`` is how far ONNX
    Runtime deviates from the golden vectors."""

    path: Path
    manifest: Manifest
    manifest_sha256: str
    golden: Golden
    golden_gap: float


def load_bundle(folder: Path, *, now_ns: int, feature_set: str, manifest_sha256: str | None = None) -> Bundle:
    """The verified bundle in ``folder``.

    ``manifest_sha256``: the manifest's sha256 in the registry, if there is one.

    Raises:
        ManifestError: the manifest is missing, unreadable, malformed, incompatible with this code, or expired.
        TamperedError: a file is missing, differs from the one that was written, or does not belong in a bundle.
        FeatureSetError: the model was trained on features that this code does not compute.
        GoldenError: ONNX Runtime does not reproduce the golden vectors within the manifest's tolerance.
    """
    manifest, digest = _read_manifest(folder, manifest_sha256)
    contents = _read_files(folder, manifest)
    _check_age(manifest, now_ns, folder)
    _check_features(manifest, feature_set)
    _check_signature(manifest, folder)
    golden = _read_golden(contents[GOLDEN_FILE], manifest, folder)
    _check_weights(contents[WEIGHTS_FILE], manifest, folder)
    gap = check_golden(OnnxStep(contents[MODEL_FILE]), golden, manifest.tolerance, f"ONNX Runtime with {folder}")
    return Bundle(path=folder, manifest=manifest, manifest_sha256=digest, golden=golden, golden_gap=gap)


def golden_gap(step: Step, golden: Golden) -> float:
    """Largest absolute difference of probabilities or state over the golden rows; infinite at a non-finite number."""
    state = np.zeros((1, golden.state.shape[1]), np.float32)
    worst = 0.0
    for t in range(len(golden.features)):
        probs, state = step(golden.features[t : t + 1], state)
        gap = max(_gap(probs, golden.probs[t]), _gap(state, golden.state[t]))
        worst = max(worst, gap)
    return worst


def check_golden(step: Step, golden: Golden, tolerance: float, who: str) -> float:
    """:func:`golden_gap`; raises when it exceeds ``tolerance``.

    Raises:
        GoldenError: ``who`` does not reproduce the vectors.
    """
    gap = golden_gap(step, golden)
    if not gap <= tolerance:
        raise GoldenError(
            f"{who} strays {gap:.2e} from the golden vectors over {len(golden.features)} rows; "
            f"at most {tolerance:.0e} is allowed. The model must not be served; export the run again"
        )
    return gap


def _gap(seen: Floats, wanted: Floats) -> float:
    if seen.size != wanted.size:
        return math.inf
    gap = float(np.abs(seen.reshape(-1) - wanted).max(initial=0.0))
    return gap if math.isfinite(gap) else math.inf


def _read_manifest(folder: Path, expected: str | None) -> tuple[Manifest, str]:
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from None
    digest = hashlib.sha256(text).hexdigest()
    if expected is not None and digest != expected:
        raise TamperedError(f"{path} has sha256 {digest[:16]}…, the registry says {expected[:16]}…; {_AGAIN}")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise ManifestError(f"{path} is not a manifest: {error}; {_AGAIN}") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema version {manifest.schema_version}, this code reads {SCHEMA_VERSION}; "
            f"export the run again"
        )
    return manifest, digest


def _read_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Contents of the bundle's files by name, each checked against its sha256 in the manifest."""
    if set(manifest.files) != FILES:
        raise ManifestError(
            f"{folder / MANIFEST_FILE} lists {sorted(manifest.files)}, expected {sorted(FILES)}; export the run again"
        )
    odd = sorted(entry.name for entry in folder.iterdir() if entry.name not in FILES | {MANIFEST_FILE})
    if odd:
        raise TamperedError(
            f"{folder} holds {', '.join(odd)}, which no bundle has: only ONNX, safetensors and JSON are ever loaded, "
            f"never a pickle. Remove the folder and {_AGAIN}"
        )
    return {name: _read_file(folder / name, digest) for name, digest in manifest.files.items()}


def _read_file(path: Path, expected: str) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise TamperedError(f"{path} is missing or not a plain file; {_AGAIN}")
    contents = path.read_bytes()
    seen = hashlib.sha256(contents).hexdigest()
    if seen != expected:
        raise TamperedError(f"{path} has sha256 {seen[:16]}…, the manifest says {expected[:16]}…; {_AGAIN}")
    return contents


def _check_age(manifest: Manifest, now_ns: int, folder: Path) -> None:
    if now_ns >= manifest.expires_ns:
        raise ManifestError(
            f"the model in {folder} expired on {_date(manifest.expires_ns)} (it is {_date(now_ns)}); "
            f"train a newer one (keel retrain)"
        )


def _date(ns: int) -> str:
    return datetime.fromtimestamp(ns / NS_PER_S, tz=UTC).isoformat(timespec="seconds")


def _check_features(manifest: Manifest, feature_set: str) -> None:
    if manifest.feature_set != feature_set:
        raise FeatureSetError(
            f"run {manifest.run_id} was trained on feature set {manifest.feature_set}, this code computes "
            f"{feature_set}; retrain on a dataset of this code (keel featurize, keel retrain), "
            f"or serve with the code of that model"
        )
    if manifest.network.inputs != catalog.names():
        raise FeatureSetError(
            f"run {manifest.run_id} lists other inputs than the catalog of feature set {feature_set}; export it again"
        )


def _check_signature(manifest: Manifest, folder: Path) -> None:
    network, heads = manifest.network, manifest.heads
    state = families.find(network.kind).state(network.hidden)
    numbers = (*manifest.norm_mean, *manifest.norm_scale, *manifest.temperature, manifest.norm_clip)
    wrong = {
        f"{network.outputs} outputs, expected {N_OUTPUTS}": network.outputs != N_OUTPUTS,
        f"horizons {heads.horizons_ns}, expected {HORIZONS_NS}": heads.horizons_ns != HORIZONS_NS,
        f"depth of {heads.depth_levels} levels, expected {NEAR_LEVELS}": heads.depth_levels != NEAR_LEVELS,
        f"a state of {network.state}, expected {state} of this family and width": network.state != state,
        "a hidden width below 1": network.hidden < 1,
        "a normalisation of another length than its inputs": not (
            len(manifest.norm_mean) == len(manifest.norm_scale) == len(network.inputs)
        ),
        "another count of temperatures than three a horizon": len(manifest.temperature) != 3 * len(HORIZONS_NS),
        "a non-finite number": not all(math.isfinite(number) for number in numbers),
        "a temperature or clip that is not positive": not (min((*manifest.temperature, manifest.norm_clip)) > 0),
        "a tolerance outside 0 and 0.25": not (0 < manifest.tolerance <= 0.25),
    }
    faults = [sentence for sentence, is_wrong in wrong.items() if is_wrong]
    if faults:
        raise ManifestError(f"{folder / MANIFEST_FILE} has {'; '.join(faults)}; export the run again")


def _tensors(contents: bytes, path: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[Any]] = load(contents)
    except (SafetensorError, KeyError) as error:
        raise ManifestError(f"{path} is not a safetensors file this code reads: {error}; {_AGAIN}") from None
    return tensors


def _check_shapes(path: Path, tensors: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    seen = {name: (array.shape, array.dtype) for name, array in tensors.items()}
    expected = {name: (shape, np.dtype(np.float32)) for name, shape in wanted.items()}
    if seen != expected:
        raise ManifestError(f"{path} holds {seen}, expected float32 {dict(wanted)}; export the run again")


def _read_golden(contents: bytes, manifest: Manifest, folder: Path) -> Golden:
    path = folder / GOLDEN_FILE
    tensors = _tensors(contents, path)
    rows = len(tensors["features"]) if "features" in tensors else 0
    network = manifest.network
    widths = {"features": len(network.inputs), "probs": network.outputs, "state": network.state}
    _check_shapes(path, tensors, {name: (rows, width) for name, width in widths.items()})
    if rows == 0:
        raise ManifestError(f"{path} holds no rows, so nothing proves this model; export the run again")
    return Golden(features=tensors["features"], probs=tensors["probs"], state=tensors["state"])


def _check_weights(contents: bytes, manifest: Manifest, folder: Path) -> None:
    network, path = manifest.network, folder / WEIGHTS_FILE
    wanted = families.find(network.kind).shapes(len(network.inputs), network.hidden, network.outputs)
    _check_shapes(path, _tensors(contents, path), wanted)
