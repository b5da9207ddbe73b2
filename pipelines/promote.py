"""Make an approved version champion: aliases, roles and Triton together, the old champion kept loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from market.errors import ModelError
from pipelines import inference_server, swap
from pipelines.approve import require_approval
from pipelines.swap import Change, Watched
from pipelines.workspace import Workspace
from serving.router import changing
from training.registry import CHAMPION, PREVIOUS, Registry, model_name


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """``watch_seconds``: how long the champion's route is watched before and after the swap."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str = "sim-usdm.BTCUSDT"
    version: int
    watch_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class PromoteResult:
    """``swapped`` is false where the version was champion already. ``previous`` 0: it is the first."""

    instrument: str
    model_name: str
    version: int
    previous: int
    swapped: bool
    approved_by: str
    watched: Watched

    def line(self) -> str:
        if not self.swapped:
            return f"{self.model_name} version {self.version} is champion already; nothing was changed"
        kept = f"version {self.previous} stays loaded" if self.previous else "the first one"
        return (
            f"{self.model_name} version {self.version} is champion (approved by {self.approved_by}), {kept}: "
            f"{self.watched.words()}"
        )


def promote(config: PromoteConfig, *, workspace: Workspace) -> PromoteResult:
    """Promote a version that a person has approved.

    Raises:
        ApprovalError: nobody approved it.
        ModelError: no such version, or it fails a proof.
        ServiceError: registry or Triton is away, a request failed, or another change is under way.
    """
    registry, model = Registry(workspace.tracking), model_name(config.instrument)
    approval = require_approval(workspace, model, config.version)
    with changing(inference_server.state_path(workspace)):
        _complete_other(config, workspace, registry)
        change = _change(config, workspace, registry)
        done = swap.is_done(change, workspace, registry)
        watched = (
            Watched()
            if done
            else swap.change_champion(change, workspace=workspace, registry=registry, watch_s=config.watch_seconds)
        )
    return PromoteResult(
        instrument=config.instrument,
        model_name=model,
        version=config.version,
        previous=change.old,
        swapped=not done,
        approved_by=str(approval.what["name"]),
        watched=watched,
    )


def _complete_other(config: PromoteConfig, workspace: Workspace, registry: Registry) -> None:
    """Another change that was cut off is completed before this one begins."""
    move = inference_server.roles_of(workspace, config.instrument).move
    if move is not None and move.new != config.version:
        begun = Change(instrument=config.instrument, new=move.new, old=move.old, kind=move.kind)
        swap.change_champion(begun, workspace=workspace, registry=registry, watch_s=0.0)


def _change(config: PromoteConfig, workspace: Workspace, registry: Registry) -> Change:
    roles = inference_server.roles_of(workspace, config.instrument)
    model = model_name(config.instrument)
    old = roles.move.old if roles.move else roles.champion or registry.get_alias(model, CHAMPION) or 0
    if old == config.version:
        old = roles.previous or registry.get_alias(model, PREVIOUS) or 0
    if old == config.version:
        raise ModelError(f"{model} version {old} is both champion and previous in the registry; set one of the aliases")
    return Change(instrument=config.instrument, new=config.version, old=old, kind="promotion")
