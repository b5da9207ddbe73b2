"""Limits of an instrument, learned from its history and in force once a person has accepted them.

``learn`` writes a proposal; ``review`` puts the person's decision on the audit record and then, if it was accepted, the
proposal in the place of the limits in force. Those are believed only while they are what the record says was accepted,
so that an edited file stops the gate rather than opening it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from market.errors import EmptyDataError, GateError, InputError
from market.files import replacing
from market.lake.lake import Lake
from market.quality.columns import Bounds
from market.quality.limits import Limits, learned
from market.quality.rules import RULES, Limit
from pipelines.governance import audit, people
from pipelines.quality import measurements
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

KIND = "thresholds"

Decision = Literal["accept", "reject"]


@dataclass(frozen=True, kw_only=True)
class LearnConfig(StageConfig):
    """``at_least`` so many minutes that passed are needed; the newest ``at_most`` are looked at."""

    instrument: str
    at_least: int = 60
    at_most: int = 20_000


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(StageConfig):
    """Who decides what about the proposal, and why."""

    instrument: str
    name: str
    reason: str
    decision: Decision = "accept"


@dataclass(frozen=True, kw_only=True)
class ShowConfig(StageConfig):
    """Of which instrument."""

    instrument: str


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A proposal or the limits in force, as it is on disk; the minutes are those it was learned from."""

    instrument: str
    minutes: int
    first_ns: int
    last_ns: int
    learned_ns: int
    limits: dict[str, Limit]
    bounds: Bounds


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """The proposal. ``limits`` has ``[warn, hold]`` by rule, for the rules that would change."""

    instrument: str
    minutes: int
    path: str
    limits: dict[str, tuple[float | None, float | None]]
    bounds: Bounds

    def line(self) -> str:
        return (
            f"{len(self.limits)} limits and the bounds of {self.instrument} proposed from {self.minutes} minutes that "
            f"passed: {self.path}; look at them (keel thresholds show --instrument {self.instrument}) and decide "
            f"(keel thresholds review --instrument {self.instrument} --name ... --reason ...)"
        )


@dataclass(frozen=True, kw_only=True)
class ReviewResult:
    """The recorded decision. ``digest`` is the sha256 of the reviewed file."""

    instrument: str
    decision: Decision
    name: str
    reason: str
    digest: str
    audit_number: int

    def line(self) -> str:
        done = f"{self.decision}ed by {self.name}: {self.reason}"
        return f"limits of {self.instrument} {done} (decision {self.audit_number})"


@dataclass(frozen=True, kw_only=True)
class ShownRule:
    """A rule with the limits in force and the proposed ones; None: the rule never says this."""

    rule: str
    unit: str
    says: str
    warn: float | None
    hold: float | None
    proposed_warn: float | None
    proposed_hold: float | None


@dataclass(frozen=True, kw_only=True)
class ShowResult:
    """``origin`` says where the limits in force come from."""

    instrument: str
    origin: str
    proposal: str
    rules: tuple[ShownRule, ...]
    bounds: Bounds
    proposed_bounds: Bounds

    def line(self) -> str:
        head = f"{'rule':20} {'unit':8} {'warn':>9} {'hold':>9}"
        beside = f" {'new warn':>9} {'new hold':>9}" if self.proposal else ""
        lines = [f"{self.instrument}: {self.origin}", f"{head}{beside}  says"]
        for each in self.rules:
            new = f" {_number(each.proposed_warn)} {_number(each.proposed_hold)}" if self.proposal else ""
            row = f"{each.rule:20} {each.unit:8} {_number(each.warn)} {_number(each.hold)}{new}  {each.says}"
            lines.append(row)
        lines.append(f"bounds: {_bounds(self.bounds)}")
        if self.proposal:
            lines += [f"proposed: {_bounds(self.proposed_bounds)}", f"proposal: {self.proposal}"]
        return "\n".join(lines)


def learn(config: LearnConfig, *, workspace: Workspace) -> LearnResult:
    """Propose limits from the instrument's batches that passed.

    Raises:
        EmptyDataError: too few of them.
        LakeError: a table cannot be read.
    """
    lake = Lake(workspace.lake)
    good = measurements.passed(lake, config.instrument)
    history = [each for source, batch, each in measurements.read(lake, config.instrument) if (source, batch) in good]
    history = sorted(history, key=lambda each: each.first_ns)[-config.at_most :]
    if len(history) < config.at_least:
        raise EmptyDataError(
            f"expected at least {config.at_least} minutes of {config.instrument} that passed the gate, saw "
            f"{len(history)}; land and validate more, or ask for fewer with --set at_least=..."
        )
    prices = [each.values[name] for each in history for name in ("lowest_price", "highest_price")]
    seen = [int(price) for price in prices if price] or [1]
    limits = learned(history, (min(seen), max(seen)))
    file = _File(
        instrument=config.instrument,
        minutes=len(history),
        first_ns=history[0].first_ns,
        last_ns=history[-1].last_ns,
        learned_ns=workspace.clock.now_ns(),
        limits=dict(limits.limits),
        bounds=limits.bounds,
    )
    path = _proposal(workspace, config.instrument)
    _write(path, msgspec.json.format(msgspec.json.encode(file), indent=1))
    return LearnResult(
        instrument=config.instrument,
        minutes=len(history),
        path=str(path),
        limits={name: (limit.warn, limit.hold) for name, limit in limits.limits.items()},
        bounds=limits.bounds,
    )


