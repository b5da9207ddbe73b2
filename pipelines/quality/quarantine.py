"""Batches that the gate held back: which there are, and how a person lets one go on after all.

A batch in quarantine is whole: its rows lie there as they were in the ticks. Letting it go puts the decision on the
audit record, the rows back into the ticks, a passing verdict in the place of the old one, and takes the batch out of
quarantine, in this order. After a kill the same command again ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from market.errors import InputError
from market.history import refused_ticks
from market.lake.conditions import Where
from market.lake.lake import Lake
from market.quality.rules import PASS
from pipelines.governance import audit, people
from pipelines.quality.validate import STAGE
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

KIND = "release"


@dataclass(frozen=True, kw_only=True)
class HeldConfig(StageConfig):
    """Empty ``instrument``: of all instruments."""

    instrument: str = ""


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig(StageConfig):
    """Which batch, ``source/number`` as ``keel validate`` names it; who lets it go on, and why."""

    batch: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """One batch: the rules that held it, and by how much."""

    batch: str
    instrument: str
    rules: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class HeldResult:
    """All of them, by source and number."""

    held: tuple[Held, ...]

    def line(self) -> str:
        if not self.held:
            return "nothing is in quarantine"
        return "\n".join(f"{each.batch}  {each.instrument}  {each.rules}  ({each.detail})" for each in self.held)


@dataclass(frozen=True, kw_only=True)
class ReleaseResult:
    """What went back; ``rules`` are those that had held it."""

    batch: str
    instrument: str
    rules: str
    rows: int
    name: str
    reason: str
    audit_number: int

    def line(self) -> str:
        return (
            f"{self.rows:,} events of {self.instrument}, {self.batch}, held by {self.rules}, let go by {self.name}: "
            f"{self.reason} (decision {self.audit_number}); keel featurize takes them up"
        )


def held(config: HeldConfig, *, workspace: Workspace) -> HeldResult:
    """What the gate holds back.

    Raises:
        LakeError: the table cannot be read.
    """
    rows = _entries(Lake(workspace.lake), {}, config.instrument or None)
    return HeldResult(
        held=tuple(
            Held(
                batch=f"{row['source']}/{row['batch']}",
                instrument=f"{row['venue']}.{row['instrument']}",
                rules=row["reason"],
                detail=row["detail"],
            )
            for row in rows
        )
    )


def release(config: ReleaseConfig, *, workspace: Workspace) -> ReleaseResult:
    """Let a batch go on; the gate does not look at it again.

    Raises:
        ApprovalError: no name, a program's, or no reason.
        InputError: no such batch is in quarantine.
        GateError: the audit record is broken.
        LakeError: a table cannot be written.
    """
    name, reason = config.name.strip(), config.reason.strip()
    people.require_person(name, "the release of a batch")
    people.require_reason(name, reason, "the release of a batch")
    lake = Lake(workspace.lake)
    source, this = _named(config.batch)
    entries = _entries(lake, this, None)
    if not entries:
        raise InputError(f"{config.batch} is not in quarantine; keel quarantine ls lists what is")
    entry = entries[0]
    key = f"{entry['venue']}.{entry['instrument']}"
    what = {"instrument": key, "batch": config.batch, "rules": entry["reason"], "name": name, "reason": reason}
    number = _recorded(workspace, what)
    ticks = refused_ticks(lake, key, source, int(entry["batch"]))
    lake.replace("ticks", ticks, this)
    lake.replace("batches", _passing(lake, key, this, f"released by {name}"), this)
    lake.delete("quarantine", {**this, "stage": STAGE})
    return ReleaseResult(
        batch=config.batch,
        instrument=key,
        rules=entry["reason"],
        rows=ticks.num_rows,
        name=name,
        reason=reason,
        audit_number=number,
    )


def _entries(lake: Lake, where: Where, instrument: str | None) -> list[dict[str, Any]]:
    columns = ["venue", "instrument", "source", "batch", "reason", "detail"]
    rows = lake.read("quarantine", instrument=instrument, columns=columns, where={**where, "stage": STAGE})
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


def _named(batch: str) -> tuple[str, Where]:
    source, slash, number = batch.rpartition("/")
    if not slash or not number.isdigit():
        raise InputError(f"expected SOURCE/NUMBER as keel quarantine ls prints it, saw {batch!r}")
    return source, {"source": source, "batch": int(number)}


def _recorded(workspace: Workspace, what: dict[str, str]) -> int:
    """Number of the decision; one that is on record already, from a run that was killed, is not put there twice."""
    path = audit.path_of(workspace)
    known = [entry for entry in audit.read(path) if entry.kind == KIND and dict(entry.what) == what]
    entry = known[-1] if known else audit.append(path, clock=workspace.clock, kind=KIND, what=what)
    return entry.number


def _passing(lake: Lake, key: str, this: Where, note: str) -> pa.Table:
    """The batch's row with another verdict; what had held it stays readable beside the note."""
    rows = lake.read("batches", instrument=key, where=this)
    told = {"verdict": PASS, "reasons": f"{rows['reasons'][0].as_py()} ({note})"}
    for name, value in told.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array([value] * rows.num_rows))
    return rows
