"""Look for drift; on drift send the mail and retrain."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag, task


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={"instrument": Param("sim-usdm.BTCUSDT", type="string")},
    tags=["quotekeel"],
)
def monitor_drift():
    @task
    def monitor(params: dict | None = None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("monitor", instrument=(params or {})["instrument"])

    @task.short_circuit
    def drifted(verdict: dict) -> bool:
        return bool(verdict["drifted"])

    @task
    def notify(verdict: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("notify", monitor_id=verdict["monitor_id"])

    @task
    def retrain(verdict: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("retrain", instrument=verdict["instrument"], trigger=verdict["monitor_id"])

    verdict = monitor()
    drifted(verdict) >> [notify(verdict), retrain(verdict)]


monitor_drift()
