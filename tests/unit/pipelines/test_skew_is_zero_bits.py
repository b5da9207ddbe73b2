"""Skew: a faithful session has none, and every way to be unfaithful shows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kit.small_lake import Market, later, workspace_with
from kit.small_session import HIDDEN, Session, serve_by_hand

from market.errors import FeatureSetError, InputError
from market.features import catalog
from market.lake.lake import Lake
from pipelines.monitoring.skew import SkewConfig, SkewResult, skew
from pipelines.workspace import Workspace

MARKET = Market(source="live-20231114T221300-0a1b", seconds=130, frames=8)


@pytest.fixture
def served(tmp_path: Path) -> tuple[Workspace, Session]:
    workspace = workspace_with(tmp_path, later(MARKET, -300, source="file-before", seed=7))
    return workspace, serve_by_hand(workspace, MARKET, verdicts={1: "quarantine"})


def measured(workspace: Workspace) -> SkewResult:
    return skew(SkewConfig(session=MARKET.source), workspace=workspace)


def rewrite(workspace: Workspace, change: object) -> None:
    lake = Lake(workspace.lake)
    rows = lake.read("predictions")
    lake.replace("predictions", change(rows), {"session": MARKET.source})  # type: ignore[operator]


def with_feature(rows: pa.Table, at: int, name: str, value: float) -> pa.Table:
    features = rows["features"].to_pylist()
    features[at][catalog.names().index(name)] = value
    column = pa.array(features, pa.list_(pa.float32()))
    return rows.set_column(rows.column_names.index("features"), "features", column)


def test_a_faithful_session_is_equal_to_the_bit_refused_minutes_included(served: tuple[Workspace, Session]) -> None:
    workspace, session = served
    result = measured(workspace)
    assert result.equal
    assert (result.rows, result.unequal_rows, result.largest_difference) == (len(session.decisions), 0, 0.0)
    assert "equal to the bit" in result.line()
    assert json.loads(json.dumps(dataclasses.asdict(result)))["equal"] is True


def test_the_real_hot_path_has_no_skew(tmp_path: Path, write_seeded_bundle: Callable[..., Path]) -> None:
    workspace = workspace_with(tmp_path, later(MARKET, -300, source="file-before", seed=7))
    bundle = write_seeded_bundle(tmp_path / "bundle", hidden=HIDDEN)
    session = serve_by_hand(workspace, MARKET, bundle=bundle, version=1, verdicts={1: "quarantine"})
    result = measured(workspace)
    assert (
        result.line()
        == f"{MARKET.source}: live and batch features of {len(session.decisions):,} decisions are equal to the bit"
    )


def test_one_bit_of_one_feature_shows(served: tuple[Workspace, Session]) -> None:
    workspace, session = served
    value = np.nextafter(session.rows.features[40, 3], np.float32(9))
    rewrite(workspace, lambda rows: with_feature(rows, 40, catalog.names()[3], float(value)))
    result = measured(workspace)
    assert (result.unequal_rows, result.worst_feature, result.equal) == (1, catalog.names()[3], False)
    assert 0 < result.largest_difference < 1e-6


def test_a_slow_feature_that_was_not_known_yet_shows(served: tuple[Workspace, Session]) -> None:
    workspace, _ = served
    rewrite(workspace, lambda rows: with_feature(rows, 40, "mark_basis_bps", 123.0))
    result = measured(workspace)
    assert (result.unequal_rows, result.unequal_slow_rows, result.equal) == (0, 1, False)


def test_before_the_first_record_of_the_session_the_last_one_of_before_counts(
    served: tuple[Workspace, Session],
) -> None:
    workspace, session = served
    lake = Lake(workspace.lake)
    first = lake.read("slow", where={"source": MARKET.source})["recv_ns"][0].as_py()
    early = int((session.decisions["recv_ns"] < first).sum())
    assert early > 0
    for at in range(early):
        rewrite(workspace, lambda rows, at=at: with_feature(rows, at, "mark_basis_bps", 77.0))
    assert measured(workspace).unequal_slow_rows == early


def test_rows_without_a_decision_and_decisions_without_a_row_show(served: tuple[Workspace, Session]) -> None:
    workspace, session = served
    rewrite(workspace, lambda rows: rows.slice(0, len(session.decisions) - 3))
    assert (measured(workspace).unanswered, measured(workspace).equal) == (3, False)
    Lake(workspace.lake).delete("ticks", {"source": MARKET.source, "batch": int(session.rows.batch[0])})
    result = measured(workspace)
    assert result.unknown > 0
    assert "have no row in the batch" in result.line()


def test_a_session_nobody_served_is_refused_with_the_names_of_those_there_are(
    served: tuple[Workspace, Session],
) -> None:
    with pytest.raises(InputError, match=MARKET.source):
        skew(SkewConfig(session="live-never"), workspace=served[0])


def test_a_session_of_another_feature_set_is_refused(served: tuple[Workspace, Session]) -> None:
    workspace, _ = served

    def older(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index("feature_set")
        return rows.set_column(at, "feature_set", pa.array(["0" * 16] * rows.num_rows))

    rewrite(workspace, older)
    with pytest.raises(FeatureSetError, match="0000000000000000"):
        measured(workspace)
