"""A check of latency or integrity that fails is mailed, acknowledged, escalated and counted; it trains nothing."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import orjson
import pytest
from kit.in_service import LATER_NS, Session, approved, open_workspace, serve
from kit.planted import INSTRUMENT
from prometheus_client import CollectorRegistry, generate_latest

from market.clock import NS_PER_S, ManualClock
from pipelines.alerting.acknowledge import AcknowledgeConfig, acknowledge
from pipelines.alerting.escalate import EscalateConfig, escalate
from pipelines.alerting.notify import NotifyConfig, notify
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.monitoring.checks import CheckLimits
from pipelines.monitoring.monitor import MonitorConfig, MonitorResult, monitor
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.stack.probe import Checks
from pipelines.stack.status import StatusConfig, status
from pipelines.workspace import Workspace
from serving.rollout.roles import Roles, write_roles

LOOK = MonitorConfig(
    instrument=INSTRUMENT, window_seconds=10.0, k=3, n=4, window_alarm=0.05, min_strength=0.08, bootstrap=100
)
NO_BOOK = CheckLimits(no_book=(0.0, 0.01))  # every fiftieth moment of the session is without one
AND_SILENT = CheckLimits(no_book=(0.0, 0.01), feed_silence=(0.0, 0.001))
NONE = CheckLimits(no_book=(1.0, 1.0))
MINUTE_NS = 60 * NS_PER_S
TOLD = NotifyConfig(recipients=("ada@desk.example",), attempts=1)
ASKED = EscalateConfig(escalate_to=("head@desk.example",), attempts=1)  # 15 min and 15 min


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Path:
    home = tmp_path_factory.mktemp("alert") / "home"
    workspace = open_workspace(home, write_seeded_bundle)
    serve(workspace, Session(name="live-calm", bookless_every=50), home.parent / "rows")
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=1))
    approved(workspace, INSTRUMENT, 1)
    return home


@pytest.fixture
def workspace(home: Path, tmp_path: Path) -> Iterator[Workspace]:
    """The model in service, with no look and no mail so far, and a mail server."""
    for folder in ("reports", "mail"):
        for path in sorted((home / folder).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    with running_mail_sink(tmp_path / "sink") as address:
        yield Workspace(home=home, clock=ManualClock(LATER_NS + 600 * NS_PER_S), author="grace", mail=address)


def look(workspace: Workspace, limits: CheckLimits) -> MonitorResult:
    return monitor(replace(LOOK, limits=limits), workspace=workspace)


def received(tmp_path: Path) -> list[EmailMessage]:
    files = sorted((tmp_path / "sink" / "new").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return [email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in files]


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def test_it_is_mailed_once_without_a_drift_and_starts_no_retraining(workspace: Workspace, tmp_path: Path) -> None:
    found = look(workspace, NO_BOOK)
    assert (found.drifted, found.event_id) == (False, "")
    assert found.alert_id.startswith("checks-")
    assert f"FAILING CHECKS {found.alert_id}: no_book" in found.line()
    first, second = (notify(TOLD, workspace=workspace) for _ in range(2))
    assert first.checks is not None
    assert second.checks is not None
    assert (first.sent, first.checks.sent, second.checks.before) == (False, True, True)
    (mail,) = received(tmp_path)
    assert (mail["X-Keel-Alert"], mail["Subject"]) == ("checks", f"Failing checks on {INSTRUMENT}: no_book")
    assert "FAIL  no_book 0.01998 , limit 0.01:" in text_of(mail)
    assert "Nothing is retrained for this" in text_of(mail)
    assert f"keel acknowledge {found.alert_id}" in text_of(mail)
    assert not (workspace.home / "retrainings").exists()


def test_it_keeps_its_name_until_another_check_fails_and_ends_when_none_does(workspace: Workspace) -> None:
    first = look(workspace, NO_BOOK).alert_id
    assert look(workspace, replace(NO_BOOK, gaps=(3.0, 12.0))).alert_id == first
    more = look(workspace, AND_SILENT).alert_id
    assert more not in ("", first)
    assert look(workspace, replace(NO_BOOK, gaps=(4.0, 12.0))).alert_id == more, "all of it was told"
    assert look(workspace, NONE).alert_id == ""
    assert look(workspace, replace(NO_BOOK, gaps=(5.0, 12.0))).alert_id not in ("", more)


def test_nobody_takes_it_on_and_it_escalates_like_a_drift(workspace: Workspace, tmp_path: Path) -> None:
    look(workspace, AND_SILENT)
    notify(TOLD, workspace=workspace)
    assert isinstance(workspace.clock, ManualClock)
    (waiting,) = escalate(ASKED, workspace=workspace).alerts
    assert (waiting.kind, waiting.state) == ("checks", "waiting")
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=2))  # a broken feed outlives a change of champion
    states = []
    for minutes in (16, 16):
        workspace.clock.advance(minutes * MINUTE_NS)
        states += [each.state for each in escalate(ASKED, workspace=workspace).alerts]
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=1))
    assert states == ["escalated", "safe"]
    subjects = [mail["Subject"].strip() for mail in received(tmp_path)]
    assert subjects == [
        f"Failing checks on {INSTRUMENT}: feed_silence, no_book",
        f"Not acknowledged: Failing checks on {INSTRUMENT}: feed_silence, no_book",
        f"Safe state: {INSTRUMENT}, failing checks were not acknowledged",
    ]


def test_status_and_metrics_tell_of_it_and_who_took_it_on(workspace: Workspace) -> None:
    found = look(workspace, NO_BOOK)
    notify(TOLD, workspace=workspace)
    registry = CollectorRegistry()
    registry.register(Checks(workspace))
    told = generate_latest(registry).decode()
    assert f'keel_check{{check="no_book",instrument="{INSTRUMENT}"}} 2.0' in told
    assert f'keel_check{{check="feed_silence",instrument="{INSTRUMENT}"}} 0.0' in told
    assert f'keel_alerts_total{{instrument="{INSTRUMENT}",kind="checks"}} 1.0' in told
    screen = status(StatusConfig(), workspace=workspace).line()
    assert f"CHECKS FAIL on {INSTRUMENT}, {found.alert_id} not acknowledged" in screen
    assert "(keel acknowledge): no_book 0.01998 (limit 0.01)" in screen
    acknowledge(AcknowledgeConfig(event_id=found.alert_id, name="mary"), workspace=workspace)
    assert "acknowledged by mary: no_book" in status(StatusConfig(), workspace=workspace).line()
    (alert,) = escalate(ASKED, workspace=workspace).alerts
    assert alert.state == "acknowledged"
    assert [entry.what["name"] for entry in audit.read(audit.path_of(workspace))][-1] == "mary"


def test_a_look_at_which_no_check_fails_raises_no_alert(workspace: Workspace) -> None:
    found = look(workspace, NONE)
    assert found.alert_id == ""
    assert notify(TOLD, workspace=workspace).checks is None
    assert f"checks of {INSTRUMENT}: none fails" in status(StatusConfig(), workspace=workspace).line()
    assert orjson.loads(Path(found.path).read_bytes())["alert_id"] == ""
