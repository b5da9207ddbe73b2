"""The notify stage against real SMTP servers on loopback."""

from __future__ import annotations

import email
import email.policy
import socket
from dataclasses import asdict, replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from kit.drift_found import found_drift

from market.clock import ManualClock
from market.errors import ApprovalError, InputError, PortInUseError, ServiceError, SettingsError
from pipelines.alerting.acknowledge import AcknowledgeConfig, acknowledge
from pipelines.alerting.notify import NotifyConfig, notify, retraining
from pipelines.governance import audit
from pipelines.models.cooldown import admit
from pipelines.monitoring.checks import Check
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import MailServer, Workspace

ASKED = NotifyConfig(recipients=("ada@desk.example", "grace@desk.example"), attempts=2, wait_seconds=0.05)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(
        home=tmp_path / "home", clock=ManualClock(), tracking_uri="postgresql://keel:secret@db.example/mlflow"
    )
    found_drift(workspace)
    return workspace


def _received(tmp_path: Path) -> list[EmailMessage]:
    files = sorted((tmp_path / "sink" / "new").iterdir())
    return [email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in files]


def test_a_drift_is_mailed_with_text_and_an_inline_picture(
    workspace: Workspace, sink: MailServer, tmp_path: Path
) -> None:
    result = notify(ASKED, workspace=replace(workspace, mail=sink))
    assert result.sent
    assert Path(result.eml) == workspace.mails / "drift-0123456789ab.eml"
    (mail,) = _received(tmp_path)
    assert mail["To"] == "ada@desk.example, grace@desk.example"
    assert mail["Subject"].startswith("Drift on sim-usdm.BTCUSDT: 4 of 8 windows")
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    for body in (text.get_content(), html.get_content()):
        assert "vol_1s" in body
        assert "1.90" in body
        assert "2023-11-14 22:13:20 UTC" in body
        assert "keel acknowledge drift-0123456789ab" in body
        assert "reports/monitor-1/evidently.html" in body
        assert "secret" not in body
    pictures = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert [part["Content-ID"] for part in pictures] == ["<picture>"]
    assert "cid:picture" in html.get_content()
    assert pictures[0].get_content().startswith(b"\x89PNG")


def test_what_is_done_what_fails_and_where_to_look_is_in_the_mail(
    workspace: Workspace, sink: MailServer, tmp_path: Path
) -> None:
    def check(name: str, verdict: str, value: float | None) -> dict[str, Any]:
        return asdict(Check(name=name, verdict=verdict, value=value, unit="x", warn=2.0, fail=50.0, says="slow steps"))  # type: ignore[arg-type]

    checks = [check("step_p99", "fail", 91.0), check("feed_silence", "pass", 1.0), check("gaps", "unknown", None)]
    links = {"artifacts": "runs:/1/monitoring", "page": "https://quant:secret@mlflow.example/r/1", "waiting": ""}
    found_drift(workspace, monitor="monitor-2", checks=checks, links=links)
    equipped = replace(
        workspace,
        mail=sink,
        tracking_uri="https://keel:secret@mlflow.example/",
        airflow_run="https://airflow.example/dags/monitor_drift/runs/r1",
    )
    admit(equipped, "sim-usdm.BTCUSDT", "a drift before", cool_down_seconds=60.0)
    notify(replace(ASKED, monitor_id="monitor-2"), workspace=equipped)
    (mail,) = _received(tmp_path)
    for part in ("plain", "html"):
        body = mail.get_body((part,)).get_content()  # type: ignore[union-attr]
        assert "No new retraining yet: sim-usdm.BTCUSDT was retrained 0 s ago (a drift before)" in body
        assert "step_p99 91 x, limit 50.0 (fail: slow steps)" in body.replace("<b>", "").replace("</b>", "")
        assert "feed_silence" not in body
        assert "gaps" not in body
        assert "https://mlflow.example/#/models/keel-sim-usdm.BTCUSDT/versions/1" in body
        assert "https://mlflow.example/r/1" in body
        assert "https://airflow.example/dags/monitor_drift/runs/r1" in body
        assert "secret" not in body
        assert "runs:/1" not in body  # nobody can open it from a mail


