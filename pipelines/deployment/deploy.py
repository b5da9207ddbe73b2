"""Put a registered version into service: proven in process, in the hot path and over gRPC before it gets a role.

A version that fails any of its proofs is taken out again, and what served before goes on serving.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

import msgspec
import numpy as np

from market.errors import GateError, KeelError, ManifestError, ModelError, ServiceError, TamperedError
from market.features import meaning
from pipelines import in_service
from pipelines.deployment import inference_server
from pipelines.governance.approve import require_recorded
from pipelines.workspace import Workspace
from serving.bundle import Bundle, check_golden, load_bundle
from serving.rollout.roles import Role, Roles, changing, write_roles
from serving.runtimes.protocol import Floats, Step
from serving.triton.client import TritonClient
from serving.triton.repository import Platform
from training.registry.registry import MANIFEST_TAG, Registry, model_name

HOTPATH_TOLERANCE = 1e-5

Alias = Literal["champion", "challenger", "previous"]

_DECIDED: Final[tuple[Role, ...]] = ("champion", "previous")


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """Which version: ``version``, or the one ``alias`` points to. ``max_p50_ms`` is the gate on a round trip.

    ``platform``: Triton's backend that runs the model, with all its versions in service (None: the one it runs on, at
    first ``python``). ``tensorrt`` builds a plan with trtexec, on the machine of Triton's GPU.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str = "sim-usdm.BTCUSDT"
    version: int | None = None
    alias: Alias = "challenger"
    max_p50_ms: float = 25.0
    platform: Platform | None = None


