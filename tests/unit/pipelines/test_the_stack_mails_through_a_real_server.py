"""A stack without the server that keeps mails uses the one that the environment names: tasks, Airflow, Alertmanager."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from kit.guarded_mail_server import PASSWORD, USER, make_authority

from market.errors import SettingsError
from pipelines import settings
from pipelines.stack.environment import export_lines, variables
from pipelines.stack.servers.airflow import airflow
from pipelines.stack.servers.prometheus import alertmanager
from pipelines.stack.site import Chosen, Site, establish


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """A server with a private authority, named by the environment."""
    for name in [name for name in os.environ if name.startswith("KEEL_")]:
        monkeypatch.delenv(name)
    given = {
        "KEEL_MAIL": "mail.example:587",
        "KEEL_SMTP_SECURITY": "starttls",
        "KEEL_SMTP_USER": USER,
        "KEEL_SMTP_PASSWORD_FILE": str(tmp_path / "secret"),
        "KEEL_SMTP_CA_FILE": str(make_authority(tmp_path / "authority").ca),
        "KEEL_SMTP_FROM": "desk@bank.example",
    }
    (tmp_path / "secret").write_text(PASSWORD)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return establish(tmp_path / "stack", Chosen(without=("mail", "mail-page")))


def connection(site: Site) -> str:
    return airflow(site)[0].environment["AIRFLOW_CONN_SMTP_DEFAULT"]


def alerts(site: Site) -> dict[str, object]:
    alertmanager(site).prepare()
    written = site.conf / "alertmanager.yml"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    if amtool := shutil.which("amtool"):
        checked = subprocess.run([amtool, "check-config", written], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
    found: dict[str, object] = yaml.safe_load(written.read_text())
    return found


def test_tasks_are_told_the_server_and_its_secret(site: Site, named: dict[str, str]) -> None:
    told = variables(site)
    assert {name: told[name] for name in named} == named
    assert PASSWORD not in export_lines(site)  # the file is named, not read


def test_airflow_is_told_the_server(site: Site, named: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = urlsplit(connection(site))
    assert (found.hostname, found.port) == ("mail.example", 587)
    assert (unquote(found.username or ""), unquote(found.password or "")) == (USER, PASSWORD)
    assert parse_qs(found.query) == {"disable_ssl": ["true"], "from_email": ["desk@bank.example"]}
    monkeypatch.setenv("KEEL_SMTP_SECURITY", "tls")
    assert "disable_tls=true" in connection(site)
    assert "disable_ssl" not in connection(site)


def test_alertmanager_is_told_the_server(site: Site, named: dict[str, str]) -> None:
    found = alerts(site)
    whole, (receiver,) = found["global"], found["receivers"]  # type: ignore[misc]
    assert whole == {
        "smtp_smarthost": "mail.example:587",
        "smtp_from": "desk@bank.example",
        "smtp_require_tls": True,
        "smtp_hello": "localhost",
        "smtp_auth_username": USER,
        "smtp_auth_password": PASSWORD,
    }
    assert receiver["email_configs"][0]["tls_config"] == {"ca_file": named["KEEL_SMTP_CA_FILE"]}


def test_a_stack_that_keeps_its_mails_is_told_of_no_other_server(named: dict[str, str], tmp_path: Path) -> None:
    keeping = establish(tmp_path / "keeping", Chosen())
    told = variables(keeping)
    assert told["KEEL_MAIL"] == str(keeping.address("mail"))
    assert not [name for name in told if name.startswith("KEEL_SMTP_")]
    assert parse_qs(urlsplit(connection(keeping)).query)["disable_tls"] == ["true"]
    whole = alerts(keeping)["global"]
    assert whole == {
        "smtp_smarthost": str(keeping.address("mail")),
        "smtp_from": "alertmanager@desk.example",
        "smtp_require_tls": False,
        "smtp_hello": "localhost",
    }


def test_a_server_that_cannot_work_is_refused_before_anything_is_started(
    site: Site, named: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEL_SMTP_SECURITY", "none")
    with pytest.raises(SettingsError, match="would send the password in the clear"):
        airflow(site)
    assert settings.shown("KEEL_SMTP_USER") == USER
