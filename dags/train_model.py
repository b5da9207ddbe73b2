"""A dataset to a registered, deployed challenger."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag, task

from pipelines.scheduling import TASK_DEFAULTS


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={"dataset_id": Param(type="string", minLength=1, description="as build_features returned it")},
    tags=["quotekeel"],
)
def train_model():
    @task
    def train(params: dict | None = None) -> str:
        from pipelines.stages import run_as_task

        return run_as_task("train", dataset_id=(params or {})["dataset_id"])["run_id"]

    @task
    def evaluate(trained: str) -> str:
        from pipelines.stages import run_as_task

        run_as_task("evaluate", run_id=trained)
        return trained

    @task
    def export(trained: str) -> str:
        from pipelines.stages import run_as_task

        run_as_task("export", run_id=trained)
        return trained

    @task
    def register(trained: str) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("register", run_id=trained)

    @task
    def deploy(registered: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("deploy", instrument=registered["instrument"], version=registered["version"])

    deploy(register(export(evaluate(train()))))


train_model()
