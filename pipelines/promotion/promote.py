"""Make an approved version champion: as a canary first where somebody quotes, then aliases, roles and Triton together.

While a session follows the instrument (``keel serve --follow``), the version acts in a growing share of the blocks, and
goes on being watched for a while after it has become champion (:mod:`pipelines.promotion.trials`). Where nobody quotes
there is nobody to judge it: it becomes champion at once. A promotion that was cut off is gone on with by running it
again. The old champion stays loaded.

Bundles without a role leave ``models/`` once their time of retention has passed. Triton is told by every change of
roles already: it serves what plays a role and nothing else. A bundle that is wanted again (a trace, a new approval) is
fetched from the registry.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from market.clock import NS_PER_S
from market.errors import ModelError, ServiceError, SettingsError
from pipelines import in_service
from pipelines.deployment import inference_server
from pipelines.governance import audit
from pipelines.governance.approve import require_approval
from pipelines.promotion import trials
from pipelines.promotion.champion import ChampionChange, Change, Watched
from pipelines.promotion.trials import Desk
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.rollout.assignment import TENTHS
from serving.rollout.roles import Canary, changing
from serving.triton.client import TritonClient
from training.registry.registry import CHAMPION, PREVIOUS, Registry, model_name

_HOUR_NS = 3_600 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class PromoteConfig(StageConfig):
    """``watch_seconds``: how long the champion's route through Triton is watched before and after the swap.

    ``canary``: shares of the blocks, step by step, in tenths; empty: at once. A step lasts ``step_seconds`` of market
    time and until ``least_rows`` rows were judged, the window after it ``window_seconds`` (0: none). Bundles of
    versions without a role are removed after ``retention_hours``.
    """

    instrument: str = "sim-usdm.BTCUSDT"
    version: int
    watch_seconds: float = 1.0
    canary: tuple[float, ...] = (0.1, 0.5, 1.0)
    step_seconds: float = 120.0
    window_seconds: float = 300.0
    least_rows: int = 500
    retention_hours: float = 24.0

    def __post_init__(self) -> None:
        tenths = [share * TENTHS for share in self.canary]
        if any(not 1 <= t <= TENTHS or abs(t - round(t)) > 1e-9 for t in tenths) or tenths != sorted(tenths):
            raise SettingsError(
                f"canary: expected growing shares in tenths, such as [0.1, 0.5, 1.0], saw {self.canary}"
            )
        if self.step_seconds <= 0 or self.window_seconds < 0 or self.least_rows < 0 or self.retention_hours < 0:
            raise SettingsError(
                "expected step_seconds above 0; window_seconds, least_rows, retention_hours of 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class PromoteResult:
    """``swapped`` is false where the version was champion already. ``previous`` 0: it is the first. ``canary``: the
    shares it was held at; ``window_seconds`` for which it was watched since. ``retired``: versions whose bundles were
    removed."""

    instrument: str
    model_name: str
    version: int
    previous: int
    swapped: bool
    approved_by: str
    watched: Watched
    canary: tuple[float, ...] = ()
    window_seconds: float = 0.0
    retired: tuple[int, ...] = ()

    def line(self) -> str:
        if not self.swapped and not self.canary:
            return f"{self.model_name} version {self.version} is champion already; nothing was changed"
        kept = f"version {self.previous} stays loaded" if self.previous else "the first one"
        steps = ", ".join(f"{share:.0%}" for share in self.canary)
        held = f", held as canary at {steps} and watched for {self.window_seconds:g} s" if steps else ""
        return (
            f"{self.model_name} version {self.version} is champion (approved by {self.approved_by}){held}, {kept}: "
            f"{self.watched.words()}"
        )


def promote(config: PromoteConfig, *, workspace: Workspace) -> PromoteResult:
    """Promote a version that a person has approved.

    Raises:
        ApprovalError: nobody approved it, or it was withdrawn since.
        ModelError: no such version, or it fails a proof.
        GateError: a guardrail broke while it was on trial; who was champion is champion again.
        ServiceError: registry or Triton is away, a request failed, another change is under way, or nobody quotes any
            more in the middle of a trial; running it again goes on from there.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    desk = Desk(workspace=workspace, registry=registry, instrument=config.instrument)
    with trials.patiently(desk.state):
        trials.withdraw_broken(desk)
        trials.stop_broken(desk)
    approval = require_approval(workspace, model, config.version)
    trials.require_standing(desk, config.version, approval)
    with ExitStack() as stack:
        on_trial = _begin(config, desk, stack)
        # a swap that was cut off had held every step
        if on_trial is not None and not on_trial.canary.promoted and desk.roles.move is None:
            trials.hold_steps(desk, on_trial.client, on_trial.canary, least_rows=config.least_rows)
        with trials.patiently(desk.state):
            change, done, watched = _swap(config, desk)
            retired = retire(workspace, config.instrument, config.retention_hours)
        window = desk.roles.canary
        if on_trial is not None and window is not None:
            if window.seconds > 0:
                trials.hold(desk, on_trial.client, window, least_rows=config.least_rows)
            trials.close_window(desk, window)
    return PromoteResult(
        instrument=config.instrument,
        model_name=model,
        version=config.version,
        previous=change.old,
        swapped=not done,
        approved_by=str(approval.what["name"]),
        watched=watched,
        canary=on_trial.canary.shares if on_trial else (),
        window_seconds=on_trial.canary.window_seconds if on_trial else 0.0,
        retired=retired,
    )


