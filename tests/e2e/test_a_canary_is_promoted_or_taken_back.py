"""Canary, watch window and automatic rollback: a real registry, Triton and exchange, and a session that quotes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.desk import KEY, MODEL, Desk, killed_at
from kit.forked_keel import Keel

from market.clock import SystemClock
from market.errors import ApprovalError, GateError, InputError, ServiceError
from market.lake.lake import Lake
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.monitoring.skew import SkewConfig, skew
from pipelines.promotion import champion as swap
from pipelines.promotion.rollback import RollbackConfig, rollback
from pipelines.promotion.trials import STOPPED, WITHDRAWN, patiently
from pipelines.promotion.withdraw import WithdrawConfig, withdraw
from pipelines.stack.exchange import Exchange, SimulateConfig, running_exchange
from pipelines.workspace import Address, Workspace
from serving.rollout.assignment import canary_acts
from serving.rollout.roles import Roles
from serving.session.heartbeat import Alive, alive_path, read_alive
from serving.triton.server import default_install, running_triton
from training.registry.registry import CHALLENGER, CHAMPION, PREVIOUS

ROOT = Path(__file__).parents[2]
SHORT = {"canary": (0.3, 1.0), "step_seconds": 20.0, "window_seconds": 15.0, "least_rows": 300}

pytestmark = pytest.mark.heavy


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A desk, and an exchange that a session may quote at."""

    desk: Desk
    exchange: Exchange

    @property
    def alive(self) -> Alive | None:
        return read_alive(alive_path(self.desk.workspace.home / "sessions", KEY))

    def until(self, what: Callable[[Alive], object], seconds: float = 120.0) -> Alive:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            alive = self.alive
            if alive is not None and what(alive):
                return alive
            time.sleep(0.05)
        raise AssertionError(f"waited in vain; the session says {self.alive}")

    def environment(self) -> dict[str, str]:
        workspace = self.desk.workspace
        named = {"KEEL_HOME": str(workspace.home), "KEEL_TRITON_GRPC": str(workspace.triton_grpc), "KEEL_AUTHOR": "ada"}
        return {**os.environ, **named, "PYTHONPATH": str(ROOT)}

    def keel(self, *words: str) -> Keel:
        return Keel(*words, environment=self.environment(), together=True)

    @contextmanager
    def quoting(self, guardrails: Mapping[str, object] | None = None, **settings: object) -> Iterator[Keel]:
        """A session that follows, quoting when the block begins, ended as a person would."""
        limits = {"step_p99_us": 50_000.0, **(guardrails or {})}  # a step may wait for other tests
        given = {"pace": 10, "block_seconds": 1.0, "guardrails": json.dumps(limits), **settings}
        words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
        running = self.keel("serve", "--follow", "--url", self.exchange.url, *words)
        try:
            self.until(lambda alive: alive.pid == running.pid and alive.quotes > 0)
            yield running
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            said, _ = running.communicate(timeout=60)
            assert running.returncode == 130, said
        finally:
            running.kill()
            running.communicate()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [dict(e.what) for e in audit.read(audit.path_of(self.desk.workspace)) if e.kind == kind]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Iterator[Floor]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    workspace = Workspace(home=tmp_path_factory.mktemp("shop") / "home", clock=SystemClock(), author="ada")
    with (
        running_triton(workspace.triton_repository, logs=workspace.home / "logs") as endpoint,
        running_exchange(SimulateConfig(seed=11)) as exchange,
    ):
        address = Address(host=endpoint.host, port=endpoint.port)
        desk = Desk(workspace=replace(workspace, triton_grpc=address), write=write_seeded_bundle)
        yield Floor(desk=desk, exchange=exchange)


@pytest.fixture
def floor(shop: Floor) -> Floor:
    shop.desk.forget()
    return shop


