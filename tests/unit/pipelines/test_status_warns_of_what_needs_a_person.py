"""``keel status`` of the embedded default: an alias that was moved by hand, and instruments in the safe state."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.empty_registry import empty_registry
from kit.in_service import approved

from market.clock import ManualClock
from market.errors import GateError
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.quoting.safe_state import SafeConfig, safe
from pipelines.stack.status import StatusConfig, StatusResult, status
from pipelines.workspace import Workspace
from serving.rollout.roles import Move, Roles, write_roles
from training.registry import tracking

KEY = "sim-usdm.BTCUSDT"
MODEL = f"keel-{KEY}"


def look(workspace: Workspace) -> StatusResult:
    return status(StatusConfig(), workspace=workspace)


def move_alias(workspace: Workspace, version: int) -> None:
    tracking.client(workspace.tracking).set_registered_model_alias(MODEL, "champion", str(version))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Version 1 of two is champion, in the registry, in service and on record."""
    workspace = Workspace(home=tmp_path / "home", clock=ManualClock())
    client = empty_registry(workspace.tracking)
    client.create_registered_model(MODEL)
    for version in (1, 2):
        client.create_model_version(MODEL, source=str(tmp_path))
        approved(workspace, KEY, version)
    move_alias(workspace, 1)
    write_roles(state_path(workspace), KEY, Roles(champion=1, challenger=2))
    what = {"model_name": MODEL, "version": 1, "old": 0}
    audit.append(audit.path_of(workspace), clock=workspace.clock, kind="promotion", what=what)
    return workspace


def test_all_is_well_while_the_registry_says_what_is_on_record(workspace: Workspace) -> None:
    assert look(workspace).warnings == ()
    assert audit.verify_workspace(workspace).entries == 3


def test_an_alias_moved_by_hand_is_found(workspace: Workspace) -> None:
    move_alias(workspace, 2)
    says = "champion of keel-sim-usdm.BTCUSDT is version 2, the last one on record is version 1"
    (warning,) = look(workspace).warnings
    assert says in warning
    assert f"WARNING: the registry's {says}" in look(workspace).line()
    with pytest.raises(GateError, match=says):
        audit.verify_workspace(workspace)


def test_an_alias_that_was_taken_away_is_found(workspace: Workspace) -> None:
    tracking.client(workspace.tracking).delete_registered_model_alias(MODEL, "champion")
    assert "is none, the last one on record is version 1" in look(workspace).warnings[0]


def test_a_change_that_is_under_way_is_no_stray(workspace: Workspace) -> None:
    move_alias(workspace, 2)
    move = Move(new=2, old=1, kind="promotion")
    write_roles(state_path(workspace), KEY, Roles(champion=1, challenger=2, move=move))
    assert look(workspace).warnings == ()


def test_a_change_that_was_taken_back_leaves_the_old_champion(workspace: Workspace) -> None:
    for kind in ("promotion", "promotion taken back"):
        what = {"model_name": MODEL, "version": 2, "old": 1}
        audit.append(audit.path_of(workspace), clock=workspace.clock, kind=kind, what=what)
    assert audit.champions(audit.read(audit.path_of(workspace))) == {MODEL: 1}
    assert look(workspace).warnings == ()


def test_a_safe_state_is_shown_with_who_and_why(workspace: Workspace) -> None:
    safe(SafeConfig(instrument=KEY, name="mary", reason="maintenance"), workspace=workspace)
    (shown,) = look(workspace).instruments
    assert shown.safe.endswith("by mary: maintenance")
    assert "SAFE STATE since" in look(workspace).line()


def test_the_record_is_listed_as_a_table(workspace: Workspace) -> None:
    lines = audit.ls(workspace).line().splitlines()
    assert lines[0].split() == ["no", "time", "kind", "who", "about", "why"]
    assert "approve" in lines[1]
    assert "grace" in lines[1]
    assert f"{MODEL} version 1" in lines[3]
    assert len(audit.ls(workspace, last=2).entries) == 2
