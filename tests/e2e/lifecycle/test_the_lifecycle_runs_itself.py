"""The life of a model on the real local stack: schedules, drift and people drive it, and nothing else.

A market that the quoter lands, a first model that a quant lets in, a market that changes, a mail, a challenger that
Airflow trains by itself, its test, a quant's yes on Airflow's screen, a canary, a new champion; then a version that
should never have been approved, which takes itself back. One after the other: each test goes on where the last ended.
Without those marked ``lifecycle`` it is the short form: a first version, and one that takes itself back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from kit import browser
from kit.desk import Desk
from kit.live_ring import KEY, LEARNED_S, LiveRing
from kit.local_stack import LONG, until

from market.clock import NS_PER_S
from market.lake.lake import Lake
from pipelines.in_service import roles_of
from pipelines.workspace import Workspace
from training.data.datasets import read_card
from training.registry.registry import Registry, model_name

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1800)]

CALM_S, CHANGED_S = 90, 420  # of market time


def test_a_first_version_comes_into_service_by_airflow_and_a_quant(first: LiveRing) -> None:
    (approval,) = first.entries("approval")
    assert (approval.what["version"], approval.what["name"]) == (1, "quant")
    champions = {each["instrument"]: each["champion"] for each in first.stack.on_stack("status")["instruments"]}
    assert champions[KEY] == 1
    first.market_passes(CALM_S)
    assert first.alive().quotes > 0


@pytest.fixture(scope="module")
def drifted(first: LiveRing) -> LiveRing:
    """The market changes; Airflow finds it, mails it, and trains a challenger by itself."""
    first.market_passes(CALM_S)
    port = first.stack.site.port("exchange")
    httpx.get(f"http://127.0.0.1:{port}/sim/regime", params={"name": "volatile"}).raise_for_status()
    first.market_passes(CHANGED_S)
    first.start("ingest_ticks")
    first.start("monitor_drift")  # as its schedule does every quarter of an hour
    first.ends_well("train_model", run_type="asset_triggered")
    return first


@pytest.mark.lifecycle
def test_a_drift_is_mailed_and_a_challenger_trained_without_anybody_asking(drifted: LiveRing) -> None:
    mails = httpx.get(f"{drifted.stack.site.url('mail-page')}/mails.json", trust_env=False).json()
    assert [mail["subject"] for mail in mails if KEY in mail["subject"]]
    assert len(drifted.runs("train_model", run_type="asset_triggered")) == 1
    assert roles_of(drifted.workspace, KEY).challenger == 2
    dataset = Registry(drifted.workspace.tracking).tags(model_name(KEY), 2)["dataset_id"]
    card = read_card(drifted.workspace.datasets / dataset)
    assert card.last_ns - card.first_ns < int(LEARNED_S * NS_PER_S)
    with browser.browser() as opened:
        page = opened.new_page(viewport=browser.WIDE)
        page.goto(drifted.stack.site.url("mail-page"))
        browser.picture(page, "mails")


@pytest.fixture(scope="module")
def asked(drifted: LiveRing) -> dict[str, Any]:
    """The question that is asked once the challenger has won."""

    def won() -> list[dict[str, Any]]:
        """the challenger to win its test"""
        drifted.market_passes(120)
        drifted.start("ingest_ticks")
        drifted.start("monitor_drift")
        return [run for run in drifted.runs("promote_model", run_type="asset_triggered") if run["state"] != "success"]

    until(won, LONG)
    return drifted.question()


@pytest.mark.lifecycle
def test_the_approval_screen_shows_the_evidence(drifted: LiveRing, asked: dict[str, Any]) -> None:
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


@pytest.mark.lifecycle
def test_only_a_quant_may_answer(drifted: LiveRing, asked: dict[str, Any]) -> None:
    for account in ("engineer", "admin"):
        assert drifted.answer(account, asked, "approve", "mine").status_code == httpx.codes.FORBIDDEN


@pytest.fixture(scope="module")
def promoted(drifted: LiveRing, asked: dict[str, Any]) -> LiveRing:
    before = drifted.alive()
    drifted.answer("quant", asked, "approve", "better by its test").raise_for_status()
    drifted.ends_well("promote_model", dag_run_id=asked["task_instance"]["dag_run_id"])
    drifted.champion_becomes(2)
    drifted.told["quotes before and after the promotion"] = (before.quotes, drifted.alive().quotes)
    return drifted


@pytest.mark.lifecycle
def test_the_champion_changes_by_a_canary_while_quotes_go_on(promoted: LiveRing) -> None:
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
    first: LiveRing, write_seeded_bundle: Callable[..., Path]
) -> None:
    good, quotes = roles_of(first.workspace, KEY).champion, first.alive().quotes
    assert good is not None
    desk = Desk(workspace=first.workspace, write=write_seeded_bundle)
    bad = desk.register(11, spoiled="words")
    said = ("--version", str(bad), "--instrument", KEY, "--name", "quant", "--reason", "on purpose")
    first.stack.on_stack("approve", *said)
    first.stack.on_stack("promote", "--version", str(bad), "--instrument", KEY, code=7)
    first.champion_becomes(good)
    (taken_back,) = first.entries("automatic rollback")
    assert (taken_back.what["version"], taken_back.what["old"]) == (good, bad)
    first.told["taken back"] = dict(taken_back.what)
    alive = first.alive()
    assert alive.breach is not None
    assert alive.breach.version == bad
    first.told["quotes before and after the bad version"] = (quotes, alive.quotes)
    assert first.stack.on_stack("audit", "verify")["entries"] > 0
