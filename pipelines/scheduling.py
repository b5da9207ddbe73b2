"""What every task of every DAG is given: what Airflow tries again, and how patiently. Only DAG files import this."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from market.errors import KeelError, LakeError, ServiceError

# A server comes back and a disk is cleared; a gate, a refusal or a wrong setting says the same however often one asks.
_MENDED_BY_TIME = RetryRule([ServiceError, LakeError], RetryAction.RETRY, reason="it may be there again later")
_STAYS = RetryRule(KeelError, RetryAction.FAIL, reason="trying again would end the same")

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 4.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": ExceptionRetryPolicy([_MENDED_BY_TIME, _STAYS]),
}
