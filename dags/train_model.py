"""A dataset to a registered, deployed challenger: of an instrument that has drifted or whose time has come, or the
dataset that a person names.

A version that has no champion to be tested against asks for its approval at once.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.orchestration import assets
from pipelines.settings import default_instrument


@dag(
    schedule=PartitionedAssetTimetable(assets=assets.RETRAIN),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=assets.TASK_DEFAULTS,
    params={
        "instrument": Param(default_instrument(), type="string"),
        "dataset_id": Param(None, type=["null", "string"], description="empty: of the ticks there are now"),
    },
    tags=["quotekeel"],
)
def train_model():
    @task
    def begin(params=None, dag_run=None) -> str:
        from pipelines.orchestration.questions import begin_retraining

        instrument, by_hand = assets.instrument_of(dag_run, params), not dag_run.partition_key
        trigger = f"{assets.trigger_of(dag_run)}, train_model {dag_run.run_id}"
        may, why = begin_retraining(instrument, trigger, asked_by_a_person=by_hand)
        if not may:
            raise AirflowSkipException(why)
        return instrument

    @task
    def dataset(instrument: str, params=None) -> str:
        from pipelines.orchestration.questions import learned_from
        from pipelines.stages import run_as_task

        given = (params or {})["dataset_id"]
        return given or run_as_task("featurize", instrument=instrument, **learned_from())["dataset_id"]

    @task(pool=assets.TRAINING_POOL)
    def train(dataset_id: str, dag_run=None) -> str:
        from pipelines.stages import run_as_task

        who_and_why = {"author": assets.author_of(dag_run), "trigger": assets.trigger_of(dag_run)}
        return run_as_task("train", dataset_id=dataset_id, **who_and_why)["run_id"]

    @task
    def evaluate(trained: str) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("evaluate", run_id=trained)

    @task.short_circuit
    def passed(judged: dict) -> bool:
        return judged["passed"]

    @task
    def export(trained: str, dag_run=None) -> str:
        from pipelines.stages import run_as_task

        run_as_task("export", author=assets.author_of(dag_run), run_id=trained)
        return trained

    @task
    def register(trained: str) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("register", run_id=trained)

    @task(outlets=[assets.CHALLENGER])
    def deploy(registered: dict, outlet_events=None) -> dict:
        from pipelines.stages import run_as_task

        outlet_events[assets.CHALLENGER].add_partitions(registered["instrument"])
        return run_as_task("deploy", instrument=registered["instrument"], version=registered["version"])

    @task(outlets=[assets.TEST_WON])
    def first_of_its_instrument(deployed: dict, outlet_events=None) -> None:
        from pipelines.orchestration.questions import instruments_in_service

        if deployed["instrument"] in instruments_in_service():
            raise AirflowSkipException("its test against the champion comes first")
        outlet_events[assets.TEST_WON].add_partitions(deployed["instrument"])

    trained = train(dataset(begin()))
    exported = export(trained)
    passed(evaluate(trained)) >> exported
    first_of_its_instrument(deploy(register(exported)))


train_model()
