"""Change which version is champion, without a failed request and so that a kill at any point can be completed.

A change is written down as an intention first (in ``serving.json``), then the registry's aliases are moved, then the
roles: whoever finds an intention completes it. All the while a client keeps asking the champion, through the router, as
a consumer of predictions would; what it saw is part of the result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import msgspec
import numpy as np

from market.errors import KeelError, ServiceError
from pipelines import in_service
from pipelines.deployment import inference_server
from pipelines.deployment.placement import Placement, golden_over_grpc, percentiles_us
from pipelines.governance import audit
from pipelines.governance.approve import require_recorded
from pipelines.workspace import Workspace
from serving.rollout.roles import Canary, Move, MoveKind, Roles, read_roles, write_roles
from serving.runtimes.protocol import Floats
from serving.triton.client import TritonClient
from training.registry.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, model_name

_ROW: Final[Floats] = np.zeros((1, 0), np.float32)
_PAUSE_S: Final = 0.001  # between requests of the watching client: it watches, it is no load test


@dataclass(frozen=True, kw_only=True)
class Change:
    """``new`` becomes champion and ``old`` previous (0: there was none). ``why`` goes into the audit record.

    After an automatic rollback ``old`` plays no role: nobody should go back to it.
    """

    instrument: str
    new: int
    old: int
    kind: MoveKind
    why: Mapping[str, object] = field(default_factory=dict)

    @property
    def withdraws(self) -> bool:
        """Whether ``old`` broke a guardrail."""
        return self.kind == "automatic rollback"

    @property
    def model(self) -> str:
        return model_name(self.instrument)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a client saw of the champion's route across a change; times of single steps in microseconds."""

    requests: int = 0
    failed: int = 0
    before_p50_us: float = 0.0
    before_p99_us: float = 0.0
    during_p50_us: float = 0.0
    during_p99_us: float = 0.0
    during_max_us: float = 0.0

    def words(self) -> str:
        if not self.requests:
            return "nobody was being served yet"
        return (
            f"{self.requests} requests across the swap, {self.failed} failed, step p50 {self.during_p50_us:.0f} us "
            f"(before {self.before_p50_us:.0f}), p99 {self.during_p99_us:.0f} us (before {self.before_p99_us:.0f})"
        )


class ChampionChange:
    """One change, made or completed. Call its methods under :func:`serving.rollout.roles.changing`."""

    def __init__(self, change: Change, workspace: Workspace, registry: Registry) -> None:
        self.change = change
        self._workspace = workspace
        self._registry = registry
        self._placement = Placement(workspace, registry, change.instrument)
        self._state = in_service.state_path(workspace)

    def is_done(self) -> bool:
        """Whether registry and roles already say what the change wants."""
        roles, change = self._roles(), self.change
        return (
            roles.move is None
            and roles.champion == change.new
            and self._registry.get_alias(change.model, CHAMPION) == change.new
            and self._registry.get_alias(change.model, CHALLENGER) != change.new
        )

    def make(self, *, watch_s: float) -> Watched:
        """Make the change, or complete it. A client watches the champion's route for ``watch_s`` before and after.

        Only the new champion has to pass its proofs: the old one may be what we must get away from.

        Raises:
            ApprovalError: the audit record has no approval of the new champion; nothing has changed.
            ModelError: the version does not pass; nothing has changed.
            ServiceError: registry or Triton is away, or a request failed; everything is back where it was.
        """
        change, placement = self.change, self._placement
        require_recorded(self._workspace, change.model, change.new)
        bundle = placement.bring(change.new).bundle
        roles, aliases = self._roles(), self._registry.aliases(change.model)
        placement.put(bundle)
        with inference_server.inference_server(self._workspace) as client:
            placement.serve(client, roles.versions() or (change.new,))
            watcher = Watcher(self._workspace, change, client.address)
            try:
                with watcher:
                    watcher.watch(watch_s)
                    watcher.phase = "during"
                    placement.serve(client, {*roles.versions(), change.new})
                    golden_over_grpc(client, bundle)
                    after = self._commit(roles)
                    placement.serve(client, after.versions())
                    watcher.watch(watch_s)
                watcher.refuse_failures()
                write_roles(self._state, change.instrument, after)
            except KeelError:
                self._revert(roles, aliases)
                raise
        return watcher.seen()

    def _roles(self) -> Roles:
        return in_service.roles_of(self._workspace, self.change.instrument)

    def _commit(self, roles: Roles) -> Roles:
        """Intention, aliases, record, roles: in this order, each step harmless to repeat.

        Returns the roles without the intention. It stands in the file until Triton serves them as well: a rollback that
        was cut off before is completed by the next one, not turned round.
        """
        change, registry = self.change, self._registry
        move = Move(new=change.new, old=change.old, kind=change.kind)
        write_roles(self._state, change.instrument, msgspec.structs.replace(roles, move=move))
        if change.old and not change.withdraws:
            registry.set_alias(change.model, PREVIOUS, change.old)
        registry.set_alias(change.model, CHAMPION, change.new)
        if change.withdraws:
            registry.drop_alias(change.model, PREVIOUS)
        if registry.get_alias(change.model, CHALLENGER) == change.new:
            registry.drop_alias(change.model, CHALLENGER)
        record(change, self._workspace)
        previous = 0 if change.withdraws else change.old or roles.previous
        rest = roles.without_challenger(change.new)
        after = Roles(
            champion=change.new,
            previous=previous if previous in self._placement.versions() and previous != change.new else 0,
            challenger=rest.challenger,
            test=rest.test,
            canary=self._window(roles),
        )
        write_roles(self._state, change.instrument, msgspec.structs.replace(after, move=move))
        return after

    def _window(self, roles: Roles) -> Canary | None:
        """The watch window of a canary that has become champion."""
        canary = roles.canary
        if canary is None or self.change.kind != "promotion" or canary.version != self.change.new:
            return None
        return msgspec.structs.replace(canary, step=len(canary.shares), begun_ns=self._workspace.clock.now_ns())

    def _revert(self, roles: Roles, aliases: Mapping[str, int]) -> None:
        """Aliases and roles as they were. The roles last: until then the intention stands and can be completed."""
        change = self.change
        if self._roles() == roles:
            return
        for alias in (CHAMPION, PREVIOUS, CHALLENGER):
            if alias in aliases:
                self._registry.set_alias(change.model, alias, aliases[alias])
            else:
                self._registry.drop_alias(change.model, alias)
        audit.append(
            audit.path_of(self._workspace),
            clock=self._workspace.clock,
            kind=change.kind + audit.TAKEN_BACK,
            what={"model_name": change.model, "version": change.new, "old": change.old},
        )
        write_roles(self._state, change.instrument, roles)


