"""Featurize on a small lake: what the dataset holds, that a second run changes nothing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kit.small_lake import INSTRUMENT, START_NS, Market, land, later, slow_of, workspace_with

from market.errors import EmptyDataError, SettingsError
from market.features import catalog, meaning
from market.features.slow import last_known, slow_vectors
from market.labels import HORIZON_NAMES, HORIZONS_NS
from market.lake.lake import Lake
from market.lake.schemas import LABEL_COLUMNS
from pipelines.features import dataset_versions
from pipelines.features.featurize import FeaturizeConfig, FeaturizeResult, featurize
from pipelines.workspace import Workspace
from training.data import datasets

MARKET = Market(seconds=130, frames=10)


def rows_of_dataset(result: FeaturizeResult) -> pa.Table:
    return pq.read_table(Path(result.path) / "dataset.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, FeaturizeResult]:
    workspace = workspace_with(tmp_path_factory.mktemp("made"), MARKET)
    return workspace, featurize(FeaturizeConfig(), workspace=workspace)


def test_the_dataset_holds_the_warm_rows_with_their_features_and_labels(
    made: tuple[Workspace, FeaturizeResult],
) -> None:
    workspace, result = made
    table = rows_of_dataset(result)
    lake = Lake(workspace.lake)
    features = lake.read("features", instrument=INSTRUMENT.key)
    warm = features.filter(features["warm"])
    assert (table.num_rows, result.computed) == (warm.num_rows, features.num_rows)
    for name in ("frame", "seq", "recv_ns", "exch_ns", "mid2", "bid_depth", "ask_depth", *catalog.tick_names()):
        assert table[name].to_numpy().tobytes() == warm[name].to_numpy().tobytes(), name
    labels = lake.read("labels", instrument=INSTRUMENT.key).filter(features["warm"])
    for name in LABEL_COLUMNS:
        assert table[name].to_pylist() == labels[name].to_pylist(), name
    names = table.column_names
    assert tuple(names[names.index("spread") : names.index("spread") + catalog.N_INPUTS]) == catalog.names()


def test_slow_features_of_a_row_are_those_last_known(made: tuple[Workspace, FeaturizeResult]) -> None:
    _, result = made
    table, slow = rows_of_dataset(result), slow_of(MARKET)
    values = slow_vectors(*(slow[name].to_numpy() for name in ("funding_rate", "mark_e8", "index_e8")))
    expected = last_known(slow["recv_ns"].to_numpy(), values, table["recv_ns"].to_numpy())
    for i, name in enumerate(catalog.slow_names()):
        assert table[name].to_numpy().tobytes() == np.ascontiguousarray(expected[:, i]).tobytes()


def test_the_card_says_what_the_dataset_is_and_training_reads_it(made: tuple[Workspace, FeaturizeResult]) -> None:
    _, result = made
    data = datasets.load(Path(result.path))
    assert (len(data), data.card.dataset_id) == (result.rows, result.dataset_id)
    assert data.card.feature_set == meaning.feature_set()
    assert data.card.horizons_ns == HORIZONS_NS
    assert data.card.dataset_revision == dataset_versions.revision(Path(result.path) / "dataset.parquet")
    assert set(data.card.lake_versions) == {"ticks", "slow", "features", "labels"}
    assert len(data.starts) == result.segments == 1


def test_a_second_run_gives_the_same_and_writes_nothing(made: tuple[Workspace, FeaturizeResult]) -> None:
    workspace, result = made
    lake = Lake(workspace.lake)
    before = {table: lake.version(table) for table in ("features", "labels")}
    assert featurize(FeaturizeConfig(), workspace=workspace) == result
    assert {table: lake.version(table) for table in ("features", "labels")} == before


def test_the_result_is_one_line_and_plain_json(made: tuple[Workspace, FeaturizeResult]) -> None:
    import dataclasses

    _, result = made
    assert json.loads(json.dumps(dataclasses.asdict(result)))["dataset_id"] == result.dataset_id
    assert result.dataset_id in result.line()
    assert "\n" not in result.line()


def test_bounds_cut_rows_and_no_label_looks_beyond_the_end(made: tuple[Workspace, FeaturizeResult]) -> None:
    workspace, whole = made
    start, end = START_NS + 30 * 10**9, START_NS + 60 * 10**9
    result = featurize(FeaturizeConfig(start_ns=start, end_ns=end), workspace=workspace)
    table, before = rows_of_dataset(result), rows_of_dataset(whole)
    recv_ns = table["recv_ns"].to_numpy()
    assert start <= recv_ns.min() <= recv_ns.max() < end
    inside = before.filter(pa.array((before["recv_ns"].to_numpy() >= start) & (before["recv_ns"].to_numpy() < end)))
    for name in catalog.names():
        assert table[name].to_numpy().tobytes() == inside[name].to_numpy().tobytes(), name
    for name, horizon in zip(HORIZON_NAMES, HORIZONS_NS, strict=True):
        beyond = recv_ns + horizon >= end
        labels, uncut = table[f"dir_{name}"].to_numpy(), inside[f"dir_{name}"].to_numpy()
        assert (labels[beyond] == -1).all()
        assert np.array_equal(labels[~beyond], uncut[~beyond])
        if name == "1s":
            assert (uncut[beyond] != -1).any()


def test_the_newest_seconds_are_cut_and_what_ends_before_is_not_computed(tmp_path: Path) -> None:
    newer = later(MARKET, 600, source="live-2", seed=3)
    workspace = workspace_with(tmp_path, MARKET, newer)
    result = featurize(FeaturizeConfig(last_seconds=90), workspace=workspace)
    newest = int(Lake(workspace.lake).read("ticks", columns=["batch"])["batch"].to_numpy().max())
    start = (newest + 1) * 60 * 10**9 - 90 * 10**9
    card = json.loads((Path(result.path) / "dataset.json").read_text())
    assert (result.sources, card["start_ns"]) == (("live-2",), start)
    assert set(Lake(workspace.lake).read("labels", columns=["source"])["source"].to_pylist()) == {"live-2"}
    assert rows_of_dataset(result)["recv_ns"].to_numpy().min() >= start
    assert featurize(FeaturizeConfig(start_ns=start), workspace=workspace).dataset_id == result.dataset_id
    with pytest.raises(SettingsError, match="no start_ns beside it"):
        FeaturizeConfig(last_seconds=90, start_ns=start)


def test_a_dataset_may_be_cut_from_some_sources_only(made: tuple[Workspace, FeaturizeResult]) -> None:
    workspace, _ = made
    other = later(MARKET, 600, source="file-two", seed=3)
    land(Lake(workspace.lake), other)
    both = featurize(FeaturizeConfig(), workspace=workspace)
    assert both.sources == (MARKET.source, "file-two")
    assert both.segments == 2
    one = featurize(FeaturizeConfig(sources=("file-two",)), workspace=workspace)
    assert one.sources == ("file-two",)
    assert one.rows < both.rows


def test_time_that_two_sources_cover_is_taken_once(tmp_path: Path) -> None:
    again = later(MARKET, 60, source="live-again", seed=4)
    workspace = workspace_with(tmp_path, MARKET, again)
    result = featurize(FeaturizeConfig(), workspace=workspace)
    table = rows_of_dataset(result)
    recv_ns, source = table["recv_ns"].to_numpy(), np.array(table["source"].to_pylist())
    assert result.repeated > 0
    assert any("another source covers" in note for note in result.notes)
    assert recv_ns[source == "live-again"].min() > recv_ns[source == MARKET.source].max()
    assert (np.diff(recv_ns) > 0).all()


def test_refused_batches_leave_a_hole_and_are_said(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, MARKET, verdicts={1: "quarantine"})
    result = featurize(FeaturizeConfig(), workspace=workspace)
    assert result.notes == ("1 refused batches left out",)
    batches = set(rows_of_dataset(result)["recv_ns"].to_numpy() // (60 * 10**9) - START_NS // (60 * 10**9))
    assert batches == {0}  # the last ten seconds after the hole never become warm


def test_features_of_another_feature_set_are_computed_anew_and_it_is_said(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, MARKET)
    first = featurize(FeaturizeConfig(), workspace=workspace)
    lake = Lake(workspace.lake)
    old = lake.read("features")
    at = old.column_names.index("feature_set")
    where = {"source": MARKET.source}
    lake.replace("features", old.set_column(at, "feature_set", pa.array(["0" * 16] * old.num_rows)), where)
    again = featurize(FeaturizeConfig(), workspace=workspace)
    assert again.dataset_id == first.dataset_id
    assert "0000000000000000" in again.line()
    assert set(lake.read("features")["feature_set"].to_pylist()) == {meaning.feature_set()}


def test_the_label_rule_is_part_of_the_identity(made: tuple[Workspace, FeaturizeResult]) -> None:
    workspace, result = made
    other = featurize(FeaturizeConfig(threshold_half_ticks=2), workspace=workspace)
    card = datasets.read_card(Path(other.path))
    assert other.dataset_id != result.dataset_id
    assert card.labels.move_threshold_ticks == 1.0


@pytest.mark.parametrize(
    ("verdicts", "seconds", "expected"),
    [
        ({0: "", 1: ""}, 70, "not judged yet"),
        ({0: "quarantine", 1: "quarantine"}, 70, "refused every batch"),
        ({}, 8, "none of the .* rows .* is warm"),
    ],
)
def test_a_lake_without_usable_rows_is_refused_in_a_sentence(
    tmp_path: Path, verdicts: dict[int, str], seconds: float, expected: str
) -> None:
    workspace = workspace_with(tmp_path, Market(seconds=seconds, frames=10), verdicts=verdicts)
    with pytest.raises(EmptyDataError, match=expected):
        featurize(FeaturizeConfig(), workspace=workspace)


def test_an_empty_lake_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="keel ingest"):
        featurize(FeaturizeConfig(), workspace=Workspace(home=tmp_path))


def test_bounds_that_hold_no_row_are_refused_in_a_sentence(made: tuple[Workspace, FeaturizeResult]) -> None:
    workspace, _ = made
    with pytest.raises(EmptyDataError, match="choose other bounds"):
        featurize(FeaturizeConfig(end_ns=START_NS), workspace=workspace)
