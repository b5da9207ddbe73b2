"""A connection to a mail server: encrypted and authenticated as its settings require before any mail is sent.

What a person has to fix (a wrong password, an untrusted certificate, a server whose protocol differs from its
settings) is a SettingsError; transient errors stay as smtplib raises them.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from market.errors import SettingsError
from pipelines.workspace import MailServer

TIMEOUT_S = 10.0
_TEMPORARY = range(400, 500)  # SMTP replies that mean: later
_NOT_SO = 530  # sign in first, or STARTTLS first
_MECHANISMS = frozenset({"CRAM-MD5", "LOGIN", "PLAIN"})  # those of smtplib
_NOT_TLS = "WRONG_VERSION_NUMBER"  # OpenSSL's name for a reply that is not TLS


@contextmanager
def session(server: MailServer) -> Iterator[smtplib.SMTP]:
    """Connected, encrypted, authenticated where a user is set; closed with the block.

    Raises:
        SettingsError: password, certificate or protection are not what was expected.
        OSError: the server is unavailable, or replies with an error (``smtplib.SMTPException``).
    """
    with _connected(server) as connection:
        if server.user:
            _sign_in(connection, server)
        try:
            yield connection
        except smtplib.SMTPResponseException as error:
            if error.smtp_code != _NOT_SO:
                raise
            raise SettingsError(
                f"expected {server} to take mail as it is set ({server.protection}, {server.user or 'no user'}), saw "
                f"{_said(error)}; set KEEL_SMTP_USER and its password, or KEEL_SMTP_SECURITY"
            ) from error


def _connected(server: MailServer) -> smtplib.SMTP:
    try:
        if server.protection == "tls":
            return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=_context(server))
        connection = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
        if server.protection == "starttls":
            _start_tls(connection, server)
        return connection
    except ssl.SSLCertVerificationError as error:
        raise SettingsError(
            f"expected a certificate of {server} that can be trusted, saw one of which TLS says "
            f"{error.verify_message!r}; name its authority with KEEL_SMTP_CA_FILE, and the server in KEEL_MAIL as its "
            "certificate does"
        ) from error
    except ssl.SSLError as error:
        if error.reason != _NOT_TLS:
            raise
        raise SettingsError(
            f"expected TLS from the first byte of {server}, saw an answer in the clear; set KEEL_SMTP_SECURITY=starttls"
        ) from error
    except (TimeoutError, smtplib.SMTPServerDisconnected) as error:
        waited = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
        if server.protection == "tls" or not waited:
            raise
        hint = "no greeting; if it speaks TLS from the first byte (port 465) set KEEL_SMTP_SECURITY=tls"
        raise TimeoutError(hint) from error


def _start_tls(connection: smtplib.SMTP, server: MailServer) -> None:
    try:
        connection.ehlo()
        if not connection.has_extn("starttls"):
            raise SettingsError(
                f"expected {server} to offer STARTTLS, saw none; set KEEL_SMTP_SECURITY=tls for a server that speaks "
                "TLS from the first byte (port 465). Without either, no password is sent"
            )
        connection.starttls(context=_context(server))
    except BaseException:
        connection.close()
        raise


def _context(server: MailServer) -> ssl.SSLContext:
    """Checks certificate and name of the server, by the system's authorities or the one that is named."""
    try:
        return ssl.create_default_context(cafile=server.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"expected certificates (PEM) in KEEL_SMTP_CA_FILE={server.ca_file}: {error}") from error


def _sign_in(connection: smtplib.SMTP, server: MailServer) -> None:
    connection.ehlo_or_helo_if_needed()
    offered = connection.esmtp_features.get("auth", "").upper().split()
    if not _MECHANISMS.intersection(offered):
        raise SettingsError(
            f"expected {server} to let {server.user!r} sign in with one of {', '.join(sorted(_MECHANISMS))}, saw "
            f"{' '.join(offered) or 'no way to sign in'}; leave KEEL_SMTP_USER and the password away, or use another "
            "port"
        )
    try:
        connection.login(server.user, server.password.get_secret_value())
    except smtplib.SMTPAuthenticationError as error:
        if error.smtp_code in _TEMPORARY:
            raise
        raise SettingsError(
            f"expected {server} to accept the password of {server.user!r}, saw {_said(error)}; mend "
            "KEEL_SMTP_USER, and KEEL_SMTP_PASSWORD or the file of it"
        ) from error


def _said(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode(errors="replace")
    return f"{error.smtp_code} {text}"
