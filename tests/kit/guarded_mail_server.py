"""A mail server that wants a password and speaks TLS, with a certificate of an authority made for the test."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
USER, PASSWORD = "keel", "a b'\"%c"


@dataclass
class Kept:
    """What the server took, and every password it was shown."""

    mails: list[Envelope] = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    port: int = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append(envelope)
        return "250 kept"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.shown.append(data.password)
        return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()), handled=False)


@dataclass(frozen=True)
class Authority:
    """``ca`` (PEM) vouches for ``certificate`` and ``key``, of ``name``."""

    ca: Path
    certificate: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context


def make_authority(folder: Path, *, address: str = HOST) -> Authority:
    """An authority and a certificate that it gave to the server at ``address``."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(tz=datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of a test")])

    def builder(subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        return made.not_valid_after(now + datetime.timedelta(days=1))

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    ca = builder(ca_name, ca_key.public_key()).add_extension(constraints, critical=True)
    ca_certificate = ca.sign(ca_key, hashes.SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    server = builder(subject, key.public_key()).add_extension(names, critical=False)
    certificate = server.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    made = Authority(folder / "ca.pem", folder / "server.pem")
    made.ca.write_bytes(ca_certificate.public_bytes(pem))
    made.certificate.write_bytes(private + certificate.public_bytes(pem))
    return made


@contextmanager
def guarded_mail_server(authority: Authority, *, security: str, passwords: bool = True) -> Iterator[Kept]:
    """``security``: ``starttls``, ``tls``, or ``none`` for one that would take the password in the clear.
    Without ``passwords`` it knows no way to sign in."""
    kept, context = Kept(), authority.server_context()
    settings: dict[str, Any] = {
        "starttls": {"tls_context": context, "require_starttls": True},
        "tls": {"ssl_context": context, "auth_require_tls": False},  # it is under TLS before it says a word
        "none": {"auth_require_tls": False},
    }[security]
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        kept.port = probe.getsockname()[1]
    if passwords:
        settings |= {"authenticator": kept.authenticate, "auth_required": True}
    else:
        settings |= {"auth_exclude_mechanism": ("LOGIN", "PLAIN")}
    controller = Controller(kept, hostname=HOST, port=kept.port, **settings)
    controller.start()
    try:
        yield kept
    finally:
        controller.stop()
