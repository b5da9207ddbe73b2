"""Back to the previous champion, which is still loaded: no fetch, no load, no approval needed to be safe again.

What a session has begun because a guardrail broke is completed; a canary that is not champion yet is taken out, and so
is a challenger that a session does not play any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from market.errors import ModelError
from pipelines.promotion import trials
from pipelines.promotion.champion import ChampionChange, Change, Watched
from pipelines.promotion.trials import Desk
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.rollout.roles import MoveKind, Roles, changing
from training.registry.registry import CHAMPION, PREVIOUS, Registry, model_name


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(StageConfig):
    """``watch_seconds``: how long the champion's route is watched before and after; short, since it is urgent.
    ``standby``: stay as long as a version is on trial, and complete what its session begins; nothing else is done."""

    instrument: str = "sim-usdm.BTCUSDT"
    watch_seconds: float = 0.2
    standby: bool = False


@dataclass(frozen=True, kw_only=True)
class RollbackResult:
    """``version`` is champion again; ``withdrawn`` is previous now, or plays no role where it broke ``guardrail``. 0:
    nothing was to be done."""

    instrument: str
    model_name: str
    version: int
    withdrawn: int
    watched: Watched
    guardrail: str = ""

    def line(self) -> str:
        if not self.withdrawn:
            return f"no session has begun a rollback of {self.model_name}; nothing was changed"
        why = f" (guardrail {self.guardrail})" if self.guardrail else ""
        return (
            f"{self.model_name} version {self.version} is champion again, version {self.withdrawn} withdrawn{why}: "
            f"{self.watched.words()}"
        )


def rollback(config: RollbackConfig, *, workspace: Workspace) -> RollbackResult:
    """Swap champion and previous. A rollback that was cut off is completed, a promotion that was cut off is undone.

    Raises:
        ModelError: there is no previous version, or it fails its proofs.
        ServiceError: registry or Triton is away, a request failed, or another change is under way.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    desk = Desk(workspace=workspace, registry=registry, instrument=config.instrument)
    result = RollbackResult(instrument=config.instrument, model_name=model, version=0, withdrawn=0, watched=Watched())
    if config.standby:
        trials.stand_by(desk)
    with trials.patiently(desk.state) if config.standby else changing(desk.state):
        stopped = trials.stop_broken(desk)
        breach = trials.withdraw_broken(desk) or (stopped if config.standby else None)
        if breach is not None:
            return replace(result, version=breach.against, withdrawn=breach.version, guardrail=breach.guardrail)
        if config.standby:
            return result
        roles = desk.roles
        change = _change(config, roles, registry)
        if roles.canary is not None and not roles.canary.promoted and roles.move is None:
            watched = trials.take_out(desk, change)
        else:
            watched = ChampionChange(change, workspace, registry).make(watch_s=config.watch_seconds)
    return replace(result, version=change.new, withdrawn=change.old, watched=watched)


def _change(config: RollbackConfig, roles: Roles, registry: Registry) -> Change:
    kind: MoveKind = "rollback"
    if roles.move is not None and roles.move.kind != "promotion":
        new, old, kind = roles.move.new, roles.move.old, roles.move.kind
    elif roles.move is not None:
        new, old = roles.move.old, roles.move.new
    elif roles.canary is not None and not roles.canary.promoted:
        new, old = roles.canary.against, roles.canary.version
    else:
        model = model_name(config.instrument)
        new = roles.previous or registry.get_alias(model, PREVIOUS) or 0
        old = roles.champion or registry.get_alias(model, CHAMPION) or 0
    if not new or new == old:
        raise ModelError(
            f"{config.instrument} has no previous version to go back to; there is one after a second promotion"
        )
    return Change(instrument=config.instrument, new=new, old=old, kind=kind)
