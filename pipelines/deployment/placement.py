"""Versions of one instrument's model on this machine: fetched, proven in process, put into Triton's repository, served.

Deploy, a champion change and a trial all move versions through here, so that a version is validated the same way
whichever stage requests it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from market.errors import ManifestError, TamperedError
from market.features import meaning
from pipelines.deployment import inference_server
from pipelines.workspace import Workspace
from serving.bundle import Bundle, check_golden, load_bundle
from serving.runtimes.protocol import Floats, Step
from serving.triton.client import TritonClient
from serving.triton.repository import ModelRepository, Platform
from training.registry.registry import MANIFEST_TAG, Registry, model_name

HOTPATH_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A version whose bundle lies verified under ``models/`` and whose in-process proofs passed."""

    bundle: Bundle
    hotpath_gap: float


class Placement:
    """What this machine has and serves of one instrument's model."""

    def __init__(self, workspace: Workspace, registry: Registry, instrument: str) -> None:
        self.model = model_name(instrument)
        self._workspace = workspace
        self._registry = registry
        self._instrument = instrument

    @property
    def platform(self) -> Platform | None:
        """Where Triton runs the model today; None where nothing of it is published."""
        return self._repository().published_platform(self.model)

    def versions(self) -> tuple[int, ...]:
        """Versions that lie in Triton's repository, ascending."""
        return tuple(self._repository().versions(self.model))

    def bring(self, version: int) -> Placed:
        """Bundle of a version under ``models/``, fetched when it is not there, verified, proven in process.

        A copy that was changed is removed: the registry has the original, so the next call fetches it again.

        Raises:
            ModelError: it does not pass, or is a model of another instrument.
        """
        folder = self._workspace.models / self._instrument / str(version)
        try:
            self._registry.fetch_bundle(self.model, version, folder)
            bundle = load_bundle(
                folder,
                now_ns=self._workspace.clock.now_ns(),
                feature_set=meaning.feature_set(),
                manifest_sha256=self._registry.tags(self.model, version)[MANIFEST_TAG],
            )
            manifest = bundle.manifest
            if (manifest.instrument, manifest.registry_version) != (self._instrument, version):
                raise ManifestError(
                    f"expected version {version} for {self._instrument} in {folder}, saw version "
                    f"{manifest.registry_version} for {manifest.instrument}; register the run again"
                )
            hotpath_gap = prove_hotpath(bundle)
        except TamperedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Placed(bundle=bundle, hotpath_gap=hotpath_gap)

    def put(self, bundle: Bundle, *, platform: Platform | None = None) -> None:
        """Put a bundle into Triton's repository, for ``platform`` (None: where the model runs); not yet served."""
        self._repository(platform).put(bundle)

    def serve(
        self, client: TritonClient, versions: set[int] | tuple[int, ...], *, platform: Platform | None = None
    ) -> None:
        """Make Triton serve these versions and no others, on ``platform`` (None: where the model runs); folders of
        others are removed afterwards."""
        repository, model = self._repository(platform), self.model
        wanted = tuple(sorted(versions))
        stays = repository.published_platform(model) == repository.platform_of(model)
        if stays and repository.published_versions(model) == wanted == client.served(model):
            client.revive(model, wanted)
        else:
            repository.publish(model, wanted)
            client.load(model, wanted)
        for version in set(repository.versions(model)) - set(wanted):
            repository.remove(model, version)

    def clear(self, client: TritonClient) -> None:
        """Serve nothing of the model and remove it from Triton's repository."""
        self._repository().remove_model(self.model)
        client.unload(self.model)

    def _repository(self, platform: Platform | None = None) -> ModelRepository:
        return inference_server.repository_of(self._workspace, platform)


def golden_over_grpc(client: TritonClient, bundle: Bundle) -> tuple[float, list[int]]:
    """Replay the golden vectors through Triton: the gap, and what each round trip took in ns.

    Raises:
        GoldenError: they do not reproduce within the manifest's tolerance.
    """
    model, version = bundle.manifest.model_name, bundle.manifest.registry_version
    step, times = client.step(model, version), list[int]()

    def timed(features: Floats, state: Floats) -> tuple[Floats, Floats]:
        began = time.perf_counter_ns()
        answer = step(features, state)
        times.append(time.perf_counter_ns() - began)
        return answer

    who = f"Triton at {client.address} with {model} version {version}"
    return check_golden(timed, bundle.golden, bundle.manifest.tolerance, who), times


def percentiles_us(times_ns: list[int]) -> tuple[float, float]:
    """p50 and p99 in microseconds; 0.0 of nothing."""
    if not times_ns:
        return 0.0, 0.0
    p50, p99 = np.percentile(times_ns, (50, 99)) / 1000
    return round(float(p50), 1), round(float(p99), 1)


def prove_hotpath(bundle: Bundle) -> float:
    """How far the hot path's network strays from a bundle's golden vectors.

    Raises:
        GoldenError: by more than HOTPATH_TOLERANCE.
    """
    return check_golden(hotpath_step(bundle.path), bundle.golden, HOTPATH_TOLERANCE, f"the hot path with {bundle.path}")


def hotpath_step(folder: Path) -> Step:
    """The hot path's compiled network with a bundle's weights, as a step function."""
    from serving.hotpath.network import load, step_function

    return step_function(load(folder))
