"""A mail about a drift: what moved, by how much, since when, what happens now, and how to say that one has seen it.

A mail is written to the outbox first and moved beside it once the server has taken it, so that nothing is lost when the
server is away and nothing is sent twice when the stage runs again. Only a kill between the server's answer and the move
sends a second copy; it carries the same Message-ID, by which mail programs drop it.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Any, ClassVar

from market.clock import NS_PER_S
from market.errors import ServiceError, SettingsError
from pipelines.monitor import read_result
from pipelines.workspace import Address, Workspace, replacing

TEMPLATES = Path(__file__).with_name("templates")
PICTURE_ID = "drift-picture"
TIMEOUT_S = 10.0
_TEMPORARY = range(400, 500)  # SMTP replies that mean: later


@dataclass(frozen=True, kw_only=True)
class NotifyConfig:
    """Which monitor run (empty: the newest), to whom, and how often a server that is away is tried."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    monitor_id: str = ""
    recipients: tuple[str, ...] = ("quants@desk.example",)
    sender: str = "keel@desk.example"
    attempts: int = 4
    wait_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class NotifyResult:
    """``sent`` now; ``before``: it had been sent by an earlier run. ``eml`` is the kept mail, empty without a drift."""

    monitor_id: str
    event_id: str
    sent: bool
    before: bool
    subject: str
    recipients: tuple[str, ...]
    server: str
    eml: str

    def line(self) -> str:
        if not self.event_id:
            return f"{self.monitor_id} found no drift; no mail"
        if self.before:
            return f"the mail about {self.event_id} was sent before; kept in {self.eml}"
        to = ", ".join(self.recipients)
        if self.sent:
            return f"mail about {self.event_id} sent to {to} through {self.server}; kept in {self.eml}"
        return (
            f"mail about {self.event_id} written to {self.eml}, not sent: no mail server is set (KEEL_MAIL=host:port)"
        )


def notify(config: NotifyConfig, *, workspace: Workspace) -> NotifyResult:
    """Send the mail about a drift once.

    Raises:
        InputError: no such monitor run.
        SettingsError: no recipient, or one that is not an address, or the server refuses one for good.
        ServiceError: the mail server stayed away; the mail waits in the outbox and goes with the next run.
    """
    from filelock import FileLock

    _require_addresses(config)
    found = read_result(workspace, config.monitor_id)
    event = str(found["event_id"])
    kept = workspace.mails / f"{event}.eml"
    waiting = workspace.mails / "outbox" / f"{event}.eml"
    subject = _subject(found)
    sent = before = False
    if event:
        waiting.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(workspace.mails / ".lock"):
            before = kept.exists()
            if not before:
                _write(config, workspace, found, waiting)
                sent = workspace.mail is not None and _send(config, workspace.mail, waiting, kept)
    return NotifyResult(
        monitor_id=str(found["monitor_id"]),
        event_id=event,
        sent=sent,
        before=before,
        subject=subject if event else "",
        recipients=config.recipients,
        server=str(workspace.mail or ""),
        eml=str(kept if sent or before else waiting) if event else "",
    )


def _require_addresses(config: NotifyConfig) -> None:
    for address in (config.sender, *config.recipients):
        name, at, host = address.partition("@")
        if not (name and at and host) or any(c.isspace() or c in ",<>" for c in address):
            raise SettingsError(f"expected a plain mail address such as quants@desk.example, saw {address!r}")
    if not config.recipients:
        raise SettingsError("expected at least one recipient; set recipients in the notify section or with --set")


def _subject(found: Mapping[str, Any]) -> str:
    first = found["top"][0]["name"] if found["top"] else "no single signal"
    return f"Drift on {found['instrument']}: {found['violated']} of {found['windows']} windows, first {first}"


def _write(config: NotifyConfig, workspace: Workspace, found: Mapping[str, Any], path: Path) -> None:
    """The mail as it will be sent, once: a mail that waits is not written anew."""
    if path.exists():
        return
    facts = _facts(workspace, found)
    mail = EmailMessage()
    mail["Subject"] = _subject(found)
    mail["From"] = config.sender
    mail["To"] = ", ".join(config.recipients)
    mail["Date"] = format_datetime(datetime.fromtimestamp(workspace.clock.now_ns() / NS_PER_S, tz=UTC))
    mail["Message-ID"] = f"<{found['event_id']}@{config.sender.partition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(_render("mail.txt.j2", facts))
    mail.add_alternative(_render("mail.html.j2", facts), subtype="html")
    html: Any = mail.get_payload(1)
    html.add_related(
        Path(found["picture"]).read_bytes(),
        maintype="image",
        subtype="png",
        cid=f"<{PICTURE_ID}>",
        filename="drift.png",
        disposition="inline",
    )
    with replacing(path) as draft:
        draft.write_bytes(mail.as_bytes(policy=SMTP))


def _facts(workspace: Workspace, found: Mapping[str, Any]) -> dict[str, Any]:
    def within(path: str) -> str:
        place = Path(path)
        return str(place.relative_to(workspace.home)) if place.is_relative_to(workspace.home) else path

    return {
        **found,
        "since": _time(found["since_ns"]),
        "until": _time(found["until_ns"]),
        "seconds": (found["until_ns"] - found["since_ns"]) / NS_PER_S,
        "picture_id": PICTURE_ID,
        "evidently_file": within(found["evidently"]),
        "figures_file": within(found["path"]),
        "tracking": _without_login(workspace.tracking),
    }


def _without_login(uri: str) -> str:
    """A mail is read by more people than may know a password."""
    scheme, separator, rest = uri.partition("://")
    login, at, place = rest.partition("@")
    return f"{scheme}{separator}{place}" if at and "/" not in login else uri


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _render(template: str, facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(facts)


def _send(config: NotifyConfig, server: Address, waiting: Path, kept: Path) -> bool:
    """Hand the mail to the server, trying again while it is away, then move it out of the outbox."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    attempts = Retrying(
        stop=stop_after_attempt(max(config.attempts, 1)),
        wait=wait_exponential(multiplier=config.wait_seconds, max=5.0),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        attempts(_hand_over, config, server, waiting.read_bytes())
    except smtplib.SMTPRecipientsRefused as error:
        refused = "; ".join(
            f"{who}: {code} {said.decode(errors='replace')}" for who, (code, said) in error.recipients.items()
        )
        raise SettingsError(f"{server} refuses {refused}; mend the recipients of notify") from error
    except OSError as error:
        raise ServiceError(
            f"the mail server at {server} did not take the mail after {config.attempts} tries ({error}); it waits in "
            f"{waiting}. Start the server and run keel notify again"
        ) from error
    waiting.replace(kept)
    return True


def _hand_over(config: NotifyConfig, server: Address, mail: bytes) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S) as smtp:
        smtp.ehlo()
        if smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            smtp.ehlo()
        smtp.sendmail(config.sender, list(config.recipients), mail)


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: the server is away or says later, and does not say never."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code in _TEMPORARY for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code in _TEMPORARY
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
