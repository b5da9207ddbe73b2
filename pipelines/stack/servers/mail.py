"""A mail server that keeps what it is given, and a page to read it."""

from __future__ import annotations

import functools
import smtplib
import sys

from pipelines.stack.server import PROBE_SECONDS, Server, get, spoken
from pipelines.stack.site import CHECKOUT, HOST, Site


def mail(site: Site) -> Server:
    """SMTP on loopback; each mail becomes a file of the Maildir ``data/mail/box``."""
    listen = ["-n", "-l", str(site.address("mail"))]
    keep = ["-c", "aiosmtpd.handlers.Mailbox", str(site.data("mail") / "box")]
    return Server(
        name="mail",
        what="takes every mail and keeps it",
        command=(sys.executable, "-W", "ignore", "-m", "aiosmtpd", *listen, *keep),
        ports=("mail",),
        probe=functools.partial(_probe, site),
    )


def mail_page(site: Site) -> Server:
    """The page of that Maildir."""
    return Server(
        name="mail-page",
        what="where a person reads the mail",
        command=(
            sys.executable,
            "-m",
            "pipelines.stack.mail_page",
            str(site.data("mail") / "box"),
            str(site.port("mail-page")),
        ),
        environment={"PYTHONPATH": str(CHECKOUT)},
        ports=("mail-page",),
        needs=("mail",),
        probe=lambda: _page(site),
        page=site.url("mail-page"),
    )


def _probe(site: Site) -> None:
    with (
        spoken(f"the mail server at {site.address('mail')}", OSError, smtplib.SMTPException),
        smtplib.SMTP(HOST, site.port("mail"), timeout=PROBE_SECONDS) as smtp,
    ):
        smtp.noop()


def _page(site: Site) -> None:
    get(site.url("mail-page"))
