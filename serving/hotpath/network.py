"""A bundle's network as the hot path steps it: loaded, checked and packed for compiled code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from market.errors import ManifestError, TamperedError
from serving.hotpath.families import registry
from serving.hotpath.families.arithmetic import Floats, Packed, fresh_memory
from serving.manifest import MANIFEST_FILE, WEIGHTS_FILE, Manifest
from serving.runtimes.protocol import Step


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A loaded network: whose it is, ``version`` in the registry, true widths, packed weights."""

    instrument: str
    version: int
    inputs: int
    state: int
    outputs: int
    packed: Packed

    def memory(self) -> Floats:
        """What it carries from step to step before it has seen anything: all zeros, the state first."""
        return fresh_memory(self.packed.memory)


def load(folder: Path) -> Model:
    """The network of a bundle; the bytes that are read are held against the manifest's sha256.

    What else must be true of a bundle, :func:`serving.bundle.load_bundle` checks.

    Raises:
        ManifestError: the manifest or the weights cannot be read, or are of a family that is not served.
        TamperedError: the weights are not the ones that were written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as read

    try:
        manifest = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
        contents = (folder / WEIGHTS_FILE).read_bytes()
        if hashlib.sha256(contents).hexdigest() != manifest.files.get(WEIGHTS_FILE):
            raise TamperedError(f"{folder / WEIGHTS_FILE} is not what the manifest lists; fetch the version again")
        return lay_out(read(contents), manifest)
    except (OSError, msgspec.DecodeError, SafetensorError, KeyError) as error:
        raise ManifestError(f"cannot read the bundle in {folder}: {error}; fetch the version again") from None


def lay_out(tensors: Mapping[str, Floats], manifest: Manifest) -> Model:
    """Weights by their exported names (see :mod:`serving.families`) in the order of the inner loops.

    Raises:
        ManifestError: the manifest names a family that this code does not serve.
    """
    network = manifest.network
    return Model(
        instrument=manifest.instrument,
        version=manifest.registry_version,
        inputs=len(network.inputs),
        state=network.state,
        outputs=network.outputs,
        packed=registry.lay_out(tensors, manifest),
    )


def step_function(model: Model) -> Step:
    """``model`` as checks call it: features (1, F) and state (1, S) to probabilities (1, P) and state (1, S)."""
    memory, packed = model.memory(), model.packed

    def call(features: Floats, state: Floats) -> tuple[Floats, Floats]:
        probs = np.empty(model.outputs, np.float32)
        memory[: model.state] = state[0]
        row = np.ascontiguousarray(features[0], np.float32)
        registry.step(packed.layout, packed.weights, memory, row, probs)
        return probs[None], memory[None, : model.state].copy()

    return call
