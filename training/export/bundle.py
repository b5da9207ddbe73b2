"""From a network to a bundle: ONNX step model, safetensors weights, golden vectors, manifest.

A bundle is written next to its final path and renamed into place, so a reader finds it whole or not at all. It is
checked before that: ONNX Runtime must reproduce torch on the golden vectors.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from market.errors import GoldenError
from market.files import replacing_folder
from serving.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
    Heads,
    Manifest,
)
from serving.manifest import Network as Signature
from serving.runtimes.onnx import OnnxStep
from training.models.family import stream
from training.models.heads import Floats, Network
from training.models.registry import family_of
from training.registry.registry import encode_manifest, sha256_of

GOLDEN_STEPS = 256
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Card:
    """The manifest's facts on a model beyond its numbers. Times are nanoseconds since the epoch."""

    model_name: str
    run_id: str
    instrument: str
    feature_set: str
    dataset_id: str
    dataset_revision: str
    author: str
    created_ns: int
    expires_ns: int
    inputs: tuple[str, ...]
    heads: Heads
    registry_version: int = 0


def write_bundle(network: Network, card: Card, golden_TF: Floats, dest: Path) -> Manifest:
    """Write the fp32 bundle of ``network`` at ``dest``, replacing one that is there.

    ``golden_TF``: consecutive raw feature rows, :data:`GOLDEN_STEPS` of them when there are as many; they are run from
    the zero state.

    Raises:
        GoldenError: ONNX Runtime and torch disagree by more than :data:`TOLERANCE`.
    """
    with replacing_folder(dest) as draft:
        return _fill(draft, network, card, golden_TF[:GOLDEN_STEPS])


def replace_model(bundle: Path, manifest: Manifest, model: bytes, *, step_us: float) -> Manifest:
    """Put an INT8 step model in place of the fp32 one. It may stray from the golden vectors, its hidden state included,
    twice as far as it does here: another processor adds up in another order."""
    from safetensors.numpy import load_file

    golden = load_file(bundle / GOLDEN_FILE)
    strays = _strays(OnnxStep(model), golden["features"], golden["probs"], golden["state"])
    with replacing_folder(bundle) as draft:
        shutil.copytree(bundle, draft, dirs_exist_ok=True)
        (draft / MODEL_FILE).write_bytes(model)
        changed = msgspec.structs.replace(
            manifest,
            precision="int8",
            tolerance=max(2 * strays, TOLERANCE),
            expected_step_us=step_us,
            files={**manifest.files, MODEL_FILE: sha256_of(draft / MODEL_FILE)},
        )
        (draft / MANIFEST_FILE).write_bytes(encode_manifest(changed))
    return changed


def _fill(folder: Path, network: Network, card: Card, golden_TF: Floats) -> Manifest:
    from safetensors.numpy import save_file

    golden_TF = np.ascontiguousarray(golden_TF, np.float32)
    family = family_of(network)
    _, probs_TP, state_TH = stream(family.thaw(network), network.temperature, golden_TF)
    (folder / MODEL_FILE).write_bytes(family.step_model(network).SerializeToString())
    save_file(network.tensors, folder / WEIGHTS_FILE)
    save_file({"features": golden_TF, "probs": probs_TP, "state": state_TH}, folder / GOLDEN_FILE)
    step = OnnxStep((folder / MODEL_FILE).read_bytes())
    _compare(step, golden_TF, probs_TP, state_TH)
    manifest = _manifest(
        network, card, {n: sha256_of(folder / n) for n in (MODEL_FILE, WEIGHTS_FILE, GOLDEN_FILE)}, step
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest


def _compare(step: OnnxStep, features_TF: Floats, probs_TP: Floats, state_TH: Floats) -> None:
    worst = _strays(step, features_TF, probs_TP, state_TH)
    if not worst <= TOLERANCE:
        raise GoldenError(
            f"ONNX Runtime strays {worst:.2e} from torch on the golden vectors; at most {TOLERANCE:.0e} is allowed"
        )


def _strays(step: OnnxStep, features_TF: Floats, probs_TP: Floats, state_TH: Floats) -> float:
    """Largest difference of a probability or of the hidden state over consecutive rows from the zero state."""
    seen_probs, seen_state = step.sequence(features_TF)
    return max(float(np.abs(seen_probs - probs_TP).max()), float(np.abs(seen_state - state_TH).max()))


def _manifest(network: Network, card: Card, files: dict[str, str], step: OnnxStep) -> Manifest:
    norm = network.normalisation
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model_name=card.model_name,
        registry_version=card.registry_version,
        run_id=card.run_id,
        instrument=card.instrument,
        feature_set=card.feature_set,
        dataset_id=card.dataset_id,
        dataset_revision=card.dataset_revision,
        author=card.author,
        created_ns=card.created_ns,
        expires_ns=card.expires_ns,
        network=Signature(
            kind=network.family,
            inputs=card.inputs,
            hidden=network.hidden,
            state=family_of(network).signature.state(network.hidden),
            outputs=network.outputs,
        ),
        heads=card.heads,
        norm_mean=tuple(float(v) for v in norm.mean),
        norm_scale=tuple(float(v) for v in norm.scale),
        norm_clip=norm.clip,
        temperature=network.temperature,
        precision="fp32",
        files=files,
        expected_step_us=step.measure_us(),
        tolerance=TOLERANCE,
    )
