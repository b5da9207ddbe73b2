"""Guardrails: each has its own figure, nothing is a breach before there is evidence, and one breach is enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import ServiceError, SettingsError
from market.labels import LabelConfig
from pipelines.quoting.follow import words_test
from serving.outcomes import direction_log_loss
from serving.records import DECISION
from serving.rollout.guardrails import (
    Breach,
    GuardrailConfig,
    Judge,
    Position,
    Trial,
    judge_of,
    read_breach,
    refusal,
    write_breach,
)
from serving.rollout.lineup import Lineup
from serving.rollout.roles import Canary

START_NS = 1_800_000_000 * NS_PER_S
FLAT = Position(inventory=0, limit=100, worth2=0)
CANARY = Canary(version=2, against=1, shares=(0.5,), step_seconds=10.0, window_seconds=10.0, trial=77)

TURNS = Lineup(versions=(1, 3), phase="switchback", test=50)


def rows(n: int, *, first: int = 0, arm: int = 1, seed: int = 0) -> np.ndarray:
    """Decisions every 10 ms on a mid that walks; both arms say a third for every direction."""
    found = np.zeros(n, DECISION)
    at = np.arange(first, first + n)
    found["recv_ns"] = START_NS + at * 10 * NS_PER_MS
    found["mid2"] = 600_000 + np.cumsum(np.random.default_rng(seed).integers(-2, 3, first + n))[first:]
    found["probs"] = 1 / 3
    found["arm"], found["step_ns"] = arm, 5_000
    return found


def judge(**limits: object) -> Judge:
    found = judge_of(
        GuardrailConfig(**{"least_rows": 100, "latency_rows": 500, "settle_seconds": 0.0, **limits}),
        Lineup(versions=(1, 2), phase="canary", canary=CANARY),
        "live-x",
        labels=LabelConfig(),
    )
    assert found is not None
    return found


def watch(judge: Judge, decisions: np.ndarray, position: Position = FLAT) -> Breach | None:
    """Row by row in pieces of 20, as steps bring them; the first breach."""
    for i in range(0, len(decisions), 20):
        breach = judge.add(decisions[i : i + 20], i // 100, position)
        if breach is not None:
            return breach
    return None


def test_equal_predictions_are_no_breach_and_the_figures_match_the_rows() -> None:
    mine, decisions = judge(), rows(1000)
    assert watch(mine, decisions) is None
    held = mine.held()
    assert (held.trial, held.step, held.since_ns) == (77, 0, START_NS)
    assert held.acted_blocks == 10
    assert 800 < held.rows < 900, "the last second has no label yet, and is looked at once a second"
    loss = direction_log_loss(
        decisions["recv_ns"], decisions["mid2"], decisions["probs"][:, 1, 15:18], NS_PER_S, threshold_half_ticks=0
    )
    assert held.log_loss_new == held.log_loss_old == pytest.approx(float(loss[: held.rows].mean()))
    assert held.step_p99_us == 5.0


def test_wrong_predictions_are_a_breach_once_there_is_evidence() -> None:
    decisions = rows(2000)
    decisions["mid2"] = 600_000
    decisions["probs"][:, 1, 15:18] = (0.001, 0.001, 0.998)
    breach = watch(judge(), decisions)
    assert breach is not None
    assert (breach.guardrail, breach.version, breach.against, breach.trial) == ("log_loss", 2, 1, 77)
    assert breach.value > breach.limit == 0.10
    assert "version 1 is active again" in breach.line()
    assert watch(judge(least_rows=1900, latency_rows=1900), decisions) is None, "too few rows to say so"


def test_a_version_as_good_as_the_other_is_not_stopped_by_chance() -> None:
    """Each is right in some seconds and wrong in others: by its mean alone one in three is far worse at some time."""
    broken = {errors: [broken_off(seed, errors) for seed in range(20)].count(True) for errors in (0.0, 3.0)}
    assert broken[0.0] > 5
    assert broken[3.0] == 0


def broken_off(seed: int, errors: float) -> bool:
    decisions = rows(3000)
    decisions["mid2"] = 600_000
    right = np.repeat(np.random.default_rng(seed).uniform(0.2, 0.9, (30, 2)), 100, axis=0)
    decisions["probs"][:, :, 16] = right
    return watch(judge(log_loss_errors=errors), decisions) is not None


def challenged(seed: int = 3, **limits: object) -> Judge:
    """A judge of a challenger, with the test that sessions have."""
    config = GuardrailConfig(**{"least_rows": 100, "latency_rows": 500, "settle_seconds": 0.0, **limits})
    found = judge_of(config, TURNS, "live-x", labels=LabelConfig(), block_ns=NS_PER_S, worse=words_test(config))
    assert found is not None
    return found


def words(loss: float, blocks: int = 60) -> np.ndarray:
    """Rows whose second arm is now right, now wrong, and on average worse than a third by about ``loss`` nats."""
    found = rows(100 * blocks)
    found["mid2"] = 600_000
    noise = np.random.default_rng(4).normal(0.0, 0.02, len(found))
    found["probs"][:, 1, 16] = np.exp(np.log(1 / 3) - loss + noise)
    return found


def test_a_challenger_with_significantly_worse_predictions_is_out_before_it_is_far_worse() -> None:
    breach = watch(challenged(), words(0.02))
    assert breach is not None
    assert (breach.guardrail, breach.version, breach.against, breach.trial) == ("words", 3, 1, 50)
    assert 0.01 < breach.value < 0.03
    seen = (breach.at_ns - START_NS) / NS_PER_S
    assert 12 < seen < 40, "not before there are enough blocks, and soon after"


def test_seconds_of_a_lively_market_prove_nothing_about_a_challenger() -> None:
    few = words(0.5, blocks=20)
    assert watch(challenged(), few) is None
    breach = watch(challenged(least_blocks=5), few)
    assert breach is not None
    assert breach.guardrail == "log_loss"


@pytest.mark.parametrize("loss", [0.0, -0.02])
def test_a_challenger_that_is_as_good_or_better_continues(loss: float) -> None:
    mine, decisions = challenged(), words(loss)
    if loss == 0.0:
        decisions["probs"] = 1 / 3
    assert watch(mine, decisions) is None
    assert mine.held().trial == 50


def test_the_fixed_limits_apply_to_a_challenger_too() -> None:
    mute = rows(1000)
    mute["probs"][500:, 1] = np.nan
    breach = watch(challenged(), mute)
    assert breach is not None
    assert breach.guardrail == "not_a_number"
    assert watch(challenged(not_a_number=1000), mute) is None
    slow = rows(1000)
    slow["step_ns"] = 5_000_000
    late = watch(challenged(), slow)
    assert late is not None
    assert late.guardrail == "latency"


def test_a_challengers_loss_is_evaluated_per_session() -> None:
    falls = Position(inventory=0, limit=100, worth2=-150_000)
    mine = challenged()
    assert mine.add(rows(20), 0, FLAT) is None
    assert mine.add(rows(200, first=20), 0, falls) is None
    again = mine.resume("live-y")
    assert again.add(rows(20, first=400), 4, falls) is None
    assert again.add(rows(200, first=420), 4, Position(inventory=0, limit=100, worth2=-300_000)) is None
    assert again.held().drawdown_half_ticks == 150_000


def test_without_a_test_of_its_predictions_a_challenger_is_not_evaluated() -> None:
    assert judge_of(GuardrailConfig(), TURNS, "live-x", labels=LabelConfig()) is None
    shadow = Lineup(versions=(1, 3), phase="shadow")
    assert judge_of(GuardrailConfig(), shadow, "x", labels=LabelConfig(), worse=lambda _: True) is None


def test_better_predictions_are_no_breach() -> None:
    decisions = rows(1000)
    decisions["mid2"] = 600_000
    decisions["probs"][:, 1, 15:18] = (0.001, 0.998, 0.001)
    mine = judge()
    assert watch(mine, decisions) is None
    held = mine.held()
    assert held.log_loss_new is not None
    assert held.log_loss_old is not None
    assert held.log_loss_new < 0.01 < held.log_loss_old


def test_predictions_of_the_first_seconds_do_not_count() -> None:
    decisions = rows(3000)
    decisions["mid2"] = 600_000
    decisions["probs"][:1200, 1, 15:18] = (0.001, 0.001, 0.998)
    assert watch(judge(), decisions) is not None
    settling = judge(settle_seconds=12.0)
    assert watch(settling, decisions) is None
    assert 1600 < settling.held().rows < 1800


def test_a_trial_continues_in_the_next_session_even_if_the_clock_restarted() -> None:
    mine = judge()
    assert watch(mine, rows(500)) is None
    before = mine.held()
    mine.resume("live-y")
    later = rows(500, first=2000)
    assert watch(mine, later) is None
    assert mine.held().since_ns == before.since_ns
    assert 500 + before.rows > mine.held().rows > before.rows + 250
    assert mine.held().acted_blocks == 10
    mine.resume("live-z")
    again = rows(1500)
    again["recv_ns"] -= 3600 * NS_PER_S
    again["mid2"] = 600_000
    again["probs"][:, 1, 15:18] = (0.001, 0.001, 0.998)
    breach = watch(mine, again)
    assert breach is not None
    assert (breach.guardrail, breach.session) == ("log_loss", "live-z")
    assert mine.held().since_ns == again["recv_ns"][0]


def test_one_row_without_numbers_is_a_breach_at_once() -> None:
    decisions = rows(40)
    decisions["probs"][30, 1, 4] = np.nan
    breach = watch(judge(), decisions)
    assert breach is not None
    assert (breach.guardrail, breach.value, breach.limit) == ("not_a_number", 1, 0)


def test_rows_without_any_prediction_do_not_count() -> None:
    decisions = rows(200)
    decisions["probs"][:100] = np.nan
    assert watch(judge(), decisions) is None


def test_a_slow_step_is_a_breach() -> None:
    decisions = rows(1000)
    decisions["step_ns"][::20] = 5_000_000
    breach = watch(judge(), decisions)
    assert breach is not None
    assert breach.guardrail == "latency"


def test_money_lost_in_blocks_of_its_own_counts_and_that_of_others_does_not() -> None:
    mine, others = judge(drawdown_half_ticks=1000), judge(drawdown_half_ticks=1000)
    for second in range(5):
        position = Position(inventory=5, limit=100, worth2=-300 * second)
        assert others.add(rows(100, first=100 * second, arm=0), second, position) is None
        breach = mine.add(rows(100, first=100 * second, arm=1), second, position)
    assert breach is not None
    assert (breach.guardrail, breach.value) == ("drawdown", 1200)
    assert (others.held().drawdown_half_ticks, others.held().acted_blocks) == (0, 0)


def test_more_inventory_than_the_policy_allows_is_a_breach_while_it_is_active() -> None:
    heavy = Position(inventory=-125, limit=100, worth2=0)
    assert judge().add(rows(20, arm=0), 0, heavy) is None
    breach = judge().add(rows(20, arm=1), 0, heavy)
    assert breach is not None
    assert (breach.guardrail, breach.value) == ("inventory", 25)


def test_in_the_window_the_new_one_is_in_the_first_arm() -> None:
    window = Lineup(versions=(2, 1), phase="window", canary=CANARY)
    found = judge_of(GuardrailConfig(), window, "live-x", labels=LabelConfig())
    assert found is not None
    assert found.new_arm == 0
    assert judge_of(GuardrailConfig(), Lineup(versions=(1,)), "live-x", labels=LabelConfig()) is None


@pytest.mark.parametrize("limits", [{"least_rows": 0}, {"log_loss_worse": 0.0}, {"not_a_number": -1}])
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        GuardrailConfig(**limits)


def test_a_breach_is_kept_in_a_file_and_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "sessions" / "breach.json"
    assert read_breach(path) is None
    breach = refusal(Trial(version=2, against=1, number=77), "live-x")
    write_breach(path, breach)
    assert read_breach(path) == breach
    path.write_text("{")
    with pytest.raises(ServiceError, match="damaged"):
        read_breach(path)
