"""Mails that go out once: written to the outbox first, kept next to it once the server has accepted them.

Nothing is lost while the server is unavailable and nothing is sent twice when a stage is rerun. Only a kill between the
server's answer and the move sends a second copy; it carries the same Message-ID, by which mail programs drop it.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from market.clock import NS_PER_S
from market.errors import ServiceError, SettingsError
from market.files import replacing
from pipelines.alerting import smtp
from pipelines.workspace import MailServer, Workspace

TEMPLATES = Path(__file__).parent
PICTURE_ID = "picture"
_TEMPORARY = range(400, 500)  # SMTP replies that mean: later


@dataclass(frozen=True, kw_only=True)
class Postage:
    """Sender, recipients, and how often an unavailable server is retried."""

    sender: str
    recipients: tuple[str, ...]
    attempts: int = 4
    wait_seconds: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A mail to be written: ``key`` is its file's name and its Message-ID, ``template`` names ``X.txt.j2`` and
    ``X.html.j2``, which are given ``facts``; ``picture`` (a PNG) is shown in it. ``headers`` are further ones."""

    key: str
    subject: str
    template: str
    facts: Mapping[str, Any]
    picture: Path | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Posted:
    """``sent`` now; ``before``: by an earlier run. Neither: there is no server, and the mail waits in ``eml``."""

    sent: bool
    before: bool
    eml: str


def post(letter: Letter, postage: Postage, *, workspace: Workspace) -> Posted:
    """Send a letter, unless one with its key was sent.

    Raises:
        SettingsError: no recipient, or one that is not an address; or the server refuses one for good, does not accept
            our password, or cannot be trusted. The mail waits in the outbox.
        ServiceError: the mail server stayed unavailable; the mail waits in the outbox and goes with the next call.
    """
    if workspace.mail is not None and workspace.mail.sender:
        postage = replace(postage, sender=workspace.mail.sender)
    require_addresses(postage)
    kept, waiting = _places(workspace, letter.key)
    waiting.parent.mkdir(parents=True, exist_ok=True)
    with lock(workspace):
        if kept.exists():
            return Posted(sent=False, before=True, eml=str(kept))
        _write(letter, postage, workspace, waiting)
        if workspace.mail is None:
            return Posted(sent=False, before=False, eml=str(waiting))
        _send(postage, workspace.mail, waiting, kept)
    return Posted(sent=True, before=False, eml=str(kept))


def lock(workspace: Workspace) -> Any:
    """Held while mails are written, sent and moved; a context manager."""
    from filelock import FileLock

    return FileLock(workspace.mails / ".lock")


def require_addresses(postage: Postage) -> None:
    """Raise SettingsError unless there are recipients and all are plain addresses."""
    for address in (postage.sender, *postage.recipients):
        name, at, host = address.partition("@")
        if not (name and at and host) or any(c.isspace() or c in ",<>" for c in address):
            raise SettingsError(f"expected a plain mail address such as quants@desk.example, saw {address!r}")
    if not postage.recipients:
        raise SettingsError("expected at least one recipient; set one in the section of the stage or with --set")


def message_id(key: str, sender: str) -> str:
    """What a letter's Message-ID is."""
    return f"<{key}@{sender.partition('@')[2]}>"


def _places(workspace: Workspace, key: str) -> tuple[Path, Path]:
    return workspace.mails / f"{key}.eml", workspace.mails / "outbox" / f"{key}.eml"


def _write(letter: Letter, postage: Postage, workspace: Workspace, path: Path) -> None:
    """The mail as it will be sent, once: a waiting mail is not rewritten."""
    if path.exists():
        return
    mail = EmailMessage()
    mail["Subject"] = letter.subject
    mail["From"] = postage.sender
    mail["To"] = ", ".join(postage.recipients)
    mail["Date"] = format_datetime(datetime.fromtimestamp(workspace.clock.now_ns() / NS_PER_S, tz=UTC))
    mail["Message-ID"] = message_id(letter.key, postage.sender)
    mail["Auto-Submitted"] = "auto-generated"
    for name, value in letter.headers.items():
        mail[name] = value
    facts = {**letter.facts, "picture_id": PICTURE_ID if letter.picture else ""}
    mail.set_content(_render(f"{letter.template}.txt.j2", facts))
    mail.add_alternative(_render(f"{letter.template}.html.j2", facts), subtype="html")
    if letter.picture:
        html: Any = mail.get_payload(1)
        png, name = letter.picture.read_bytes(), letter.picture.name
        html.add_related(
            png, maintype="image", subtype="png", cid=f"<{PICTURE_ID}>", filename=name, disposition="inline"
        )
    with replacing(path) as draft:
        draft.write_bytes(mail.as_bytes(policy=SMTP))


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


def _send(postage: Postage, server: MailServer, waiting: Path, kept: Path) -> None:
    """Hand the mail to the server, retrying while it is unavailable, then move it out of the outbox."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    attempts = Retrying(
        stop=stop_after_attempt(max(postage.attempts, 1)),
        wait=wait_exponential(multiplier=postage.wait_seconds, max=5.0),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        attempts(_hand_over, postage, server, waiting.read_bytes())
    except smtplib.SMTPRecipientsRefused as error:
        refused = "; ".join(
            f"{who}: {code} {said.decode(errors='replace')}" for who, (code, said) in error.recipients.items()
        )
        raise SettingsError(f"{server} refuses {refused}; mend the recipients") from error
    except OSError as error:
        raise ServiceError(
            f"the mail server at {server} did not take the mail after {postage.attempts} tries ({error}); it waits in "
            f"{waiting}. Start the server and run the same command again"
        ) from error
    waiting.replace(kept)


def _hand_over(postage: Postage, server: MailServer, mail: bytes) -> None:
    with smtp.session(server) as connection:
        connection.sendmail(postage.sender, list(postage.recipients), mail)


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may help: the server is unavailable or reports a temporary error, not a permanent one."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code in _TEMPORARY for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code in _TEMPORARY
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
