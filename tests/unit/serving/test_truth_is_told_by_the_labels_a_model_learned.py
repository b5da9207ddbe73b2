"""What came true is told by the label settings of the model: a threshold changes the verdict, never behind its back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kit.in_service import LATER_NS, Session, open_workspace, serve
from kit.planted import INSTRUMENT

from market.clock import NS_PER_MS, NS_PER_S, ManualClock
from market.errors import InputError, ManifestError, ModelError
from market.features import meaning
from market.labels import HORIZONS_NS, LabelConfig
from pipelines.experiments.compare import CompareConfig, compare
from pipelines.monitoring.monitor import MonitorConfig, monitor
from pipelines.workspace import Workspace
from serving.bundle import load_bundle
from serving.manifest import Heads
from serving.records import DECISION
from serving.rollout.guardrails import Breach, GuardrailConfig, Position, judge_of, read_breach
from serving.rollout.lineup import Lineup
from serving.rollout.roles import Canary, Roles, write_roles
from serving.session.follower import Follower, Means, Watched

WriteBundle = Callable[..., Path]

FAR = Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=500.0, depth_fall=0.2, depth_levels=5)
DEEP = Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.5, depth_levels=5)
CANARY = Canary(version=2, against=1, shares=(0.5,), step_seconds=10.0, window_seconds=10.0, trial=77)


def bundles(workspace: Workspace, write: WriteBundle, *heads: Heads) -> None:
    for version, each in enumerate(heads, start=1):
        folder = workspace.models / INSTRUMENT / str(version)
        write(folder, seed=version, registry_version=version, dataset_id="d0", heads=each)


@pytest.fixture
def workspace(tmp_path: Path, write_seeded_bundle: WriteBundle) -> Workspace:
    """A session in which the challenger knows more of where the mid goes, any move counted."""
    found = open_workspace(tmp_path / "home", write_seeded_bundle, rows=200)
    serve(found, Session(name="live-ab", rows=18_000, skill=(0.2, 0.5)), tmp_path / "rows")
    return found


def test_heads_of_a_manifest_are_the_settings_that_labels_are_made_with() -> None:
    heads = Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=1.5, depth_fall=0.35, depth_levels=5)
    assert heads.labels() == LabelConfig(threshold_half_ticks=3, depth_fall_percent=35)
    assert heads.words() == "a move beyond 1.5 ticks and a fall of 35% in 5 levels, within 50, 100, 500, 1000 ms"


def test_a_threshold_changes_the_result_of_an_ab_test(workspace: Workspace, write_seeded_bundle: WriteBundle) -> None:
    asked = CompareConfig(instrument=INSTRUMENT)
    assert compare(asked, workspace=workspace).metrics[0].says == "better"
    bundles(workspace, write_seeded_bundle, FAR, FAR)  # nothing moves as far: whoever leans to a move is wrong
    found = compare(asked, workspace=workspace)
    assert (found.verdict, found.metrics[0].says) == ("keep", "worse")


@pytest.mark.parametrize("other", [FAR, DEEP])
def test_arms_that_learned_different_labels_are_not_compared(
    workspace: Workspace, write_seeded_bundle: WriteBundle, other: Heads
) -> None:
    bundles(workspace, write_seeded_bundle, FAR if other is DEEP else DEEP, other)
    with pytest.raises(ModelError, match=r"versions 1 and 2 of .* cannot be compared: expected one label setting, saw"):
        compare(CompareConfig(instrument=INSTRUMENT), workspace=workspace)


def watched(labels: LabelConfig) -> Breach | None:
    """The first breach of a canary that is sure of the next half tick up or down, which comes every time."""
    found = np.zeros(2000, DECISION)
    at = np.arange(len(found))
    second = at // 100
    found["recv_ns"] = LATER_NS + at * 10 * NS_PER_MS
    found["mid2"] = 600_000 + second % 2
    found["probs"] = 1 / 3
    up, down = (0.01, 0.01, 0.98), (0.98, 0.01, 0.01)
    found["probs"][:, 1, 15:18] = np.where((second % 2 == 0)[:, None], up, down)
    judge = judge_of(
        GuardrailConfig(least_rows=100, latency_rows=500, settle_seconds=0.0),
        Lineup(versions=(1, 2), phase="canary", canary=CANARY),
        "live-x",
        labels=labels,
    )
    assert judge is not None
    flat = Position(inventory=0, limit=100, worth2=0)
    breaches = (judge.add(found[i : i + 20], i // 100, flat) for i in range(0, len(found), 20))
    return next((breach for breach in breaches if breach is not None), None)


def test_a_threshold_changes_the_result_of_a_guardrail() -> None:
    assert watched(LabelConfig()) is None, "it is right about every half tick"
    breach = watched(LabelConfig(threshold_half_ticks=1))
    assert breach is not None, "half a tick is no move under its labels, and it calls one every time"
    assert breach.guardrail == "log_loss"


def follower_of(home: Path, write: WriteBundle, roles: Roles, heads: tuple[Heads, Heads], said: list[str]) -> Follower:
    workspace = Workspace(home=home, clock=ManualClock(LATER_NS))
    bundles(workspace, write, *heads)
    write_roles(home / "serving.json", INSTRUMENT, roles)
    seen = Watched(
        instrument=INSTRUMENT, roles=home / "serving.json", stances=home / "stance.json", sessions=home / "sessions"
    )

    def load(version: int):  # type: ignore[no-untyped-def]  # a bundle
        folder = workspace.models / INSTRUMENT / str(version)
        return load_bundle(folder, now_ns=LATER_NS, feature_set=meaning.feature_set())

    (home / "sessions").mkdir()
    means = Means(clock=workspace.clock, load=load, attend=lambda *_: None, halt=lambda: None, tell=said.append)
    return Follower(seen, means)


@pytest.mark.parametrize("second", [DEEP, FAR])
def test_a_session_serves_no_version_against_one_of_other_labels(
    tmp_path: Path, write_seeded_bundle: WriteBundle, second: Heads
) -> None:
    said: list[str] = []
    trial = Roles(champion=1, challenger=2, test=5)
    with follower_of(tmp_path, write_seeded_bundle, trial, (DEEP, second), said) as follower:
        assert follower.ready is not None
        assert follower.ready[0].versions == ((1, 2) if second is DEEP else (1,))
        assert any("cannot be compared" in each for each in said) == (second is FAR)


def test_a_canary_of_other_labels_ends_its_trial(tmp_path: Path, write_seeded_bundle: WriteBundle) -> None:
    said: list[str] = []
    trial = Roles(champion=1, canary=CANARY)
    with follower_of(tmp_path, write_seeded_bundle, trial, (DEEP, FAR), said) as follower:
        assert follower.ready is not None
        assert follower.ready[0].versions == (1,)
    breach = read_breach(tmp_path / "sessions" / f"breach-{INSTRUMENT}.json")
    assert breach is not None
    assert (breach.guardrail, breach.version, breach.trial) == ("refused", 2, 77)


def test_monitoring_refuses_a_dataset_of_other_labels_than_the_model(
    tmp_path: Path, write_seeded_bundle: WriteBundle
) -> None:
    workspace = open_workspace(tmp_path / "home", write_seeded_bundle, rows=2000)
    bundles(workspace, write_seeded_bundle, DEEP)
    serve(workspace, Session(rows=1500), tmp_path / "rows")
    with pytest.raises(InputError, match="expected a dataset with the labels of the model, a move beyond 0 ticks"):
        monitor(MonitorConfig(instrument=INSTRUMENT), workspace=workspace)


def test_a_bundle_of_another_depth_is_refused(tmp_path: Path, write_seeded_bundle: WriteBundle) -> None:
    heads = Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.2, depth_levels=10)
    folder = write_seeded_bundle(tmp_path / "bundle", heads=heads)
    with pytest.raises(ManifestError, match="depth of 10 levels, expected 5"):
        load_bundle(folder, now_ns=LATER_NS + NS_PER_S, feature_set=meaning.feature_set())
