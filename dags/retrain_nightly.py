"""By the clock (``retrain.cron``), for each instrument in service: ask for a retraining, whether it has drifted or not.

A night that was missed is made up when the scheduler is back, once. train_model does the work, as it does for a drift.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.orchestration.assets import RETRAINING_DUE, TASK_DEFAULTS, retraining_timetable


@dag(
    schedule=retraining_timetable(),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    tags=["quotekeel"],
)
def retrain_nightly():
    @task
    def champions() -> list[str]:
        from pipelines.orchestration.questions import instruments_in_service

        return instruments_in_service()

    @task(outlets=[RETRAINING_DUE])
    def announce(instrument: str, outlet_events=None) -> None:
        from pipelines.orchestration.questions import may_retrain

        may, why = may_retrain(instrument)
        if not may:
            raise AirflowSkipException(why)
        outlet_events[RETRAINING_DUE].add_partitions(instrument)

    announce.expand(instrument=champions())


retrain_nightly()
