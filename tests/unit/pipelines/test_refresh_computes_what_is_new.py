"""Features follow the lake: what is new is computed, what is not is left alone, and a cut-off run is completed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import INSTRUMENT, Market, judged, land, later, workspace_with

from market.errors import EmptyDataError
from market.lake.lake import Lake
from pipelines.features.featurize import FeaturizeConfig, featurize
from pipelines.features.refresh import RefreshConfig, RefreshResult, refresh
from pipelines.features.store import FeatureStore, read_slow
from pipelines.workspace import Workspace

FIRST = Market(seconds=100, frames=10)
SECOND = later(FIRST, 240, source="file-two", seed=2)
CONFIG = RefreshConfig(instrument=INSTRUMENT.key)


def again(workspace: Workspace) -> RefreshResult:
    return refresh(CONFIG, workspace=workspace)


def rows_of(workspace: Workspace) -> list[object]:
    return [Lake(workspace.lake).read(table, instrument=INSTRUMENT.key) for table in ("features", "labels")]


def test_only_the_source_that_is_new_is_computed(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, FIRST)
    assert again(workspace).sources == (FIRST.source,)
    version = Lake(workspace.lake).version("features")
    nothing = again(workspace)
    assert (nothing.sources, nothing.unchanged, nothing.rows) == ((), 1, 0)
    assert Lake(workspace.lake).version("features") == version
    land(Lake(workspace.lake), SECOND)
    both = again(workspace)
    assert (both.sources, both.unchanged) == ((SECOND.source,), 1)


def test_it_makes_the_rows_that_a_dataset_is_cut_from(tmp_path: Path) -> None:
    refreshed, cut = (workspace_with(tmp_path / name, FIRST, SECOND) for name in ("refreshed", "cut"))
    again(refreshed)
    featurize(FeaturizeConfig(), workspace=cut)
    assert all(mine.equals(theirs) for mine, theirs in zip(rows_of(refreshed), rows_of(cut), strict=True))
    assert again(cut).unchanged == 2
    np.testing.assert_array_equal(read_slow(refreshed, INSTRUMENT.key), read_slow(cut, INSTRUMENT.key))


def test_a_minute_that_passes_later_has_its_source_computed_again(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, FIRST)
    lake = Lake(workspace.lake)
    minutes = land(lake, SECOND, verdicts={1: ""})
    before = again(workspace).rows
    lake.append("batches", judged(SECOND, minutes[1], "pass"))
    made = again(workspace)
    assert made.sources == (SECOND.source,)
    assert lake.read("features", instrument=INSTRUMENT.key).num_rows > before


def test_other_labels_are_computed_anew(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, FIRST)
    again(workspace)
    other = RefreshConfig(instrument=INSTRUMENT.key, depth_fall_percent=30)
    assert refresh(other, workspace=workspace).sources == (FIRST.source,)


def test_a_run_cut_off_before_it_published_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object, **__: object) -> None:
        raise ConnectionError

    workspace, calm = (workspace_with(tmp_path / name, FIRST) for name in ("cut off", "calm"))
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "publish", cut_off)
        with pytest.raises(ConnectionError):
            again(workspace)
    again(workspace)
    again(calm)
    np.testing.assert_array_equal(read_slow(workspace, INSTRUMENT.key), read_slow(calm, INSTRUMENT.key))
    assert read_slow(calm, INSTRUMENT.key).any()


def test_an_empty_lake_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="keel ingest"):
        again(Workspace(home=tmp_path))
