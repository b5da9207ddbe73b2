"""Triton's model repository, written from verified bundles: one folder per registry version, renamed into place whole.

::

    <root>/<model>/config.pbtxt            which versions are served (never "latest"), shapes, where it runs
    <root>/<model>/<registry version>/     model.py or model.plan, model.onnx, manifest.json, golden.safetensors
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from market.errors import ManifestError, ModelError
from market.files import replacing, replacing_folder
from serving.bundle import Bundle
from serving.manifest import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Manifest
from serving.triton.plan import build_plan

# Triton's backend that runs a model: ONNX Runtime inside the Python backend (a machine without a GPU); a GPU
# container's ONNX Runtime backend with TensorRT underneath; a TensorRT plan that was built on that GPU.
Platform = Literal["python", "onnxruntime", "tensorrt"]
DEFAULT_PLATFORM: Platform = "python"

MAX_BATCH = 256
CONFIG_FILE = "config.pbtxt"
BACKEND_FILE = "model.py"
PLAN_FILE = "model.plan"
_FREE = -1  # a width in which the served versions differ


class ModelRepository:
    """Writes and reads one repository folder. Triton reads it only when a model is loaded. ``platform`` None: each
    model stays on the one it is published for."""

    def __init__(self, root: Path, platform: Platform | None = None) -> None:
        self.root = root
        self.platform = platform

    def platform_of(self, model: str) -> Platform:
        """Where the next load of ``model`` runs: as was asked for, else as it is published, else on this machine's CPU.

        Raises:
            ModelError: the configuration is damaged, or names a backend that is none of ours.
        """
        return self.platform or self.published_platform(model) or DEFAULT_PLATFORM

    def published_platform(self, model: str) -> Platform | None:
        """Where ``model`` is published for; None when it is not published. Raises as :meth:`platform_of`."""
        config = self._published(model)
        if config is None:
            return None
        if config.backend not in _PLATFORM_FIELDS:
            raise ModelError(
                f"{self.root / model / CONFIG_FILE} names backend {config.backend!r}, expected one of "
                f"{', '.join(_PLATFORM_FIELDS)}; remove it and deploy again"
            )
        platform: Platform = config.backend
        return platform

    def put(self, bundle: Bundle) -> Path:
        """Write the version folder of a bundle, replacing one that is there; :meth:`publish` makes it served.

        Raises:
            ModelError: the bundle was never registered, so it has no version.
            SettingsError, ServiceError: a TensorRT plan is wanted and cannot be built, see :func:`build_plan`.
        """
        manifest = bundle.manifest
        if manifest.registry_version < 1:
            raise ModelError(f"{bundle.path} has no registry version; register the run first (keel register)")
        place = self._version(manifest.model_name, manifest.registry_version)
        beside = self.root.parent / ".drafts" / f"{place.parent.name}.{place.name}"
        with replacing_folder(place, beside=beside) as draft:
            for name in (MODEL_FILE, MANIFEST_FILE, GOLDEN_FILE):
                shutil.copyfile(bundle.path / name, draft / name)
            _prepare(draft, manifest, self.platform_of(manifest.model_name))
        return place

    def publish(self, model: str, versions: Iterable[int]) -> None:
        """Set the versions that the next load of ``model`` serves: exactly these.

        Raises:
            ModelError: a version was not put here, or the versions cannot be served side by side.
        """
        manifests = {version: self.manifest(model, version) for version in sorted(set(versions))}
        platform = self.platform_of(model)
        for version, manifest in manifests.items():
            _prepare(self._version(model, version), manifest, platform)
        text = config_text(model, manifests, platform)
        with replacing(self.root / model / CONFIG_FILE) as draft:
            draft.write_text(text)

    def remove(self, model: str, version: int) -> None:
        """Delete a version's folder; nothing happens when it is not there."""
        shutil.rmtree(self._version(model, version), ignore_errors=True)

    def remove_model(self, model: str) -> None:
        """Delete a model with all its versions."""
        shutil.rmtree(self.root / model, ignore_errors=True)

    def published(self) -> tuple[str, ...]:
        """Models with a configuration."""
        return tuple(sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG_FILE}")))

    def published_versions(self, model: str) -> tuple[int, ...]:
        """Versions that the next load of a model serves; none when it is not published.

        Raises:
            ModelError: the configuration is damaged.
        """
        config = self._published(model)
        return () if config is None else tuple(sorted(config.version_policy.specific.versions))

    def _published(self, model: str) -> Any:
        """A model's configuration as Triton's protobuf; None when it is not published."""
        from google.protobuf import text_format  # type: ignore[import-untyped]
        from tritonclient.grpc import model_config_pb2

        path = self.root / model / CONFIG_FILE
        try:
            return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        except FileNotFoundError:
            return None
        except text_format.ParseError as error:
            raise ModelError(f"{path} is damaged ({error}); remove it and deploy again") from None

    def versions(self, model: str) -> tuple[int, ...]:
        """Versions that lie here, ascending; served are those that were published."""
        folder = self.root / model
        if not folder.is_dir():
            return ()
        return tuple(sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()))

    def manifest(self, model: str, version: int) -> Manifest:
        """Manifest of a version in the repository.

        Raises:
            ModelError: the version is not here or is damaged.
        """
        path = self._version(model, version) / MANIFEST_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            raise ModelError(f"{model} version {version} is not in Triton's repository; deploy it first") from None
        except msgspec.DecodeError as error:
            raise ManifestError(f"{path} is not a manifest: {error}; deploy the version again") from None

    def _version(self, model: str, version: int) -> Path:
        return self.root / model / str(version)


