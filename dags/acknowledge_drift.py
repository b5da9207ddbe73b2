"""One alert, and a person who takes it on from Airflow's screen: the same as ``keel acknowledge`` in a terminal."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, dag, task

from pipelines.orchestration.assets import TASK_DEFAULTS


@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=64,
    default_args=TASK_DEFAULTS,
    params={
        "event_id": Param("", type="string", description="from the mail"),
        "kind": Param("drift", type="string"),
        "instrument": Param("", type="string"),
        "says": Param("", type="string"),
    },
    tags=["quotekeel"],
)
def acknowledge_drift():
    ask = HITLOperator(
        task_id="ask",
        subject="{{ params.kind | capitalize }} on {{ params.instrument }}: who takes it on?",
        body="{{ params.event_id }} {{ params.says }}. What was found is in the mail and in its report.",
        options=["I take it on", "leave it"],
        defaults=["leave it"],
        response_timeout=timedelta(days=1),
        params={"note": Param("", type="string", description="what you make of it")},
        retries=0,  # a retry would ask again and wipe the answer
    )

    @task.short_circuit
    def taken(answer: dict) -> bool:
        return answer["responded_by_user"] is not None and answer["chosen_options"] == ["I take it on"]

    @task
    def acknowledge(answer: dict, params=None) -> dict:
        from pipelines.stages import run_as_task

        said = {"name": answer["responded_by_user"]["name"], "note": (answer["params_input"] or {}).get("note") or ""}
        return run_as_task("acknowledge", event_id=params["event_id"], **said)

    taken(ask.output) >> acknowledge(ask.output)


acknowledge_drift()
