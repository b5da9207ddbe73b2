"""A process of Airflow's that runs DAGs with ``dag.test()``: a line of what to run in, a line of what came out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.sdk.serde import deserialize
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.utils.session import create_session
from sqlalchemy import select

RESULT = "RESULT "


def told(run: DagRun) -> dict:
    """State of the run and of its tasks, how often each was tried, what it returned, and which assets it made anew."""
    with create_session() as session:
        tasks = {
            ti.task_id: {"state": ti.state, "tries": ti.try_number} for ti in run.get_task_instances(session=session)
        }
        rows = session.scalars(XComModel.get_many(run_id=run.run_id, dag_ids=run.dag_id, key="return_value")).all()
        made = session.scalars(select(AssetEvent).filter_by(source_dag_id=run.dag_id, source_run_id=run.run_id)).all()
        events = sorted([event.asset.name, event.partition_key, event.extra] for event in made)
        returned = {row.task_id: deserialize(row.value) for row in rows}
    return {"state": run.state, "tasks": tasks, "returned": returned, "events": events}


def run(dag_id: str, conf: dict[str, Any], variables: dict[str, str]) -> dict:
    """Run a DAG with these variables of the lifecycle, and with no others of its own."""
    for name in [name for name in os.environ if name.startswith("KEEL_")]:
        del os.environ[name]
    os.environ.update(variables)
    file = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{dag_id}.py"
    dag = DagBag(dag_folder=file).dags[dag_id]  # read anew: a run leaves its params in the DAG
    return told(dag.test(run_conf=conf))


def _waits_for(dag: Any) -> list[str]:
    timetable = coerce_to_core_timetable(dag.timetable)
    return sorted(key.name for key, _ in timetable.asset_condition.iter_assets())


def assets() -> list[dict]:
    """Which assets each DAG makes, and which one starts it."""
    dags = DagBag().dags
    made = {name: sorted({outlet.name for task in dag.tasks for outlet in task.outlets}) for name, dag in dags.items()}
    waits = {name: _waits_for(dag) for name, dag in dags.items()}
    return [made, waits]


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        answer = run(**asked) if asked else assets()
        print(f"\n{RESULT}{json.dumps(answer, default=str)}", flush=True)


if __name__ == "__main__":
    main()
