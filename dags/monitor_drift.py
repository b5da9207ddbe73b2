"""Every quarter of an hour, for each instrument in service: look for drift, mail it, and see whether a test was won or
lost.

Failing checks are mailed once, and nothing is retrained for them. A drift is mailed once and starts train_model, again
only when the cool-down after it is over and the drift is not; a challenger that has won its test starts promote_model,
one that has lost it is withdrawn at once.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import Param, dag, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.orchestration.assets import DRIFT, TASK_DEFAULTS, TEST_LOST, TEST_WON


@dag(
    schedule="*/15 * * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={"instrument": Param(None, type=["null", "string"], description="empty: every one in service")},
    tags=["quotekeel"],
)
def monitor_drift():
    @task
    def champions(params=None) -> list[str]:
        from pipelines.orchestration.questions import instruments_in_service

        return [key for key in instruments_in_service() if params["instrument"] in (None, key)]

    @task
    def challengers(params=None) -> list[str]:
        from pipelines.orchestration.questions import under_test

        return [key for key in under_test() if params["instrument"] in (None, key)]

    @task_group
    def watch(instrument: str):
        @task
        def monitor(instrument: str) -> dict:
            from pipelines.stages import run_as_task

            return run_as_task("monitor", instrument=instrument)

        @task
        def notify(verdict: dict) -> dict:
            from pipelines.stages import run_as_task

            if not (verdict["drifted"] or verdict["alert_id"]):
                raise AirflowSkipException("no drift, and no check fails")
            return run_as_task("notify", monitor_id=verdict["monitor_id"])

        @task(outlets=[DRIFT])
        def announce(verdict: dict, outlet_events=None) -> None:
            from pipelines.orchestration.questions import may_retrain

            may, why = may_retrain(verdict["instrument"]) if verdict["drifted"] else (False, "no drift")
            if not may:
                raise AirflowSkipException(why)
            outlet_events[DRIFT].add_partitions(verdict["instrument"])
            outlet_events[DRIFT].extra = {"monitor_id": verdict["monitor_id"], "event_id": verdict["event_id"]}

        verdict = monitor(instrument)
        notify(verdict)
        announce(verdict)  # also when the mail server is away

    @task(outlets=[TEST_WON, TEST_LOST])
    def compare(instrument: str, outlet_events=None) -> dict:
        from market.errors import EmptyDataError
        from pipelines.stages import run_as_task

        try:
            tested = run_as_task("compare", instrument=instrument)
        except EmptyDataError as nothing_yet:
            raise AirflowSkipException(str(nothing_yet)) from None
        if tested["verdict"] == "undecided":
            raise AirflowSkipException("the test says undecided")
        if tested["verdict"] == "keep":
            withdrawn = run_as_task("withdraw", instrument=instrument, compare_id=tested["compare_id"])
            if not withdrawn["version"]:
                raise AirflowSkipException(withdrawn["why"])
            outlet_events[TEST_LOST].add_partitions(instrument)
        else:
            outlet_events[TEST_WON].add_partitions(instrument)
        return tested

    watch.expand(instrument=champions())
    compare.expand(instrument=challengers())


monitor_drift()