def test_the_mail_says_whether_a_retraining_begins(workspace: Workspace) -> None:
    assert "keel retrain" in retraining(workspace, "sim-usdm.BTCUSDT")
    scheduled = replace(workspace, airflow_run="https://airflow.example/dags/monitor_drift/runs/r1")
    assert "is being trained" in retraining(scheduled, "sim-usdm.BTCUSDT")


def test_the_same_drift_is_mailed_once_however_often_it_is_found(
    workspace: Workspace, sink: MailServer, tmp_path: Path
) -> None:
    equipped = replace(workspace, mail=sink)
    notify(ASKED, workspace=equipped)
    found_drift(workspace, monitor="monitor-2")  # a later look at the same drift
    again = notify(replace(ASKED, monitor_id="monitor-2"), workspace=equipped)
    assert (again.sent, again.before) == (False, True)
    assert "sent before" in again.line()
    assert len(_received(tmp_path)) == 1


def test_a_mail_waits_while_the_server_is_away_and_goes_with_the_next_run(workspace: Workspace, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        away = replace(workspace, mail=MailServer(port=taken.getsockname()[1]))
        with pytest.raises(ServiceError, match="after 2 tries"):
            notify(ASKED, workspace=away)
    waiting = workspace.mails / "outbox" / "drift-0123456789ab.eml"
    written = waiting.read_bytes()
    with running_mail_sink(tmp_path / "sink") as address:
        assert notify(ASKED, workspace=replace(workspace, mail=address)).sent
    assert not waiting.exists()
    assert (workspace.mails / "drift-0123456789ab.eml").read_bytes() == written
    assert len(_received(tmp_path)) == 1


def test_without_a_mail_server_the_mail_is_written_and_said_not_to_be_sent(workspace: Workspace) -> None:
    result = notify(ASKED, workspace=workspace)
    assert not result.sent
    assert Path(result.eml).is_file()
    assert "not sent: no mail server is set" in result.line()


def test_no_drift_is_no_mail(workspace: Workspace) -> None:
    found_drift(workspace, event="", monitor="monitor-2")
    result = notify(replace(ASKED, monitor_id="monitor-2"), workspace=workspace)
    assert "no mail" in result.line()
    assert not workspace.mails.exists()


class _Refusing:
    """A mail server that knows nobody, now or ever."""

    def __init__(self) -> None:
        self.asked = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        self.asked += 1
        return "550 no such person"


def test_a_recipient_refused_for_good_is_not_tried_again(workspace: Workspace) -> None:
    handler = _Refusing()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(handler, hostname="127.0.0.1", port=port)
    server.start()
    try:
        with pytest.raises(SettingsError, match="550 no such person"):
            notify(ASKED, workspace=replace(workspace, mail=MailServer(port=port)))
    finally:
        server.stop()
    assert handler.asked == 2  # both recipients, once each


@pytest.mark.parametrize("address", ["nobody", "a@b, c@d", "a@b\nBcc: c@d", ""])
def test_what_is_not_one_plain_address_is_refused(workspace: Workspace, address: str) -> None:
    with pytest.raises(SettingsError, match="plain mail address"):
        notify(replace(ASKED, recipients=(address,)), workspace=workspace)


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(PortInUseError, match="is taken"),
            running_mail_sink(tmp_path / "sink", port=taken.getsockname()[1]),
        ):
            raise AssertionError("the sink must not start")


def test_the_sink_is_gone_after_its_block(tmp_path: Path) -> None:
    with running_mail_sink(tmp_path / "sink") as address:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=1)


def test_who_has_seen_an_alert_is_in_the_audit_record_once(workspace: Workspace) -> None:
    seen = AcknowledgeConfig(event_id="drift-0123456789ab", name="ada", note="exchange outage")
    first = acknowledge(seen, workspace=workspace)
    assert acknowledge(seen, workspace=workspace) == first
    assert [e.what["name"] for e in audit.read(audit.path_of(workspace))] == ["ada"]


def test_an_alert_that_nobody_raised_cannot_be_acknowledged(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no alert 'drift-none'"):
        acknowledge(AcknowledgeConfig(event_id="drift-none", name="ada"), workspace=workspace)
    for name in (" ", "Airflow"):
        with pytest.raises(ApprovalError, match="name of a person"):
            acknowledge(AcknowledgeConfig(event_id="drift-0123456789ab", name=name), workspace=workspace)
