"""Back to the previous champion, which is still loaded: no fetch, no load, no approval needed to be safe again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from market.errors import ModelError
from pipelines import inference_server, swap
from pipelines.swap import Change, Watched
from pipelines.workspace import Workspace
from serving.router import Roles, changing
from training.registry import CHAMPION, PREVIOUS, Registry, model_name


@dataclass(frozen=True, kw_only=True)
class RollbackConfig:
    """``watch_seconds``: how long the champion's route is watched before and after; short, since it is urgent."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str = "sim-usdm.BTCUSDT"
    watch_seconds: float = 0.2


@dataclass(frozen=True, kw_only=True)
class RollbackResult:
    """``version`` is champion again; ``withdrawn`` is previous now."""

    instrument: str
    model_name: str
    version: int
    withdrawn: int
    watched: Watched

    def line(self) -> str:
        return (
            f"{self.model_name} version {self.version} is champion again, version {self.withdrawn} withdrawn: "
            f"{self.watched.words()}"
        )


def rollback(config: RollbackConfig, *, workspace: Workspace) -> RollbackResult:
    """Swap champion and previous. A rollback that was cut off is completed, a promotion that was cut off is undone.

    Raises:
        ModelError: there is no previous version, or it fails its proofs.
        ServiceError: registry or Triton is away, a request failed, or another change is under way.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    with changing(inference_server.state_path(workspace)):
        roles = inference_server.roles_of(workspace, config.instrument)
        change = _change(config, roles, registry)
        watched = swap.change_champion(change, workspace=workspace, registry=registry, watch_s=config.watch_seconds)
    return RollbackResult(
        instrument=config.instrument,
        model_name=model,
        version=change.new,
        withdrawn=change.old,
        watched=watched,
    )


def _change(config: RollbackConfig, roles: Roles, registry: Registry) -> Change:
    if roles.move is not None and roles.move.kind == "rollback":
        new, old = roles.move.new, roles.move.old
    elif roles.move is not None:
        new, old = roles.move.old, roles.move.new
    else:
        model = model_name(config.instrument)
        new = roles.previous or registry.get_alias(model, PREVIOUS) or 0
        old = roles.champion or registry.get_alias(model, CHAMPION) or 0
    if not new or new == old:
        raise ModelError(
            f"{config.instrument} has no previous version to go back to; there is one after a second promotion"
        )
    return Change(instrument=config.instrument, new=new, old=old, kind="rollback")
