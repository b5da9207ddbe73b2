"""Accepted ticks to features, labels and Feast, of what is new; of a day that is named also a versioned dataset."""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, PartitionedAssetTimetable, dag, task

from pipelines.orchestration.assets import FEATURES, TASK_DEFAULTS, TICKS, instrument_of
from pipelines.settings import default_instrument


@dag(
    schedule=PartitionedAssetTimetable(assets=TICKS),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={
        "instrument": Param(default_instrument(), type="string"),
        "day": Param(None, type=["null", "string"], format="date", description="in UTC; empty: what is new"),
    },
    tags=["quotekeel"],
)
def build_features():
    @task(outlets=[FEATURES])
    def featurize(params=None, dag_run=None, outlet_events=None) -> dict:
        from pipelines.orchestration.questions import bounds_of
        from pipelines.stages import run_as_task

        key, day = instrument_of(dag_run, params), bounds_of((params or {})["day"])
        made = run_as_task("featurize", instrument=key, **day) if day else run_as_task("refresh", instrument=key)
        outlet_events[FEATURES].add_partitions(made["instrument"])
        return made

    featurize()


build_features()