@dataclass(frozen=True, kw_only=True)
class _OnTrial:
    canary: Canary
    client: TritonClient


def _begin(config: PromoteConfig, desk: Desk, stack: ExitStack) -> _OnTrial | None:
    """The trial of this version, begun or found; None where it becomes champion at once."""
    with changing(desk.state):
        roles = desk.roles
        there = roles.canary
        if there is not None and there.version != config.version:
            raise ServiceError(
                f"version {there.version} of {config.instrument} is on trial; wait for its keel promote, or take it "
                "back with keel rollback"
            )
        if there is not None and not config.canary:
            desk.write(msgspec.structs.replace(roles, canary=None))
            return None
        if there is None:
            quoting = trials.who_quotes(desk) is not None
            if not (config.canary and quoting and roles.champion) or roles.move or roles.champion == config.version:
                return None
        client = stack.enter_context(inference_server.inference_server(desk.workspace))
        if there is None:
            there = _new_trial(config, desk, roles.champion)
            trials.begin(desk, client, there)
    return _OnTrial(canary=there, client=client)


def _new_trial(config: PromoteConfig, desk: Desk, champion: int) -> Canary:
    now_ns = desk.workspace.clock.now_ns()
    return Canary(
        version=config.version,
        against=champion,
        shares=config.canary,
        step_seconds=config.step_seconds,
        window_seconds=config.window_seconds,
        trial=now_ns,
        begun_ns=now_ns,
    )


def _swap(config: PromoteConfig, desk: Desk) -> tuple[Change, bool, Watched]:
    """The change, whether it was done already, and what a client saw of it."""
    workspace, registry = desk.workspace, desk.registry
    _complete_other(config, workspace, registry)
    change = _change(config, workspace, registry)
    champion_change = ChampionChange(change, workspace, registry)
    if champion_change.is_done():
        return change, True, Watched()
    watched = champion_change.make(watch_s=config.watch_seconds)
    return change, False, watched


def _complete_other(config: PromoteConfig, workspace: Workspace, registry: Registry) -> None:
    """Another change that was cut off is completed before this one begins."""
    move = in_service.roles_of(workspace, config.instrument).move
    if move is not None and move.new != config.version:
        begun = Change(instrument=config.instrument, new=move.new, old=move.old, kind=move.kind)
        ChampionChange(begun, workspace, registry).make(watch_s=0.0)


def _change(config: PromoteConfig, workspace: Workspace, registry: Registry) -> Change:
    roles = in_service.roles_of(workspace, config.instrument)
    model = model_name(config.instrument)
    old = roles.move.old if roles.move else roles.champion or registry.get_alias(model, CHAMPION) or 0
    if old == config.version:
        old = roles.previous or registry.get_alias(model, PREVIOUS) or 0
    if old == config.version:
        raise ModelError(f"{model} version {old} is both champion and previous in the registry; set one of the aliases")
    return Change(instrument=config.instrument, new=config.version, old=old, kind="promotion")


def retire(workspace: Workspace, instrument: str, retention_hours: float) -> tuple[int, ...]:
    """Remove bundles of versions without a role of which nobody has decided anything, and that were not fetched, within
    the retention; the versions. Call under :func:`serving.rollout.roles.changing`."""
    folder = workspace.models / instrument
    playing = in_service.roles_of(workspace, instrument).versions()
    last = _last_named(workspace, model_name(instrument))
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.isdigit() or int(path.name) in playing:
            continue
        since_ns = max(last.get(int(path.name), 0), path.stat().st_mtime_ns)
        if workspace.clock.now_ns() - since_ns >= retention_hours * _HOUR_NS:
            shutil.rmtree(path)
            removed.append(int(path.name))
    return tuple(removed)


def _last_named(workspace: Workspace, model: str) -> dict[int, int]:
    """When each version was last decided about."""
    last: dict[int, int] = {}
    for entry in audit.read(audit.path_of(workspace)):
        if entry.what.get("model_name") == model:
            for name in ("version", "old"):
                last[int(entry.what.get(name) or 0)] = entry.time_ns
    return last
