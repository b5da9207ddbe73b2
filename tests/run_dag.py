"""A process of Airflow's that runs one DAG with ``dag.test()``: a line of conf in, a line of what came of it out."""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.sdk.serde import deserialize
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


def main() -> None:
    for line in sys.stdin:
        dag = DagBag().dags[sys.argv[1]]  # read anew: a run leaves its params in the DAG
        run = dag.test(run_conf=json.loads(line))
        print(f"\n{RESULT}{json.dumps(told(run), default=str)}", flush=True)


if __name__ == "__main__":
    main()
