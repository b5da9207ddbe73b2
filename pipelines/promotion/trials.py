"""A version on trial: put in by steps, watched through what the live session says, taken back when a guardrail breaks.

The session plays the canary and judges it; when a guardrail breaks it steps back by itself, before anybody is asked.
What is done here is what a session must not touch: the steps in ``serving.json``, the registry's aliases, Triton, the
audit record (docs/adr/0003). All of it may be done by whoever comes first: ``keel promote`` while it watches, the
process that the session starts, or a later ``keel promote`` or ``keel rollback``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from market.clock import NS_PER_S
from market.errors import ApprovalError, GateError, ServiceError
from pipelines import in_service
from pipelines.deployment import inference_server
from pipelines.deployment.placement import Placement, golden_over_grpc
from pipelines.governance import audit
from pipelines.promotion import champion
from pipelines.promotion.champion import ChampionChange, Change, Watched
from pipelines.workspace import Workspace
from serving.rollout.guardrails import Breach, breach_path, read_breach
from serving.rollout.roles import Canary, Roles, changing, write_roles
from serving.session.heartbeat import Alive, alive_path, read_alive
from serving.triton.client import TritonClient
from training.registry.registry import CHALLENGER, Registry, model_name

WITHDRAWN = "automatic rollback"
STOPPED = "test stopped"

_OUT = {WITHDRAWN: "old", STOPPED: "version"}  # entries about a version that is out, and where they name it
_POLL_S = 0.2
_LOCK_PATIENCE_S = 30.0
_STALLED_S = 120.0  # of wall time without any market time


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What a trial is worked on with."""

    workspace: Workspace
    registry: Registry
    instrument: str

    @property
    def model(self) -> str:
        return model_name(self.instrument)

    @property
    def state(self) -> Path:
        return in_service.state_path(self.workspace)

    @property
    def roles(self) -> Roles:
        return in_service.roles_of(self.workspace, self.instrument)

    @property
    def sessions(self) -> Path:
        return self.workspace.sessions

    @property
    def placement(self) -> Placement:
        return Placement(self.workspace, self.registry, self.instrument)

    def write(self, roles: Roles) -> None:
        write_roles(self.state, self.instrument, roles)


def who_quotes(desk: Desk) -> Alive | None:
    """What the session that follows this instrument said last; None where none lives or quotes."""
    alive = read_alive(alive_path(desk.sessions, desk.instrument))
    if alive is None or not alive.is_fresh(desk.workspace.clock.now_ns()) or alive.doing == "waiting":
        return None
    return alive


