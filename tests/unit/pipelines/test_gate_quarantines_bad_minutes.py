"""The quality gate on small lakes: what passes, what is quarantined, and that a second run changes nothing."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import INSTRUMENT, Market, events_of_market, with_checkpoints

from market.events import DEPTH, F_CLOCK_BACK, TRADE, Events
from market.lake.lake import Lake
from market.lake.rows import ticks_of
from market.quality.figures import FIGURES
from market.quality.rules import Limit
from pipelines.quality.validate import QUARANTINE, STAGE, ValidateConfig, validate
from pipelines.workspace import Workspace

MARKET = Market(seconds=240.0)


def workspace_of(home: Path, spoiled: Events | None = None, minute: int = 1) -> Workspace:
    """Minutes of a small market that are not yet validated, one of them replaced."""
    workspace = Workspace(home=home)
    lake = Lake(workspace.lake)
    minutes = with_checkpoints(events_of_market(MARKET))
    if spoiled is not None:
        minutes[minute] = spoiled
    for i, events in enumerate(minutes):
        lake.append("ticks", ticks_of(events, source=MARKET.source, instrument=INSTRUMENT), source="s", position=i)
    return workspace


def second_minute() -> Events:
    return with_checkpoints(events_of_market(MARKET))[1].copy()


def test_clean_minutes_all_pass(tmp_path: Path) -> None:
    result = validate(ValidateConfig(), workspace=workspace_of(tmp_path))
    assert result.judged == result.passed > 3
    assert result.quarantined == ()


def far_trades(events: Events) -> None:
    events["price"][events["kind"] == TRADE] = events["price"][events["kind"] == TRADE] * 12 // 10


def clocks_back(events: Events) -> None:
    events["flags"] |= F_CLOCK_BACK


def one_huge_level(events: Events) -> None:
    events["size"][np.flatnonzero((events["kind"] == DEPTH) & (events["size"] > 0))[-1]] = 2**40


def an_event_no_book_accepts(events: Events) -> None:
    events["size"][np.flatnonzero(events["kind"] == DEPTH)[-1]] = -1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (far_trades, "trade_outside_book"),
        (clocks_back, "clock_back"),
        (one_huge_level, "size_outlier"),
        (an_event_no_book_accepts, "refused_by_book"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_spoiled_minute_goes_to_quarantine_with_its_reason_and_the_rest_continues(
    tmp_path: Path, spoil, reason: str
) -> None:
    events = second_minute()
    spoil(events)
    workspace = workspace_of(tmp_path, events)
    lake = Lake(workspace.lake)
    landed = lake.read("ticks").num_rows

    result = validate(ValidateConfig(), workspace=workspace)

    held = lake.read("quarantine", where={"stage": STAGE}).to_pylist()
    assert [row["reason"] for row in held] == [reason]
    assert result.reasons == {reason: 1}
    assert lake.read("ticks").num_rows == landed - len(events) == landed - result.rows_quarantined
    assert [row["verdict"] for row in lake.read("batches").to_pylist()].count(QUARANTINE) == 1


def test_a_second_run_validates_nothing_again(tmp_path: Path) -> None:
    events = second_minute()
    far_trades(events)
    workspace = workspace_of(tmp_path, events)
    validate(ValidateConfig(), workspace=workspace)
    before = [Lake(workspace.lake).read(table) for table in ("ticks", "batches", "quarantine", "quality")]
    assert validate(ValidateConfig(), workspace=workspace).judged == 0
    assert before == [Lake(workspace.lake).read(table) for table in ("ticks", "batches", "quarantine", "quality")]


def test_a_minute_left_in_both_places_by_a_kill_is_moved_for_good(tmp_path: Path) -> None:
    events = second_minute()
    far_trades(events)
    undisturbed = workspace_of(tmp_path / "undisturbed", events)
    validate(ValidateConfig(), workspace=undisturbed)
    killed = workspace_of(tmp_path / "killed", events)
    lake = Lake(killed.lake)
    lake.append("quality", Lake(undisturbed.lake).read("quality"))
    for table in ("quarantine", "batches"):  # committed before the kill; the rows had not left the ticks
        rows = Lake(undisturbed.lake).read(table)
        lake.append(table, rows.filter(pick_quarantined(rows, table)))

    validate(ValidateConfig(), workspace=killed)

    for table in ("ticks", "batches", "quarantine", "quality"):
        assert lake.read(table) == Lake(undisturbed.lake).read(table)


def test_every_figure_of_a_minute_is_kept_with_the_limits_applied_to_it(tmp_path: Path) -> None:
    """The expectations of Great Expectations and the limits agree on every figure."""
    events = second_minute()
    far_trades(events)
    clocks_back(events)
    one_huge_level(events)
    workspace = workspace_of(tmp_path, events)
    result = validate(ValidateConfig(), workspace=workspace)
    rows = Lake(workspace.lake).read("quality").to_pylist()
    assert {row["figure"] for row in rows} >= set(FIGURES)
    said: Counter[str] = Counter()
    for row in rows:
        if row["rule"]:
            limit = Limit(**{name: row[name] if row[name] < np.inf else None for name in ("warn", "hold")})
            assert row["verdict"] == limit.verdict(row["value"]), row
            said.update([row["rule"]] if row["verdict"] == QUARANTINE else [])
    assert said == result.reasons == {"clock_back": 1, "trade_outside_book": 1, "size_outlier": 1}


def test_the_page_and_the_data_docs_name_the_rules_and_the_minutes_that_broke_them(tmp_path: Path) -> None:
    events = second_minute()
    far_trades(events)
    workspace = workspace_of(tmp_path, events)
    result = validate(ValidateConfig(), workspace=workspace)
    page = Path(result.docs)
    assert f"read {page}" in result.line()
    text = page.read_text()
    broken = time.strftime("%Y-%m-%d %H:%M", time.gmtime(int(events["recv_ns"].min()) // 10**9))
    assert f"<td>{broken}</td>" in text
    assert text.count('<td class="quarantine">') == 1
    assert "trade_outside_book</span> 1 share,\nlimit 0.01" in text
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
    (expectations,) = (page.parent / "docs").glob("validations/**/*.html")
    assert "trade_outside_book (share)" in expectations.read_text()
    (linked,) = re.findall(r'href="([^"]+)"', text)
    assert (page.parent / linked).exists()


def pick_quarantined(rows, table: str):
    column, value = ("verdict", QUARANTINE) if table == "batches" else ("stage", STAGE)
    return np.array([each == value for each in rows.column(column).to_pylist()])
