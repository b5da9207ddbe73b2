"""Approvals, against a real registry in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from market.clock import ManualClock
from market.errors import ApprovalError, GateError, ModelError
from pipelines.governance import audit
from pipelines.governance.approve import ApproveConfig, approve, require_approval
from pipelines.workspace import Workspace
from training.registry import tracking
from training.registry.registry import Registry

KEY = "sim-usdm.BTCUSDT"
MODEL = f"keel-{KEY}"
ASKED = ApproveConfig(instrument=KEY, version=1, name="ada", reason="better calibrated")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store that holds one version, trained by grace."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = tracking.client(uri)
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, source=str(folder))
    client.set_model_version_tag(MODEL, "1", "author", "Grace")
    return uri


@pytest.fixture
def workspace(store: str, tmp_path: Path) -> Iterator[Workspace]:
    yield Workspace(home=tmp_path, clock=ManualClock(), author="Grace", tracking_uri=store)
    client = tracking.client(store)
    for tag in set(client.get_model_version(MODEL, "1").tags) - {"author"}:
        client.delete_model_version_tag(MODEL, "1", tag)


def test_an_approval_is_in_audit_record_and_registry_and_opens_the_gate(workspace: Workspace) -> None:
    result = approve(ASKED, workspace=workspace)
    assert "approved by ada" in result.line()
    assert Registry(workspace.tracking).tags(MODEL, 1)["approved_by"] == "ada"
    assert require_approval(workspace, MODEL, 1).digest == result.audit_digest
    assert audit.verify_workspace(workspace).entries == 1


def test_the_same_answer_twice_is_one_decision(workspace: Workspace) -> None:
    first = approve(ASKED, workspace=workspace)
    assert approve(ASKED, workspace=workspace) == first


@pytest.mark.parametrize("name", ["Grace", " grace ", "GRACE"])
def test_who_trained_the_model_may_not_approve_it(workspace: Workspace, name: str) -> None:
    with pytest.raises(ApprovalError, match="trained version 1"):
        approve(replace(ASKED, name=name), workspace=workspace)
    assert audit.read(audit.path_of(workspace)) == ()


@pytest.mark.parametrize(("change", "says"), [({"name": "  "}, "name of a person"), ({"reason": " "}, "a reason")])
def test_nobody_and_no_reason_are_refused(workspace: Workspace, change: dict[str, str], says: str) -> None:
    with pytest.raises(ApprovalError, match=says):
        approve(replace(ASKED, **change), workspace=workspace)


def test_a_version_that_does_not_exist_cannot_be_approved(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="no version 9"):
        approve(replace(ASKED, version=9), workspace=workspace)


def test_without_an_approval_the_gate_stays_shut(workspace: Workspace) -> None:
    with pytest.raises(ApprovalError, match="nobody has approved"):
        require_approval(workspace, MODEL, 1)


def test_a_rejection_shuts_the_gate_again(workspace: Workspace) -> None:
    approve(ASKED, workspace=workspace)
    approve(replace(ASKED, decision="reject", reason="seen a bad fill"), workspace=workspace)
    with pytest.raises(ApprovalError, match="rejected by ada: seen a bad fill"):
        require_approval(workspace, MODEL, 1)


def test_a_tag_set_by_hand_opens_nothing(workspace: Workspace) -> None:
    Registry(workspace.tracking).set_tags(MODEL, 1, {"decision": "approve", "approved_by": "mallory"})
    with pytest.raises(ApprovalError, match="nobody has approved"):
        require_approval(workspace, MODEL, 1)


def test_a_decision_that_did_not_reach_the_registry_opens_nothing_until_it_is_given_again(workspace: Workspace) -> None:
    what = {"model_name": MODEL, "version": 1, "decision": "approve", "name": "ada", "reason": "better calibrated"}
    audit.append(
        audit.path_of(workspace), clock=workspace.clock, kind="approval", what={**what, "author": "Grace"}
    )  # and the process dies
    with pytest.raises(ApprovalError, match="disagree"):
        require_approval(workspace, MODEL, 1)
    assert approve(ASKED, workspace=workspace).audit_number == 1
    require_approval(workspace, MODEL, 1)


def test_cutting_off_the_end_of_the_audit_record_is_found_through_the_registry(workspace: Workspace) -> None:
    approve(ASKED, workspace=workspace)
    approve(replace(ASKED, decision="reject", reason="seen a bad fill"), workspace=workspace)
    path = audit.path_of(workspace)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(GateError, match="lines were removed"):
        audit.verify_workspace(workspace)
    with pytest.raises(ApprovalError, match="disagree"):
        require_approval(workspace, MODEL, 1)
    path.unlink()
    with pytest.raises(GateError, match="lines were removed"):
        audit.verify_workspace(workspace)
