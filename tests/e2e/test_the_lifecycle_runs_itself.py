"""The life of a model on the real local stack: schedules, drift and people drive it, and nothing else.

A market that the quoter lands, a first model that a quant lets in, a market that changes, a mail, a challenger that
Airflow trains by itself, its test, a quant's yes on Airflow's screen, a canary, a new champion; then a version that
should never have been approved, which takes itself back. One after the other: each test goes on where the last ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import browser
import httpx
import numpy as np
import pytest
from desk import Desk
from local_stack import Stack, running_stack, until

from market.clock import NS_PER_S
from market.lake import Lake
from pipelines import audit, settings
from pipelines.inference_server import roles_of
from pipelines.simulate import Exchange
from pipelines.stack.environment import variables
from pipelines.workspace import Workspace
from serving.alive import Alive, alive_path, read_alive
from serving.triton.server import default_install

pytestmark = [pytest.mark.heavy, pytest.mark.lifecycle, pytest.mark.timeout(1800)]

KEY = Exchange.instrument
PACE = "4"  # of the market, against real time
LEARN_S, CALM_S, CHANGED_S = 720, 90, 420  # of market time
LONG = 1800  # half seconds

# The market runs four times as fast, so days become minutes; a drift starts one retraining.
PARAMS = {
    "retrain": {"cool_down_hours": 0.5},
    "monitor": {
        "last_seconds": 240.0,
        "window_seconds": 15.0,
        "k": 3,
        "n": 4,
        "window_alarm": 0.05,
        "min_strength": 0.08,
    },
    "train": {"workers": 0},
    "promote": {"step_seconds": 30.0, "window_seconds": 60.0},
    "deploy": {"max_p50_ms": 1000.0},  # beside everything else on a small machine
}
LEFT_OUT = ("kafka", "prometheus", "alertmanager", "probe")


@dataclass(frozen=True, kw_only=True)
class Ring:
    """The stack with its workspace, and what a person does in Airflow. ``told`` keeps figures to show at the end."""

    stack: Stack
    workspace: Workspace
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
        assert run["state"] == "success", self.tasks(dag, run["dag_run_id"])
        return dict(run)

    def tasks(self, dag: str, run_id: str) -> dict[str, str]:
        with self.stack.airflow("engineer") as api:
            found = api.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances").raise_for_status().json()
        return {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in found["task_instances"]}

    def question(self) -> dict[str, Any]:
        """The open question of promote_model, once it is asked."""

        def asked() -> dict[str, Any] | None:
            """promote_model to ask"""
            with self.stack.airflow("quant") as api:
                path = "/dags/promote_model/dagRuns/~/hitlDetails"
                found = api.get(path, params={"response_received": False}).raise_for_status().json()["hitl_details"]
            return found[0] if found else None

        return dict(until(asked, LONG))

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


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    without = [word for name in LEFT_OUT for word in ("--without", name)]
    with (
        running_stack("--pace", PACE, *without, params=PARAMS) as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("KEEL_")]:
            patch.delenv(name)
        for name, value in variables(stack.site).items():
            patch.setenv(name, value)
        ring = Ring(stack=stack, workspace=settings.workspace())
        try:
            yield ring
        finally:
            print(ring.told)


@pytest.fixture(scope="module")
def first(ring: Ring) -> Ring:
    """The first version, trained and let in."""
    until(partial(_landed, ring, LEARN_S), LONG)
    ring.start("ingest_ticks")
    ring.ends_well("build_features", run_type="asset_triggered")
    ring.start("train_model", instrument=KEY)
    question = ring.question()
    time.sleep(10)  # Airflow is not ready for an answer as soon as it asks
    ring.answer("quant", question, "approve", "the first one, and its gate passed").raise_for_status()
    ring.ends_well("promote_model", run_type="asset_triggered")
    ring.champion_becomes(1)
    return ring


def _landed(ring: Ring, seconds: float) -> bool:
    """the quoter to land enough to learn from"""
    files = Lake(ring.workspace.lake).files("ticks") if Lake(ring.workspace.lake).exists("ticks") else []
    times = [(file.first_ns, file.last_ns) for file in files if file.last_ns is not None]
    return bool(times) and max(b for _, b in times) - min(a for a, _ in times) >= seconds * NS_PER_S


def test_a_first_version_comes_into_service_by_airflow_and_a_quant(first: Ring) -> None:
    (approval,) = first.entries("approval")
    assert (approval.what["version"], approval.what["name"]) == (1, "quant")
    assert first.stack.on_stack("status")["instruments"][0]["champion"] == 1
    first.market_passes(CALM_S)
    assert first.alive().quotes > 0


@pytest.fixture(scope="module")
def drifted(first: Ring) -> Ring:
    """The market changes; Airflow finds it, mails it, and trains a challenger by itself."""
    first.market_passes(CALM_S)
    port = first.stack.site.port("exchange")
    httpx.get(f"http://127.0.0.1:{port}/sim/regime", params={"name": "volatile"}).raise_for_status()
    first.market_passes(CHANGED_S)
    first.start("ingest_ticks")
    first.start("monitor_drift")  # as its schedule does every quarter of an hour
    first.ends_well("train_model", run_type="asset_triggered")
    return first


def test_a_drift_is_mailed_and_a_challenger_trained_without_anybody_asking(drifted: Ring) -> None:
    mails = httpx.get(f"{drifted.stack.site.url('mail-page')}/mails.json", trust_env=False).json()
    assert [mail["subject"] for mail in mails if KEY in mail["subject"]]
    assert len(drifted.runs("train_model", run_type="asset_triggered")) == 1
    assert roles_of(drifted.workspace, KEY).challenger == 2
    with browser.browser() as opened:
        page = opened.new_page(viewport=browser.WIDE)
        page.goto(drifted.stack.site.url("mail-page"))
        browser.picture(page, "mails")


@pytest.fixture(scope="module")
def asked(drifted: Ring) -> dict[str, Any]:
    """The question that is asked once the challenger has won."""

    def won() -> list[dict[str, Any]]:
        """the challenger to win its test"""
        drifted.market_passes(120)
        drifted.start("ingest_ticks")
        drifted.start("monitor_drift")
        return [run for run in drifted.runs("promote_model", run_type="asset_triggered") if run["state"] != "success"]

    until(won, 8)
    question = drifted.question()
    time.sleep(10)  # as above
    return question


def test_the_approval_screen_shows_the_evidence(drifted: Ring, asked: dict[str, Any]) -> None:
    assert asked["subject"] == f"Promote version 2 of {KEY}?"
    task = asked["task_instance"]
    with browser.browser() as opened:
        page = browser.sign_in_to_airflow(opened, drifted.stack.site, "quant")
        where = f"dags/{task['dag_id']}/runs/{task['dag_run_id']}/tasks/{task['task_id']}/required_actions"
        page.goto(f"{drifted.stack.site.url('airflow')}/{where}")
        page.get_by_text("log-loss").first.wait_for()
        page.set_viewport_size({"width": 1280, "height": 1800})  # the text scrolls within the page
        browser.picture(page, "approval", whole=True)
        assert page.get_by_role("button", name="approve").count() == 1
        registry = browser.open_mlflow(opened, drifted.stack.site, "quant", f"#/models/keel-{KEY}")
        registry.get_by_text("challenger").first.wait_for()
        browser.picture(registry, "registry")


def test_only_a_quant_may_answer(drifted: Ring, asked: dict[str, Any]) -> None:
    for account in ("engineer", "admin"):
        assert drifted.answer(account, asked, "approve", "mine").status_code == httpx.codes.FORBIDDEN


@pytest.fixture(scope="module")
def promoted(drifted: Ring, asked: dict[str, Any]) -> Ring:
    before = drifted.alive()
    drifted.answer("quant", asked, "approve", "better by its test").raise_for_status()
    drifted.ends_well("promote_model", dag_run_id=asked["task_instance"]["dag_run_id"])
    drifted.champion_becomes(2)
    drifted.told["quotes before and after the promotion"] = (before.quotes, drifted.alive().quotes)
    return drifted


def test_the_champion_changes_by_a_canary_while_quotes_go_on(promoted: Ring) -> None:
    assert [entry.what["version"] for entry in promoted.entries("approval")] == [1, 2]
    assert [entry.what["version"] for entry in promoted.entries("promotion")] == [1, 2]
    roles = roles_of(promoted.workspace, KEY)
    assert (roles.champion, roles.previous, roles.canary) == (2, 1, None)
    promoted.market_passes(60)
    longest = longest_silence(promoted.workspace)
    promoted.told["longest time between two decisions of a session, s"] = longest
    assert longest < 5  # of market time: a swap costs none
    assert promoted.stack.on_stack("audit", "verify")["entries"] >= 4


def longest_silence(workspace: Workspace) -> float:
    """The longest time between two decisions of one session, in seconds of market time."""
    rows = Lake(workspace.lake).read("predictions", instrument=KEY, columns=["session", "recv_ns"]).to_pandas()
    gaps = [np.diff(np.sort(each["recv_ns"].to_numpy())).max() for _, each in rows.groupby("session") if len(each) > 1]
    return float(max(gaps)) / NS_PER_S


def test_a_bad_version_that_was_approved_takes_itself_back(
    promoted: Ring, write_seeded_bundle: Callable[..., Path]
) -> None:
    desk = Desk(workspace=promoted.workspace, write=write_seeded_bundle)
    bad = desk.register(11, spoiled="words")
    promoted.stack.on_stack("deploy", "--version", str(bad), "--instrument", KEY)
    said = ("--version", str(bad), "--instrument", KEY, "--name", "quant", "--reason", "on purpose")
    promoted.stack.on_stack("approve", *said)
    promoted.stack.on_stack("promote", "--version", str(bad), "--instrument", KEY, code=7)
    promoted.champion_becomes(2)
    (taken_back,) = promoted.entries("automatic rollback")
    assert (taken_back.what["version"], taken_back.what["old"]) == (2, bad)
    promoted.told["taken back"] = dict(taken_back.what)
    alive = promoted.alive()
    assert alive.breach is not None
    assert alive.breach.version == bad
    assert promoted.stack.on_stack("audit", "verify")["entries"] > 0
