"""Trace: from a quote to the raw frames it came from, and whether they give the same again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from kit.empty_registry import empty_registry
from kit.small_lake import INSTRUMENT, Market, later, workspace_with
from kit.small_session import HIDDEN, Session, serve_by_hand

from market.clock import BATCH_NS
from market.errors import InputError, LakeError
from market.features import catalog
from market.lake.lake import Lake
from pipelines.features.featurize import FeaturizeConfig, FeaturizeResult, featurize
from pipelines.monitoring.recompute import places, rows_again, served
from pipelines.reports.trace import TraceConfig, TraceResult, _event, reasons, trace
from pipelines.workspace import Workspace
from serving.records import R_BASE, R_INVENTORY, R_PULL_BID
from training.registry import tracking
from training.registry.registry import Registry

LEARNT = Market(source="file-0123456789abcdef", seconds=130, frames=8, seed=3)
MARKET = later(LEARNT, 600, source="live-20231114T222300-0a1b", seed=4)


@dataclass(frozen=True, kw_only=True)
class Desk:
    workspace: Workspace
    dataset: FeaturizeResult
    session: Session
    version: int

    def trace(self, n: int) -> TraceResult:
        return trace(TraceConfig(quote_id=f"q-{MARKET.source}.{n}"), workspace=self.workspace)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]) -> Desk:
    """A dataset, a registered model said to be trained on it, and a session it quoted in; its second minute refused."""
    workspace = workspace_with(tmp_path_factory.mktemp("desk"), LEARNT)
    dataset = featurize(FeaturizeConfig(), workspace=workspace)
    client = empty_registry(workspace.tracking)
    run_id = client.create_run(tracking.experiment(client, "keel", workspace.artifacts)).info.run_id
    lineage = {"dataset_id": dataset.dataset_id, "dataset_revision": dataset.dataset_revision}
    place = workspace.runs / run_id / "bundle"
    bundle = write_seeded_bundle(place, seed=1, hidden=HIDDEN, run_id=run_id, registry_version=0, **lineage)
    tags = {**lineage, "author": "grace", "approved_by": "ada", "approval_reason": "calibrated"}
    registered = Registry(workspace.tracking).register(bundle, tags)
    session = serve_by_hand(workspace, MARKET, bundle=bundle, version=registered.version, verdicts={1: "quarantine"})
    return Desk(workspace=workspace, dataset=dataset, session=session, version=registered.version)


def test_the_chain_leads_from_the_quote_to_the_raw_frame(desk: Desk) -> None:
    found, decision = desk.trace(401), desk.session.decisions[400]
    assert found.quote["bid"] == {"price": str(int(decision["bid_price"]) / 10), "size": "0.010"}
    assert "base" in found.quote["reasons"]
    assert found.prediction["features"] == dict(zip(catalog.names(), decision["features"].tolist(), strict=True))
    assert abs(sum(found.prediction["probabilities"]["500ms"][head] for head in ("down", "none", "up")) - 1) < 1e-6
    assert found.model is not None
    assert (found.model["version"], found.model["author"], found.model["approved_by"]) == (desk.version, "grace", "ada")
    assert found.dataset is not None
    assert found.dataset["dataset_id"] == desk.dataset.dataset_id
    assert found.dataset["dataset_revision"] == found.model["dataset_revision"] == desk.dataset.dataset_revision
    assert found.dataset["sources"] == [LEARNT.source]
    assert found.event["frame"] == found.raw["decisive"]["frame"] == int(decision["frame"])
    assert json.loads(found.raw["decisive"]["payload"])["data"]["u"] == int(decision["frame"])
    assert [frame["frame"] for frame in found.raw["before"]] == list(
        range(int(decision["frame"]) - 5, int(decision["frame"]))
    )
    window = desk.session.rows.recv_ns[:401] >= decision["recv_ns"] - 30 * 10**9
    assert found.raw["frames"] == window.sum()
    assert [fill["side"] for fill in found.outcomes] == ["bought"]


def test_features_and_prediction_are_reproduced_from_the_lake(desk: Desk) -> None:
    found = desk.trace(401)
    assert found.reproduced
    assert found.recomputed["features_equal"]
    assert found.recomputed["largest_gap"] <= 1e-5
    assert found.recomputed["rows"] == desk.session.rows.warm[:401].sum()


def test_a_decision_while_windows_fill_has_no_prediction_and_is_reproduced_as_such(desk: Desk) -> None:
    found = desk.trace(51)
    assert found.quote["reasons"] == ["warm_up"]
    assert (found.quote["bid"], found.quote["ask"]) == (None, None)
    assert found.prediction["probabilities"]["500ms"]["up"] is None
    assert found.reproduced
    assert "500ms: down -" in found.text()
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_quote_of_a_minute_that_was_refused_later_is_traced_too(desk: Desk) -> None:
    n = next(n for n in range(551, 1000, 50) if int(desk.session.rows.recv_ns[n - 1]) > MARKET.start_ns + 70 * 10**9)
    found = desk.trace(n)
    assert found.event["found_in"] == "quarantine"
    assert found.reproduced


def test_the_first_frame_of_a_minute_shows_its_own_events_and_not_the_checkpoint(desk: Desk) -> None:
    lake = Lake(desk.workspace.lake)
    third = int(MARKET.start_ns // BATCH_NS) + 2
    first = int(desk.session.rows.frame[desk.session.rows.batch == third][0])
    assert lake.read("ticks", where={"source": MARKET.source, "frame": first}).num_rows > 10
    prediction = {"frame": first, "recv_ns": third * BATCH_NS}
    assert len(_event(lake, INSTRUMENT, MARKET.source, prediction)["events"]) <= 4


def test_the_tree_names_every_link(desk: Desk) -> None:
    text = desk.trace(401).text()
    said = [
        f"q-{MARKET.source}.401",
        f"p-{MARKET.source}.401",
        f"keel-sim-usdm.BTCUSDT version {desk.version}",
        desk.dataset.dataset_id,
        desk.dataset.dataset_revision,
        "trained by grace",
        "approved by ada: calibrated",
        "made by hand",
        "imbalance_1",
        "500ms: down",
        "computed anew from the lake: reproduced",
        "bought 0.003",
    ]
    assert [words for words in said if words not in text] == []
    assert max(map(len, text.splitlines())) < 300


def test_the_result_is_plain_json(desk: Desk) -> None:
    found = desk.trace(401)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["reproduced"] is True
    assert "reproduced from the lake" in found.line()


def test_a_record_that_was_changed_is_not_reproduced(desk: Desk) -> None:
    lake = Lake(desk.workspace.lake)
    rows = lake.read("predictions")
    features = rows["features"].to_pylist()
    features[400][0] += 1.0
    at = rows.column_names.index("features")
    changed = rows.set_column(at, "features", pa.array(features, pa.list_(pa.float32())))
    lake.replace("predictions", changed, {"session": MARKET.source})
    try:
        found = desk.trace(401)
    finally:
        lake.replace("predictions", rows, {"session": MARKET.source})
    assert not found.reproduced
    assert not found.recomputed["features_equal"]
    assert "NOT reproduced" in found.line()
    assert "NOT reproduced" in found.text()


@pytest.mark.parametrize(
    ("quote_id", "hint"),
    [
        (f"q-{MARKET.source}.402", f"q-{MARKET.source}.401"),
        ("q-live-20231114T222300-ffff.401", f"q-{MARKET.source}"),
        ("nonsense", f"q-{MARKET.source}"),
    ],
)
def test_an_unknown_quote_is_refused_with_ones_that_exist(desk: Desk, quote_id: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        trace(TraceConfig(quote_id=quote_id), workspace=desk.workspace)


def test_without_any_quote_the_sentence_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keel serve"):
        trace(TraceConfig(quote_id="q-x.1"), workspace=Workspace(home=tmp_path))


def test_a_quote_without_a_model_is_traced_to_its_frames(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, LEARNT)
    serve_by_hand(workspace, MARKET)
    found = trace(TraceConfig(quote_id=f"q-{MARKET.source}.401"), workspace=workspace)
    assert (found.model, found.dataset) == (None, None)
    assert found.reproduced
    assert "model: none spoke" in found.text()


def test_missing_raw_frames_are_said(tmp_path: Path) -> None:
    workspace = workspace_with(tmp_path, LEARNT)
    session = serve_by_hand(workspace, MARKET)
    Lake(workspace.lake).delete("raw", {"frame": int(session.decisions["frame"][400])})
    with pytest.raises(LakeError, match="was a table removed"):
        trace(TraceConfig(quote_id=f"q-{MARKET.source}.401"), workspace=workspace)


def test_decisions_find_their_rows(desk: Desk) -> None:
    lake = Lake(desk.workspace.lake)
    record = served(lake, MARKET.source)
    at = places(record, rows_again(lake, record))
    assert at.tolist() == list(range(len(record)))


def test_reasons_are_named_as_the_hot_path_names_them() -> None:
    assert reasons(R_BASE | R_PULL_BID | R_INVENTORY) == ["base", "pull_bid", "inventory"]
    assert reasons(0) == []