@contextmanager
def patiently(path: Path) -> Iterator[None]:
    """:func:`serving.rollout.roles.changing`, after waiting for whoever is at it.

    Raises:
        ServiceError: it takes too long.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(changing(path))
                break
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
        yield


def begin(desk: Desk, client: TritonClient, canary: Canary) -> None:
    """Prove the version and make it canary. Call under :func:`serving.rollout.roles.changing`.

    Raises:
        ModelError: it does not pass.
        ServiceError: registry or Triton is away.
    """
    bundle = desk.placement.bring(canary.version).bundle
    desk.placement.put(bundle)
    roles = msgspec.structs.replace(desk.roles, canary=canary)
    desk.placement.serve(client, roles.versions())
    golden_over_grpc(client, bundle)
    desk.write(roles)


def hold_steps(desk: Desk, client: TritonClient, canary: Canary, *, least_rows: int) -> None:
    """Hold every step that is left, one after the other; the last one stands until the version is made champion.

    Raises:
        GateError: a guardrail broke; the version was taken back.
        ServiceError: nobody quotes any more, or registry or Triton is away; the step stands.
    """
    hold(desk, client, canary, least_rows=least_rows)
    while canary.step + 1 < len(canary.shares):
        with patiently(desk.state):
            _require_same_trial(desk, canary)
            canary = msgspec.structs.replace(canary, step=canary.step + 1, begun_ns=desk.workspace.clock.now_ns())
            desk.write(msgspec.structs.replace(desk.roles, canary=canary))
        hold(desk, client, canary, least_rows=least_rows)


def hold(desk: Desk, client: TritonClient, canary: Canary, *, least_rows: int) -> None:
    """Watch one step (or the window) to its end: its time, a block of its own, and rows enough to judge by.

    Raises as :func:`hold_steps`.
    """
    market_ns, moved = 0, time.monotonic()
    while True:
        withdraw_if_broken(desk, canary)
        _require_same_trial(desk, canary)
        _check_requests(desk, client, canary)
        alive = who_quotes(desk)
        if alive is None:
            raise ServiceError(
                f"nobody quotes {desk.instrument} any more while version {canary.version} is on trial; it stays where "
                "it is. Start the session again (keel serve --follow) and then keel promote, or take the version back "
                "(keel rollback)"
            )
        if _is_held(alive, canary, least_rows):
            return
        if alive.last_ns != market_ns:
            market_ns, moved = alive.last_ns, time.monotonic()
        if time.monotonic() - moved > _STALLED_S:
            raise ServiceError(f"no market data of {desk.instrument} came for {_STALLED_S:g} s; run keel promote again")
        time.sleep(_POLL_S)


def withdraw_if_broken(desk: Desk, canary: Canary) -> None:
    """Complete what the session has begun, where it has broken off this trial.

    Raises:
        GateError: it has; the version is withdrawn, and champion is who was before.
    """
    breach = read_breach(breach_path(desk.sessions, desk.instrument))
    if breach is not None and breach.trial == canary.trial:
        with patiently(desk.state):
            withdraw(desk, breach)
        raise GateError(f"{desk.model} {breach.line()}. It can be promoted again after a new approval")


def stand_by(desk: Desk) -> None:
    """Wait, with everything imported, until the session breaks off the trial in force, or the trial is over, or whoever
    started this process is gone."""
    parent = os.getppid()
    desk.registry.aliases(desk.model)  # imports what takes seconds to import
    trial = desk.roles.canary
    while trial is not None and os.getppid() == parent:
        breach, now = read_breach(breach_path(desk.sessions, desk.instrument)), desk.roles.canary
        if now is None or now.trial != trial.trial or (breach is not None and breach.trial == trial.trial):
            return
        time.sleep(_POLL_S)


def withdraw_broken(desk: Desk) -> Breach | None:
    """Complete the rollback that a session has begun, if there is one; the breach it was for. Call under
    :func:`serving.rollout.roles.changing`."""
    breach, canary = read_breach(breach_path(desk.sessions, desk.instrument)), desk.roles.canary
    if breach is None or canary is None or breach.trial != canary.trial:
        return None
    withdraw(desk, breach)
    return breach


def stop_broken(desk: Desk) -> Breach | None:
    """As :func:`withdraw_broken`, of a challenger that a session does not play any more."""
    breach, roles = read_breach(breach_path(desk.sessions, desk.instrument)), desk.roles
    if breach is None or (breach.version, breach.trial) != (roles.challenger, roles.test):
        return None
    stop_test(desk, breach.version, _why(breach))
    return breach


def withdraw(desk: Desk, breach: Breach) -> Watched:
    """Take a version back for good: aliases, record, roles, Triton. Free to run again. Call under
    :func:`serving.rollout.roles.changing`."""
    roles = desk.roles
    canary = roles.canary
    if canary is None or canary.trial != breach.trial:
        return Watched()  # somebody else was here first
    change = Change(
        instrument=desk.instrument,
        new=canary.against,
        old=canary.version,
        kind="automatic rollback",
        why=_why(breach),
    )
    if roles.champion != canary.version and roles.move is None:
        return take_out(desk, change)
    return ChampionChange(change, desk.workspace, desk.registry).make(watch_s=0.1)


def _why(breach: Breach) -> dict[str, object]:
    return {
        "guardrail": breach.guardrail,
        "value": breach.value,
        "limit": breach.limit,
        "session": breach.session,
    }


def stop_test(desk: Desk, version: int, why: Mapping[str, object]) -> None:
    """Take a challenger out of its test: record, alias, roles, Triton. Free to run again; nothing is done where it is
    no challenger. Call under :func:`serving.rollout.roles.changing`."""
    roles = desk.roles
    if roles.challenger != version:
        return
    what = {"model_name": desk.model, "version": version, "against": roles.champion, "test": roles.test, **why}
    audit.append_once(audit.path_of(desk.workspace), clock=desk.workspace.clock, kind=STOPPED, what=what)
    _leave(desk, roles.without_challenger(version), version)


def _leave(desk: Desk, after: Roles, version: int) -> None:
    """A version plays no role any more."""
    if desk.registry.get_alias(desk.model, CHALLENGER) == version:
        desk.registry.drop_alias(desk.model, CHALLENGER)
    desk.write(after)
    with inference_server.inference_server(desk.workspace) as client:
        desk.placement.serve(client, after.versions())


def take_out(desk: Desk, change: Change) -> Watched:
    """End a canary that is not champion yet: the champion stays, and the version plays no role any more."""
    roles = desk.roles
    champion.record(change, desk.workspace)
    _leave(desk, msgspec.structs.replace(roles.without_challenger(change.old), canary=None), change.old)
    return Watched()


def close_window(desk: Desk, canary: Canary) -> None:
    """The watch window has passed: the trial is over."""
    with patiently(desk.state):
        roles = desk.roles
        if roles.canary is not None and roles.canary.trial == canary.trial:
            desk.write(msgspec.structs.replace(roles, canary=None))


def require_standing(desk: Desk, version: int, approval: audit.Entry) -> None:
    """Refuse a version that was withdrawn by a guardrail, or whose test was stopped, after this approval.

    Raises:
        ApprovalError: it was.
    """
    for entry in audit.read(audit.path_of(desk.workspace)):
        about = (entry.kind, entry.what.get("model_name"), entry.what.get(_OUT.get(entry.kind, "")))
        if about[0] in _OUT and about[1:] == (desk.model, version) and entry.number > approval.number:
            raise ApprovalError(
                f"{desk.model} version {version} was withdrawn since it was approved: {_said(entry)}. Somebody "
                f"has to approve it anew, with a reason of its own: keel approve --version {version} --instrument "
                f"{desk.instrument}"
            )


def _said(entry: audit.Entry) -> str:
    what = entry.what
    if "guardrail" not in what:
        return f"it lost its test ({what['evidence']})"
    return f"guardrail {what['guardrail']} at {what['value']:.6g}, at most {what['limit']:.6g}"


def _is_held(alive: Alive, canary: Canary, least_rows: int) -> bool:
    held = alive.held
    if held is None or (held.trial, held.step) != (canary.trial, canary.step):
        return False
    lasted = alive.last_ns - held.since_ns >= canary.seconds * NS_PER_S
    return lasted and held.acted_blocks > 0 and held.rows >= least_rows


def _require_same_trial(desk: Desk, canary: Canary) -> None:
    now = desk.roles.canary
    if now is None or now.trial != canary.trial:
        raise GateError(
            f"the trial of {desk.model} version {canary.version} was ended by somebody else (keel rollback)"
        )


def _check_requests(desk: Desk, client: TritonClient, canary: Canary) -> None:
    """One request to the version on trial. Where only the one before it answers, that is a breach."""
    try:
        client.check(desk.model, canary.version)
    except ServiceError as error:
        client.check(desk.model, canary.against)
        breach = Breach(
            trial=canary.trial,
            version=canary.version,
            against=canary.against,
            guardrail="failed_requests",
            value=1.0,
            limit=0.0,
            session="",
            at_ns=desk.workspace.clock.now_ns(),
        )
        with patiently(desk.state):
            withdraw(desk, breach)
        raise GateError(f"{desk.model} {breach.line()} ({error})") from None
