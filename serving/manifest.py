"""The model manifest: what serving must know about a model before it trusts it.

Owned by serving, written by training. A *bundle* is a folder with ``model.onnx``, ``weights.safetensors``,
``golden.safetensors`` and ``manifest.json``; the manifest carries the sha256 of the other three, and the registry
carries the sha256 of the manifest. Formats are ONNX, safetensors and JSON only: nothing here can execute code.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from market.errors import ModelError
from market.labels import LabelConfig

SCHEMA_VERSION = 1
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_FILE = "golden.safetensors"
MANIFEST_FILE = "manifest.json"


class Heads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the output probabilities predict; :mod:`market.heads` gives the position of each.

    A move is a change of the mid beyond ``move_threshold_ticks``; a fall is a drop of the depth by ``depth_fall`` or
    more.
    """

    horizons_ns: tuple[int, ...]
    move_threshold_ticks: float
    depth_fall: float
    depth_levels: int

    def labels(self) -> LabelConfig:
        """The label settings; outcomes are labelled with these and no others."""
        return LabelConfig(
            horizons_ns=self.horizons_ns,
            threshold_half_ticks=round(2 * self.move_threshold_ticks),
            depth_fall_percent=round(100 * self.depth_fall),
        )

    def words(self) -> str:
        """The label settings as a phrase."""
        horizons = ", ".join(f"{ns / 1e6:g}" for ns in self.horizons_ns)
        return (
            f"a move beyond {self.move_threshold_ticks:g} ticks and a fall of {self.depth_fall:.0%} in "
            f"{self.depth_levels} levels, within {horizons} ms"
        )


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shape of the streaming network. ``kind`` names its family, a row of :mod:`serving.families`; ``inputs`` are
    feature names in order; ``hidden`` is the width of its layers, ``state`` the carried state's."""

    kind: str
    inputs: tuple[str, ...]
    hidden: int
    state: int
    outputs: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module. Times are nanoseconds since the epoch; ``registry_version`` is 0 before registration.

    ``precision`` is that of ``model.onnx``, which ONNX Runtime and Triton run; ``tolerance`` and ``expected_step_us``
    are of that file as well. ``hotpath_precision`` is that of ``weights.safetensors``, which the hot path runs.
    """

    schema_version: int
    model_name: str
    registry_version: int
    run_id: str
    instrument: str
    feature_set: str
    dataset_id: str
    dataset_revision: str
    author: str
    created_ns: int
    expires_ns: int
    network: Network
    heads: Heads
    norm_mean: tuple[float, ...]
    norm_scale: tuple[float, ...]
    norm_clip: float
    temperature: tuple[float, ...]
    precision: Literal["fp32", "int8"]
    hotpath_precision: Literal["fp32"] = "fp32"
    files: dict[str, str]
    expected_step_us: float
    tolerance: float

    def precisions(self) -> str:
        """The precision that each runtime computes in, as text."""
        if self.precision == self.hotpath_precision:
            return self.precision
        return f"{self.precision} in ONNX Runtime and Triton, {self.hotpath_precision} in the hot path"


def require_comparable(one: Manifest, other: Manifest) -> None:
    """Require one ground truth for both models, without which they cannot be compared.

    Raises:
        ModelError: their label settings differ.
    """
    if one.heads != other.heads:
        raise ModelError(
            f"versions {one.registry_version} and {other.registry_version} of {one.model_name} cannot be compared: "
            f"expected one label setting, saw {one.heads.words()} and {other.heads.words()}. Train both on datasets "
            "with the same threshold_half_ticks and depth_fall_percent"
        )
