"""Limits of the gate are learned, reviewed and enforced; a person can release what it quarantined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kit.small_lake import INSTRUMENT, Market, events_of_market, with_checkpoints

from market.clock import ManualClock
from market.errors import ApprovalError, EmptyDataError, GateError, InputError
from market.events import TRADE
from market.lake.lake import Lake
from market.lake.rows import ticks_of
from pipelines.features.featurize import FeaturizeConfig, featurize
from pipelines.governance import audit
from pipelines.quality.quarantine import HeldConfig, ReleaseConfig, held, release
from pipelines.quality.thresholds import LearnConfig, ReviewConfig, ShowConfig, in_force, learn, review, show
from pipelines.quality.validate import ValidateConfig, validate
from pipelines.workspace import Workspace

KEY = INSTRUMENT.key
LEARN = LearnConfig(instrument=KEY, at_least=3)
ACCEPT = ReviewConfig(instrument=KEY, name="ada", reason="a usual hour")


def landed(home: Path, source: str = Market().source, *, start: int = 0, far: int | None = None) -> Workspace:
    """Five minutes not yet validated; in minute ``far`` trades print far outside the book."""
    workspace = Workspace(home=home, clock=ManualClock())
    market = Market(seconds=240.0, source=source, start_ns=Market().start_ns + start * 60_000_000_000)
    for i, events in enumerate(with_checkpoints(events_of_market(market))):
        if i == far:
            events["price"][events["kind"] == TRADE] *= 2
        rows = ticks_of(events, source=source, instrument=INSTRUMENT)
        Lake(workspace.lake).append("ticks", rows, source=source, position=i)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A validated lake in which one minute was quarantined."""
    workspace = landed(tmp_path, far=2)
    validate(ValidateConfig(), workspace=workspace)
    return workspace


def test_a_proposal_changes_nothing_before_a_person_accepts_it(workspace: Workspace) -> None:
    before = show(ShowConfig(instrument=KEY), workspace=workspace)
    proposed = learn(LEARN, workspace=workspace)
    assert proposed.minutes == 3
    shown = show(ShowConfig(instrument=KEY), workspace=workspace)
    assert shown.bounds == before.bounds != proposed.bounds == shown.proposed_bounds
    assert shown.origin == "the limits of the table"
    decided = review(ACCEPT, workspace=workspace)
    assert in_force(workspace, KEY).bounds == proposed.bounds
    assert [e.what["digest"] for e in audit.read(audit.path_of(workspace))] == [decided.digest]
    assert "accepted by ada: a usual hour" in show(ShowConfig(instrument=KEY), workspace=workspace).line()


def test_accepted_limits_apply_to_the_next_minutes(workspace: Workspace) -> None:
    learn(LEARN, workspace=workspace)
    review(ACCEPT, workspace=workspace)
    landed(workspace.home, "file-fedcba9876543210", start=10)
    assert validate(ValidateConfig(), workspace=workspace).quarantined == ()
    landed(workspace.home, "file-1111111111111111", start=20, far=1)
    assert set(validate(ValidateConfig(), workspace=workspace).reasons) == {"price_out_of_bounds", "trade_outside_book"}


def test_a_rejected_proposal_is_gone_and_the_limits_stay(workspace: Workspace) -> None:
    learn(LEARN, workspace=workspace)
    review(replace(ACCEPT, decision="reject"), workspace=workspace)
    assert show(ShowConfig(instrument=KEY), workspace=workspace).proposal == ""
    assert show(ShowConfig(instrument=KEY), workspace=workspace).origin == "the limits of the table"
    with pytest.raises(InputError, match="no proposal"):
        review(ACCEPT, workspace=workspace)


@pytest.mark.parametrize("how", ["edited", "removed", "put there"])
def test_limits_without_an_acceptance_stop_the_gate(workspace: Workspace, how: str) -> None:
    learn(LEARN, workspace=workspace)
    path = workspace.home / "thresholds" / f"{KEY}.json"
    if how == "put there":
        (path.parent / f"{KEY}.proposed.json").rename(path)
    else:
        review(ACCEPT, workspace=workspace)
        path.write_bytes(path.read_bytes() + b"\n") if how == "edited" else path.unlink()
    with pytest.raises(GateError, match="expected the limits that a person accepted"):
        in_force(workspace, KEY)


