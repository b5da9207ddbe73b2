"""Alerts that nobody acknowledges, against a real mail server: who is told when, and the safe state."""

from __future__ import annotations

import email
import email.policy
import socket
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest
from kit.drift_found import EVENT, found_drift
from kit.in_service import approved

from market.clock import NS_PER_S, ManualClock
from market.errors import ApprovalError, GateError, InputError, ServiceError, SettingsError
from pipelines.alerting.acknowledge import AcknowledgeConfig, acknowledge
from pipelines.alerting.escalate import EscalateConfig, EscalateResult, escalate
from pipelines.alerting.notify import NotifyConfig, notify
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.quoting.safe_state import ResumeConfig, SafeConfig, resume, safe, stance_path
from pipelines.workspace import MailServer, Workspace
from serving.risk.safe_state import read_stances
from serving.rollout.roles import Roles, write_roles

KEY = "sim-usdm.BTCUSDT"
TOLD = NotifyConfig(recipients=("ada@desk.example",), attempts=1)
ASKED = EscalateConfig(escalate_to=("head@desk.example",), attempts=1)  # 15 min and 15 min
BACK = ResumeConfig(instrument=KEY, name="mary", reason="the drift is understood")
MINUTE_NS = 60 * NS_PER_S


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000 * NS_PER_S)


@pytest.fixture
def workspace(tmp_path: Path, clock: ManualClock, sink: MailServer) -> Workspace:
    """A drift of version 1 was found and mailed."""
    workspace = Workspace(home=tmp_path / "home", clock=clock, mail=sink)
    found_drift(workspace)
    write_roles(state_path(workspace), KEY, Roles(champion=1))
    approved(workspace, KEY, 1)  # trained by ada
    notify(TOLD, workspace=workspace)
    return workspace


def after(minutes: int, workspace: Workspace, clock: ManualClock) -> EscalateResult:
    clock.advance(minutes * MINUTE_NS)
    return escalate(ASKED, workspace=workspace)


def received(tmp_path: Path) -> list[EmailMessage]:
    files = sorted((tmp_path / "sink" / "new").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in files]


def kinds(workspace: Workspace) -> list[str]:
    return [entry.kind for entry in audit.read(audit.path_of(workspace))][1:]


def mode(workspace: Workspace) -> str:
    stances = read_stances(stance_path(workspace))
    return stances[KEY].mode if KEY in stances else "normal"


def test_an_alert_is_left_alone_while_there_is_time(workspace: Workspace, clock: ManualClock, tmp_path: Path) -> None:
    result = after(14, workspace, clock)
    assert [each.state for each in result.alerts] == ["waiting"]
    assert len(received(tmp_path)) == 1


def test_unacknowledged_it_goes_to_others_once_and_then_the_instrument_is_safe(
    workspace: Workspace, clock: ManualClock, tmp_path: Path
) -> None:
    escalated = after(15, workspace, clock)
    assert (escalated.mailed, escalated.safe) == ((f"{EVENT}.escalated",), ())
    assert after(5, workspace, clock).mailed == ()
    first, second = received(tmp_path)
    assert second["To"] == "head@desk.example"
    assert second["In-Reply-To"] == first["Message-ID"]
    text = second.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "Nobody has acknowledged this within 15 min" in text
    assert "at 2027-01-15 08:30:00 UTC" in text  # half an hour after the first mail
    assert f"keel acknowledge {EVENT}" in text
    assert mode(workspace) == "normal"

    made_safe = after(10, workspace, clock)
    assert (made_safe.mailed, made_safe.safe) == ((f"{EVENT}.safe",), (KEY,))
    assert (mode(workspace), kinds(workspace)) == ("safe", ["safe state"])
    (entry,) = (e for e in audit.read(audit.path_of(workspace)) if e.kind == "safe state")
    assert (entry.what["name"], entry.what["event_id"], entry.what["instrument"]) == ("quotekeel", EVENT, KEY)
    third = received(tmp_path)[2]
    assert third["To"] == "ada@desk.example, head@desk.example"
    assert f"keel resume --instrument {KEY}" in third.get_body(("plain",)).get_content()  # type: ignore[union-attr]

    again = after(60, workspace, clock)
    assert (again.mailed, again.safe, len(received(tmp_path))) == ((), (), 3)
    assert kinds(workspace) == ["safe state"]


@pytest.mark.parametrize("minutes", [1, 20])
def test_acknowledged_at_any_time_it_stops(
    workspace: Workspace, clock: ManualClock, tmp_path: Path, minutes: int
) -> None:
    after(minutes, workspace, clock)
    told = len(received(tmp_path))
    acknowledge(AcknowledgeConfig(event_id=EVENT, name="ada"), workspace=workspace)
    result = after(120, workspace, clock)
    assert [each.state for each in result.alerts] == ["acknowledged"]
    assert (mode(workspace), len(received(tmp_path))) == ("normal", told)


def test_a_drift_of_a_model_that_is_champion_no_more_stops(
    workspace: Workspace, clock: ManualClock, tmp_path: Path
) -> None:
    write_roles(state_path(workspace), KEY, Roles(champion=2, previous=1))
    assert [each.state for each in after(120, workspace, clock).alerts] == ["superseded"]
    assert (mode(workspace), len(received(tmp_path))) == ("normal", 1)


