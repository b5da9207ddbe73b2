"""A quoting session that follows roles and stance at the real simulator: who comes in, who goes, and what is
recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from kit.following import KEY, Stage, told
from kit.in_service import approved

from market.clock import NS_PER_S, SystemClock
from market.feeds import landing
from market.lake.lake import Lake
from pipelines.monitoring import recompute
from pipelines.monitoring.skew import SkewConfig, skew
from pipelines.stack.exchange import Exchange, SimulateConfig, running_exchange
from pipelines.workspace import Workspace
from serving.records import R_SAFE
from serving.risk.safe_state import STANCE_FILE, Stance, write_stance
from serving.rollout.assignment import assign

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with running_exchange(SimulateConfig(seed=11)) as running:
        yield running


@pytest.fixture
def stage(tmp_path: Path, exchange: Exchange, write_seeded_bundle: Callable[..., Path]) -> Stage:
    """Untrained versions on this machine, the first of them champion. Nobody has approved the fourth."""
    made = Workspace(home=tmp_path / "home", clock=SystemClock(), author="ada")
    for version in (1, 2, 3, 4):
        write_seeded_bundle(made.models / KEY / str(version), seed=version, registry_version=version)
    for version in (1, 2, 3):
        approved(made, KEY, version)
    stage = Stage(workspace=made, exchange=exchange)
    stage.roles(champion=1)
    return stage


def changes_of(values: np.ndarray) -> list[int]:
    """Each value once, in the order in which they follow one another."""
    return [int(v) for i, v in enumerate(values) if i == 0 or v != values[i - 1]]


def reproduced(stage: Stage, session: str, numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What does not come out the same when these decisions are made again; bundles are taken from this machine."""
    lake = Lake(stage.workspace.lake)

    def bundle_of(workspace: Workspace, instrument: str, version: int) -> recompute.Stepper:
        folder = workspace.models / instrument / str(version)
        manifest = recompute.registry.read_manifest(folder)
        step = recompute.OnnxStep((folder / recompute.MODEL_FILE).read_bytes())
        return recompute.Stepper(step=step, state=manifest.network.state)

    monkeypatch.setattr(recompute, "bundle_of", bundle_of)
    again = [recompute.again(stage.workspace, lake, session, n) for n in numbers]
    assert all(each.rows > 0 for each in again)
    return [f"{n}: {each.says}" for n, each in zip(numbers, again, strict=True) if not each.reproduced]


def test_a_new_champion_comes_in_while_quotes_go_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def director(stage: Stage) -> None:
        stage.until(lambda alive: alive.quotes > 0)
        stage.until_more()
        stage.roles(champion=2, previous=1)
        stage.until(lambda alive: alive.versions == (2,))
        stage.until_more()

    stage.run(director)
    seen = told(stage.workspace)
    assert changes_of(seen.versions[:, 0]) == [1, 2]
    swap = int(np.flatnonzero(seen.versions[:, 0] == 2)[0])
    assert np.isfinite(seen.probs[0, swap - 200 :]).all(), "windows stayed warm, nobody was silent"
    quotes = Lake(stage.workspace.lake).read("quotes").to_pylist()
    late = [row for row in quotes if row["n"] > seen.number[swap] - 200]
    assert {row["version"] for row in late} == {1, 2}
    assert all(row["bid_size"] > 0 or row["ask_size"] > 0 for row in late), "nothing was withdrawn"
    assert skew(SkewConfig(session=seen.session), workspace=stage.workspace).equal
    first = int(seen.number[swap])
    assert reproduced(stage, seen.session, [first - 1, first, first + 1, first + 150], monkeypatch) == []
    card = json.loads((stage.workspace.home / "sessions" / f"{seen.session}.json").read_text())
    assert [(s["from_n"], s["versions"]) for s in card["scenes"]] == [(1, [1]), (first, [2])]
    assert stage.alive is None, "nobody lives after a clean end"


def test_a_challenger_is_a_shadow_first_then_takes_turns_and_leaves(stage: Stage) -> None:
    stage.settings = {"shadow_blocks": 4, "seed": 5}

    def director(stage: Stage) -> None:
        stage.until_more()
        stage.roles(champion=1, challenger=3)
        begun = stage.until(lambda alive: alive.versions == (1, 3)).last_ns
        stage.until(lambda alive: alive.last_ns > begun + 20 * NS_PER_S)
        stage.roles(champion=1)
        stage.until(lambda alive: alive.versions == (1,))
        stage.until_more(100)

    stage.run(director)
    seen = told(stage.workspace)
    assert changes_of(seen.versions[:, 1]) == [0, 3, 0]
    with_both = seen.versions[:, 1] == 3
    blocks = seen.recv_ns[with_both] // NS_PER_S
    card = json.loads((stage.workspace.home / "sessions" / f"{seen.session}.json").read_text())
    acts_from = card["scenes"][1]["acts_from"]
    assert acts_from % 2 == 0
    assert 4 <= acts_from - blocks[0] <= 6
    drawn = np.array([assign(5, KEY, int(block)) if block >= acts_from else 0 for block in blocks])
    np.testing.assert_array_equal(seen.arm[with_both], drawn)
    assert set(seen.arm[with_both].tolist()) == {0, 1}
    assert (seen.arm[~with_both] == 0).all()


