"""Escalate unacknowledged alerts: a second mail to others, then the safe state. Run often; each run does what is due.

Time counts from when the first mail was written, whether or not a server took it: an alert that reached no one is not
the milder case. What was done is read from the kept mails and from the audit record, so an interrupted run is
completed by the next and nothing is done twice. The safe state comes before the mail that reports it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import default
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

from market.clock import NS_PER_S, utc
from market.errors import KeelError, ServiceError, SettingsError
from pipelines.alerting import acknowledge, letters, mail
from pipelines.alerting.letters import Later
from pipelines.alerting.mail import Postage
from pipelines.alerting.notify import retraining
from pipelines.governance import audit
from pipelines.in_service import roles_of
from pipelines.monitoring.monitor import read_result
from pipelines.quoting import safe_state
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

BY: Final = "quotekeel"  # the author of a safe state that no person requested
LONGEST_S: Final = 7 * 86_400

_THING: Final = {letters.DRIFT: "drift", letters.CHECKS: "failing checks"}
_SUBJECT: Final = {letters.DRIFT: "a drift was", letters.CHECKS: "failing checks were"}

State = Literal["waiting", "acknowledged", "superseded", "escalated", "safe"]


@dataclass(frozen=True, kw_only=True)
class EscalateConfig(StageConfig):
    """``acknowledge_within``: seconds until the second mail goes to ``escalate_to``; ``safe_within``: seconds from then
    until the instrument goes into the safe state."""

    acknowledge_within: float = 900.0
    safe_within: float = 900.0
    escalate_to: tuple[str, ...] = ("head-of-desk@desk.example",)
    sender: str = "keel@desk.example"
    attempts: int = 4
    wait_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A drift, or failing checks (``kind``), and where it stands. ``raised_ns``: when its first mail was written."""

    event_id: str
    kind: str
    monitor_id: str
    instrument: str
    raised_ns: int
    state: State
    says: str


@dataclass(frozen=True, kw_only=True)
class EscalateResult:
    """Every alert there is, oldest first. ``mailed``: letters sent by this run; ``safe``: instruments that it put into
    the safe state."""

    alerts: tuple[Alert, ...]
    mailed: tuple[str, ...]
    safe: tuple[str, ...]

    def line(self) -> str:
        open_ = [each for each in self.alerts if each.state not in ("acknowledged", "superseded")]
        done = [f"{key} sent" for key in self.mailed] + [f"{key} put into the safe state" for key in self.safe]
        said = "; ".join(f"{each.event_id} {each.says}" for each in open_) or "no alert waits for anybody"
        return "; ".join([said, *done])


def escalate(config: EscalateConfig, *, workspace: Workspace) -> EscalateResult:
    """Do what is due about every alert.

    Raises:
        SettingsError: times that are not positive or beyond a week, or no recipients to escalate to.
        GateError: the audit record is broken.
        ServiceError: the mail server stayed unavailable. Everything else that was due has been done.
    """
    _check(config)
    desk = _Desk(config, workspace)
    alerts, errors = [], list[KeelError]()
    for first in _first_mails(workspace):
        try:
            alerts.append(desk.look(first))
        except KeelError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else ServiceError("; ".join(str(error) for error in errors))
    return EscalateResult(alerts=tuple(alerts), mailed=tuple(desk.mailed), safe=tuple(desk.safe))


def _check(config: EscalateConfig) -> None:
    times = (config.acknowledge_within, config.safe_within)
    if not all(0 < seconds <= LONGEST_S for seconds in times):
        raise SettingsError(
            f"expected acknowledge_within and safe_within above 0 and at most {LONGEST_S} seconds (a week), saw "
            f"{times[0]:g} and {times[1]:g}"
        )
    mail.require_addresses(Postage(sender=config.sender, recipients=config.escalate_to))


def _first_mails(workspace: Workspace) -> list[EmailMessage]:
    """Headers of the first mail about each event, oldest first, sent or waiting."""
    if not workspace.mails.is_dir():
        return []
    with mail.lock(workspace):
        paths = [*workspace.mails.glob("*.eml"), *(workspace.mails / "outbox").glob("*.eml")]
        read = [BytesHeaderParser(EmailMessage, policy=default).parsebytes(path.read_bytes()) for path in paths]
    first = [each for each in read if _kind(each) in letters.FIRST]
    return sorted(first, key=lambda each: (_written_ns(each), str(each[letters.EVENT_HEADER])))


def raised(workspace: Workspace) -> Counter[tuple[str, str]]:
    """How many alerts there were, by instrument and kind.

    Raises:
        InputError: the report of a mail's monitor run is gone.
    """
    firsts = _first_mails(workspace)
    looks = [read_result(workspace, str(each[letters.MONITOR_HEADER])) for each in firsts]
    return Counter((str(look["instrument"]), _kind(each)) for each, look in zip(firsts, looks, strict=True))


def _kind(headers: EmailMessage) -> str:
    return str(headers[letters.ALERT_HEADER])


def _written_ns(headers: EmailMessage) -> int:
    return int(parsedate_to_datetime(str(headers["Date"])).timestamp()) * NS_PER_S


