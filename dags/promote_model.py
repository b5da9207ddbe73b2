"""The evidence about a version, a person's answer on Airflow's own approval screen, and only then the alias.

The first version of an instrument is judged by its evaluation. Fail closed: no answer in time, no reason, somebody who
may not approve and the author of the run all leave the alias where it is.

A question stands for up to a day. Each instrument has its own: of its runs one asks, one waits for its turn, and more
are let go.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.orchestration.assets import TASK_DEFAULTS, TEST_WON, instrument_of
from pipelines.settings import approvers, default_instrument


@dag(
    schedule=PartitionedAssetTimetable(assets=TEST_WON),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=64,  # two an instrument at most, see turn
    default_args=TASK_DEFAULTS,
    params={"instrument": Param(default_instrument(), type="string")},
    tags=["quotekeel"],
)
def promote_model():
    @task.sensor(mode="reschedule", poke_interval=60, timeout=timedelta(days=2).total_seconds())
    def turn(params=None, dag_run=None, ti=None) -> bool:
        from pipelines.orchestration.questions import take_turn

        def is_running(run: str) -> bool:
            return ti.get_dr_count(dag_run.dag_id, run_ids=[run], states=["queued", "running"]) > 0

        answer = take_turn(instrument_of(dag_run, params), dag_run.run_id, is_running=is_running)
        if answer == "leave":
            raise AirflowSkipException("another run waits for its turn already, and will look at all there is")
        return answer == "go"

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
        from pipelines.promotion.dossier import said
        from pipelines.stages import run_as_task

        return run_as_task("approve", **said(shown, answer))["decision"] == "approve"

    @task
    def promote(shown: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("promote", instrument=shown["instrument"], version=shown["version"])

    shown = dossier()
    turn() >> shown
    due(shown) >> ask
    approved(ask.output, shown) >> promote(shown)


promote_model()
