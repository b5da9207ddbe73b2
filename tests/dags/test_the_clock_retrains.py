"""The clock asks for a retraining of each instrument in service; schedule and drift together start one, not two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kit.airflow_home import ROOT, AirflowHome, Run, make_airflow_home
from kit.airflow_home import run as run_python

from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.workspace import Workspace
from serving.rollout.roles import Roles, write_roles

KEY, OTHER, UNTRAINED = "sim-usdm.BTCUSDT", "sim-usdm.ETHUSDT", "sim-usdm.SOLUSDT"
DRIFT = ["drift", KEY, {"monitor_id": "monitor-1", "event_id": "drift-0123"}]
DUE = ["retraining_due", KEY, {}]

# As Airflow computes it: when the clock asks next, in hours from now, and after that, where the newest run is nine
# hours old and the clock asks every hour; then the kind of timetable where no time is set.
NEXT = """
import os
from datetime import timedelta
from airflow._shared.timezones import timezone
from airflow.dag_processing.dagbag import DagBag
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.serialization.encoders import coerce_to_core_timetable
os.environ["KEEL_RETRAIN__CRON"] = "0 * * * *"
dag = DagBag().dags["retrain_nightly"]
table, now = coerce_to_core_timetable(dag.timetable), timezone.utcnow()
tick = now.replace(minute=0, second=0, microsecond=0)
limits = TimeRestriction(earliest=timezone.coerce_datetime(dag.start_date), latest=None, catchup=dag.catchup)
found, last = [], tick - timedelta(hours=9)
for _ in range(2):
    interval = DataInterval.exact(timezone.coerce_datetime(last))
    last = table.next_dagrun_info(last_automated_data_interval=interval, restriction=limits).run_after
    found.append(round((last - tick).total_seconds() / 3600))
os.environ["KEEL_RETRAIN__CRON"] = "''"
print(found, type(DagBag().dags["retrain_nightly"].timetable).__name__)
"""


@dataclass(frozen=True)
class Night:
    """What the clock asked for, which trainings events then began, and what the clock asked for after that."""

    asked: Run
    together: list[dict[str, Any]]
    later: list[dict[str, Any]]
    asked_again: Run
    why_not: bool


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two instruments with a champion, one without."""
    made = Workspace(home=tmp_path_factory.mktemp("clock") / "home")
    state_path(made).parent.mkdir(parents=True)
    write_roles(state_path(made), KEY, Roles(champion=1))
    write_roles(state_path(made), OTHER, Roles(champion=1))
    write_roles(state_path(made), UNTRAINED, Roles(challenger=1))
    return made


@pytest.fixture(scope="module")
def airflow(workspace: Workspace) -> Iterator[AirflowHome]:
    # as on the stack: a DAG that is paused would hear of no asset
    variables = {"KEEL_HOME": str(workspace.home), "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}
    home = make_airflow_home(workspace.home.parent / "airflow", **variables)
    try:
        yield home
    finally:
        home.airflow.close()


@pytest.fixture(scope="module")
def night(airflow: AirflowHome) -> Night:
    with airflow.dag("retrain_nightly") as clock:
        asked = clock.run()
        together, later = begun(airflow, [DRIFT, DUE], [DRIFT])
        again = clock.run()
        return Night(asked, together, later, again, clock.said("was retrained"))


def begun(airflow: AirflowHome, *rounds: list[Any]) -> list[list[dict[str, Any]]]:
    """What each round of events started of train_model: partition, events that a run stands for, state of ``begin``."""
    lines = "".join(json.dumps(events) + "\n" for events in rounds)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "kit" / "run_queued.py"), "train_model", "begin"],
        input=lines,
        env=airflow.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout[-4000:] + done.stderr[-4000:]
    assert done.returncode == 0, said
    told = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(told) == len(rounds), said
    return [json.loads(line) for line in told]


def test_the_clock_asks_for_each_instrument_in_service(night: Night) -> None:
    assert night.asked.state == "success"
    assert night.asked.events == [["retraining_due", KEY, {}], ["retraining_due", OTHER, {}]]


def test_schedule_and_drift_start_one_training_not_two(night: Night, workspace: Workspace) -> None:
    # what came while it waited for its turn is one run, for both reasons
    assert sorted(
        night.together, key=lambda each: each["partition"]
    ) == [  # nothing orders instruments among themselves
        {"partition": KEY, "events": ["drift", "retraining_due", "retraining_due"], "state": "success"},
        {"partition": OTHER, "events": ["retraining_due"], "state": "success"},
    ]
    # what comes after it has begun finds the cool-down
    assert night.later == [{"partition": KEY, "events": ["drift"], "state": "skipped"}]
    entries = audit.read(audit.path_of(workspace))
    why = {e.what["instrument"]: e.what["note"].partition(", train_model ")[0] for e in entries}
    assert [e.kind for e in entries] == ["retraining", "retraining"]
    assert why == {KEY: "drift drift-0123 and schedule", OTHER: "schedule"}


def test_what_was_retrained_a_moment_ago_is_not_asked_for(night: Night) -> None:
    assert (night.asked_again.tasks["announce"], night.asked_again.events) == ("skipped", [])
    assert night.why_not


def test_missed_nights_are_made_up_once_and_no_time_is_no_schedule(airflow: AirflowHome) -> None:
    said = run_python(airflow.environment, "-c", NEXT).stdout.strip().splitlines()[-1]
    # the newest one that was missed, then the next; the hour may turn meanwhile
    assert said in ("[0, 1] NullTimetable", "[1, 2] NullTimetable")