def test_a_killed_review_is_finished_by_rerunning_the_command(workspace: Workspace) -> None:
    learn(LEARN, workspace=workspace)
    proposal = workspace.home / "thresholds" / f"{KEY}.proposed.json"
    content = proposal.read_bytes()
    review(ACCEPT, workspace=workspace)
    proposal.write_bytes(content)  # killed after the record, before the files
    (proposal.parent / f"{KEY}.json").unlink()
    review(ACCEPT, workspace=workspace)
    assert len(audit.read(audit.path_of(workspace))) == 1
    assert in_force(workspace, KEY).bounds.largest_size < 2**45


@pytest.mark.parametrize(
    ("without", "said"),
    [({"name": " "}, "name of a person"), ({"name": "Airflow"}, "is not one"), ({"reason": ""}, "needs a reason")],
)
def test_a_review_and_a_release_need_a_person_and_a_reason(
    workspace: Workspace, without: dict[str, str], said: str
) -> None:
    learn(LEARN, workspace=workspace)
    with pytest.raises(ApprovalError, match=said):
        review(replace(ACCEPT, **without), workspace=workspace)
    (entry,) = held(HeldConfig(), workspace=workspace).held
    asked = ReleaseConfig(batch=entry.batch, name="ada", reason="a real move")
    with pytest.raises(ApprovalError, match=said):
        release(replace(asked, **without), workspace=workspace)


def test_too_few_minutes_teach_nothing(workspace: Workspace) -> None:
    with pytest.raises(EmptyDataError, match="at least 60 minutes"):
        learn(LearnConfig(instrument=KEY), workspace=workspace)


def test_a_released_minute_is_what_it_was_before_the_gate(tmp_path: Path, workspace: Workspace) -> None:
    untouched = landed(tmp_path / "untouched", far=2)
    (entry,) = held(HeldConfig(), workspace=workspace).held
    assert entry.rules == "trade_outside_book"
    result = release(ReleaseConfig(batch=entry.batch, name="ada", reason="a real move"), workspace=workspace)
    lake = Lake(workspace.lake)
    assert lake.read("ticks") == Lake(untouched.lake).read("ticks")
    assert held(HeldConfig(), workspace=workspace).held == ()
    assert set(lake.read("batches")["verdict"].to_pylist()) == {"pass"}
    assert audit.read(audit.path_of(workspace))[result.audit_number - 1].what["reason"] == "a real move"
    assert validate(ValidateConfig(), workspace=workspace).judged == 0
    with pytest.raises(InputError, match="not in quarantine"):
        release(ReleaseConfig(batch=entry.batch, name="ada", reason="again"), workspace=workspace)


def test_a_killed_release_is_finished_by_rerunning_the_command(workspace: Workspace) -> None:
    lake = Lake(workspace.lake)
    (entry,) = held(HeldConfig(), workspace=workspace).held
    row = lake.read("quarantine")
    asked = ReleaseConfig(batch=entry.batch, name="ada", reason="a real move")
    release(asked, workspace=workspace)
    ticks = lake.read("ticks")
    lake.append("quarantine", row)  # killed before the last commit
    release(asked, workspace=workspace)
    assert lake.read("ticks") == ticks
    assert len(audit.read(audit.path_of(workspace))) == 1


def test_a_released_minute_is_in_the_next_dataset(workspace: Workspace) -> None:
    config = FeaturizeConfig(instrument=KEY)
    before = featurize(config, workspace=workspace)
    (entry,) = held(HeldConfig(), workspace=workspace).held
    release(ReleaseConfig(batch=entry.batch, name="ada", reason="a real move"), workspace=workspace)
    assert featurize(config, workspace=workspace).rows > before.rows


def test_a_batch_is_named_as_it_is_listed(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="expected SOURCE/NUMBER"):
        release(ReleaseConfig(batch="28333333", name="ada", reason="x"), workspace=workspace)
