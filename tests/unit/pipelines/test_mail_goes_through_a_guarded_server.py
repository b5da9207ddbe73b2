"""Mail through a server that wants TLS and a password, as real ones do: aiosmtpd on loopback, a private authority."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit.drift_found import found_drift
from kit.guarded_mail_server import HOST, PASSWORD, USER, Authority, guarded_mail_server, make_authority
from pydantic import SecretStr

from market.clock import ManualClock
from market.errors import ServiceError, SettingsError
from pipelines import settings
from pipelines.alerting import smtp
from pipelines.alerting.notify import NotifyConfig, NotifyResult, notify
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import MailServer, Workspace

ASKED = NotifyConfig(recipients=("ada@desk.example",), attempts=2, wait_seconds=0.01)
PROTECTED = ("starttls", "tls")

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # it is under TLS all along


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(home=tmp_path / "home", clock=ManualClock())
    found_drift(workspace)
    return workspace


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("KEEL_MAIL", *(each for each in settings.VARIABLES if each.startswith("KEEL_SMTP_"))):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def server(port: int, security: str, ca: Path | None, password: str = PASSWORD) -> MailServer:
    ca_file = str(ca) if ca else ""
    return MailServer(host=HOST, port=port, security=security, user=USER, password=SecretStr(password), ca_file=ca_file)


def send(workspace: Workspace, mail: MailServer) -> NotifyResult:
    return notify(ASKED, workspace=replace(workspace, mail=mail))


def waits(workspace: Workspace) -> bool:
    return (workspace.mails / "outbox" / "drift-0123456789ab.eml").is_file()


@pytest.mark.parametrize("security", PROTECTED)
def test_a_mail_goes_out_under_tls_and_a_password(workspace: Workspace, authority: Authority, security: str) -> None:
    with guarded_mail_server(authority, security=security) as kept:
        result = send(workspace, server(kept.port, security, authority.ca))
    assert result.sent
    assert kept.shown == [PASSWORD.encode()]
    assert [mail.rcpt_tos for mail in kept.mails] == [["ada@desk.example"]]
    assert not waits(workspace)


@pytest.mark.parametrize("security", PROTECTED)
def test_a_wrong_password_is_said_and_not_tried_again(
    workspace: Workspace, authority: Authority, security: str
) -> None:
    with guarded_mail_server(authority, security=security) as kept:
        with pytest.raises(SettingsError, match="accept the password of 'keel', saw 535") as caught:
            send(workspace, server(kept.port, security, authority.ca, "wrong"))
        assert "wrong" not in str(caught.value)
        assert set(kept.shown) == {b"wrong"}
        assert waits(workspace)
        assert send(workspace, server(kept.port, security, authority.ca)).sent  # the mail that waited


@pytest.mark.parametrize("security", PROTECTED)
def test_a_certificate_that_nobody_vouches_for_gets_no_password_and_no_mail(
    workspace: Workspace, authority: Authority, security: str, tmp_path: Path
) -> None:
    stranger = make_authority(tmp_path / "stranger")
    with guarded_mail_server(authority, security=security) as kept:
        for ca in (None, stranger.ca):
            with pytest.raises(SettingsError, match=r"can be trusted.*KEEL_SMTP_CA_FILE"):
                send(workspace, server(kept.port, security, ca))
    assert (kept.shown, kept.mails) == ([], [])
    assert waits(workspace)


def test_a_certificate_of_another_server_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other", address="192.0.2.1")
    with (
        guarded_mail_server(other, security="tls") as kept,
        pytest.raises(SettingsError, match=r"IP address mismatch.*as its certificate does"),
    ):
        send(workspace, server(kept.port, "tls", other.ca))
    assert kept.shown == []


def test_a_server_without_starttls_gets_no_password(workspace: Workspace, authority: Authority) -> None:
    with guarded_mail_server(authority, security="none") as kept:
        with pytest.raises(SettingsError, match="to offer STARTTLS, saw none"):
            send(workspace, server(kept.port, "starttls", authority.ca))
        with pytest.raises(SettingsError, match="saw an answer in the clear; set KEEL_SMTP_SECURITY=starttls"):
            send(workspace, server(kept.port, "tls", authority.ca))
    assert (kept.shown, kept.mails) == ([], [])


def test_a_server_that_waits_for_tls_is_recognised(
    workspace: Workspace, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "TIMEOUT_S", 0.2)
    with (
        guarded_mail_server(authority, security="tls") as kept,
        pytest.raises(ServiceError, match="set KEEL_SMTP_SECURITY=tls"),
    ):
        send(workspace, server(kept.port, "starttls", authority.ca))
    assert waits(workspace)


def test_a_server_that_takes_no_passwords_is_said(workspace: Workspace, authority: Authority) -> None:
    with (
        guarded_mail_server(authority, security="starttls", passwords=False) as kept,
        pytest.raises(SettingsError, match="saw no way to sign in"),
    ):
        send(workspace, server(kept.port, "starttls", authority.ca))
    assert kept.mails == []


@pytest.mark.parametrize("security", ["none", "starttls"])
def test_a_server_that_wants_a_user_or_starttls_first_is_said(
    workspace: Workspace, authority: Authority, security: str
) -> None:
    with (
        guarded_mail_server(authority, security=security) as kept,
        pytest.raises(SettingsError, match=r"as it is set \(none, no user\), saw 530 .*KEEL_SMTP_"),
    ):
        send(workspace, MailServer(host=HOST, port=kept.port))
    assert waits(workspace)


def test_a_guarded_server_that_is_away_is_tried_again(workspace: Workspace, authority: Authority) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # bound and not listening: every connection is refused
        with pytest.raises(ServiceError, match="after 2 tries"):
            send(workspace, server(taken.getsockname()[1], "tls", authority.ca))
    assert waits(workspace)


def test_what_would_show_a_password_or_cannot_work_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def given(**settings: object) -> MailServer:
        return MailServer(**{"host": "mail.example", "port": 25, **settings})  # type: ignore[arg-type]

    secret = SecretStr("s3cret")
    for host in ("mail.example", "127.0.0.1", "localhost"):
        with pytest.raises(SettingsError, match="send the password in the clear"):
            given(host=host, security="none", user="keel", password=secret)
    with pytest.raises(SettingsError, match="saw no password"):
        given(user="keel")
    with pytest.raises(SettingsError, match="expected a mail security of none, starttls, tls"):
        given(security="ssl")
    with pytest.raises(SettingsError, match="there is no file"):
        given(ca_file=str(tmp_path / "absent.pem"))
    with pytest.raises(SettingsError, match="expected ASCII"):
        given(user="keel", password=SecretStr("pässword"))
    made = given(user="keel", password=secret)
    assert made.protection == given().protection == given(host="127.0.0.1", user="keel", password=secret).protection
    assert made.protection == "starttls"
    assert given(host="127.0.0.1").protection == "none"
    assert "s3cret" not in f"{made} {made!r}"
    assert str(made) == "mail.example:25"


def test_a_file_that_is_no_certificate_is_said(workspace: Workspace, tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with (
        guarded_mail_server(authority, security="tls") as kept,
        pytest.raises(SettingsError, match="expected certificates"),
    ):
        send(workspace, server(kept.port, "tls", tmp_path / "ca.pem"))


def test_the_environment_names_the_server_and_its_secret(
    clean: pytest.MonkeyPatch, tmp_path: Path, authority: Authority
) -> None:
    assert settings.mail_server() is None
    clean.setenv("KEEL_SMTP_USER", USER)
    with pytest.raises(SettingsError, match="KEEL_SMTP_USER is set but no mail server is"):
        settings.mail_server()
    clean.setenv("KEEL_MAIL", "mail.example:587")
    clean.setenv("KEEL_SMTP_PASSWORD", PASSWORD)
    clean.setenv("KEEL_SMTP_CA_FILE", str(authority.ca))
    expected = replace(server(587, "starttls", authority.ca), host="mail.example", security="")
    assert settings.mail_server() == expected
    assert settings.shown("KEEL_SMTP_PASSWORD") == "(set, holds a password)"
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    clean.setenv("KEEL_SMTP_PASSWORD_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match="saw both"):
        settings.mail_server()
    clean.delenv("KEEL_SMTP_PASSWORD")
    assert settings.mail_server() == expected
    clean.setenv("KEEL_SMTP_PASSWORD_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="cannot read the password"):
        settings.mail_server()


def test_mails_are_from_the_address_that_the_server_wants(workspace: Workspace, tmp_path: Path) -> None:
    with running_mail_sink(tmp_path / "sink") as sink:
        send(workspace, replace(sink, sender="desk@bank.example"))
    (mail,) = (tmp_path / "sink" / "new").iterdir()
    text = mail.read_text()
    assert "From: desk@bank.example" in text
    assert "X-MailFrom: desk@bank.example" in text
