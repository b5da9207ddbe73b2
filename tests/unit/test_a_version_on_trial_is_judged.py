"""Guardrails: each by its own figure, nothing before there is evidence, and one breach is enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import ServiceError, SettingsError
from serving.guardrails import Breach, GuardrailConfig, Judge, Position, judge_of, read_breach, write_breach
from serving.hotpath.records import DECISION
from serving.lineup import Lineup
from serving.outcomes import direction_log_loss
from serving.router import Canary

START_NS = 1_800_000_000 * NS_PER_S
FLAT = Position(inventory=0, limit=100, worth2=0)
CANARY = Canary(version=2, against=1, shares=(0.5,), step_seconds=10.0, window_seconds=10.0, trial=77)


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


def test_equal_words_are_no_breach_and_the_figures_are_those_of_the_rows() -> None:
    mine, decisions = judge(), rows(1000)
    assert watch(mine, decisions) is None
    held = mine.held()
    assert (held.trial, held.step, held.since_ns) == (77, 0, START_NS)
    assert held.acted_blocks == 10
    assert 800 < held.rows < 900, "the last second has no label yet, and is looked at once a second"
    loss = direction_log_loss(decisions["recv_ns"], decisions["mid2"], decisions["probs"][:, 1, 15:18], NS_PER_S)
    assert held.log_loss_new == held.log_loss_old == pytest.approx(float(loss[: held.rows].mean()))
    assert held.step_p99_us == 5.0


def test_wrong_words_are_a_breach_once_there_is_evidence() -> None:
    decisions = rows(1000)
    decisions["probs"][:, 1, 15:18] = (0.001, 0.001, 0.998)
    breach = watch(judge(), decisions)
    assert breach is not None
    assert (breach.guardrail, breach.version, breach.against, breach.trial) == ("log_loss", 2, 1, 77)
    assert breach.value > breach.limit == 0.10
    assert "version 1 acts again" in breach.line()
    assert watch(judge(least_rows=900, latency_rows=900), decisions) is None, "too few rows to say so"


def test_better_words_are_no_breach() -> None:
    decisions = rows(1000)
    decisions["mid2"] = 600_000
    decisions["probs"][:, 1, 15:18] = (0.001, 0.998, 0.001)
    mine = judge()
    assert watch(mine, decisions) is None
    held = mine.held()
    assert held.log_loss_new is not None
    assert held.log_loss_old is not None
    assert held.log_loss_new < 0.01 < held.log_loss_old


def test_words_of_the_first_seconds_are_not_held_against_it() -> None:
    decisions = rows(1000)
    decisions["mid2"] = 600_000
    decisions["probs"][:400, 1, 15:18] = (0.001, 0.001, 0.998)
    assert watch(judge(), decisions) is not None
    settling = judge(settle_seconds=4.0)
    assert watch(settling, decisions) is None
    assert 400 < settling.held().rows < 500


def test_a_trial_goes_on_in_the_next_session_also_where_the_clock_began_again() -> None:
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
    again = rows(500)
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


def test_rows_on_which_nobody_speaks_are_not_held_against_it() -> None:
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


def test_more_inventory_than_the_policy_allows_is_a_breach_while_it_acts() -> None:
    heavy = Position(inventory=-125, limit=100, worth2=0)
    assert judge().add(rows(20, arm=0), 0, heavy) is None
    breach = judge().add(rows(20, arm=1), 0, heavy)
    assert breach is not None
    assert (breach.guardrail, breach.value) == ("inventory", 25)


def test_in_the_window_the_new_one_is_in_the_first_arm() -> None:
    window = Lineup(versions=(2, 1), phase="window", canary=CANARY)
    found = judge_of(GuardrailConfig(), window, "live-x")
    assert found is not None
    assert found.new_arm == 0
    assert judge_of(GuardrailConfig(), Lineup(versions=(1,)), "live-x") is None


@pytest.mark.parametrize("limits", [{"least_rows": 0}, {"log_loss_worse": 0.0}, {"not_a_number": -1}])
def test_limits_that_cannot_be_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        GuardrailConfig(**limits)


def test_a_breach_is_kept_in_a_file_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "sessions" / "breach.json"
    assert read_breach(path) is None
    breach = judge().refused()
    write_breach(path, breach)
    assert read_breach(path) == breach
    path.write_text("{")
    with pytest.raises(ServiceError, match="damaged"):
        read_breach(path)