def test_a_scheduler_that_was_down_goes_to_the_safe_state_at_once(
    workspace: Workspace, clock: ManualClock, tmp_path: Path
) -> None:
    result = after(600, workspace, clock)
    assert (result.mailed, result.safe) == ((f"{EVENT}.safe",), (KEY,))
    assert len(received(tmp_path)) == 2


def test_a_mail_server_that_is_away_holds_up_no_safe_state(workspace: Workspace, clock: ManualClock) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        away = replace(workspace, mail=MailServer(port=taken.getsockname()[1]))
        with pytest.raises(ServiceError, match="did not take the mail"):
            after(30, away, clock)
    assert (mode(workspace), kinds(workspace)) == ("safe", ["safe state"])
    assert after(5, workspace, clock).mailed == (f"{EVENT}.safe",)  # the mail that waited


def test_an_alert_that_reached_nobody_ends_in_the_safe_state_too(tmp_path: Path, clock: ManualClock) -> None:
    workspace = Workspace(home=tmp_path / "home", clock=clock)  # no mail server at all
    found_drift(workspace)
    assert not notify(TOLD, workspace=workspace).sent
    assert after(30, workspace, clock).safe == (KEY,)


def test_a_report_without_its_picture_and_a_damaged_record_of_retrainings_hold_up_no_mail(
    workspace: Workspace, clock: ManualClock
) -> None:
    (workspace.reports / "monitor-1" / "drift.png").unlink()
    damaged = workspace.home / "retrainings" / f"{KEY}.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    scheduled = replace(workspace, airflow_run="https://airflow.example/dags/escalate_alerts/runs/r1")
    assert after(15, scheduled, clock).mailed == (f"{EVENT}.escalated",)


def test_two_alerts_of_one_instrument_are_one_safe_state_and_both_on_record(
    workspace: Workspace, clock: ManualClock
) -> None:
    clock.advance(10 * MINUTE_NS)
    found_drift(workspace, event="drift-ba9876543210", monitor="monitor-2")
    notify(replace(TOLD, monitor_id="monitor-2"), workspace=workspace)
    assert after(20, workspace, clock).safe == (KEY,)
    since = read_stances(stance_path(workspace))[KEY].since_ns
    assert after(20, workspace, clock).safe == ()
    assert read_stances(stance_path(workspace))[KEY].since_ns == since
    assert kinds(workspace) == ["safe state", "safe state"]


def test_only_a_second_person_with_a_reason_ends_the_safe_state(workspace: Workspace, clock: ManualClock) -> None:
    after(30, workspace, clock)
    for name in ("", "airflow", " QuoteKeel "):
        with pytest.raises(ApprovalError, match="name of a person"):
            resume(replace(BACK, name=name), workspace=workspace)
    with pytest.raises(ApprovalError, match="a reason"):
        resume(replace(BACK, reason=" "), workspace=workspace)
    with pytest.raises(ApprovalError, match="trained version 1"):
        resume(replace(BACK, name="Ada"), workspace=workspace)
    with pytest.raises(ApprovalError, match="those who may are grace"):
        resume(BACK, workspace=replace(workspace, approvers=("grace",)))
    assert (mode(workspace), kinds(workspace)) == ("safe", ["safe state"])

    assert resume(BACK, workspace=workspace).changed
    assert (mode(workspace), kinds(workspace)) == ("normal", ["safe state", "resumed"])
    assert not resume(BACK, workspace=workspace).changed
    # the alert is done with: it does not lead there again
    assert after(60, workspace, clock).safe == ()
    assert (mode(workspace), kinds(workspace)) == ("normal", ["safe state", "resumed"])


def test_the_safe_state_by_hand_is_on_record_once(workspace: Workspace) -> None:
    asked = SafeConfig(instrument=KEY, name="mary", reason="the venue is under maintenance")
    assert safe(asked, workspace=workspace).changed
    assert not safe(asked, workspace=workspace).changed
    assert kinds(workspace) == ["safe state"]
    with pytest.raises(ApprovalError, match="a reason"):
        safe(replace(asked, reason=""), workspace=workspace)
    with pytest.raises(InputError):
        safe(replace(asked, instrument="sim-usdm.NOSUCH"), workspace=workspace)


def test_a_record_that_cannot_be_believed_does_not_keep_an_instrument_from_being_safe(workspace: Workspace) -> None:
    path = audit.path_of(workspace)
    path.write_bytes(path.read_bytes().replace(b"grace", b"mallory"))
    with pytest.raises(GateError):
        safe(SafeConfig(instrument=KEY, name="mary", reason="something is wrong"), workspace=workspace)
    assert mode(workspace) == "safe"
    with pytest.raises(GateError):
        resume(BACK, workspace=workspace)
    assert mode(workspace) == "safe"


@pytest.mark.parametrize("change", [{"acknowledge_within": 0.0}, {"safe_within": 1e12}, {"escalate_to": ()}])
def test_times_and_addresses_that_cannot_be_are_refused(workspace: Workspace, change: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        escalate(replace(ASKED, **change), workspace=workspace)
