"""Every five minutes: alerts that nobody acknowledges go to others, then the instrument into the safe state."""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task

from pipelines.scheduling import TASK_DEFAULTS


@dag(
    schedule="*/5 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    tags=["quotekeel"],
)
def escalate_alerts():
    @task
    def escalate() -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("escalate")

    escalate()


escalate_alerts()
