"""A dataset to a registered, deployed challenger: of a drift's instrument, or the dataset that a person names."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task

from pipelines.scheduling import CHALLENGER, DRIFT, TASK_DEFAULTS, instrument_of


@dag(
    schedule=PartitionedAssetTimetable(assets=DRIFT),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={
        "instrument": Param("sim-usdm.BTCUSDT", type="string"),
        "dataset_id": Param(None, type=["null", "string"], description="empty: of all ticks there are now"),
    },
    tags=["quotekeel"],
)
def train_model():
    @task
    def dataset(params=None, dag_run=None) -> str:
        from pipelines.stages import run_as_task

        given = (params or {})["dataset_id"]
        return given or run_as_task("featurize", instrument=instrument_of(dag_run, params))["dataset_id"]

    @task
    def train(dataset_id: str) -> str:
        from pipelines.stages import run_as_task

        return run_as_task("train", dataset_id=dataset_id)["run_id"]

    @task
    def evaluate(trained: str) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("evaluate", run_id=trained)

    @task.short_circuit
    def passed(judged: dict) -> bool:
        return judged["passed"]

    @task
    def export(trained: str) -> str:
        from pipelines.stages import run_as_task

        run_as_task("export", run_id=trained)
        return trained

    @task
    def register(trained: str) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("register", run_id=trained)

    @task(outlets=[CHALLENGER])
    def deploy(registered: dict, outlet_events=None) -> dict:
        from pipelines.stages import run_as_task

        outlet_events[CHALLENGER].add_partitions(registered["instrument"])
        return run_as_task("deploy", instrument=registered["instrument"], version=registered["version"])

    trained = train(dataset())
    exported = export(trained)
    passed(evaluate(trained)) >> exported
    deploy(register(exported))


train_model()
