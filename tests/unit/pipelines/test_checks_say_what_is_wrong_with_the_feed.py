"""Checks of latency and integrity, each on hand-made rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import Market, land

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import SettingsError
from market.events import F_CLOCK_BACK, F_LAST, F_RESYNC
from market.features import catalog
from market.labels import N_OUTPUTS
from market.lake.lake import Lake
from market.lake.rows import rows_of
from pipelines.monitoring.checks import Check, CheckLimits, Landed, check, landed
from pipelines.monitoring.signals import Served

START_NS = 1_700_000_000_000_000_000 // (60 * NS_PER_S) * (60 * NS_PER_S)
WELL = Landed(frames=10_000, gaps=0, clock_back=0, unreadable=0, refused_minutes=0, seconds=3600.0)


def decisions(n: int = 1200, *, every_ns: int = 100 * NS_PER_MS) -> Served:
    """``n`` decisions, ten a second, 3 ms behind the exchange, a step of 2 us each."""
    number = np.arange(n)
    return Served(
        session=np.repeat("live-1", n),
        frame=number + 1,
        seq=number + 1,
        recv_ns=START_NS + number * every_ns,
        exch_ns=START_NS + number * every_ns - 3 * NS_PER_MS,
        mid2=np.full(n, 1_200_001),
        step_ns=np.full(n, 2000),
        version=1,
        probs=np.full((n, N_OUTPUTS), 0.3),
        features=np.zeros((n, catalog.N_INPUTS)),
    )


def judged(rows: Served, frames: Landed = WELL, limits: CheckLimits | None = None) -> dict[str, Check]:
    found = check(rows, frames, limits or CheckLimits())
    return {each.name: each for each in found}


def test_a_healthy_hour_passes_every_check_and_every_limit_has_a_check() -> None:
    found = judged(decisions())
    assert {each.verdict for each in found.values()} == {"pass"}
    assert set(found) == set(CheckLimits.__dataclass_fields__)


def test_one_slow_step_in_thirty_is_a_failing_p99_and_one_in_a_thousand_is_not() -> None:
    rows = decisions()
    rows.step_ns[::30] = 3_000_000
    found = judged(rows)["step_p99"]
    assert (found.verdict, found.value) == ("fail", pytest.approx(3000.0))
    assert "3000.00 us" in found.says
    rare = decisions()
    rare.step_ns[0] = 3_000_000
    assert judged(rare)["step_p99"].verdict == "pass"


def test_steps_that_were_not_measured_are_no_verdict() -> None:
    found = judged(replace(decisions(), step_ns=np.zeros(1200, np.int64)))["step_p99"]
    assert (found.verdict, found.value) == ("unknown", None)


def test_silence_is_measured_within_a_session_and_not_between_two() -> None:
    rows = decisions()
    rows.recv_ns[600:] += 40 * NS_PER_S
    assert judged(rows)["feed_silence"].value == pytest.approx(40.1)
    assert judged(rows)["feed_silence"].verdict == "fail"
    rows.session[600:] = "live-2"
    assert judged(rows)["feed_silence"].verdict == "pass"


def test_decisions_without_a_book_and_without_a_word_are_told_apart() -> None:
    rows = decisions()
    rows.mid2[:30] = 0
    rows.probs[:30] = np.nan
    rows.probs[100:106] = np.nan
    rows.features[106:112, 3] = np.nan
    found = judged(rows)
    assert (found["no_book"].verdict, found["no_book"].value) == ("warn", pytest.approx(30 / 1200))
    assert (found["no_word"].verdict, found["no_word"].value) == ("fail", pytest.approx(12 / 1170))


def test_a_clock_that_is_set_is_a_jump_and_one_late_frame_is_none() -> None:
    late = decisions()
    late.exch_ns[50] -= 5 * NS_PER_S
    assert judged(late)["clock_jump"].verdict == "pass"
    stepped = decisions()
    stepped.exch_ns[600:] -= 300 * NS_PER_MS
    assert (judged(stepped)["clock_jump"].verdict, judged(stepped)["clock_jump"].value) == ("fail", pytest.approx(300))


def test_a_feed_without_exchange_times_has_no_offset_to_jump() -> None:
    assert judged(replace(decisions(), exch_ns=np.zeros(1200, np.int64)))["clock_jump"].verdict == "unknown"


@pytest.mark.parametrize(
    ("frames", "name", "verdict"),
    [
        (replace(WELL, gaps=5), "gaps", "warn"),
        (replace(WELL, gaps=20), "gaps", "fail"),
        (replace(WELL, gaps=20, seconds=36_000.0), "gaps", "pass"),
        (replace(WELL, unreadable=1), "quarantined", "warn"),
        (replace(WELL, unreadable=20), "quarantined", "fail"),
        (replace(WELL, refused_minutes=1), "refused_minutes", "warn"),
        (replace(WELL, refused_minutes=3), "refused_minutes", "fail"),
        (replace(WELL, clock_back=200), "clock_back", "fail"),
        (replace(WELL, frames=0), "gaps", "unknown"),
    ],
)
def test_what_happened_to_frames_is_judged(frames: Landed, name: str, verdict: str) -> None:
    assert judged(decisions(), frames)[name].verdict == verdict


def test_limits_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(SettingsError, match="warn <= fail for gaps"):
        CheckLimits(gaps=(5.0, 1.0))


def test_the_lake_says_what_happened_to_frames_within_the_time(tmp_path: Path) -> None:
    lake, market = Lake(tmp_path), Market(source="live-1", seconds=300, frames=8, start_ns=START_NS)
    minutes = land(lake, market, verdicts={2: "quarantine"})
    ticks = lake.read("ticks")
    flags = ticks["flags"].to_numpy().copy()
    late = np.flatnonzero((ticks["batch"].to_numpy() == START_NS // (60 * NS_PER_S) + 3) & (flags & F_LAST != 0))
    flags[late[1]] |= F_RESYNC
    flags[late[2:5]] |= F_CLOCK_BACK
    lake.replace("ticks", ticks.set_column(ticks.column_names.index("flags"), "flags", [flags]), {"source": "live-1"})
    columns = {
        "source": "live-1",
        "batch": START_NS // (60 * NS_PER_S),
        "frame": np.array([1, 2, 3]),
        "recv_ns": START_NS + np.array([70, 290, 80]) * NS_PER_S,
        "stage": "parse",
        "reason": ["not_json", "not_json", "shed"],
        "detail": "",
        "payload": [b"", b"", b""],
    }
    lake.append("quarantine", rows_of("quarantine", market.instrument, columns))
    within = np.array([START_NS + 60 * NS_PER_S, START_NS + 240 * NS_PER_S - 1])
    found = landed(lake, market.instrument.key, ["live-1"], within)
    frames = sum(len(np.unique(minutes[i]["frame"])) for i in (1, 3))
    assert found == Landed(
        frames=found.frames, gaps=1, clock_back=3, unreadable=1, refused_minutes=1, seconds=found.seconds
    )
    assert frames - 2 <= found.frames <= frames
    assert found.seconds == pytest.approx(180.0)
    assert landed(lake, market.instrument.key, ["live-2"], within).frames == 0
