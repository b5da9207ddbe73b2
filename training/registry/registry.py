"""The model registry: versions, aliases and the bundles that serving loads.

A version counts only when its tag ``manifest_sha256`` is set. The tag is written last, after the bundle is in the
artifact store, so the next registration completes an interrupted one, and a partial one is never served.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from market.errors import FolderError, ManifestError, ModelError, ServiceError, TamperedError
from market.files import drafting
from serving.manifest import MANIFEST_FILE, MODEL_FILE, Manifest
from training.registry import tracking

_PREFIX = "keel-"
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

MANIFEST_TAG = "manifest_sha256"
BUNDLE_ARTIFACTS = "bundle"
_LITTLE_ROOM = 1 << 20  # bytes; a bundle is smaller
_PIP_REQUIREMENTS = ["onnxruntime"]


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One registered version. ``complete`` is false while its bundle has not been stored."""

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created_ns: int

    @property
    def complete(self) -> bool:
        return MANIFEST_TAG in self.tags


def model_name(instrument: str) -> str:
    """Registered model of an instrument key: ``keel-venue.SYMBOL``."""
    return f"{_PREFIX}{instrument}"


def instrument_of(model: str) -> str:
    """The instrument key of a registered model; what :func:`model_name` made it from."""
    return model.removeprefix(_PREFIX)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as the bytes whose sha256 the registry keeps."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(bundle: Path) -> Manifest:
    """Manifest of a bundle folder, unverified.

    Raises:
        ManifestError: missing, not JSON, or not of the manifest's form.
    """
    path = bundle / MANIFEST_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ManifestError(f"{path} is not there; export the run first") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ManifestError(f"{path} is not a manifest: {error}; export the run again") from error


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Registry:
    """Registered models in the MLflow store at ``tracking_uri``.

    Every method raises :class:`~market.errors.ServiceError` when the store is away.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._client = tracking.client(tracking_uri)

    # -- reading ------------------------------------------------------------------------------------------------

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions, oldest first; empty when the model is not registered."""
        aliases: dict[int, list[str]] = {}
        for alias, number in self.aliases(name).items():
            aliases.setdefault(number, []).append(alias)
        with tracking.spoken(f"list the versions of {name}", self._uri):
            found = self._client.search_model_versions(f"name = '{name}'", max_results=10_000)
        listed = (self._as_version(v, tuple(sorted(aliases.get(int(v.version), ())))) for v in found)
        return tuple(sorted(listed, key=lambda v: v.version))

    def version(self, name: str, version: int) -> ModelVersion:
        """One version.

        Raises:
            ModelError: it is not registered.
        """
        for candidate in self.versions(name):
            if candidate.version == version:
                return candidate
        known = [v.version for v in self.versions(name)]
        raise ModelError(f"{name} has no version {version}; registered are {known or 'none'}")

    def tags(self, name: str, version: int) -> dict[str, str]:
        """Tags of one version (lineage, ``manifest_sha256``, approvals)."""
        return self.version(name, version).tags

    def aliases(self, name: str) -> dict[str, int]:
        """``{alias: version}``; empty when the model is not registered."""
        from mlflow.exceptions import MlflowException

        with tracking.spoken(f"read the aliases of {name}", self._uri):
            try:
                model = self._client.get_registered_model(name)
            except MlflowException as error:
                if tracking.is_absent(error):
                    return {}
                raise
        return {alias: int(version) for alias, version in model.aliases.items()}

    def get_alias(self, name: str, alias: str) -> int | None:
        """Version that ``alias`` points to, or None."""
        return self.aliases(name).get(alias)

    # -- writing ------------------------------------------------------------------------------------------------

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point ``alias`` at a complete version.

        Raises:
            ModelError: there is no such version, or its bundle was never stored.
        """
        if not self.version(name, version).complete:
            raise ModelError(
                f"{name} version {version} has no bundle yet: its registration was cut off; register the run again"
            )
        with tracking.spoken(f"set alias {alias} of {name}", self._uri):
            self._client.set_registered_model_alias(name, alias, str(version))

    def drop_alias(self, name: str, alias: str) -> None:
        """Remove ``alias``; does nothing if it is not set."""
        if self.get_alias(name, alias) is None:
            return
        with tracking.spoken(f"drop alias {alias} of {name}", self._uri):
            self._client.delete_registered_model_alias(name, alias)

    def set_tags(self, name: str, version: int, tags: dict[str, str]) -> None:
        """Add or replace tags of one version."""
        with tracking.spoken(f"tag {name} version {version}", self._uri):
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def register(self, bundle: Path, tags: dict[str, str]) -> ModelVersion:
        """Register the run a bundle was exported from, once: a second call finds and finishes the first.

        The model's name and run are the manifest's. The stored manifest is the bundle's with ``registry_version`` set.

        Raises:
            ManifestError, TamperedError: the bundle is not whole.
        """
        manifest = read_manifest(bundle)
        check_files(bundle, manifest)
        name, run_id = manifest.model_name, manifest.run_id
        known = [v for v in self.versions(name) if v.run_id == run_id]
        if known and known[0].complete:
            return known[0]
        version = known[0].version if known else self._create_version(name, run_id, bundle)
        final = encode_manifest(msgspec.structs.replace(manifest, registry_version=version))
        self._store_bundle(run_id, bundle, final)
        self.set_tags(name, version, {**tags, MANIFEST_TAG: hashlib.sha256(final).hexdigest()})
        return self.version(name, version)

    def fetch_bundle(self, name: str, version: int, dest: Path) -> Path:
        """The bundle of a version at ``dest``, downloaded when it is not there; whole or not at all.

        A bundle that is already there is kept only if its manifest is the registered one; its files are checked again
        when it is loaded.

        Raises:
            ModelError: no such version, or it has no bundle.
            TamperedError: what is stored, or what lies at ``dest``, is not what was registered.
            FolderError: there is no room for it.
        """
        record = self.version(name, version)
        expected = record.tags.get(MANIFEST_TAG)
        if expected is None:
            raise ModelError(
                f"{name} version {version} has no bundle: register run {record.run_id} again, it was cut off"
            )
        if dest.exists():
            _check_manifest(dest, expected, f"{name} version {version}")
            return dest
        with drafting(dest) as draft:
            try:
                with tracking.spoken(f"download the bundle of {name} version {version}", self._uri):
                    fetched = Path(self._client.download_artifacts(record.run_id, BUNDLE_ARTIFACTS, str(draft)))
                _check_manifest(fetched, expected, f"{name} version {version}")
                check_files(fetched, read_manifest(fetched))
                fetched.replace(dest)
            except ServiceError:  # MLflow does not report why a download failed
                if shutil.disk_usage(draft).free < _LITTLE_ROOM:
                    raise FolderError.full(str(dest)) from None
                raise
        return dest

    # -- inside -------------------------------------------------------------------------------------------------

    def _as_version(self, found: Any, aliases: tuple[str, ...]) -> ModelVersion:
        return ModelVersion(
            name=found.name,
            version=int(found.version),
            run_id=found.run_id or "",
            aliases=aliases,
            tags=dict(found.tags),
            created_ns=int(found.creation_timestamp) * 1_000_000,
        )

    def _create_version(self, name: str, run_id: str, bundle: Path) -> int:
        from mlflow.exceptions import MlflowException

        with tracking.spoken(f"register run {run_id} as {name}", self._uri):
            model_id = self._logged_model(run_id)
            if model_id is None:
                model_id = self._log_model(run_id, bundle)
            else:
                self._client.set_terminated(run_id)  # a killed process may have left the run open
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
            with tracking.pointed_at(self._uri):
                made = self._client.create_model_version(
                    name, source=f"models:/{model_id}", run_id=run_id, model_id=model_id
                )
        return int(made.version)

    def _logged_model(self, run_id: str) -> str | None:
        """The ONNX model a cut-off registration of this run has already logged whole."""
        run = self._client.get_run(run_id)
        logged = self._client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
        whole = [m.model_id for m in logged if str(getattr(m.status, "value", m.status)) == "READY"]
        return str(whole[0]) if whole else None

    def _log_model(self, run_id: str, bundle: Path) -> str:
        import mlflow.onnx as flavor
        import onnx

        # log_model changes the proto it is given, so it gets one of its own
        proto = onnx.load(bundle / MODEL_FILE)
        with tracking.pointed_at(self._uri) as module, module.start_run(run_id=run_id):
            info = flavor.log_model(
                proto, name="model", pip_requirements=_PIP_REQUIREMENTS, save_as_external_data=False
            )
        return str(info.model_id)

    def _store_bundle(self, run_id: str, bundle: Path, manifest: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="keel-bundle-") as folder:
            staged = Path(folder) / BUNDLE_ARTIFACTS
            shutil.copytree(bundle, staged)
            (staged / MANIFEST_FILE).write_bytes(manifest)
            with tracking.spoken(f"store the bundle of run {run_id}", self._uri):
                self._client.log_artifacts(run_id, str(staged), BUNDLE_ARTIFACTS)


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Compare every file of the manifest with its sha256.

    Raises:
        TamperedError: a file is missing or is not the one the manifest was written for.
    """
    for name, expected in manifest.files.items():
        path = bundle / name
        if not path.is_file():
            raise TamperedError(f"{path} is missing; fetch or export the bundle again")
        seen = sha256_of(path)
        if seen != expected:
            raise TamperedError(
                f"{path} has sha256 {seen[:16]}…, the manifest says {expected[:16]}…; fetch or export the bundle again"
            )


def _check_manifest(bundle: Path, expected: str, what: str) -> None:
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        raise TamperedError(
            f"{path} is missing though {what} was registered with one; remove {bundle} and fetch it again"
        )
    seen = sha256_of(path)
    if seen != expected:
        raise TamperedError(
            f"{path} has sha256 {seen[:16]}…, {what} has {expected[:16]}…; remove {bundle} and fetch it again"
        )


def bundle_at(models: Path, tracking_uri: str, instrument: str, version: int) -> Path:
    """The bundle of a registered version under ``models``; fetched when it is not here.

    Raises:
        ModelError: there is no such version, or what was fetched is not whole.
        ServiceError: the registry is unreachable.
    """
    folder = models / instrument / str(version)
    if not (folder / MANIFEST_FILE).is_file():
        Registry(tracking_uri).fetch_bundle(model_name(instrument), version, folder)
    return folder