@dataclass(frozen=True, kw_only=True)
class DeployResult:
    """A version that is proven and in service. Gaps are the largest absolute differences on the golden vectors;
    ``triton_p50_us`` and ``triton_p99_us`` are round trips of one step while they were replayed."""

    instrument: str
    model_name: str
    version: int
    role: str
    run_id: str
    bundle: str
    triton: str
    platform: str
    serving: tuple[int, ...]
    golden_rows: int
    onnx_gap: float
    hotpath_gap: float
    triton_gap: float
    triton_p50_us: float
    triton_p99_us: float
    load_s: float

    def line(self) -> str:
        others = [version for version in self.serving if version != self.version]
        beside = f" beside {', '.join(map(str, others))}" if others else ""
        return (
            f"{self.model_name} version {self.version} in service as {self.role}{beside}: golden "
            f"vectors within {self.triton_gap:.1e} over gRPC and {self.hotpath_gap:.1e} in the hot path, "
            f"Triton step p50 {self.triton_p50_us:.0f} us"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A version whose bundle lies verified under ``models/`` and whose in-process proofs passed."""

    bundle: Bundle
    hotpath_gap: float


def deploy(config: DeployConfig, *, workspace: Workspace) -> DeployResult:
    """Fetch, verify, load and prove one version, then give it its role.

    Raises:
        ModelError: no such version, or it fails a proof (see :func:`serving.bundle.load_bundle`).
        ApprovalError: it would be champion or previous, and the audit record has no approval of it.
        GateError: a step over gRPC takes too long.
        ServiceError: registry or Triton is away, or another change is under way.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    version = config.version or _aliased(registry, model, config.alias)
    with changing(in_service.state_path(workspace)):
        placed = place(workspace, registry, config.instrument, version)
        with inference_server.inference_server(workspace) as client:
            return _serve(config, workspace, _Candidate(model=model, placed=placed, registry=registry), client)


def place(workspace: Workspace, registry: Registry, instrument: str, version: int) -> Placed:
    """Bundle of a version under ``models/``, fetched when it is not there, verified, proven in process.

    A copy that was changed is removed: the registry has the original, so the next call fetches it anew.

    Raises:
        ModelError: it does not pass, or is a model of another instrument.
    """
    model = model_name(instrument)
    folder = workspace.models / instrument / str(version)
    try:
        registry.fetch_bundle(model, version, folder)
        bundle = load_bundle(
            folder,
            now_ns=workspace.clock.now_ns(),
            feature_set=meaning.feature_set(),
            manifest_sha256=registry.tags(model, version)[MANIFEST_TAG],
        )
        manifest = bundle.manifest
        if (manifest.instrument, manifest.registry_version) != (instrument, version):
            raise ManifestError(
                f"{folder} says it is version {manifest.registry_version} for {manifest.instrument}, expected version "
                f"{version} for {instrument}; register the run again"
            )
        hotpath_gap = check_golden(
            hotpath_step(folder), bundle.golden, HOTPATH_TOLERANCE, f"the hot path with {folder}"
        )
    except TamperedError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Placed(bundle=bundle, hotpath_gap=hotpath_gap)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    model: str
    placed: Placed
    registry: Registry

    @property
    def version(self) -> int:
        return self.placed.bundle.manifest.registry_version


def _serve(config: DeployConfig, workspace: Workspace, candidate: _Candidate, client: TritonClient) -> DeployResult:
    manifest, model = candidate.placed.bundle.manifest, candidate.model
    before = in_service.roles_of(workspace, config.instrument)
    after, role = _with_role(before, candidate, workspace.clock.now_ns())
    if role in _DECIDED:  # the registry's alias alone decides nothing
        require_recorded(workspace, model, candidate.version)
    repository = inference_server.repository_of(workspace, config.platform)
    ran_on = repository.published_platform(model)
    started = time.perf_counter()
    try:
        repository.put(candidate.placed.bundle)
        serve_exactly(workspace, client, model, {*before.versions(), *after.versions()}, platform=config.platform)
        load_s = time.perf_counter() - started
        gap, p50_us, p99_us = _prove(config, candidate, client)
    except KeelError as error:
        _withdraw(workspace, client, candidate, (before, ran_on), error)
        raise
    write_roles(in_service.state_path(workspace), config.instrument, after)
    serve_exactly(workspace, client, model, after.versions())
    return DeployResult(
        instrument=config.instrument,
        model_name=model,
        version=manifest.registry_version,
        role=role,
        run_id=manifest.run_id,
        bundle=str(candidate.placed.bundle.path),
        triton=client.address,
        platform=repository.platform_of(model),
        serving=after.versions(),
        golden_rows=len(candidate.placed.bundle.golden.features),
        onnx_gap=candidate.placed.bundle.golden_gap,
        hotpath_gap=candidate.placed.hotpath_gap,
        triton_gap=gap,
        triton_p50_us=p50_us,
        triton_p99_us=p99_us,
        load_s=round(load_s, 2),
    )


def _prove(config: DeployConfig, candidate: _Candidate, client: TritonClient) -> tuple[float, float, float]:
    """Golden gap over gRPC, p50 and p99 of a round trip in microseconds."""
    gap, times = golden_over_grpc(client, candidate.placed.bundle)
    p50_us, p99_us = percentiles_us(times)
    if p50_us > config.max_p50_ms * 1000:
        raise GateError(
            f"a step of {candidate.model} version {candidate.version} takes {p50_us / 1000:.1f} ms over gRPC, at most "
            f"{config.max_p50_ms:.1f} ms are allowed; take a smaller network, or a machine with less on it"
        )
    return gap, p50_us, p99_us


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


def serve_exactly(
    workspace: Workspace,
    client: TritonClient,
    model: str,
    versions: set[int] | tuple[int, ...],
    *,
    platform: Platform | None = None,
) -> None:
    """Make Triton serve these versions of a model and no others, on ``platform`` (None: where it is); folders of others
    are removed afterwards."""
    repository = inference_server.repository_of(workspace, platform)
    wanted = tuple(sorted(versions))
    stays = repository.published_platform(model) == repository.platform_of(model)
    if stays and repository.published_versions(model) == wanted == client.served(model):
        client.revive(model, wanted)
    else:
        repository.publish(model, wanted)
        client.load(model, wanted)
    for version in set(repository.versions(model)) - set(wanted):
        repository.remove(model, version)


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


def _aliased(registry: Registry, model: str, alias: Alias) -> int:
    version = registry.get_alias(model, alias)
    if version is None:
        raise ModelError(f"{model} has no {alias}; register a run (keel register), or name a version with --version")
    return version


def _with_role(roles: Roles, candidate: _Candidate, now_ns: int) -> tuple[Roles, Role]:
    """Roles with the version in the one that the registry gives it; whoever is not decided about is a challenger."""
    aliases, version = candidate.registry.aliases(candidate.model), candidate.version
    for role in _DECIDED:
        mine = getattr(roles, role)
        if mine == version or (mine == 0 and aliases.get(role) == version):
            return msgspec.structs.replace(roles, **{role: version}), role
    return roles.with_challenger(version, now_ns), "challenger"


def _withdraw(
    workspace: Workspace,
    client: TritonClient,
    candidate: _Candidate,
    before: tuple[Roles, Platform | None],
    error: KeelError,
) -> None:
    """Back to what served before, where it did; a version that has a role from an earlier proof keeps it."""
    roles, ran_on = before
    repository = inference_server.repository_of(workspace)
    try:
        if roles.versions():
            serve_exactly(workspace, client, candidate.model, roles.versions(), platform=ran_on)
        else:
            repository.remove_model(candidate.model)
            client.unload(candidate.model)
    except KeelError as second:
        raise ServiceError(f"{error}. Taking it out of service failed too: {second}") from error