def newest_session(floor: Floor) -> dict[str, np.ndarray]:
    """The decisions of the newest session."""
    lake = Lake(floor.desk.workspace.lake)
    name = max(lake.read("predictions", columns=["session"])["session"].unique().to_pylist())
    rows = lake.read("predictions", where={"session": name})
    columns = {n: rows[n].to_numpy() for n in ("n", "recv_ns", "arm", "version0", "version1")}
    return {**columns, "session": name}


def test_a_canary_acts_in_its_share_of_blocks_and_becomes_champion(floor: Floor) -> None:
    desk = floor.desk
    first, second = desk.crown(1), desk.candidate(1, dataset_id="d1")
    with floor.quoting(seed=3):
        promoted = desk.promote(second, **SHORT)
        floor.until(lambda alive: alive.versions == (second,))
    assert (promoted.swapped, promoted.canary, promoted.watched.failed) == (True, (0.3, 1.0), 0)
    assert desk.roles == Roles(champion=second, previous=first)
    assert desk.aliases == {CHAMPION: second, PREVIOUS: first}

    told = newest_session(floor)
    path = desk.workspace.home / "sessions" / f"{told['session']}.json"
    scenes = json.loads(path.read_text())["scenes"]
    phases = [(scene["phase"], scene["versions"], scene.get("share")) for scene in scenes]
    assert phases == [
        ("switchback", [first, second], None),
        ("canary", [first, second], 0.3),
        ("canary", [first, second], 1.0),
        ("window", [second, first], 1.0),
        ("alone", [second], None),
    ]
    begun, until = scenes[1]["from_n"], scenes[2]["from_n"]
    mine = (told["n"] >= begun) & (told["n"] < until)
    blocks = told["recv_ns"][mine] // 10**9
    drawn = [int(block >= scenes[1]["acts_from"] and canary_acts(3, KEY, int(block), 0.3)) for block in blocks]
    np.testing.assert_array_equal(told["arm"][mine], drawn)
    whole = {block // 10 for block in blocks if block // 10 * 10 >= scenes[1]["acts_from"]}
    acted = {int(block) for block, arm in zip(blocks, told["arm"][mine], strict=True) if arm}
    assert any(sum(block // 10 == ten for block in acted) == 3 for ten in whole)
    assert (told["arm"][told["n"] >= scenes[3]["from_n"]] == 0).all()
    assert skew(SkewConfig(session=told["session"]), workspace=desk.workspace).equal


@pytest.mark.parametrize(("spoiled", "guardrail"), [("words", "log_loss"), ("numbers", "not_a_number")])
def test_a_bad_model_is_taken_back_by_the_session_itself(floor: Floor, spoiled: str, guardrail: str) -> None:
    desk = floor.desk
    first, bad = desk.crown(1), desk.approved(2, spoiled=spoiled)
    with floor.quoting():
        with pytest.raises(GateError, match=f"guardrail {guardrail}"):
            desk.promote(bad, **SHORT)
        alive = floor.until(lambda alive: alive.versions == (first,))
        assert alive.breach is not None
        assert alive.breach.version == bad
        assert desk.roles == Roles(champion=first)
        assert desk.aliases == {CHAMPION: first}
        (entry,) = floor.entries(WITHDRAWN)
        assert (entry["version"], entry["old"], entry["guardrail"]) == (first, bad, guardrail)
        assert desk.served() == (first,)
        with pytest.raises(ApprovalError, match="withdrawn"):
            desk.promote(bad, **SHORT)
        desk.approve(bad, reason="a second look")
        with pytest.raises(GateError, match=guardrail):
            desk.promote(bad, **SHORT)
    assert len(floor.entries(WITHDRAWN)) == 2


def test_a_breach_is_completed_though_promote_was_killed(floor: Floor) -> None:
    """The session steps back by itself, and sees that registry, roles and Triton follow."""
    desk = floor.desk
    first, bad = desk.crown(1), desk.approved(2, spoiled="words")
    with floor.quoting(guardrails={"least_rows": 8000, "latency_rows": 8000}):
        promote = floor.keel("promote", "--version", str(bad), "--set", "step_seconds=1000")
        floor.until(lambda alive: alive.phase == "canary")
        promote.kill()
        promote.communicate()
        floor.until(lambda alive: alive.breach is not None and alive.versions == (first,))
        began = time.monotonic()
        while desk.roles != Roles(champion=first) and time.monotonic() - began < 60:
            time.sleep(0.1)
        assert desk.roles == Roles(champion=first)
        assert desk.aliases == {CHAMPION: first}
        assert [entry["old"] for entry in floor.entries(WITHDRAWN)] == [bad]
        floor.until(lambda alive: alive.versions == (first,) and alive.quotes > 0)


def test_a_breach_in_the_watch_window_brings_the_old_champion_back(floor: Floor) -> None:
    desk = floor.desk
    first, bad = desk.crown(1), desk.approved(2, spoiled="words")
    with floor.quoting(guardrails={"least_rows": 1500, "latency_rows": 5000}):
        quick = {"canary": (1.0,), "step_seconds": 5.0, "window_seconds": 600.0, "least_rows": 10}
        with pytest.raises(GateError, match="log_loss"):
            desk.promote(bad, **quick)
        floor.until(lambda alive: alive.versions == (first,))
        assert desk.roles == Roles(champion=first)
        assert desk.aliases == {CHAMPION: first}
        assert [e["version"] for e in floor.entries("promotion")][-1] == bad, "it had been champion"
        with pytest.raises(Exception, match="no previous"):
            rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace)


def stopped(floor: Floor, champion: int) -> dict[str, Any]:
    """The entry about a test that was stopped, once everybody knows of it."""
    began = time.monotonic()
    while floor.desk.roles != Roles(champion=champion) and time.monotonic() - began < 60:
        time.sleep(0.1)
    with patiently(state_path(floor.desk.workspace)):  # whoever completes it has ended
        assert floor.desk.roles == Roles(champion=champion)
    assert floor.desk.aliases == {CHAMPION: champion}
    assert floor.desk.served() == (champion,)
    (entry,) = floor.entries(STOPPED)
    return entry


@pytest.mark.parametrize(("spoiled", "guardrail"), [("words", "log_loss"), ("numbers", "not_a_number")])
def test_a_bad_challenger_is_out_before_it_ever_quotes(floor: Floor, spoiled: str, guardrail: str) -> None:
    desk = floor.desk
    first, bad = desk.crown(1), desk.register(2, spoiled=spoiled)
    with floor.quoting(guardrails={"least_blocks": 5}):
        desk.deploy(bad)
        floor.until(lambda alive: alive.breach is not None and alive.versions == (first,))
        entry = stopped(floor, first)
        assert (entry["version"], entry["against"], entry["guardrail"]) == (bad, first, guardrail)
        desk.approve(bad, reason="it may try again")
        desk.deploy(bad)
        begun = desk.roles.test
        assert begun != entry["test"], "another test"
        floor.until(lambda alive: alive.breach is not None and alive.breach.trial == begun)
    told = newest_session(floor)
    assert bad in told["version1"]
    assert set(told["arm"].tolist()) == {0}
    with pytest.raises(ApprovalError, match="withdrawn since it was approved"):
        desk.promote(bad, **SHORT)


def test_a_bad_challenger_is_out_in_the_middle_of_its_turns(floor: Floor) -> None:
    desk = floor.desk
    first, bad = desk.crown(1), desk.register(2, spoiled="words")
    with floor.quoting(shadow_blocks=2, guardrails={"least_rows": 4000, "latency_rows": 5000}):
        desk.deploy(bad)
        floor.until(lambda alive: alive.phase == "switchback")
        floor.until(lambda alive: alive.breach is not None and alive.versions == (first,))
        assert stopped(floor, first)["guardrail"] == "log_loss"
    told = newest_session(floor)
    acted = np.flatnonzero(told["arm"] == 1)
    assert len(acted) > 0
    assert (told["version1"][acted[-1] + 1 :] == 0).any(), "and then it was not even stepped"


def test_a_challenger_that_lost_its_test_is_withdrawn_once(floor: Floor) -> None:
    """What monitor_drift does when compare says keep."""
    desk = floor.desk
    first, second = desk.crown(1), desk.register(1, dataset_id="d1")
    desk.deploy(second)
    folder = desk.workspace.reports / "compare-lost"
    folder.mkdir(parents=True, exist_ok=True)
    worse = [{"name": "adverse", "role": "guardrail", "says": "worse"}]
    lost = {"instrument": KEY, "verdict": "keep", "champion": first, "challenger": second, "test": desk.roles.test}
    (folder / "compare.json").write_text(json.dumps({**lost, "metrics": worse}))
    asked = WithdrawConfig(instrument=KEY, compare_id="compare-lost")
    done = withdraw(asked, workspace=desk.workspace)
    assert (done.version, done.champion) == (second, first)
    entry = stopped(floor, first)
    assert (entry["version"], entry["evidence"], entry["worse"]) == (second, "compare-lost", ["adverse"])
    again = withdraw(asked, workspace=desk.workspace)
    assert (again.version, again.why) == (0, f"version {second} is not in that test any more")
    desk.deploy(second)
    assert withdraw(asked, workspace=desk.workspace).version == 0, "it is in another test now"
    (folder / "compare.json").write_text(json.dumps({**lost, "verdict": "undecided", "metrics": []}))
    with pytest.raises(InputError, match="only a challenger that is worse"):
        withdraw(asked, workspace=desk.workspace)


def test_a_promotion_killed_in_the_middle_of_a_canary_is_gone_on_with(floor: Floor) -> None:
    desk = floor.desk
    first, second = desk.crown(1), desk.candidate(1, dataset_id="d1")
    with floor.quoting():
        words = ["--set", "canary=[0.3, 1.0]", "--set", "step_seconds=30", "--set", "window_seconds=10"]
        promote = floor.keel("promote", "--version", str(second), *words)
        floor.until(lambda alive: alive.phase == "canary" and alive.held is not None)
        promote.kill()
        promote.communicate()
        trial = desk.roles.canary
        assert trial is not None
        with pytest.raises(ServiceError, match="on trial"):
            desk.promote(first)
        assert desk.promote(second, **SHORT).canary == (0.3, 1.0)
    assert desk.roles == Roles(champion=second, previous=first)
    assert [entry["version"] for entry in floor.entries("promotion")] == [first, second]


def test_a_swap_killed_after_the_canary_is_completed_and_the_window_watched(floor: Floor) -> None:
    desk = floor.desk
    first, second = desk.crown(1), desk.candidate(1, dataset_id="d1")
    short = {**SHORT, "canary": (1.0,), "step_seconds": 5.0}
    with floor.quoting():
        with killed_at(swap, "record"):
            desk.promote(second, **short)
        assert (desk.roles.champion, desk.roles.move is not None) == (first, True)
        floor.until(lambda alive: alive.phase == "canary")
        again = desk.promote(second, **short)
        assert (again.swapped, again.watched.failed) == (True, 0)
    assert desk.roles == Roles(champion=second, previous=first)
    assert desk.aliases == {CHAMPION: second, PREVIOUS: first}


def test_when_nobody_quotes_any_more_a_trial_stands_and_can_be_taken_back(floor: Floor) -> None:
    desk = floor.desk
    first, second = desk.crown(1), desk.candidate(1, dataset_id="d1")
    with floor.quoting() as running:
        promote = floor.keel("promote", "--version", str(second), "--set", "step_seconds=1000")
        floor.until(lambda alive: alive.phase == "canary")
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)
        said, _ = promote.communicate(timeout=120)
        assert promote.returncode == ServiceError.exit_code
        assert "nobody quotes" in said
    assert desk.roles.canary is not None
    assert rollback(RollbackConfig(instrument=KEY), workspace=desk.workspace).withdrawn == second
    assert desk.roles == Roles(champion=first)
    assert desk.aliases == {CHAMPION: first}
    assert CHALLENGER not in desk.aliases
    assert desk.registry.aliases(MODEL) == {CHAMPION: first}
