"""Put a registered version into service: validated in process, in the hot path and over gRPC before it gets a role.

A version that fails any of these checks is removed again, and what was served before stays in service.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from market.errors import GateError, KeelError, ModelError, ServiceError
from pipelines import in_service
from pipelines.deployment import inference_server
from pipelines.deployment.placement import Placed, Placement, golden_over_grpc, percentiles_us
from pipelines.governance.approve import require_recorded
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.rollout.roles import Role, Roles, changing, write_roles
from serving.triton.client import TritonClient
from serving.triton.repository import DEFAULT_PLATFORM, Platform
from training.registry.registry import Registry, model_name

Alias = Literal["champion", "challenger", "previous"]

_DECIDED: Final[tuple[Role, ...]] = ("champion", "previous")


@dataclass(frozen=True, kw_only=True)
class DeployConfig(StageConfig):
    """Which version: ``version``, or the one ``alias`` points to. ``max_p50_ms`` is the gate on a round trip.

    ``platform``: Triton's backend that runs the model, with all its versions in service (None: the one it runs on, at
    first ``python``). ``tensorrt`` builds a plan with trtexec, on the machine of Triton's GPU.
    """

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


def deploy(config: DeployConfig, *, workspace: Workspace) -> DeployResult:
    """Fetch, verify, load and prove one version, then give it its role.

    Raises:
        ModelError: no such version, or it fails a proof (see :func:`serving.bundle.load_bundle`).
        ApprovalError: it would be champion or previous, and the audit record has no approval of it.
        GateError: a step over gRPC takes too long.
        ServiceError: registry or Triton is unavailable, or another change is in progress.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    version = config.version or _aliased(registry, model, config.alias)
    with changing(in_service.state_path(workspace)):
        placement = Placement(workspace, registry, config.instrument)
        candidate = _Candidate(placement=placement, placed=placement.bring(version), registry=registry)
        with inference_server.inference_server(workspace) as client:
            return _serve(config, workspace, candidate, client)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    placement: Placement
    placed: Placed
    registry: Registry

    @property
    def model(self) -> str:
        return self.placement.model

    @property
    def version(self) -> int:
        return self.placed.bundle.manifest.registry_version


def _serve(config: DeployConfig, workspace: Workspace, candidate: _Candidate, client: TritonClient) -> DeployResult:
    manifest, model = candidate.placed.bundle.manifest, candidate.model
    before = in_service.roles_of(workspace, config.instrument)
    after, role = _with_role(before, candidate, workspace.clock.now_ns())
    if role in _DECIDED:  # the registry's alias alone decides nothing
        require_recorded(workspace, model, candidate.version)
    placement = candidate.placement
    ran_on = placement.platform
    started = time.perf_counter()
    try:
        placement.put(candidate.placed.bundle, platform=config.platform)
        placement.serve(client, {*before.versions(), *after.versions()}, platform=config.platform)
        load_s = time.perf_counter() - started
        gap, p50_us, p99_us = _prove(config, candidate, client)
    except KeelError as error:
        _withdraw(client, candidate, (before, ran_on), error)
        raise
    write_roles(in_service.state_path(workspace), config.instrument, after)
    placement.serve(client, after.versions())
    return DeployResult(
        instrument=config.instrument,
        model_name=model,
        version=manifest.registry_version,
        role=role,
        run_id=manifest.run_id,
        bundle=str(candidate.placed.bundle.path),
        triton=client.address,
        platform=placement.platform or DEFAULT_PLATFORM,
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


def _aliased(registry: Registry, model: str, alias: Alias) -> int:
    version = registry.get_alias(model, alias)
    if version is None:
        raise ModelError(f"{model} has no {alias}; register a run (keel register), or name a version with --version")
    return version


def _with_role(roles: Roles, candidate: _Candidate, now_ns: int) -> tuple[Roles, Role]:
    """Roles with the version in the one that the registry gives it; an undecided version is a challenger."""
    aliases, version = candidate.registry.aliases(candidate.model), candidate.version
    for role in _DECIDED:
        mine = getattr(roles, role)
        if mine == version or (mine == 0 and aliases.get(role) == version):
            return msgspec.structs.replace(roles, **{role: version}), role
    return roles.with_challenger(version, now_ns), "challenger"


def _withdraw(
    client: TritonClient,
    candidate: _Candidate,
    before: tuple[Roles, Platform | None],
    error: KeelError,
) -> None:
    """Back to what served before, where it did; a version that has a role from an earlier proof keeps it."""
    roles, ran_on = before
    try:
        if roles.versions():
            candidate.placement.serve(client, roles.versions(), platform=ran_on)
        else:
            candidate.placement.clear(client)
    except KeelError as second:
        raise ServiceError(f"{error}. Taking it out of service failed too: {second}") from error
