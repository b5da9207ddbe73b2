"""Every five minutes: alerts that nobody acknowledges go to others, then the instrument into the safe state.

Each alert that waits for a person is a run of acknowledge_drift, named like the event: there somebody can take it on.
"""

from __future__ import annotations

import pendulum
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task

from pipelines.orchestration.assets import TASK_DEFAULTS


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

    @task
    def unanswered(done: dict) -> list[dict]:
        waiting = [each for each in done["alerts"] if each["state"] in ("waiting", "escalated")]
        shown = ("event_id", "kind", "instrument", "says")
        return [{"trigger_run_id": each["event_id"], "conf": {name: each[name] for name in shown}} for each in waiting]

    ask = TriggerDagRunOperator.partial(
        task_id="ask",
        trigger_dag_id="acknowledge_drift",
        skip_when_already_exists=True,
    )
    ask.expand_kwargs(unanswered(escalate()))


escalate_alerts()
