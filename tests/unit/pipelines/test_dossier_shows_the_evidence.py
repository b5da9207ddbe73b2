"""What a person is shown before an approval, and when they are asked: a real registry, a real lake, no servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from kit.empty_registry import empty_registry
from kit.in_service import Session, fill, open_workspace, serve
from kit.planted import INSTRUMENT
from kit.small_story import write_evaluation

from market.clock import ManualClock
from market.errors import ApprovalError, ModelError
from pipelines.governance import audit
from pipelines.governance.approve import ApproveConfig, approve, undecided
from pipelines.governance.people import NOBODY
from pipelines.in_service import state_path
from pipelines.links import run_page, version_page
from pipelines.promotion.dossier import DossierConfig, DossierResult, dossier, said
from pipelines.workspace import Workspace
from serving.rollout.roles import Roles, write_roles
from training import runs
from training.registry import tracking
from training.registry.registry import model_name

MODEL = model_name(INSTRUMENT)
TEST = Session(name="live-ab", rows=18_000, skill=(0.2, 0.5))
ASKED = DossierConfig(instrument=INSTRUMENT)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Workspace:
    """Two registered versions, the second one trained with another width on another dataset; nothing in service."""
    folder = tmp_path_factory.mktemp("registered")
    workspace = open_workspace(folder / "home", write_seeded_bundle, rows=200)
    client = empty_registry(workspace.tracking)
    experiment = tracking.experiment(client, "keel", workspace.artifacts)
    client.create_registered_model(MODEL)
    for version, hidden, dataset in ((1, "32", "d0"), (2, "64", "d1")):
        run_id = client.create_run(experiment).info.run_id
        for name, value in (("hidden", hidden), ("epochs", "8")):
            client.log_param(run_id, name, value)
        for name, loss in (("network", 0.40), ("lightgbm", 0.39), ("prior", 0.45), ("champion", 0.43)):
            client.log_metric(run_id, f"test_log_loss_{name}", loss)
        client.log_metric(run_id, "test_ece", 0.021)
        client.create_model_version(MODEL, source=str(folder), run_id=run_id)
        for tag, value in (("author", "grace"), ("dataset_id", dataset), ("gate", "passed")):
            client.set_model_version_tag(MODEL, str(version), tag, value)
    return workspace


@pytest.fixture(scope="module")
def won(registered: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """As ``registered``, with both in service, and a test that the challenger has won."""
    folder = tmp_path_factory.mktemp("won")
    workspace = copy_of(registered, folder / "home")
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=1, challenger=2))
    serve(workspace, TEST, folder / "rows")
    fill(workspace, TEST, edge=(1.0, 1.0))
    return workspace


def copy_of(workspace: Workspace, home: Path) -> Workspace:
    """With a clock of its own."""
    shutil.copytree(workspace.home, home)
    return replace(workspace, home=home, clock=ManualClock(workspace.clock.now_ns()))


@pytest.fixture
def workspace(registered: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(registered, tmp_path / "home")


@pytest.fixture
def tested(won: Workspace, tmp_path: Path) -> Workspace:
    return copy_of(won, tmp_path / "home")


def answer(who: str | None, choice: str, reason: str = "because") -> dict[str, object]:
    """What Airflow hands over."""
    user = None if who is None else {"id": who, "name": who}
    return {"responded_by_user": user, "chosen_options": [choice], "params_input": {"reason": reason} if who else {}}


def decide(workspace: Workspace, shown: DossierResult, **given: object) -> None:
    approve(ApproveConfig(**said(vars(shown), answer(**given))), workspace=workspace)  # type: ignore[arg-type]


def test_a_won_test_is_shown_with_its_figures_risks_and_changes(tested: Workspace) -> None:
    shown = dossier(ASKED, workspace=tested)
    assert (shown.due, shown.verdict, shown.version, shown.champion) == (True, "promote", 2, 1)
    assert shown.subject == f"Promote version 2 of {INSTRUMENT}?"
    body = shown.body
    assert "| log-loss of the direction (nats) |" in body
    assert "| better |" in body
    assert "realised spread after 1 s" in body
    assert "Trained by grace, who may not approve it" in body
    assert "| 2 | 0.4 | 0.39 |" in body
    assert "LightGBM scores better on the held-out rows" in body
    assert "On the challenger's rows the champion's log-loss is 0.4300" in body
    assert "| hidden | 32 | 64 |" in body
    assert "| dataset_id | d0 | d1 |" in body
    assert "epochs" not in body  # the same in both
    assert f"`reports/{shown.evidence}/verdict.png`" in body  # MLflow is a file here: no pages to link to
    assert shown.line().startswith("Promote version 2")


def test_roles_of_metrics_and_what_the_challenger_did_in_shadow_are_shown(tested: Workspace) -> None:
    card = tested.home / "sessions" / f"{TEST.name}.json"
    before = dossier(ASKED, workspace=tested)
    assert "## In shadow" not in before.body, "nothing says that there was one"
    scene = {"from_n": 1, "versions": [1, 2], "phase": "switchback", "acts_from": TEST.start_ns // TEST.block_ns + 12}
    card.write_bytes(orjson.dumps({**orjson.loads(card.read_bytes()), "scenes": [scene]}))
    shown = dossier(ASKED, workspace=tested)
    for name, role in (("log-loss of the direction", "primary"), ("adverse selection over 1 s", "guardrail")):
        assert any(row.startswith(f"| {name}") and f"| {role} |" in row for row in shown.body.splitlines())
    assert "| slippage (half ticks a lot) | shown | -2 | -2 |" in shown.body
    assert "## In shadow" in shown.body
    assert "blocks without a quote of its own" in shown.body
    assert "how it would have quoted is not known" in shown.body
    assert f"`reports/{shown.evidence}/shadow.png`" in shown.body


def test_few_blocks_and_unbounded_guardrails_are_risks(workspace: Workspace, tmp_path: Path) -> None:
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=1, challenger=2))
    short = replace(TEST, rows=5000, skill=(0.0, 1.5))
    serve(workspace, short, tmp_path / "rows")
    fill(workspace, short, edge=(1.0, 1.0))
    body = dossier(ASKED, workspace=workspace).body
    assert "few blocks: " in body
    assert "planned were 40" in body
    assert "unbounded after" in body


def test_a_test_that_was_not_won_asks_nobody(workspace: Workspace, tmp_path: Path) -> None:
    write_roles(state_path(workspace), INSTRUMENT, Roles(champion=1, challenger=2))
    serve(workspace, replace(TEST, skill=(0.3, 0.3)), tmp_path / "rows")
    shown = dossier(ASKED, workspace=workspace)
    assert (shown.due, shown.why) == (False, "the evidence says undecided")


def test_a_test_of_another_challenger_is_no_evidence(tested: Workspace) -> None:
    client = tracking.client(tested.tracking)
    client.create_model_version(MODEL, source=str(tested.home))
    client.set_model_version_tag(MODEL, "3", "author", "grace")
    write_roles(state_path(tested), INSTRUMENT, Roles(champion=1, challenger=3))
    shown = dossier(ASKED, workspace=tested)
    assert (shown.version, shown.due, shown.verdict) == (3, False, "undecided")
    assert "was not of version 3" in shown.why


@pytest.mark.parametrize("choice", ["approve", "reject"])
def test_an_answer_stands_while_the_evidence_is_the_same(tested: Workspace, choice: str) -> None:
    decide(tested, dossier(ASKED, workspace=tested), who="ada", choice=choice)
    again = dossier(ASKED, workspace=tested)
    assert (again.due, again.why) == (False, f"ada has answered on this evidence: {choice}")
    assert undecided(tested) == {}


def test_no_answer_in_time_is_a_rejection_by_nobody(tested: Workspace) -> None:
    decide(tested, dossier(ASKED, workspace=tested), who=None, choice="approve")
    (entry,) = audit.read(audit.path_of(tested))
    assert (entry.what["name"], entry.what["decision"]) == (NOBODY, "reject")
    assert not dossier(ASKED, workspace=tested).due
    with pytest.raises(ApprovalError, match="can only be rejected"):
        approve(ApproveConfig(instrument=INSTRUMENT, version=2, name=NOBODY, reason="never mind"), workspace=tested)


def test_who_wants_more_data_is_asked_again_when_there_is_more(tested: Workspace, tmp_path: Path) -> None:
    # what was shown five blocks ago, under the name it had then
    now = dossier(ASKED, workspace=tested)
    shutil.copytree(tested.reports / now.evidence, tested.reports / "compare-before")
    before = replace(now, evidence="compare-before", blocks=now.blocks - 5)
    decide(tested, before, who="ada", choice="more data")
    assert [e.kind for e in audit.read(audit.path_of(tested))] == ["more data"]
    assert undecided(tested) == {INSTRUMENT: 2}  # nothing was decided
    few = dossier(ASKED, workspace=tested)
    assert (few.due, few.why) == (False, "ada answered more data; 5 new blocks since, 20 are wanted")
    assert dossier(replace(ASKED, new_blocks=5), workspace=tested).due

    # a session more of the same test has more blocks than are wanted
    serve(tested, replace(TEST, name="live-next", start_ns=TEST.start_ns + 10**13), tmp_path / "next")
    assert dossier(ASKED, workspace=tested).due


@pytest.mark.parametrize(
    ("who", "reason", "says"),
    [("grace", "mine", "trained version 2"), ("ada", "  ", "a reason"), ("mallory", "why not", "those who may")],
)
def test_the_author_a_stranger_and_who_gives_no_reason_decide_nothing(
    tested: Workspace, who: str, reason: str, says: str
) -> None:
    desk = replace(tested, approvers=("ada", "grace"))
    shown = dossier(ASKED, workspace=desk)
    with pytest.raises(ApprovalError, match=says):
        decide(desk, shown, who=who, choice="approve", reason=reason)
    assert audit.read(audit.path_of(desk)) == ()
    assert dossier(ASKED, workspace=desk).due


def test_the_first_version_is_shown_by_its_evaluation(workspace: Workspace) -> None:
    write_roles(state_path(workspace), INSTRUMENT, Roles(challenger=2))
    run_id = tracking.client(workspace.tracking).get_model_version(MODEL, "2").run_id
    with pytest.raises(ModelError, match="has not been evaluated"):
        dossier(ASKED, workspace=workspace)
    write_evaluation(workspace, run_id, skill=0.9, champion=False)
    shown = dossier(ASKED, workspace=workspace)
    assert (shown.due, shown.verdict) == (False, "keep")  # nobody asked the gate
    folder = workspace.runs / run_id
    runs.write_evaluation(folder, replace(runs.read_evaluation(folder), refusals=()))
    shown = dossier(ASKED, workspace=workspace)
    assert (shown.due, shown.champion, shown.blocks) == (True, 0, 0)
    assert "is the first of its instrument" in shown.body
    assert "| prior |" in shown.body
    assert "The gate said yes." in shown.body
    decide(workspace, shown, who="ada", choice="more data")
    assert not dossier(ASKED, workspace=workspace).due
    runs.write_evaluation(folder, replace(runs.read_evaluation(folder), ece=0.019, refusals=()))
    assert dossier(ASKED, workspace=workspace).due


def test_without_a_challenger_there_is_nothing_to_show(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="has no challenger"):
        dossier(ASKED, workspace=workspace)
    with pytest.raises(ModelError, match="no version 9"):
        dossier(replace(ASKED, version=9), workspace=workspace)


def test_links_lead_to_pages_and_carry_no_password(workspace: Workspace) -> None:
    served = replace(workspace, tracking_uri="http://keel:secret@127.0.0.1:5000/")
    assert run_page(served, "1", "ab", "tests/x/verdict.png") == (
        "http://127.0.0.1:5000/#/experiments/1/runs/ab/artifacts/tests/x/verdict.png"
    )
    assert version_page(served, INSTRUMENT, 2) == f"http://127.0.0.1:5000/#/models/keel-{INSTRUMENT}/versions/2"
    assert run_page(workspace, "1", "ab") == ""
