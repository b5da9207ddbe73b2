"""A process that does what Airflow's scheduler does with asset events, without one: a run for each partition that is
due, of which one task is run. A line of events (name, partition, extra) in; a line of what became of it out.

Usage: python tests/kit/run_queued.py DAG TASK
"""

from __future__ import annotations

import json
import sys

from airflow.assets.manager import asset_manager
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, DagBag, sync_bag_to_db
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetModel
from airflow.models.dagrun import DagRun
from airflow.sdk.definitions.dag import _run_task
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select

RESULT = "RESULT "


def sync() -> None:
    """The DAGs and their assets into the database, as the DAG processor does."""
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        sync_bag_to_db(bag, bundle.name, bundle.version)


def announce(events: list[list]) -> None:
    with create_session() as session:
        for name, partition, extra in events:
            asset = session.scalars(select(AssetModel).filter_by(name=name)).one()
            asset_manager.register_asset_change(asset=asset, extra=extra, partition_key=partition, session=session)


def queue() -> None:
    with create_session() as session:
        runner = SchedulerJobRunner(job=Job())
        session.add(runner.job)
        session.flush()
        runner._create_dagruns_for_partitioned_asset_dags(session)


def run_queued(dag_id: str, task_id: str) -> list[dict]:
    """The one task of each run that was queued, oldest first."""
    dag = DagBag().dags[dag_id]
    with create_session() as session:
        query = select(DagRun).filter_by(dag_id=dag_id, state=DagRunState.QUEUED).order_by(DagRun.id)
        runs = session.scalars(query).all()
        for run in runs:
            run.state = DagRunState.RUNNING
        ids = [run.id for run in runs]
    return [run_one(dag, task_id, each) for each in ids]


def run_one(dag, task_id: str, run: int) -> dict:
    with create_session() as session:
        task = session.get(DagRun, run).get_task_instance(task_id, session=session)
    _run_task(ti=task, task=dag.task_dict[task_id])
    with create_session() as session:
        done = session.get(DagRun, run)
        events = sorted(event.asset.name for event in done.consumed_asset_events)
        state = done.get_task_instance(task_id, session=session).state
        return {"partition": done.partition_key, "events": events, "state": state}


def main() -> None:
    sync()
    for line in sys.stdin:
        announce(json.loads(line))
        queue()
        print(f"\n{RESULT}{json.dumps(run_queued(*sys.argv[1:]), default=str)}", flush=True)


if __name__ == "__main__":
    main()
