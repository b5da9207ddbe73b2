"""What leads into the safe state and out of it is killed with 9 before each of its changes, and completed."""

from __future__ import annotations

import email
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.doomed import keel
from kit.drift_found import EVENT, found_drift
from kit.in_service import approved

from market.clock import NS_PER_S, ManualClock, SystemClock
from pipelines.alerting.notify import NotifyConfig, notify
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.quoting.safe_state import stance_path
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import Address, Workspace
from serving.risk.safe_state import read_stances
from serving.rollout.roles import Roles, write_roles

pytestmark = pytest.mark.heavy

KEY = "sim-usdm.BTCUSDT"
ESCALATED = ("escalate", "--set=acknowledge_within=1", "--set=safe_within=604800")
SAFE = ("escalate", "--set=acknowledge_within=1", "--set=safe_within=1")


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Address]:
    with running_mail_sink(tmp_path / "sink") as address:
        yield address


@pytest.fixture
def alerted(tmp_path: Path, sink: Address) -> Path:
    """A home with a drift of an hour ago that was mailed and that nobody acknowledged."""
    workspace = Workspace(
        home=tmp_path / "alerted", clock=ManualClock(SystemClock().now_ns() - 3600 * NS_PER_S), mail=sink
    )
    found_drift(workspace)
    write_roles(state_path(workspace), KEY, Roles(champion=1))
    approved(workspace, KEY, 1)
    notify(NotifyConfig(), workspace=workspace)
    return workspace.home


def received(tmp_path: Path) -> Counter[str]:
    files = (tmp_path / "sink" / "new").iterdir()
    return Counter(
        str(email.message_from_bytes(path.read_bytes())["Message-ID"]).partition("@")[0][1:] for path in files
    )


@pytest.mark.parametrize(("words", "letter"), [(ESCALATED, f"{EVENT}.escalated"), (SAFE, f"{EVENT}.safe")])
def test_killed_before_any_change_it_is_completed_and_nothing_is_done_twice(
    alerted: Path, sink: Address, tmp_path: Path, words: tuple[str, ...], letter: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(alerted, home)
    changes = keel(home, *words, KEEL_MAIL=str(sink)).changes
    assert changes >= 3
    twice = 0
    for at in range(1, changes + 1):
        shutil.rmtree(home)
        shutil.copytree(alerted, home)
        before = received(tmp_path)
        killed = keel(home, *words, at=at, KEEL_MAIL=str(sink))
        assert killed.killed, killed.err
        for _ in range(2):
            assert keel(home, *words, KEEL_MAIL=str(sink)).code == 0
        workspace = Workspace(home=home)
        sent = received(tmp_path) - before
        assert set(sent) == {letter}
        twice += sent[letter] - 1
        kinds = [entry.kind for entry in audit.read(audit.path_of(workspace))]
        assert kinds == (["approval", "safe state"] if words is SAFE else ["approval"])
        assert {key: each.mode for key, each in read_stances(stance_path(workspace)).items()} == (
            {KEY: "safe"} if words is SAFE else {}
        )
        assert list((home / "mail" / "outbox").iterdir()) == []
    # between the server's answer and the move lies one change: its mail comes twice, under one Message-ID
    assert twice == 1


@pytest.mark.parametrize(
    ("verb", "kinds", "mode"),
    [("safe", ["approval", "safe state"], "safe"), ("resume", ["approval", "safe state", "resumed"], "normal")],
)
def test_in_and_out_of_the_safe_state_by_hand_survive_a_kill_before_any_change(
    alerted: Path, tmp_path: Path, verb: str, kinds: list[str], mode: str
) -> None:
    home, said = tmp_path / "home", ("--instrument", KEY, "--name", "mary", "--reason", "under maintenance")
    if verb == "resume":
        assert keel(alerted, "safe", *said).code == 0
    shutil.copytree(alerted, home)
    for at in range(1, keel(home, verb, *said).changes + 1):
        shutil.rmtree(home)
        shutil.copytree(alerted, home)
        assert keel(home, verb, *said, at=at).killed
        assert keel(home, verb, *said).code == 0
        workspace = Workspace(home=home)
        assert [entry.kind for entry in audit.read(audit.path_of(workspace))] == kinds
        assert read_stances(stance_path(workspace))[KEY].mode == mode
