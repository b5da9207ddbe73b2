"""One retraining at a time, and not again before the cool-down is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.clock import NS_PER_S, ManualClock
from market.errors import ServiceError
from pipelines.models.cooldown import Admission, admission, admit
from pipelines.workspace import Workspace

KEY = "sim-usdm.BTCUSDT"
HOUR = 3600.0


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(home=tmp_path, clock=ManualClock(1_700_000_000 * NS_PER_S))


def begin(workspace: Workspace, trigger: str, instrument: str = KEY) -> Admission:
    return admit(workspace, instrument, trigger, cool_down_seconds=HOUR)


def pass_time(workspace: Workspace, seconds: float) -> None:
    clock = workspace.clock
    assert isinstance(clock, ManualClock)
    clock.advance(int(seconds * NS_PER_S))


def test_a_storm_of_drifts_begins_one_retraining(workspace: Workspace) -> None:
    assert admission(workspace, KEY, HOUR).admitted
    answers = [begin(workspace, f"drift {i}") for i in range(20)]
    assert [answer.admitted for answer in answers] == [True] + [False] * 19
    assert "retrained 0 s ago (drift 0)" in answers[-1].why
    assert not admission(workspace, KEY, HOUR).admitted


def test_what_was_cut_off_goes_on(workspace: Workspace) -> None:
    assert begin(workspace, "drift 1").admitted
    pass_time(workspace, 10)
    assert begin(workspace, "drift 1").admitted


def test_a_retraining_that_goes_on_is_not_put_off_by_going_on(workspace: Workspace) -> None:
    begin(workspace, "drift 1")
    pass_time(workspace, HOUR - 1)
    begin(workspace, "drift 1")
    assert not begin(workspace, "drift 2").admitted
    pass_time(workspace, 1)
    assert begin(workspace, "drift 2").admitted


def test_instruments_cool_down_by_themselves_and_a_person_is_not_held_up(workspace: Workspace) -> None:
    assert begin(workspace, "drift 1").admitted
    assert begin(workspace, "drift 1", "sim-usdm.ETHUSDT").admitted
    assert admit(workspace, KEY, "by hand", cool_down_seconds=0.0).admitted
    assert not begin(workspace, "drift 2").admitted


def test_a_damaged_record_is_said(workspace: Workspace) -> None:
    begin(workspace, "drift 1")
    (workspace.home / "retrainings" / f"{KEY}.json").write_text("{")
    with pytest.raises(ServiceError, match="is damaged"):
        begin(workspace, "drift 2")
