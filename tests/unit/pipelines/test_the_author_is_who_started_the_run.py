"""Four eyes on a scheduler: the author of what a run makes is the person who started it, or the schedule's owner."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType

from market.errors import ApprovalError
from pipelines import settings
from pipelines.governance import people
from pipelines.governance.approve import ApproveConfig, _require_second_person
from pipelines.orchestration.assets import author_of
from pipelines.stack.environment import APPROVER
from pipelines.stack.servers.airflow import _ROLES, SCHEDULE_OWNER

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def started(by: str | None, how: DagRunType = DagRunType.MANUAL) -> DagRun:
    """A run as Airflow hands it to a task."""
    return DagRun(
        dag_id="train_model",
        run_id="r",
        logical_date=NOW,
        data_interval_start=None,
        data_interval_end=None,
        run_after=NOW,
        start_date=NOW,
        end_date=None,
        run_type=how,
        state=DagRunState.RUNNING,
        triggering_user_name=by,
        consumed_asset_events=[],
        partition_key=None if by else "sim-usdm.BTCUSDT",
    )


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEL_SCHEDULE_OWNER", "engineer")
    monkeypatch.setenv("KEEL_AUTHOR", "grace")


@pytest.mark.usefixtures("owned")
@pytest.mark.parametrize(
    ("by", "author"), [("quant", "quant"), (None, "engineer"), ("", "engineer"), ("dag_test", "engineer")]
)
def test_a_person_answers_for_the_run_they_started_and_the_owner_for_the_others(by: str | None, author: str) -> None:
    assert author_of(started(by)) == author
    assert settings.workspace(author=author_of(started(by))).author == author


def test_without_an_owner_it_is_who_the_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEL_SCHEDULE_OWNER", raising=False)
    monkeypatch.setenv("KEEL_AUTHOR", "grace")
    assert author_of(started(None, DagRunType.SCHEDULED)) == "grace"


@pytest.mark.usefixtures("owned")
def test_who_started_the_run_may_not_approve_what_it_made() -> None:
    config = ApproveConfig(instrument="sim-usdm.BTCUSDT", version=2, name="quant", reason="why")
    with pytest.raises(ApprovalError, match=r"quant trained version 2 .* and who trains may not approve"):
        _require_second_person(config, "quant", author_of(started("Quant")))
    _require_second_person(config, "quant", author_of(started(None)))


@pytest.mark.parametrize("program", ["airflow", "Keel", " quotekeel "])
def test_a_program_as_the_author_bars_nobody_and_so_nobody_may_approve(program: str) -> None:
    assert people.is_program(program)
    config = ApproveConfig(instrument="sim-usdm.BTCUSDT", version=2, name="quant", reason="why")
    with pytest.raises(ApprovalError, match=r"expected a person as the author .* Set KEEL_SCHEDULE_OWNER"):
        _require_second_person(config, "quant", program)


def test_the_local_stack_names_an_owner_who_is_not_the_approver() -> None:
    assert SCHEDULE_OWNER in _ROLES
    assert not people.same_person(SCHEDULE_OWNER, APPROVER)
    assert not people.is_program(SCHEDULE_OWNER)