def _prepare(folder: Path, manifest: Manifest, platform: Platform) -> None:
    """Add the files that a version's folder needs, besides its ONNX step, to run on a platform; existing ones stay."""
    wanted = {"python": folder / BACKEND_FILE, "tensorrt": folder / PLAN_FILE}.get(platform)
    if wanted is None or wanted.is_file():
        return
    with replacing(wanted) as draft:
        if platform == "python":
            shutil.copyfile(backend_model_source(), draft)
        else:
            build_plan(folder / MODEL_FILE, manifest, draft, most_rows=MAX_BATCH)


def backend_model_source() -> Path:
    """The file that is copied as ``model.py``; found without importing it, since its imports exist only in Triton."""
    return Path(__file__).with_name("backend_model.py")


def config_text(model: str, manifests: Mapping[int, Manifest], platform: Platform) -> str:
    """``config.pbtxt`` for exactly these versions.

    Raises:
        ModelError: there is none, or they differ in shape on a platform that cannot serve that.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    if not manifests:
        raise ModelError(f"{model}: no version to serve; deploy one first (keel deploy)")
    widths = {name: _width(model, manifests, name, platform) for name in ("features", "state", "probs")}
    fields: dict[str, Any] = {
        "name": model,
        "max_batch_size": MAX_BATCH,
        "input": [_tensor("features", widths["features"]), _tensor("state", widths["state"])],
        "output": [_tensor("probs", widths["probs"]), _tensor("state_out", widths["state"])],
        "version_policy": {"specific": {"versions": sorted(manifests)}},
        # batch the waiting requests, never wait for more
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
        # widths that a caller must know where the tensors above leave them free
        "parameters": {state_width_key(v): {"string_value": str(m.network.state)} for v, m in manifests.items()},
        **_PLATFORM_FIELDS[platform],
    }
    return str(text_format.MessageToString(model_config_pb2.ModelConfig(**fields)))


def state_width_key(version: int) -> str:
    """Name of the configuration parameter that holds the width of a version's state."""
    return f"state_width_{version}"


_KIND_GPU, _KIND_CPU, _FP32 = 1, 2, 11
_PLATFORM_FIELDS: Mapping[Platform, dict[str, Any]] = {
    "python": {"backend": "python", "instance_group": [{"count": 1, "kind": _KIND_CPU}]},
    "onnxruntime": {
        "backend": "onnxruntime",
        "platform": "onnxruntime_onnx",
        "default_model_filename": MODEL_FILE,
        "instance_group": [{"count": 1, "kind": _KIND_GPU}],
        "optimization": {
            "execution_accelerators": {
                "gpu_execution_accelerator": [{"name": "tensorrt", "parameters": {"precision_mode": "FP32"}}]
            }
        },
    },
    "tensorrt": {
        "backend": "tensorrt",
        "platform": "tensorrt_plan",
        "default_model_filename": PLAN_FILE,
        "instance_group": [{"count": 1, "kind": _KIND_GPU}],
    },
}


def _tensor(name: str, width: int) -> dict[str, Any]:
    return {"name": name, "data_type": _FP32, "dims": [width]}


def _width(model: str, manifests: Mapping[int, Manifest], tensor: str, platform: Platform) -> int:
    networks = {version: manifest.network for version, manifest in manifests.items()}
    widths = {
        version: {"features": len(n.inputs), "state": n.state, "probs": n.outputs}[tensor]
        for version, n in networks.items()
    }
    if len(set(widths.values())) == 1:
        return next(iter(widths.values()))
    if platform == "python":
        return _FREE
    raise ModelError(
        f"{model}: versions differ in the width of {tensor!r} ({widths}), which {platform} cannot serve under "
        f"one name; serve one of them, or train with the same hidden width"
    )
