"""The test verdict, a person's answer on Airflow's own approval screen, and only then the alias."""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, dag, task


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={"instrument": Param("sim-usdm.BTCUSDT", type="string"), "version": Param(0, type="integer")},
    tags=["quotekeel"],
)
def promote_model():
    @task
    def compare(params: dict | None = None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("compare", instrument=(params or {})["instrument"])

    ask = HITLOperator(
        task_id="ask",
        subject="Promote the challenger of {{ params.instrument }}, version {{ params.version }}?",
        body="{{ ti.xcom_pull(task_ids='compare')['summary'] }}",
        options=["approve", "reject"],
        defaults=["reject"],
        params={"reason": Param("", type="string", description="why")},
    )

    @task.short_circuit
    def approved(answer: dict, params: dict | None = None) -> bool:
        from pipelines.stages import run_as_task

        if answer["chosen_options"] != ["approve"] or not answer["responded_by_user"]:
            return False
        who, why = answer["responded_by_user"]["name"], answer["params_input"].get("reason", "")
        run_as_task("approve", **{**(params or {}), "name": who, "reason": why})
        return True

    @task
    def promote(params: dict | None = None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("promote", instrument=(params or {})["instrument"], version=(params or {})["version"])

    compare() >> ask
    approved(ask.output) >> promote()


promote_model()
