"""The monitor stage over a real lake, a real bundle and real Evidently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from kit.in_service import DATASET, LATER_NS, Session, open_workspace, serve
from kit.planted import INSTRUMENT

from market.clock import NS_PER_S
from market.errors import EmptyDataError, InputError
from market.lake.lake import Lake
from pipelines.monitoring import signals
from pipelines.monitoring.checks import CheckLimits
from pipelines.monitoring.monitor import MonitorConfig, monitor, read_result
from pipelines.workspace import Workspace

ASKED = MonitorConfig(
    instrument=INSTRUMENT, window_seconds=10.0, k=3, n=4, window_alarm=0.05, min_strength=0.08, bootstrap=200
)
CALM = Session(name="live-calm", seed=50)
LOUD = Session(name="live-loud", seed=51, louder=2.5, start_ns=LATER_NS + 300 * NS_PER_S)

GAPPY = Session(name="live-gappy", seed=50, bookless_every=2, start_ns=LATER_NS - 600 * NS_PER_S)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Workspace:
    home = tmp_path_factory.mktemp("home")
    workspace = open_workspace(home, write_seeded_bundle)
    serve(workspace, CALM, home / "calm")
    serve(workspace, LOUD, home / "loud")
    serve(workspace, GAPPY, home / "gappy")
    return workspace


def test_a_market_as_it_was_is_no_drift(workspace: Workspace) -> None:
    result = monitor(replace(ASKED, sessions=("live-calm",)), workspace=workspace)
    assert not result.drifted
    assert result.event_id == ""
    assert "no drift" in result.line()
    assert result.dataset_id == DATASET
    assert result.loss_now == pytest.approx(result.loss_reference, rel=0.1)


def test_moments_without_a_book_are_left_out(workspace: Workspace) -> None:
    rows = signals.usable(
        signals.recorded(Lake(workspace.lake), INSTRUMENT, sessions=["live-gappy"], last_ns=3600 * NS_PER_S)
    )
    assert 1000 < len(rows.mid2) < 2000
    assert (rows.mid2 > 0).all()
    assert np.isfinite(rows.features).all()


def test_a_changed_market_is_drift_dated_and_explained(workspace: Workspace) -> None:
    result = monitor(replace(ASKED, sessions=("live-calm", "live-loud")), workspace=workspace)
    assert result.drifted
    assert result.sessions == ("live-calm", "live-loud")
    assert LOUD.start_ns <= result.since_ns <= LOUD.start_ns + 30 * NS_PER_S
    assert result.top[0].effect > result.top[0].threshold
    assert "funding_rate_bps" in result.not_judged  # it never moved in the reference
    for file in (result.path, result.evidently, result.picture):
        assert Path(file).stat().st_size > 0
    assert read_result(workspace, "")["monitor_id"] == result.monitor_id


def test_a_drift_keeps_its_name_while_look_after_look_sees_it(workspace: Workspace) -> None:
    asked = replace(ASKED, sessions=("live-calm", "live-loud"))
    result = monitor(asked, workspace=workspace)
    earlier = workspace.reports / "monitor-earlier" / "monitor.json"
    earlier.parent.mkdir()
    for until_ns, event_id in (
        (result.since_ns + 20 * NS_PER_S, "drift-earlier"),  # it saw the beginning that has slid out of sight since
        (result.since_ns - NS_PER_S, result.event_id),  # that one was over
        (result.until_ns + NS_PER_S, result.event_id),  # that one came later
    ):
        before = {**read_result(workspace, result.monitor_id), "monitor_id": "monitor-earlier", "until_ns": until_ns}
        earlier.write_bytes(orjson.dumps({**before, "event_id": "drift-earlier"}))
        assert monitor(asked, workspace=workspace).event_id == event_id
    earlier.unlink()


def test_one_calm_look_amid_a_drift_gives_it_no_new_name(workspace: Workspace) -> None:
    shutil.rmtree(workspace.reports)  # the looks of other tests
    asked = replace(ASKED, sessions=("live-calm", "live-loud"))
    result = monitor(asked, workspace=workspace)
    for name, after_s, event_id in (("drifted", 20, "drift-earlier"), ("calm", 30, "")):
        file = workspace.reports / f"monitor-{name}" / "monitor.json"
        file.parent.mkdir()
        look = {"monitor_id": name, "until_ns": result.since_ns + after_s * NS_PER_S, "event_id": event_id}
        file.write_bytes(orjson.dumps({**read_result(workspace, result.monitor_id), **look}))
    assert monitor(asked, workspace=workspace).event_id == "drift-earlier"


@pytest.mark.parametrize("was", ["drift-earlier", ""])
def test_a_drift_goes_on_if_nobody_saw_the_market_calm_in_between(workspace: Workspace, was: str) -> None:
    shutil.rmtree(workspace.reports)  # the looks of other tests
    asked = replace(ASKED, sessions=("live-loud",))
    result = monitor(asked, workspace=workspace)
    assert result.drifted
    earlier = workspace.reports / "monitor-earlier" / "monitor.json"
    earlier.parent.mkdir()
    hour_ago = {"monitor_id": "monitor-earlier", "until_ns": result.since_ns - 3600 * NS_PER_S, "event_id": was}
    earlier.write_bytes(orjson.dumps({**read_result(workspace, result.monitor_id), **hour_ago}))
    assert monitor(asked, workspace=workspace).event_id == (was or result.event_id)


def test_the_report_says_what_was_checked_how_right_it_was_and_where_it_lies(workspace: Workspace) -> None:
    result = monitor(replace(ASKED, sessions=("live-calm",)), workspace=workspace)
    written = read_result(workspace, result.monitor_id)
    assert {each.name: each.verdict for each in result.checks}["step_p99"] == "pass"
    assert [each["name"] for each in written["checks"]] == [each.name for each in result.checks]
    now = {each["head"]: each for each in written["quality"]["now"]}
    assert set(now) == {"direction"}  # no ticks were landed: nobody knows what depth did
    assert {each["head"] for each in written["quality"]["reference"]} == {"direction", "bid_falls", "ask_falls"}
    assert 0 <= now["direction"]["calibration_error"] <= 1
    assert written["links"]["artifacts"] == f"runs:/run1/monitoring/{result.monitor_id}"
    assert "run1" in result.links.waiting  # MLflow never heard of it, and the verdict stands
    assert "waits for MLflow" in result.line()


def test_a_failing_check_is_an_alert_and_no_drift(workspace: Workspace) -> None:
    quick = CheckLimits(step_p99=(0.0, 1e-3))
    asked = replace(ASKED, sessions=("live-calm",), limits=quick)
    result = monitor(asked, workspace=workspace)
    assert not result.drifted
    assert result.event_id == ""
    assert [each.name for each in result.failing] == ["step_p99"]
    assert f"FAILING CHECKS {result.alert_id}: step_p99" in result.line()
    assert "from event taken to decision written" in result.line()


def test_looking_again_at_the_same_rows_is_the_same_run_and_the_same_event(workspace: Workspace) -> None:
    assert monitor(ASKED, workspace=workspace) == monitor(ASKED, workspace=workspace)


def test_an_instrument_nobody_served_is_said(workspace: Workspace) -> None:
    with pytest.raises(EmptyDataError, match="run keel serve first"):
        monitor(replace(ASKED, instrument="binance-usdm.ETHUSDT"), workspace=workspace)


def test_a_dataset_that_is_not_there_is_said(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no dataset at"):
        monitor(replace(ASKED, dataset_id="none"), workspace=workspace)


def test_a_monitor_run_that_is_not_there_is_said(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="run keel monitor first"):
        read_result(workspace, "monitor-0")
