"""The schedule by which instruments are retrained: what it may be, and that no model expires before its time comes."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from market.clock import NS_PER_S, ManualClock
from market.errors import SettingsError
from pipelines.models.retrain import RetrainConfig
from pipelines.models.retraining_schedule import RetrainingSchedule, retraining_schedule, too_rare
from pipelines.settings import stage_config
from pipelines.stack.site import Chosen, establish
from pipelines.stack.status import retrained_too_rarely
from pipelines.workspace import Workspace

NOW = datetime(2026, 12, 1, 12, 30, tzinfo=UTC)
WEEK = 7.0


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEEL_")]:
        monkeypatch.delenv(name)


def test_by_default_it_is_every_night_and_well_before_a_model_expires() -> None:
    assert retraining_schedule() == RetrainingSchedule(cron="0 2 * * *", timezone="UTC")
    assert too_rare(retraining_schedule(), WEEK, now=NOW) == ""


@pytest.mark.parametrize("cron", ["* * * * *", "*/15 8-16 * * 1-5", "0 2 * * 1,4", "0 2 */3 * *"])
def test_two_chances_before_a_model_expires_are_enough(cron: str) -> None:
    assert not too_rare(RetrainingSchedule(cron=cron), 8.0, now=NOW)


@pytest.mark.parametrize("cron", ["0 2 * * 0", "0 2 1 * *", "0 2 29 2 *", "0 2 * 1-6 *"])
def test_a_schedule_that_lets_a_model_expire_is_said(cron: str) -> None:
    says = too_rare(RetrainingSchedule(cron=cron), WEEK, now=NOW)
    assert f"retrain.cron '{cron}' leaves more than 3.5 days" in says
    assert "export.expires_days" in says


def test_no_schedule_at_all_is_said() -> None:
    assert "retrain.cron is empty" in too_rare(RetrainingSchedule(cron=""), WEEK, now=NOW)


def test_a_night_stays_a_night_and_a_day_may_have_25_hours() -> None:
    berlin = RetrainingSchedule(cron="30 3 * * *", timezone="Europe/Berlin")
    assert berlin.leaves_more_than(timedelta(hours=24), start=NOW)
    assert not berlin.leaves_more_than(timedelta(hours=25), start=NOW)
    assert not RetrainingSchedule(cron="30 3 * * *").leaves_more_than(timedelta(hours=24), start=NOW)


@pytest.mark.parametrize("cron", ["@daily", "0 25 * * *", "0 2 * *", "0 0 2 * * *", "nightly"])
def test_what_is_no_time_is_refused(cron: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEL_RETRAIN__CRON", f"'{cron}'")
    with pytest.raises(SettingsError, match=r"retrain: .*cron expression of five fields"):
        retraining_schedule()
    with pytest.raises(SettingsError, match="cron expression"):
        stage_config("retrain", RetrainConfig)


def test_what_is_no_zone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Mars/Olympus", "../../etc/passwd"):
        monkeypatch.setenv("KEEL_RETRAIN__TIMEZONE", zone)
        with pytest.raises(SettingsError, match="expected a time zone such as Europe/Berlin"):
            retraining_schedule()


def test_status_warns_with_the_numbers_of_the_stack(tmp_path: Path) -> None:
    site = establish(tmp_path, Chosen())
    ring = Workspace(home=site.home, clock=ManualClock(int(NOW.timestamp()) * NS_PER_S))
    assert retrained_too_rarely(ring, site) == []
    site.params.write_text("retrain: {cron: '0 2 * * 1'}\n")
    (warning,) = retrained_too_rarely(ring, site)
    assert "expected at least two scheduled retrainings in the 7 days" in warning
    site.params.write_text("retrain: {cron: '0 2 * * 1'}\nexport: {expires_days: 30}\n")
    assert retrained_too_rarely(ring, site) == []
