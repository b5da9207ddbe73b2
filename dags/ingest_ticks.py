"""Ticks into the lake: land the recordings that are named, then let the quality gate judge what nobody has judged yet.

Every five minutes without recordings: what live sessions have landed since.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.orchestration.assets import TASK_DEFAULTS, TICKS


@dag(
    schedule="*/5 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={
        "files": Param([], type="array", description="recordings to land; empty: only judge what was not judged yet"),
        "instrument": Param(None, type=["null", "string"], description="empty: as each recording says"),
    },
    tags=["quotekeel"],
)
def ingest_ticks():
    @task
    def recordings(params: dict | None = None) -> list[str]:
        return (params or {})["files"]

    @task(map_index_template="{{ file }}")
    def ingest(file: str, params: dict | None = None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("ingest", files=[file], instrument=(params or {})["instrument"])

    @task(trigger_rule="none_failed")
    def instruments(landed: list[dict] | None) -> list[dict]:
        from pipelines.orchestration.questions import to_judge

        return to_judge(list(landed or []))

    @task(outlets=[TICKS], map_index_template="{{ batches['instrument'] }}")
    def validate(batches: dict, outlet_events=None) -> dict:
        from pipelines.stages import run_as_task

        judged = run_as_task("validate", **batches)
        if not judged["instruments"]:
            raise AirflowSkipException("nothing passed that was not there before")
        outlet_events[TICKS].add_partitions(judged["instruments"])
        return judged

    validate.expand(batches=instruments(ingest.expand(file=recordings())))


ingest_ticks()
