"""What a session leaves in small files is merged by a process beside it, and quoting does not end when that fails."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from market.instruments import find
from market.lake.lake import Lake
from market.lake.rows import rows_of
from pipelines.quoting.companions import Compactor

KEY, START_NS = "sim-usdm.BTCUSDT", 1_723_161_240_000_000_000


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Ten commits of one frame each."""
    lake = Lake(tmp_path / "lake")
    for frame in range(1, 11):
        columns = {"source": "s", "frame": [frame], "recv_ns": START_NS + np.array([frame]), "payload": [b"{}"]}
        lake.append("raw", rows_of("raw", find(KEY), columns), source="s", position=frame)
    return lake


def files(lake: Lake) -> int:
    return len(Lake(lake.uri).files("raw"))


def test_files_are_merged_by_another_process(lake: Lake) -> None:
    before = lake.read("raw")
    with Compactor(lake.uri) as compactor:
        compactor.begin()
        begun = compactor._child
        assert begun is not None
        assert begun.pid != os.getpid()
        compactor.begin()
        assert compactor._child is begun or begun.returncode == 0, "one at a time"
    assert files(lake) == 1
    assert Lake(lake.uri).read("raw").equals(before)


def test_a_merge_that_was_killed_is_said_and_done_by_the_next_one(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    with Compactor(lake.uri) as compactor:
        compactor.begin()
        assert compactor._child is not None
        compactor._child.kill()
        with caplog.at_level(logging.WARNING):
            compactor.wait()
        assert "keel lake compact ended with exit code -9" in caplog.text
        assert files(lake) == 10
        compactor.begin()
    assert files(lake) == 1
