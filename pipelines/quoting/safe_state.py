"""The safe state of an instrument (wider and smaller quotes): entered by a program or a person, left by a person only.

Going in, the stance is written before the record, since quoting must be safe even if the record cannot be written;
going out, the record comes first. Whichever step a kill leaves out, running the same command again does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market import instruments
from market.errors import ApprovalError
from pipelines.governance import audit, people
from pipelines.governance.approve import require_recorded
from pipelines.in_service import roles_of
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.risk.safe_state import NORMAL, Stance, read_stances, write_stance
from serving.rollout.roles import changing
from training.registry.registry import model_name

SAFE: Final = "safe state"
RESUMED: Final = "resumed"


@dataclass(frozen=True, kw_only=True)
class SafeConfig(StageConfig):
    """Which instrument, who, why."""

    instrument: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ResumeConfig(StageConfig):
    """Which instrument, who, why."""

    instrument: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StanceResult:
    """How the instrument is quoted now, since when and on whose word; ``changed`` is false where it was so before."""

    instrument: str
    mode: str
    by: str
    reason: str
    since_ns: int
    changed: bool

    def line(self) -> str:
        how = "in the safe state" if self.mode == "safe" else "quoted as usual"
        again = "" if self.changed else ", as it was before"
        by = f" by {self.by}: {self.reason}" if self.by else ""
        return f"{self.instrument} is {how}{again}{by}"


def stance_path(workspace: Workspace) -> Path:
    """Where it is written how each instrument is quoted."""
    return workspace.stances


def safe(config: SafeConfig, *, workspace: Workspace) -> StanceResult:
    """Put an instrument into the safe state by hand.

    Raises:
        ApprovalError: no name, no reason, or the name of a program.
        InputError: no such instrument.
        ServiceError: another process is changing stances, or their file is damaged (which quotes safely as well).
    """
    name, reason = config.name.strip(), config.reason.strip()
    people.require_person(name, "the safe state by hand")
    people.require_reason(name, reason, "the safe state by hand")
    return enter(workspace, config.instrument, by=name, reason=reason)


def enter(workspace: Workspace, instrument: str, *, by: str, reason: str, event_id: str = "") -> StanceResult:
    """Put an instrument into the safe state, on whoever's word; ``event_id``: the alert that nobody took on.

    Raises:
        InputError: no such instrument.
        ServiceError: another process is changing stances, or their file is damaged (which quotes safely as well).
        GateError: the audit record is broken; the instrument is in the safe state all the same.
    """
    key, path = instruments.find(instrument).key, stance_path(workspace)
    with changing(path):
        before = read_stances(path).get(key, NORMAL)
        entered = before.mode != "safe"
        stance = Stance(mode="safe", since_ns=workspace.clock.now_ns(), by=by, reason=reason) if entered else before
        if entered:
            write_stance(path, key, stance)
        what = {"instrument": key, "name": by, "reason": reason, "event_id": event_id, "since_ns": stance.since_ns}
        _record(workspace, SAFE, what)
    return _result(key, stance, changed=entered)


def resume(config: ResumeConfig, *, workspace: Workspace) -> StanceResult:
    """Quote an instrument as usual again.

    Raises:
        ApprovalError: no name, no reason, a program, not on the list of approvers, the author of the champion's run, or
            a champion that nobody approved.
        InputError: no such instrument.
        GateError: the audit record is broken.
        ServiceError: another process is changing stances, or their file is damaged.
    """
    name, reason, doing = config.name.strip(), config.reason.strip(), "the end of a safe state"
    people.require_person(name, doing)
    people.require_reason(name, reason, doing)
    people.require_listed(name, workspace.approvers, doing)
    key, path = instruments.find(config.instrument).key, stance_path(workspace)
    _require_no_author(workspace, key, name)
    with changing(path):
        before = read_stances(path).get(key, NORMAL)
        if before.mode == "normal":
            return _result(key, before, changed=False)
        _record(workspace, RESUMED, {"instrument": key, "name": name, "reason": reason, "safe_ns": before.since_ns})
        after = Stance(mode="normal", since_ns=workspace.clock.now_ns(), by=name, reason=reason)
        write_stance(path, key, after)
    return _result(key, after, changed=True)


def _require_no_author(workspace: Workspace, instrument: str, name: str) -> None:
    """Who trained what is being served has an interest in its being served."""
    champion = roles_of(workspace, instrument).champion
    if not champion:
        return
    author = str(require_recorded(workspace, model_name(instrument), champion).what.get("author", ""))
    if people.same_person(name, author):
        raise ApprovalError(
            f"{name} trained version {champion} of {instrument}, and who trains may not end its safe state; ask "
            "someone else"
        )


def _record(workspace: Workspace, kind: str, what: Mapping[str, Any]) -> None:
    path = audit.path_of(workspace)
    if not any(entry.kind == kind and dict(entry.what) == what for entry in audit.read(path)):
        audit.append(path, clock=workspace.clock, kind=kind, what=what)


def _result(instrument: str, stance: Stance, *, changed: bool) -> StanceResult:
    return StanceResult(
        instrument=instrument,
        mode=stance.mode,
        by=stance.by,
        reason=stance.reason,
        since_ns=stance.since_ns,
        changed=changed,
    )