class _Desk:
    """One run over the alerts, and what it did."""

    def __init__(self, config: EscalateConfig, workspace: Workspace) -> None:
        self.mailed: list[str] = []
        self.safe: list[str] = []
        self._config, self._workspace = config, workspace
        self._now_ns = workspace.clock.now_ns()
        entries = audit.read(audit.path_of(workspace))
        self._acknowledged = {e.what["event_id"]: e for e in entries if e.kind == acknowledge.KIND}
        self._made_safe = {e.what["event_id"]: e for e in entries if e.kind == safe_state.SAFE}

    def look(self, first: EmailMessage) -> Alert:
        event, monitor_id = str(first[letters.EVENT_HEADER]), str(first[letters.MONITOR_HEADER])
        found, raised_ns = read_result(self._workspace, monitor_id), _written_ns(first)
        state, says = self._step(event, found, raised_ns, first)
        return Alert(
            event_id=event,
            kind=_kind(first),
            monitor_id=monitor_id,
            instrument=str(found["instrument"]),
            raised_ns=raised_ns,
            state=state,
            says=says,
        )

    def _step(self, event: str, found: dict[str, Any], raised_ns: int, first: EmailMessage) -> tuple[State, str]:
        escalates_ns = raised_ns + int(self._config.acknowledge_within * NS_PER_S)
        safe_ns = escalates_ns + int(self._config.safe_within * NS_PER_S)
        if event in self._made_safe:  # its mail may still be due, even after a later acknowledgement
            self._tell_of_safe_state(found, self._made_safe[event].time_ns, first)
            return "safe", f"led to the safe state at {utc(self._made_safe[event].time_ns)}"
        if event in self._acknowledged:
            return "acknowledged", f"acknowledged by {self._acknowledged[event].what['name']}"
        champion = roles_of(self._workspace, found["instrument"]).champion
        of_the_model = _kind(first) == letters.DRIFT  # a broken feed outlives a change of champion
        if of_the_model and champion and champion != found["model_version"]:
            return "superseded", f"was about version {found['model_version']}, which is champion no more"
        if self._now_ns >= safe_ns:
            self._make_safe(event, found, first)
            return "safe", "was acknowledged by nobody: the safe state"
        if self._now_ns >= escalates_ns:
            self._escalate(found, safe_ns, first)
            return "escalated", f"was acknowledged by nobody and escalated; the safe state comes at {utc(safe_ns)}"
        return "waiting", f"waits to be acknowledged until {utc(escalates_ns)}"

    def _make_safe(self, event: str, found: dict[str, Any], first: EmailMessage) -> None:
        reason = f"nobody acknowledged {event} in time"
        made = safe_state.enter(self._workspace, found["instrument"], by=BY, reason=reason, event_id=event)
        if made.changed:
            self.safe.append(made.instrument)
        self._tell_of_safe_state(found, self._now_ns, first)

    def _escalate(self, found: dict[str, Any], safe_ns: int, first: EmailMessage) -> None:
        minutes = f"{self._config.acknowledge_within / 60:g}"
        urgent = (
            f"Nobody has acknowledged this within {minutes} min. Unless somebody does, {found['instrument']} goes into "
            f"the safe state (wider, smaller quotes) at {utc(safe_ns)}."
        )
        subject = f"Not acknowledged: {letters.subject_of(_kind(first), found)}"
        self._post(found, self._config.escalate_to, _later("escalated", urgent, subject, first), first)

    def _tell_of_safe_state(self, found: dict[str, Any], since_ns: int, first: EmailMessage) -> None:
        key = found["instrument"]
        thing = _THING[_kind(first)]
        urgent = (
            f"{key} is in the SAFE STATE since {utc(since_ns)}: wider and smaller quotes, since nobody acknowledged "
            f"the {thing}. Only a person ends it: keel resume --instrument {key} --name YOUR-NAME --reason WHY"
        )
        everybody = dict.fromkeys((*(a.addr_spec for a in first["To"].addresses), *self._config.escalate_to))
        subject = f"Safe state: {key}, {_SUBJECT[_kind(first)]} not acknowledged"
        self._post(found, tuple(everybody), _later("safe", urgent, subject, first), first)

    def _post(self, found: dict[str, Any], to: Sequence[str], later: Later, first: EmailMessage) -> None:
        if _kind(first) == letters.CHECKS:
            letter = letters.checks_letter(self._workspace, found, later=later)
        else:
            doing = retraining(self._workspace, found["instrument"])
            letter = letters.letter(self._workspace, found, doing=doing, later=later)
        postage = Postage(
            sender=self._config.sender,
            recipients=tuple(to),
            attempts=self._config.attempts,
            wait_seconds=self._config.wait_seconds,
        )
        if mail.post(letter, postage, workspace=self._workspace).sent:
            self.mailed.append(letter.key)


def _later(alert: str, urgent: str, subject: str, first: EmailMessage) -> Later:
    return Later(alert=alert, urgent=urgent, subject=subject, answers=str(first["Message-ID"]))
