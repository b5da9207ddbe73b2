"""A person's decision about a version: who, when, why. Without it no version becomes champion.

The decision is written to the audit record first and to the registry's tags second; :func:`require_approval` accepts
it only when both agree. Rerun the same command to complete a decision that was interrupted in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from market.errors import ApprovalError
from pipelines.governance import audit, people
from pipelines.in_service import state_path
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.rollout.roles import read_state

KIND = "approval"
MORE_DATA = "more data"  # of an answer that decides nothing yet

Decision = Literal["approve", "reject", "more data"]


@dataclass(frozen=True, kw_only=True)
class ApproveConfig(StageConfig):
    """Who decides what about which version, and why. ``evidence`` and its ``blocks``: what the person was shown."""

    instrument: str
    version: int
    name: str
    reason: str
    decision: Decision = "approve"
    evidence: str = ""
    blocks: int = 0


@dataclass(frozen=True, kw_only=True)
class ApproveResult:
    """The recorded decision. ``audit_digest`` is its hash in the audit record."""

    model_name: str
    version: int
    decision: Decision
    name: str
    reason: str
    author: str
    decided_ns: int
    audit_number: int
    audit_digest: str

    def line(self) -> str:
        done = {"approve": "approved", "reject": "rejected", MORE_DATA: "left open for more data"}[self.decision]
        return (
            f"{self.model_name} version {self.version} {done} by {self.name}: {self.reason} "
            f"(decision {self.audit_number}, {self.audit_digest[:12]})"
        )


def approve(config: ApproveConfig, *, workspace: Workspace) -> ApproveResult:
    """Record a decision, or that more data is wanted before one.

    Raises:
        ApprovalError: no name, no reason, not on the list of approvers, or the person is the author of the run.
        ModelError: there is no such version.
        GateError: the audit record is broken.
    """
    from training.registry.registry import Registry, model_name

    name, reason = config.name.strip(), config.reason.strip()
    _require_words(config, name, reason, workspace.approvers)
    model, registry = model_name(config.instrument), Registry(workspace.tracking)
    author = registry.version(model, config.version).tags.get("author", "")
    _require_second_person(config, name, author)
    path = audit.path_of(workspace)
    what = {
        "model_name": model,
        "version": config.version,
        "decision": config.decision,
        "name": name,
        "reason": reason,
        "author": author,
        **({"evidence": config.evidence, "blocks": config.blocks} if config.evidence else {}),
    }
    kind = MORE_DATA if config.decision == MORE_DATA else KIND
    entry = _last(audit.read(path), model, config.version, kind)
    if entry is None or dict(entry.what) != what:
        entry = audit.append(path, clock=workspace.clock, kind=kind, what=what)
    if kind == KIND:
        registry.set_tags(model, config.version, _tags(entry))
    return ApproveResult(
        model_name=model,
        version=config.version,
        decision=config.decision,
        name=name,
        reason=reason,
        author=author,
        decided_ns=entry.time_ns,
        audit_number=entry.number,
        audit_digest=entry.digest,
    )


def require_recorded(workspace: Workspace, model_name: str, version: int) -> audit.Entry:
    """The approval of a version in the audit record: what serving asks for, without the registry.

    Raises:
        ApprovalError: no one decided, the last decision was a rejection, or the author decided.
        GateError: the audit record is broken.
    """
    entry = _last(audit.read(audit.path_of(workspace)), model_name, version, KIND)
    what = f"{model_name} version {version}"
    if entry is None:
        raise ApprovalError(
            f"nobody has approved {what}; a person other than its author must: {_how(model_name, version)}"
        )
    if entry.what["decision"] != "approve":
        raise ApprovalError(f"{what} was rejected by {entry.what['name']}: {entry.what['reason']}")
    _refuse_author(entry, str(entry.what.get("author", "")), model_name, version)
    return entry


def require_approval(workspace: Workspace, model_name: str, version: int) -> audit.Entry:
    """The approval of a version, when audit record and registry agree on it.

    Raises:
        ApprovalError: as :func:`require_recorded`, or the two records differ.
        GateError: the audit record is broken.
        ModelError: there is no such version.
    """
    from training.registry.registry import Registry

    tags = Registry(workspace.tracking).tags(model_name, version)
    entry = require_recorded(workspace, model_name, version)
    if {key: tags.get(key) for key in _tags(entry)} != _tags(entry):
        raise ApprovalError(
            f"audit record and registry disagree about {model_name} version {version}: expected decision "
            f"{entry.digest[:12]}, the registry has {tags.get('audit_digest', 'none')[:12]}; find out who changed "
            f"which, then decide again: {_how(model_name, version)}"
        )
    _refuse_author(entry, tags.get("author", ""), model_name, version)
    return entry


def undecided(workspace: Workspace) -> dict[str, int]:
    """Challengers in service that no one has approved or rejected: the version by instrument.

    Raises:
        GateError: the audit record is broken.
        ServiceError: the record of what is in service is damaged.
    """
    from training.registry.registry import model_name

    entries = audit.read(audit.path_of(workspace))
    decided = {(e.what["model_name"], e.what["version"]) for e in entries if e.kind == KIND}
    roles = read_state(state_path(workspace))
    challengers = {key: each.challenger for key, each in sorted(roles.items()) if each.challenger}
    return {key: version for key, version in challengers.items() if (model_name(key), version) not in decided}


def _require_words(config: ApproveConfig, name: str, reason: str, approvers: tuple[str, ...]) -> None:
    doing = "an approval"
    if name == people.NOBODY:
        if config.decision != "reject":
            raise ApprovalError(f"{doing} needs the name of a person; without an answer a version can only be rejected")
    else:
        people.require_person(name, doing)
        people.require_listed(name, approvers, doing)
    people.require_reason(name, reason, doing)


def _require_second_person(config: ApproveConfig, name: str, author: str) -> None:
    if not author:
        raise ApprovalError(
            f"version {config.version} of {config.instrument} does not say who trained it, so nobody can be known to "
            "be someone else; register it again with KEEL_AUTHOR set"
        )
    if people.is_program(author):
        raise ApprovalError(
            f"expected a person as the author of version {config.version} of {config.instrument}, saw {author!r}: a "
            "program cannot be another person than the approver. Set KEEL_SCHEDULE_OWNER (for what Airflow starts by "
            "itself) or KEEL_AUTHOR, and train it again"
        )
    if people.same_person(name, author):
        raise ApprovalError(
            f"{name} trained version {config.version} of {config.instrument}, and who trains may not approve; ask "
            "someone else"
        )


def _refuse_author(entry: audit.Entry, author: str, model: str, version: int) -> None:
    if people.same_person(str(entry.what["name"]), author):
        raise ApprovalError(
            f"{model} version {version} was approved by its own author, {entry.what['name']}; someone else must: "
            f"{_how(model, version)}"
        )


def _how(model: str, version: int) -> str:
    from training.registry.registry import instrument_of

    return f"keel approve --version {version} --instrument {instrument_of(model)}"


def _last(entries: tuple[audit.Entry, ...], model: str, version: int, kind: str) -> audit.Entry | None:
    about = [e for e in entries if e.kind == kind and e.what["model_name"] == model and e.what["version"] == version]
    return about[-1] if about else None


def _tags(entry: audit.Entry) -> dict[str, str]:
    return {
        "decision": str(entry.what["decision"]),
        "approved_by": str(entry.what["name"]),
        "approval_reason": str(entry.what["reason"]),
        "approved_at": str(entry.time_ns),
        "audit_digest": entry.digest,
    }
