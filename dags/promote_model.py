"""The test verdict, a person's answer on Airflow's own approval screen, and only then the alias."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task

from pipelines.scheduling import TASK_DEFAULTS, TEST_WON, instrument_of


@dag(
    schedule=PartitionedAssetTimetable(assets=TEST_WON),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={"instrument": Param("sim-usdm.BTCUSDT", type="string")},
    tags=["quotekeel"],
)
def promote_model():
    @task
    def compare(params=None, dag_run=None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("compare", instrument=instrument_of(dag_run, params))

    @task.short_circuit
    def won(tested: dict) -> bool:
        return tested["verdict"] == "promote"

    ask = HITLOperator(
        task_id="ask",
        subject="Promote version {{ ti.xcom_pull(task_ids='compare')['challenger'] }} "
        "of {{ ti.xcom_pull(task_ids='compare')['instrument'] }}?",
        body="{{ ti.xcom_pull(task_ids='compare')['summary'] }}",
        options=["approve", "reject"],
        defaults=["reject"],
        response_timeout=timedelta(days=1),
        params={"reason": Param("", type="string", description="why")},
        retries=0,  # a retry would ask again and wipe the answer
    )

    @task.short_circuit
    def approved(answer: dict, tested: dict) -> bool:
        from pipelines.stages import run_as_task

        who, (decision,) = answer["responded_by_user"], answer["chosen_options"]
        if who is None:  # nobody answered in time
            return False
        said = {"name": who["name"], "reason": answer["params_input"].get("reason", ""), "decision": decision}
        return run_as_task("approve", **_of(tested), **said)["decision"] == "approve"

    @task
    def promote(tested: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("promote", **_of(tested))

    tested = compare()
    won(tested) >> ask
    approved(ask.output, tested) >> promote(tested)


def _of(tested: dict) -> dict:
    return {"instrument": tested["instrument"], "version": tested["challenger"]}


promote_model()
