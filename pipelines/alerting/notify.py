"""Mails about the findings of a monitor run, one per event: about a drift, what moved, by how much, since when, what
happens now; about failing checks, which ones; and how to acknowledge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from market.errors import ServiceError
from pipelines.alerting import letters, mail
from pipelines.alerting.mail import Postage, Posted
from pipelines.models.cooldown import admission
from pipelines.models.retrain import RetrainConfig
from pipelines.monitoring.monitor import read_result
from pipelines.settings import StageConfig, stage_config
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class NotifyConfig(StageConfig):
    """Which monitor run (empty: the newest), to whom, and how often an unavailable server is retried."""

    monitor_id: str = ""
    recipients: tuple[str, ...] = ("quants@desk.example",)
    sender: str = "keel@desk.example"
    attempts: int = 4
    wait_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class CheckMail:
    """The mail about failing checks; as in :class:`NotifyResult`."""

    alert_id: str
    sent: bool
    before: bool
    subject: str
    eml: str


@dataclass(frozen=True, kw_only=True)
class NotifyResult:
    """The mail about the drift: ``sent`` now; ``before``: it had been sent by an earlier run. ``eml`` is the kept mail,
    empty without a drift. ``checks``: the one about failing checks; None where none fails."""

    monitor_id: str
    event_id: str
    sent: bool
    before: bool
    subject: str
    recipients: tuple[str, ...]
    server: str
    eml: str
    checks: CheckMail | None = None

    def line(self) -> str:
        drift = self._told(self.event_id, self) if self.event_id else f"{self.monitor_id} found no drift; no mail"
        return f"{drift}; {self._told(self.checks.alert_id, self.checks)}" if self.checks else drift

    def _told(self, event: str, mail: NotifyResult | CheckMail) -> str:
        if mail.before:
            return f"the mail about {event} was sent before; kept in {mail.eml}"
        to = ", ".join(self.recipients)
        if mail.sent:
            return f"mail about {event} sent to {to} through {self.server}; kept in {mail.eml}"
        return f"mail about {event} written to {mail.eml}, not sent: no mail server is set (KEEL_MAIL=host:port)"


def notify(config: NotifyConfig, *, workspace: Workspace) -> NotifyResult:
    """Send the mail about a drift once, and that about failing checks.

    Raises:
        InputError: no such monitor run.
        SettingsError: no recipient, or one that is not an address, or the server refuses one for good.
        ServiceError: the mail server stayed unavailable; the mail waits in the outbox and goes with the next run.
    """
    postage = Postage(
        sender=config.sender,
        recipients=config.recipients,
        attempts=config.attempts,
        wait_seconds=config.wait_seconds,
    )
    mail.require_addresses(postage)
    found = read_result(workspace, config.monitor_id)
    event = str(found["event_id"])
    posted, subject, checks = Posted(sent=False, before=False, eml=""), "", None
    if found.get("alert_id"):
        checks = _post_checks(workspace, found, postage)
    if event:
        letter = letters.letter(workspace, found, doing=retraining(workspace, found["instrument"]))
        posted, subject = mail.post(letter, postage, workspace=workspace), letter.subject
    return NotifyResult(
        monitor_id=str(found["monitor_id"]),
        event_id=event,
        sent=posted.sent,
        before=posted.before,
        subject=subject,
        recipients=config.recipients,
        server=str(workspace.mail or ""),
        eml=posted.eml,
        checks=checks,
    )


def _post_checks(workspace: Workspace, found: dict[str, Any], postage: Postage) -> CheckMail:
    letter = letters.checks_letter(workspace, found)
    posted = mail.post(letter, postage, workspace=workspace)
    return CheckMail(
        alert_id=str(found["alert_id"]),
        sent=posted.sent,
        before=posted.before,
        subject=letter.subject,
        eml=posted.eml,
    )


def retraining(workspace: Workspace, instrument: str) -> str:
    """What is done about a drift, in a sentence: a retraining begins, waits for its cool-down, or no one starts one."""
    if not workspace.airflow_run:
        return f"Nothing is retrained by itself here; start it with keel retrain --instrument {instrument}."
    try:
        answer = admission(workspace, instrument, stage_config("retrain", RetrainConfig).cool_down_seconds)
    except ServiceError as error:  # the mail goes out all the same
        return f"Whether a challenger is being trained is not known: {error}."
    return f"No new retraining yet: {answer.why}." if answer.why else "A challenger is being trained (train_model)."
