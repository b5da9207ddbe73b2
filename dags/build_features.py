"""Accepted ticks to features, labels, Feast and a versioned dataset."""

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
def build_features():
    @task
    def featurize(params: dict | None = None) -> dict:
        from pipelines.stages import run_as_task

        return run_as_task("featurize", instrument=(params or {})["instrument"])

    featurize()


build_features()