def record(change: Change, workspace: Workspace) -> None:
    """Put a change into the audit record, once."""
    what = {"model_name": change.model, "version": change.new, "old": change.old, **change.why}
    audit.append_once(audit.path_of(workspace), clock=workspace.clock, kind=change.kind, what=what)


class Watcher:
    """Asks the champion, one step after the other with the state carried on, on a thread of its own.

    A context manager. ``phase`` is "before" or "during"; the route is read anew for every request.
    """

    def __init__(self, workspace: Workspace, change: Change, address: str) -> None:
        self._state_path = in_service.state_path(workspace)
        self._repository = inference_server.repository_of(workspace)
        self._change = change
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="champion-watcher", daemon=True)
        self._times: dict[str, list[int]] = {"before": [], "during": []}
        self.phase = "before"
        self.failures: list[str] = []

    @property
    def requests(self) -> int:
        return len(self.failures) + sum(map(len, self._times.values()))

    def watch(self, seconds: float) -> None:
        """Let it go on for a while; no time is spent where there is nobody to watch."""
        if read_roles(self._state_path, self._change.instrument).champion:
            self._stop.wait(seconds)

    def seen(self) -> Watched:
        before, during = self._times["before"], self._times["during"]
        before_p50_us, before_p99_us = percentiles_us(before)
        during_p50_us, during_p99_us = percentiles_us(during)
        return Watched(
            requests=self.requests,
            failed=len(self.failures),
            before_p50_us=before_p50_us,
            before_p99_us=before_p99_us,
            during_p50_us=during_p50_us,
            during_p99_us=during_p99_us,
            during_max_us=round(max(during, default=0) / 1000, 1),
        )

    def refuse_failures(self) -> None:
        """Raise ServiceError when a request failed."""
        if self.failures:
            raise ServiceError(
                f"{len(self.failures)} of {self.requests} requests failed while version {self._change.new} came into "
                f"service, the first: {self.failures[0]}; the change was taken back"
            )

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        serving, features, state = 0, _ROW, _ROW
        with TritonClient(self._address) as client:
            while not self._stop.wait(_PAUSE_S):
                try:
                    version = read_roles(self._state_path, self._change.instrument).champion
                    if version and version != serving:
                        network = self._repository.manifest(self._change.model, version).network
                        features = np.zeros((1, len(network.inputs)), np.float32)
                        serving, state = version, np.zeros((1, network.state), np.float32)
                    if version:
                        state = self._step(client, version, features, state)
                except KeelError as error:
                    self.failures.append(str(error))

    def _step(self, client: TritonClient, version: int, features: Floats, state: Floats) -> Floats:
        began = time.perf_counter_ns()
        _, state = client.predict(self._change.model, version, features, state)
        self._times[self.phase].append(time.perf_counter_ns() - began)
        return state
