"""Ticks into the lake: land what the source has, then let the quality gate judge it."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag, task


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={"files": Param([], type="array", description="recordings to land; empty: nothing new to land")},
    tags=["quotekeel"],
)
def ingest_ticks():
    @task
    def ingest(params: dict | None = None) -> list[str]:
        from pipelines.stages import run_as_task

        files = (params or {}).get("files", [])
        return run_as_task("ingest", files=files)["sources"] if files else []

    @task
    def validate(sources: list[str]) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("validate", sources=sources)

    validate(ingest())


ingest_ticks()
