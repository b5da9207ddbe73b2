"""Ticks into the lake: land what the source has, then let the quality gate judge it."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, PartitionedAtRuntime, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.scheduling import TASK_DEFAULTS, TICKS


@dag(
    schedule=PartitionedAtRuntime(),
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
    def ingest(params: dict | None = None) -> list[str]:
        from pipelines.stages import run_as_task

        asked = dict(params or {})
        return run_as_task("ingest", **asked)["sources"] if asked["files"] else []

    @task
    def validate(sources: list[str]) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("validate", sources=sources)

    @task(outlets=[TICKS])
    def announce(judged: dict, outlet_events=None) -> None:
        if not judged["instruments"]:
            raise AirflowSkipException("nothing passed that was not there before")
        outlet_events[TICKS].add_partitions(list(judged["instruments"]))

    announce(validate(ingest()))


ingest_ticks()
