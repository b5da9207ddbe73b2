"""Record in the audit record that a person acknowledges an alert: who, and with what note."""

from __future__ import annotations

from dataclasses import dataclass

from market.errors import InputError
from pipelines.governance import audit, people
from pipelines.monitoring.monitor import MONITOR_FILE
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

KIND = "acknowledgement"


@dataclass(frozen=True, kw_only=True)
class AcknowledgeConfig(StageConfig):
    """Which alert, a drift or failing checks, by whom, with what note."""

    event_id: str
    name: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AcknowledgeResult:
    """The entry in the audit record."""

    event_id: str
    name: str
    note: str
    acknowledged_ns: int
    audit_number: int

    def line(self) -> str:
        return f"{self.event_id} acknowledged by {self.name} (decision {self.audit_number})"


def acknowledge(config: AcknowledgeConfig, *, workspace: Workspace) -> AcknowledgeResult:
    """Record that a person has seen an alert; idempotent for the same person.

    Raises:
        ApprovalError: no name, or a program's.
        InputError: no monitor run has reported this event.
        GateError: the audit record is broken.
    """
    name = config.name.strip()
    people.require_person(name, "an acknowledgement")
    known = workspace.reports.glob(f"monitor-*/{MONITOR_FILE}")
    if not config.event_id or not any(f'"{config.event_id}"'.encode() in path.read_bytes() for path in known):
        raise InputError(f"no alert {config.event_id!r}; its id is in the mail and in what keel monitor printed")
    path = audit.path_of(workspace)
    what = {"event_id": config.event_id, "name": name, "note": config.note.strip()}
    before = [e for e in audit.read(path) if e.kind == KIND and dict(e.what) == what]
    entry = before[-1] if before else audit.append(path, clock=workspace.clock, kind=KIND, what=what)
    return AcknowledgeResult(
        event_id=config.event_id,
        name=name,
        note=config.note.strip(),
        acknowledged_ns=entry.time_ns,
        audit_number=entry.number,
    )