def review(config: ReviewConfig, *, workspace: Workspace) -> ReviewResult:
    """Record a person's decision about the proposal; an accepted one is in force from now on.

    Raises:
        ApprovalError: no name, a program's, or no reason.
        InputError: there is no proposal.
        GateError: the audit record is broken.
    """
    name, reason = config.name.strip(), config.reason.strip()
    people.require_person(name, "a review")
    people.require_reason(name, reason, "a review")
    proposal = _proposal(workspace, config.instrument)
    if not proposal.exists():
        raise InputError(
            f"there is no proposal for {config.instrument}; keel thresholds learn --instrument {config.instrument} "
            "makes one"
        )
    content = proposal.read_bytes()
    _read(proposal, content, config.instrument)
    digest = hashlib.sha256(content).hexdigest()
    what = {"instrument": config.instrument, "decision": config.decision, "digest": digest}
    what |= {"name": name, "reason": reason}
    path = audit.path_of(workspace)
    entry = _last_decision(path, config.instrument)
    if entry is None or dict(entry.what) != what:  # else an earlier run was killed after it had put it on record
        entry = audit.append(path, clock=workspace.clock, kind=KIND, what=what)
    if config.decision == "accept":
        _write(_accepted(workspace, config.instrument), content)
    proposal.unlink()
    return ReviewResult(
        instrument=config.instrument,
        decision=config.decision,
        name=name,
        reason=reason,
        digest=digest,
        audit_number=entry.number,
    )


def show(config: ShowConfig, *, workspace: Workspace) -> ShowResult:
    """The limits in force and the proposed ones.

    Raises:
        GateError: the limits on disk are not those that a person accepted.
    """
    force = in_force(workspace, config.instrument)
    path = _proposal(workspace, config.instrument)
    proposed = _limits(_read(path, path.read_bytes(), config.instrument)) if path.exists() else Limits()
    entry = _last_decision(audit.path_of(workspace), config.instrument, decision="accept")
    return ShowResult(
        instrument=config.instrument,
        origin=f"accepted by {entry.what['name']}: {entry.what['reason']}" if entry else "the limits of the table",
        proposal=str(path) if path.exists() else "",
        rules=tuple(
            ShownRule(
                rule=rule.name,
                unit=rule.unit,
                says=rule.says,
                warn=force.of(rule).warn,
                hold=force.of(rule).hold,
                proposed_warn=proposed.of(rule).warn,
                proposed_hold=proposed.of(rule).hold,
            )
            for rule in RULES
        ),
        bounds=force.bounds,
        proposed_bounds=proposed.bounds,
    )


def in_force(workspace: Workspace, instrument: str) -> Limits:
    """The limits that a person accepted for an instrument; those of the table where nobody has accepted any.

    Raises:
        GateError: the file was changed, or is missing although it was accepted.
    """
    path = _accepted(workspace, instrument)
    entry = _last_decision(audit.path_of(workspace), instrument, decision="accept")
    if entry is None and not path.exists():
        return Limits()
    content = path.read_bytes() if path.exists() else b""
    digest = hashlib.sha256(content).hexdigest()
    accepted = str(entry.what["digest"]) if entry else "none"
    if digest != accepted:
        raise GateError(
            f"{path}: expected the limits that a person accepted ({accepted[:12]}), saw {digest[:12]}; restore the "
            f"file, or finish the review: keel thresholds review --instrument {instrument}"
        )
    return _limits(_read(path, content, instrument))


def _read(path: Path, content: bytes, instrument: str) -> _File:
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} holds no limits: {error}; learn them again") from None
    if file.instrument != instrument:
        raise InputError(f"{path}: expected limits of {instrument}, saw those of {file.instrument}; learn them again")
    _limits(file)
    return file


def _limits(file: _File) -> Limits:
    return Limits(limits=file.limits, bounds=file.bounds)


def _last_decision(path: Path, instrument: str, decision: Decision | None = None) -> audit.Entry | None:
    for entry in reversed(audit.read(path)):
        what: Any = entry.what
        if entry.kind == KIND and what["instrument"] == instrument and decision in (None, what["decision"]):
            return entry
    return None


def _accepted(workspace: Workspace, instrument: str) -> Path:
    return workspace.thresholds / f"{instrument}.json"


def _proposal(workspace: Workspace, instrument: str) -> Path:
    return workspace.thresholds / f"{instrument}.proposed.json"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(content)


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:g}':>9}"


def _bounds(bounds: Bounds) -> str:
    return (
        f"prices {bounds.lowest_price:,} to {bounds.highest_price:,} ticks, sizes to {bounds.largest_size:,} lots, "
        f"trades to {bounds.outside_bp:g} bp from the touch"
    )
