"""The evidence about a version, a person's answer on Airflow's own approval screen, and only then the alias.

The first version of an instrument is judged by its evaluation. Fail closed: no answer in time, no reason, somebody who
may not approve and the author of the run all leave the alias where it is.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.scheduling import TASK_DEFAULTS, TEST_WON, instrument_of
from pipelines.settings import approvers


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
    def dossier(params=None, dag_run=None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("dossier", instrument=instrument_of(dag_run, params))

    @task
    def due(shown: dict) -> None:
        if not shown["due"]:
            raise AirflowSkipException(shown["why"])

    ask = HITLOperator(
        task_id="ask",
        subject="{{ ti.xcom_pull(task_ids='dossier')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='dossier')['body'] }}",
        options=["approve", "reject", "more data"],
        defaults=["reject"],
        assigned_users=[{"id": name, "name": name} for name in approvers()] or None,
        response_timeout=timedelta(days=1),
        params={"reason": Param("", type="string", description="why; an answer without a reason counts for nothing")},
        retries=0,  # a retry would ask again and wipe the answer
    )

    @task.short_circuit
    def approved(answer: dict, shown: dict) -> bool:
        from pipelines.dossier import said
        from pipelines.stages import run_as_task

        return run_as_task("approve", **said(shown, answer))["decision"] == "approve"

    @task
    def promote(shown: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("promote", instrument=shown["instrument"], version=shown["version"])

    shown = dossier()
    due(shown) >> ask
    approved(ask.output, shown) >> promote(shown)


promote_model()
