"""Recordings with a fault in them: what is wrong is said, the rest goes on, a second run adds nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kit.landed_lake import contents
from kit.wire_frames import START_NS, ToyExchange, stamped, write_lines

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import EmptyDataError
from market.lake.lake import Lake
from pipelines.features.featurize import FeaturizeConfig, featurize
from pipelines.ingestion.ingest import IngestConfig, IngestResult, ingest
from pipelines.quality.validate import ValidateConfig, validate
from pipelines.workspace import Workspace

HOUR_NS = 3600 * NS_PER_S
RATE = 10  # frames a second
INSTRUMENT = "binance-usdm.BTCUSDT"


def lines(seconds: float = 60) -> list[bytes]:
    return list(stamped(ToyExchange(seed=11).session(seconds=seconds, rate=RATE)))


def land(home: Path, frames: list[bytes]) -> tuple[Workspace, IngestResult]:
    """Land a recording, and land it again: the second time must change nothing."""
    workspace = Workspace(home=home / "keel")
    config = IngestConfig(files=(str(write_lines(home / "toy.gz", frames)),))
    first = ingest(config, workspace=workspace)
    lake = Lake(workspace.lake)
    before = contents(lake)
    assert ingest(config, workspace=workspace).landed[0].new_frames == 0
    assert contents(lake) == before
    assert len(before["raw"]) == first.landed[0].frames == first.landed[0].new_frames
    return workspace, first


def without_a_diff(frames: list[bytes]) -> None:
    del frames[next(i for i, line in enumerate(frames) if i > 100 and b"depthUpdate" in line)]


def with_half_a_frame(frames: list[bytes]) -> None:
    at = next(i for i, line in enumerate(frames) if i > 100 and b"@trade" in line)
    frames[at] = frames[at][:70]


def with_a_late_snapshot(frames: list[bytes]) -> None:
    taken = next(i for i, line in enumerate(frames) if b"lastUpdateId" in line)
    stamp = frames[taken + 300].partition(b" ")[0]
    frames.insert(taken + 300, stamp + b" " + frames.pop(taken).partition(b" ")[2])


def with_a_clock_set_back(frames: list[bytes]) -> None:
    for i in range(300, len(frames)):
        stamp, _, payload = frames[i].partition(b" ")
        frames[i] = b"%d %s" % (int(stamp) - 20 * NS_PER_S, payload)


@pytest.mark.parametrize(
    ("spoil", "counted", "said"),
    [
        (without_a_diff, {"gaps": 1, "synced": False}, "1 gaps"),
        (with_half_a_frame, {"quarantined": {"not_json": 1}, "gaps": 0}, "quarantined not_json 1"),
        (with_a_late_snapshot, {"gaps": 0, "synced": True, "quarantined": {}}, "0 gaps"),
        (with_a_clock_set_back, {"clock_back": 1, "gaps": 0}, "the receiving clock ran back 1 times"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_said_and_lands_once(
    tmp_path: Path, spoil: Callable[[list[bytes]], None], counted: dict[str, object], said: str
) -> None:
    frames = lines()
    spoil(frames)
    _, result = land(tmp_path, frames)
    assert {name: getattr(result.landed[0], name) for name in counted} == counted
    assert said in result.line()


def test_minutes_of_a_clock_that_runs_backwards_are_quarantined_and_the_rest_goes_on(tmp_path: Path) -> None:
    frames = lines(seconds=180)
    for i in range(70 * RATE, 80 * RATE):
        payload = frames[i].partition(b" ")[2]
        frames[i] = b"%d %s" % (START_NS + 70 * NS_PER_S - i * NS_PER_MS, payload)
    workspace, result = land(tmp_path, frames)
    assert result.landed[0].clock_back == 10 * RATE
    judged = validate(ValidateConfig(), workspace=workspace)
    assert (judged.passed, judged.reasons) == (2, {"clock_back": 1})
    lake = Lake(workspace.lake)
    before = {table: lake.read(table) for table in ("ticks", "batches", "quarantine")}
    assert validate(ValidateConfig(), workspace=workspace).judged == 0
    assert {table: lake.read(table) for table in before} == before


def test_an_empty_hour_gives_no_row_and_asked_for_alone_it_is_refused(tmp_path: Path) -> None:
    """Sequence numbers say that nothing is missing: the market was silent, so no minute of the hour is bad."""
    frames = lines(seconds=120)
    for i in range(60 * RATE + 1, len(frames)):  # the snapshot is a line more
        stamp, _, payload = frames[i].partition(b" ")
        frames[i] = b"%d %s" % (int(stamp) + HOUR_NS, payload)
    workspace, result = land(tmp_path, frames)
    assert "0 gaps" in result.line()
    judged = validate(ValidateConfig(), workspace=workspace)
    assert (judged.judged, judged.passed) == (2, 2)
    empty = FeaturizeConfig(
        instrument=INSTRUMENT, start_ns=START_NS + 120 * NS_PER_S, end_ns=START_NS + HOUR_NS - NS_PER_S
    )
    with pytest.raises(EmptyDataError, match="choose other bounds"):
        featurize(empty, workspace=workspace)
    first = featurize(FeaturizeConfig(instrument=INSTRUMENT), workspace=workspace)
    again = featurize(FeaturizeConfig(instrument=INSTRUMENT), workspace=workspace)
    assert (again.dataset_id, again.rows) == (first.dataset_id, first.rows)
    assert first.rows > 0
