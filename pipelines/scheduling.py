"""What every task of every DAG is given: what Airflow tries again, and how patiently. Only DAG files import this."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from market.errors import LakeError, ServiceError

# A server comes back and a disk is cleared; a gate, a refusal, a wrong setting or a mistake of ours says the same
# however often one asks. (A worker that was killed says nothing, and is always tried again.)
_MENDED_BY_TIME = RetryRule([ServiceError, LakeError, OSError], RetryAction.RETRY, reason="it may be there again later")

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 4.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": ExceptionRetryPolicy([_MENDED_BY_TIME], default=RetryAction.FAIL),
}
