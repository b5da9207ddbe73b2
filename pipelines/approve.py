"""A person's decision about a version: who, when, why. Without it nothing becomes champion.

The decision is written to the audit record first and to the registry's tags second; :func:`require_approval` believes
it only when both tell the same. A process that dies in between is completed by running the same command again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from market.errors import ApprovalError
from pipelines import audit
from pipelines.inference_server import state_path
from pipelines.workspace import Workspace
from serving.router import read_state

KIND = "approval"

Decision = Literal["approve", "reject"]


@dataclass(frozen=True, kw_only=True)
class ApproveConfig:
    """Who decides what about which version, and why."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str
    version: int
    name: str
    reason: str
    decision: Decision = "approve"


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
        done = "approved" if self.decision == "approve" else "rejected"
        return (
            f"{self.model_name} version {self.version} {done} by {self.name}: {self.reason} "
            f"(decision {self.audit_number}, {self.audit_digest[:12]})"
        )


def approve(config: ApproveConfig, *, workspace: Workspace) -> ApproveResult:
    """Record a decision.

    Raises:
        ApprovalError: no name, no reason, or the person is the author of the run.
        ModelError: there is no such version.
        GateError: the audit record is broken.
    """
    from training.registry import Registry, model_name

    name, reason = config.name.strip(), config.reason.strip()
    _require_words(config, name, reason)
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
    }
    entry = _last_decision(audit.read(path), model, config.version)
    if entry is None or dict(entry.what) != what:
        entry = audit.append(path, clock=workspace.clock, kind=KIND, what=what)
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


def require_approval(workspace: Workspace, model_name: str, version: int) -> audit.Entry:
    """The approval of a version, when audit record and registry agree on it.

    Raises:
        ApprovalError: nobody decided, the last decision was a rejection, the author decided, or the two records differ.
        GateError: the audit record is broken.
        ModelError: there is no such version.
    """
    from training.registry import Registry

    tags = Registry(workspace.tracking).tags(model_name, version)
    entry = _last_decision(audit.read(audit.path_of(workspace)), model_name, version)
    what = f"{model_name} version {version}"
    how = f"keel approve --version {version} --instrument {model_name.removeprefix('keel-')}"
    if entry is None:
        raise ApprovalError(f"nobody has approved {what}; a person other than its author must: {how}")
    if {key: tags.get(key) for key in _tags(entry)} != _tags(entry):
        raise ApprovalError(
            f"audit record and registry disagree about {what}: expected decision {entry.digest[:12]}, the registry has "
            f"{tags.get('audit_digest', 'none')[:12]}; find out who changed which, then decide again: {how}"
        )
    if entry.what["decision"] != "approve":
        raise ApprovalError(f"{what} was rejected by {entry.what['name']}: {entry.what['reason']}")
    if _same_person(str(entry.what["name"]), tags.get("author", "")):
        raise ApprovalError(f"{what} was approved by its own author, {entry.what['name']}; someone else must: {how}")
    return entry


def undecided(workspace: Workspace) -> dict[str, int]:
    """Challengers in service that nobody has approved or rejected: the version by instrument.

    Raises:
        GateError: the audit record is broken.
        ServiceError: the record of what is in service is damaged.
    """
    entries = audit.read(audit.path_of(workspace))
    decided = {(e.what["model_name"], e.what["version"]) for e in entries if e.kind == KIND}
    roles = read_state(state_path(workspace))
    challengers = {key: each.challenger for key, each in sorted(roles.items()) if each.challenger}
    return {key: version for key, version in challengers.items() if (f"keel-{key}", version) not in decided}


def _require_words(config: ApproveConfig, name: str, reason: str) -> None:
    if not name:
        raise ApprovalError("an approval needs the name of a person; give --name, or set APPROVE_AS")
    if not reason:
        raise ApprovalError(f"an approval needs a reason; {name} should say why version {config.version} with --reason")


def _require_second_person(config: ApproveConfig, name: str, author: str) -> None:
    if not author:
        raise ApprovalError(
            f"version {config.version} of {config.instrument} does not say who trained it, so nobody can be known to "
            "be someone else; register it again with KEEL_AUTHOR set"
        )
    if _same_person(name, author):
        raise ApprovalError(
            f"{name} trained version {config.version} of {config.instrument}, and who trains may not approve; ask "
            "someone else"
        )


def _same_person(one: str, other: str) -> bool:
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()


def _last_decision(entries: tuple[audit.Entry, ...], model: str, version: int) -> audit.Entry | None:
    about = [e for e in entries if e.kind == KIND and e.what["model_name"] == model and e.what["version"] == version]
    return about[-1] if about else None


def _tags(entry: audit.Entry) -> dict[str, str]:
    return {
        "decision": str(entry.what["decision"]),
        "approved_by": str(entry.what["name"]),
        "approval_reason": str(entry.what["reason"]),
        "approved_at": str(entry.time_ns),
        "audit_digest": entry.digest,
    }
