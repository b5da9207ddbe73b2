"""Look for drift; on drift send the mail, retrain, and put the challenger into service beside the champion."""

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

    @task.short_circuit
    def passed(retrained: dict) -> bool:
        return retrained["version"] is not None

    @task
    def deploy(retrained: dict) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("deploy", instrument=retrained["instrument"], version=retrained["version"])

    verdict = monitor()
    challenger = retrain(verdict)
    drifted(verdict) >> [notify(verdict), challenger]
    passed(challenger) >> deploy(challenger)


monitor_drift()
