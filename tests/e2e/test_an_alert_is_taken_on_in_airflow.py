"""escalate_alerts and acknowledge_drift, run by Airflow: who is told, and how a person stops it from its screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.airflow_home import AirflowHome
from kit.drift_found import EVENT, found_drift

from market.clock import NS_PER_S, ManualClock, SystemClock
from pipelines.alerting.notify import NotifyConfig, notify
from pipelines.governance import audit
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import Workspace

pytestmark = pytest.mark.heavy

KEY = "sim-usdm.BTCUSDT"
TIMES = {"KEEL_ESCALATE__ACKNOWLEDGE_WITHIN": "60", "KEEL_ESCALATE__SAFE_WITHIN": "604800"}


def test_an_alert_goes_to_others_and_stops_once_somebody_takes_it_on_in_airflow(
    airflow_home: AirflowHome, tmp_path: Path
) -> None:
    with running_mail_sink(tmp_path / "sink") as mail:
        workspace = Workspace(home=tmp_path / "home", clock=ManualClock(SystemClock().now_ns() - 3600 * NS_PER_S))
        found_drift(workspace)
        notify(NotifyConfig(), workspace=workspace)
        variables = {"KEEL_HOME": str(workspace.home), "KEEL_AUTHOR": "airflow", "KEEL_MAIL": str(mail), **TIMES}
        airflow = airflow_home.of(**variables)
        airflow.start_api_server()
        with airflow.dag("escalate_alerts") as escalate_alerts:
            first, second = escalate_alerts.run(), escalate_alerts.run()
            with airflow.dag("acknowledge_drift") as acknowledge_drift:
                acknowledge_drift.start(event_id=EVENT, instrument=KEY, says="waits")
                acknowledge_drift.wait_until_it_asks()
                question = airflow.answer("mallory", "I take it on", "seen", field="note")
                taken = acknowledge_drift.finish()
            third = escalate_alerts.run()
    assert first.returned["escalate"]["mailed"] == [f"{EVENT}.escalated"]
    assert second.returned["escalate"]["mailed"] == []
    assert (first.tasks["ask"], second.tasks["ask"]) == ("success", "skipped")  # a run of its own, once
    assert question["subject"] == f"Drift on {KEY}: who takes it on?"
    assert EVENT in question["body"]
    assert (taken.state, taken.returned["acknowledge"]["name"]) == ("success", "mallory")
    (entry,) = audit.read(audit.path_of(workspace))
    assert (entry.kind, entry.what["event_id"], entry.what["note"]) == ("acknowledgement", EVENT, "seen")
    assert [alert["state"] for alert in third.returned["escalate"]["alerts"]] == ["acknowledged"]
    assert third.tasks["ask"] == "skipped"
