"""The ring on a local stack that is up, and what people do with it: in Airflow, and by waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from kit.local_stack import LONG, Stack, until
from market.clock import NS_PER_S
from market.lake.lake import Lake
from pipelines.governance import audit
from pipelines.in_service import roles_of
from pipelines.promotion.trials import STOPPED, WITHDRAWN
from pipelines.stack.exchange import Exchange
from pipelines.workspace import Workspace
from serving.session.heartbeat import Alive, alive_path, read_alive

KEY = Exchange.instrument
LEARNED_S = 900.0  # of market time, by a retraining: more of a changed market than of the one before


@dataclass(frozen=True, kw_only=True)
class LiveRing:
    """The stack with its workspace, and what a person does in Airflow. ``first_screen``: what `keel status` said when
    it had just come up; ``told`` keeps figures to show at the end."""

    stack: Stack
    workspace: Workspace
    first_screen: str
    told: dict[str, Any] = field(default_factory=dict)

    def alive(self) -> Alive:
        found = read_alive(alive_path(self.workspace.home / "sessions", KEY))
        assert found is not None, "the quoter does not say that it lives"
        return found

    def market_passes(self, seconds: float) -> None:
        """Wait while the quoter lands so much more market time."""
        lake, goal = Lake(self.workspace.lake), self._newest_ns() + int(seconds * NS_PER_S)
        until(partial(_reached, lake, goal), LONG)

    def runs(self, dag: str, **of: Any) -> list[dict[str, Any]]:
        """Runs of a DAG, newest first, with these fields."""
        with self.stack.airflow("engineer") as api:
            found = api.get(f"/dags/{dag}/dagRuns", params={"order_by": "-run_after"}).raise_for_status()
        return [run for run in found.json()["dag_runs"] if all(run[name] == value for name, value in of.items())]

    def start(self, dag: str, **conf: Any) -> None:
        """Start a DAG as an engineer does, and wait until it has ended well."""
        with self.stack.airflow("engineer") as api:
            answer = api.post(f"/dags/{dag}/dagRuns", json={"logical_date": None, "conf": conf}).raise_for_status()
        self.ends_well(dag, dag_run_id=answer.json()["dag_run_id"])

    def ends_well(self, dag: str, **of: Any) -> dict[str, Any]:
        """The newest run of a DAG with these fields, once it has ended."""

        def ended() -> dict[str, Any] | None:
            found = self.runs(dag, **of)
            return found[0] if found and found[0]["state"] in ("success", "failed") else None

        ended.__doc__ = f"{dag} to end ({of})"
        run = until(ended, LONG)
        broken = [dict(entry.what) for kind in (WITHDRAWN, STOPPED) for entry in self.entries(kind)]
        assert run["state"] == "success", (self.tasks(dag, run["dag_run_id"]), broken)
        return dict(run)

    def tasks(self, dag: str, run_id: str) -> dict[str, str]:
        with self.stack.airflow("engineer") as api:
            found = api.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances").raise_for_status().json()
        return {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in found["task_instances"]}

    def question(self) -> dict[str, Any]:
        """The open question of promote_model, once it is asked and Airflow waits for an answer."""

        def asked() -> dict[str, Any] | None:
            """promote_model to ask"""
            with self.stack.airflow("quant") as api:
                path = "/dags/promote_model/dagRuns/~/hitlDetails"
                found = api.get(path, params={"response_received": False}).raise_for_status().json()["hitl_details"]
            waiting = [each for each in found if self._is_put_away(each["task_instance"])]
            return waiting[0] if waiting else None

        return dict(until(asked, LONG))

    def _is_put_away(self, task: dict[str, Any]) -> bool:
        """Whether the scheduler has seen the process end that asked: of a task that is answered before, it says that it
        failed. Only its log tells."""
        log = self.stack.site.log("airflow-scheduler").read_text(errors="replace")
        ended = f"TaskInstance Finished: dag_id=promote_model, task_id=ask, run_id={task['dag_run_id']},"
        return any(ended in line and "state=awaiting_input" in line for line in log.splitlines())

    def answer(self, account: str, question: dict[str, Any], choice: str, reason: str) -> httpx.Response:
        task = question["task_instance"]
        path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/-1/hitlDetails"
        with self.stack.airflow(account) as api:
            return api.patch(path, json={"chosen_options": [choice], "params_input": {"reason": reason}})

    def champion_becomes(self, version: int) -> None:
        def is_champion() -> bool:
            return roles_of(self.workspace, KEY).champion == version and self.alive().versions[:1] == (version,)

        is_champion.__doc__ = f"version {version} to be quoted with as champion"
        until(is_champion, LONG)

    def entries(self, kind: str) -> list[audit.Entry]:
        return [entry for entry in audit.read(audit.path_of(self.workspace)) if entry.kind == kind]

    def _newest_ns(self) -> int:
        return Lake(self.workspace.lake).newest("ticks").get(KEY, 0) or self.alive().last_ns


def _reached(lake: Lake, goal_ns: int) -> bool:
    """the market to go on"""
    return lake.newest("ticks").get(KEY, 0) >= goal_ns
