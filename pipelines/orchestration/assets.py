"""What the DAGs share: what Airflow tries again, and the assets by which one DAG starts another. Only DAG files import
this.

An asset's partition is the instrument: what is new about one instrument starts a run for that instrument, and while a
run waits for its turn, more of the same is added to it instead of a second one being queued.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import Asset, CronTriggerTimetable, ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowRuntimeError

from market.errors import LakeError, ServiceError
from pipelines.models.retraining_schedule import retraining_schedule
from pipelines.settings import schedule_owner

# A server comes back and a disk is cleared; a gate, a refusal, a wrong setting or a mistake of ours says the same
# however often one asks. (A worker that was killed says nothing, and is always tried again.) The last one is how a task
# hears that Airflow's own database is away.
_MENDED_BY_TIME = RetryRule(
    [ServiceError, LakeError, OSError, AirflowRuntimeError], RetryAction.RETRY, reason="it may be there again later"
)

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 4.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": ExceptionRetryPolicy([_MENDED_BY_TIME], default=RetryAction.FAIL),
}

# Slots are in infra/airflow/pools.json: training takes the whole machine, or the whole cluster.
TRAINING_POOL: Final = "training"

_NO_USER: Final = "dag_test"  # what Airflow writes for a run of ``dag.test()``, in which nobody signs in

TICKS: Final = Asset("ticks")  # minutes that passed the gate
FEATURES: Final = Asset("features")  # and a dataset of them
DRIFT: Final = Asset("drift")  # a drift, and the cool-down after the last retraining is over
CHALLENGER: Final = Asset("challenger")  # a version beside the champion
RETRAINING_DUE: Final = Asset("retraining_due")  # the clock says so, and that cool-down is over
RETRAIN: Final = DRIFT | RETRAINING_DUE  # either starts train_model
TEST_LOST: Final = Asset("test_lost")  # a challenger that is worse, and out of service
TEST_WON: Final = Asset("test_won")  # a challenger that is better, or has no champion, and nobody has decided about


def author_of(dag_run: Any) -> str:
    """Who answers for what a run makes, and so may not approve it: the person who started it, by the name they signed
    in with; of a run that a schedule or an asset started the owner of the schedule. Empty: whom the process names."""
    started_by = str(dag_run.triggering_user_name or "").strip()
    return started_by if started_by and started_by != _NO_USER else schedule_owner()


def instrument_of(dag_run: Any, params: Any) -> str:
    """Whose run this is: the partition that an asset started it for, else what the person who started it said."""
    return str(dag_run.partition_key or (params or {})["instrument"])


def retraining_timetable() -> CronTriggerTimetable | None:
    """When the clock asks for retrainings, as the settings say; None: never.

    With ``catchup=False`` a scheduler that was away at that time runs the newest one it missed as soon as it is back,
    and no older one.
    """
    schedule = retraining_schedule()
    return CronTriggerTimetable(schedule.cron, timezone=schedule.timezone) if schedule.cron else None


def trigger_of(dag_run: Any) -> str:
    """What a training was started by: a drift, the schedule, both while it waited for its turn, or a person."""
    if not dag_run.partition_key:
        return f"person {dag_run.triggering_user_name or 'unknown'}"
    named = {RETRAINING_DUE.name: "schedule", DRIFT.name: "drift"}
    found = dict.fromkeys(
        f"{named[event.asset.name]} {event.extra.get('event_id', '')}".strip()
        for event in dag_run.consumed_asset_events
        if event.asset.name in named
    )
    return " and ".join(sorted(found)) or "schedule"