def test_a_champion_that_nobody_approved_is_not_played(stage: Stage) -> None:
    def director(stage: Stage) -> None:
        stage.until(lambda alive: alive.quotes > 0)
        stage.roles(champion=4, previous=1)
        stage.until(lambda alive: alive.refused_versions == (4,))
        stage.until_more()

    stage.run(director)
    assert set(told(stage.workspace).versions[:, 0]) == {1}


def test_a_bundle_that_does_not_pass_is_said_and_what_quoted_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    weights = stage.workspace.models / KEY / "2" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")

    def director(stage: Stage) -> None:
        stage.until_more()
        stage.roles(champion=2, previous=1)
        stage.until(lambda alive: alive.refused_versions == (2,))
        stage.until_more()
        stage.roles(champion=3, previous=1)
        stage.until(lambda alive: alive.versions == (3,))

    stage.run(director)
    assert "version 2 is not played" in caplog.text
    assert changes_of(told(stage.workspace).versions[:, 0]) == [1, 3]


def test_the_safe_state_is_wider_and_smaller_and_recorded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stances = stage.workspace.home / STANCE_FILE

    def director(stage: Stage) -> None:
        stage.until(lambda alive: alive.quotes > 0)
        stage.until_more()
        write_stance(stances, KEY, Stance(mode="safe", since_ns=1, by="watch", reason="nobody answered"))
        stage.until(lambda alive: alive.stance == "safe")
        stage.until_more()
        write_stance(stances, KEY, Stance(since_ns=2, by="ada", reason="looked at it"))
        stage.until(lambda alive: alive.stance == "normal")
        stage.until_more()
        stances.write_text("{")
        stage.until(lambda alive: alive.stance == "safe")
        stage.until_more()

    stage.run(director)
    quotes = [
        row for row in Lake(stage.workspace.lake).read("quotes").to_pylist() if row["bid_size"] and row["ask_size"]
    ]
    safe = [bool(row["reasons"] & R_SAFE) for row in quotes]
    assert changes_of(np.array(safe)) == [0, 1, 0, 1]
    width = {
        state: {
            row["ask_price"] - row["bid_price"] for row, is_safe in zip(quotes, safe, strict=True) if is_safe == state
        }
        for state in (True, False)
    }
    assert min(width[True]) >= 20, "10 ticks on each side"
    assert min(width[False]) < 20
    assert {row["bid_size"] for row, is_safe in zip(quotes, safe, strict=True) if is_safe} <= {1, 2, 3, 4, 5}
    first = next(row["n"] for row, is_safe in zip(quotes, safe, strict=True) if is_safe)
    assert reproduced(stage, told(stage.workspace).session, [first], monkeypatch) == []


def test_while_nobody_is_champion_market_data_is_landed_and_nothing_quoted(stage: Stage) -> None:
    stage.roles()

    def director(stage: Stage) -> None:
        stage.until(lambda alive: alive.doing == "waiting")
        stage.roles(champion=1)
        stage.until(lambda alive: alive.doing == "quoting" and alive.decisions > 0)

    stage.run(director)
    lake = Lake(stage.workspace.lake)
    sources = lake.read("raw", columns=["source"])["source"].unique().to_pylist()
    sessions = lake.read("predictions", columns=["session"])["session"].unique().to_pylist()
    assert (len(sources), len(sessions)) == (2, 1)


def test_a_session_rolls_over_and_the_next_one_begins_with_what_it_held(stage: Stage) -> None:
    stage.settings = {"roll_seconds": 60.0}
    stage.pace = None
    held: list[int] = []

    def director(stage: Stage) -> None:
        first = stage.until(lambda alive: alive.doing == "quoting").session
        stage.until(lambda alive: alive.doing == "quoting" and alive.session != first and alive.decisions > 0)

    stage.run(director)
    cards = [json.loads(p.read_text()) for p in sorted((stage.workspace.home / "sessions").glob("live-*.json"))]
    outcomes = Lake(stage.workspace.lake).read("outcomes").to_pylist()
    for card in cards:
        name = card["result"]["session"]
        held.append(card["result"]["inventory"])
        assert skew(SkewConfig(session=name), workspace=stage.workspace).equal
    assert len(cards) >= 2
    assert held[-1] == sum(row["side"] * row["size"] for row in outcomes)


def test_an_exchange_that_goes_away_is_waited_for(stage: Stage) -> None:
    """The next session is another one, at a market that began again, with what the first one held."""
    sessions: list[str] = []

    def director(stage: Stage) -> None:
        sessions.append(stage.until(lambda alive: alive.doing == "quoting" and alive.quotes > 0).session)
        stage.until_more()
        doomed.close()
        stage.until(lambda alive: alive.doing == "away")
        with running_exchange(SimulateConfig(seed=5, port=stage.exchange.port)):
            back = stage.until(lambda alive: alive.doing == "quoting" and alive.decisions > 0)
            sessions.append(back.session)

    with ExitStack() as doomed:
        stage.exchange = doomed.enter_context(running_exchange(SimulateConfig(seed=5)))
        stage.run(director)
    assert sessions[0] != sessions[1]
    for name in sessions:
        assert (stage.workspace.home / "sessions" / f"{name}.json").is_file()
        assert skew(SkewConfig(session=name), workspace=stage.workspace).rows > 0
    assert not landing.unfinished(Lake(stage.workspace.lake))
