"""Feast on a workspace: a row sees what was known, exactly that, and every row comes back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import INSTRUMENT, START_NS, Market, later, workspace_with

from market.errors import LakeError, MarketDataError
from market.features import catalog, meaning
from market.features.slow import last_known
from market.lake.lake import Lake
from pipelines.features.featurize import slow_records
from pipelines.features.store import FeatureStore, SlowRecords, push_slow, read_slow
from pipelines.workspace import Workspace

KEY = INSTRUMENT.key
OTHER = "binance-usdm.BTCUSDT"


def ticks_at(recv_ns: np.ndarray) -> object:
    import pyarrow as pa

    values = {name: np.arange(len(recv_ns), dtype=np.float32) for name in catalog.tick_names()}
    return pa.table({"recv_ns": recv_ns, **values})


def records(known: list[int], exch: list[int]) -> SlowRecords:
    n = len(known)
    values = np.arange(1, 2 * n + 1, dtype=np.float32).reshape(n, 2)
    return SlowRecords(known_ns=np.array(known), exch_ns=np.array(exch), values=values)


def published(home: Path, slow: SlowRecords, instrument: str = KEY) -> FeatureStore:
    store = FeatureStore(Workspace(home=home))
    store.publish(instrument, slow=slow, ticks=ticks_at(np.array([START_NS, START_NS + 10**9])))
    return store


def test_a_value_is_not_seen_before_it_was_received_even_if_it_is_of_an_earlier_time(tmp_path: Path) -> None:
    received = START_NS + 5 * 10**9
    store = published(tmp_path, records([received], [START_NS]))
    at = np.array([START_NS + 1, received - 1, received, received + 1])
    seen = store.join_slow_at(KEY, at, records=2)
    assert seen.tolist() == [[0, 0], [0, 0], [1, 2], [1, 2]]


def test_an_exchange_clock_that_runs_ahead_hides_nothing(tmp_path: Path) -> None:
    store = published(tmp_path, records([START_NS, START_NS + 10], [START_NS + 10**9, START_NS + 2 * 10**9]))
    assert store.join_slow_at(KEY, np.array([START_NS, START_NS + 10]), records=3).tolist() == [[1, 2], [3, 4]]


def test_of_two_records_the_one_that_came_last_counts_whatever_time_it_is_of(tmp_path: Path) -> None:
    store = published(tmp_path, records([START_NS, START_NS + 10], [START_NS - 5, START_NS - 10**9]))
    assert store.join_slow_at(KEY, np.array([START_NS + 10]), records=3).tolist() == [[3, 4]]


def test_the_join_equals_what_was_last_known_with_an_entity_row_for_every_row_and_with_one_a_stretch(
    tmp_path: Path,
) -> None:
    first = Market(seconds=100, frames=1)
    workspace = workspace_with(tmp_path, first, later(first, 130, source="file-two", seed=9, slow_every=0.7))
    slow = slow_records(Lake(workspace.lake), KEY)
    rng = np.random.default_rng(0)
    rows = START_NS + rng.integers(-(10**10), 260 * 10**9, 3000)
    rows[:200] = rng.choice(slow.known_ns, 200) + rng.integers(-1, 2, 200)
    rows = np.unique(rows)
    rng.shuffle(rows)
    store = published(tmp_path, slow)
    expected = last_known(slow.known_ns, slow.values, rows)
    assert np.array_equal(store.join_slow_at(KEY, rows, records=len(slow) + 1), expected)
    repeated = np.repeat(rows, 2)
    assert np.array_equal(store.join_slow(KEY, repeated, slow.known_ns), np.repeat(expected, 2, axis=0))


def test_the_join_is_the_same_in_many_small_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = (START_NS + np.arange(20) * 10**9).tolist()
    store = published(tmp_path, records(known, known))
    at = START_NS + np.arange(-3, 20) * 10**9 + 7
    whole = store.join_slow_at(KEY, at, records=21)
    monkeypatch.setattr("pipelines.features.store._PAIRS_AT_ONCE", 100)
    assert np.array_equal(store.join_slow_at(KEY, at, records=21), whole)


def test_rows_that_feast_would_drop_are_missed_and_said(tmp_path: Path) -> None:
    store = published(tmp_path, records([START_NS], [START_NS]))
    with pytest.raises(MarketDataError, match="gave 1 rows back for 2 asked"):
        store.join_slow_at(KEY, np.array([START_NS, START_NS]), records=2)


def test_an_instrument_without_records_has_zeros(tmp_path: Path) -> None:
    none = SlowRecords(known_ns=np.zeros(0, np.int64), exch_ns=np.zeros(0, np.int64), values=np.zeros((0, 2), "f4"))
    store = published(tmp_path, none, OTHER)
    assert store.join_slow(OTHER, np.array([START_NS, START_NS]), none.known_ns).tolist() == [[0, 0], [0, 0]]
    assert store.read_slow(OTHER).tolist() == [0, 0]


def test_instruments_do_not_see_each_others_values(tmp_path: Path) -> None:
    published(tmp_path, records([START_NS], [START_NS]), OTHER)
    store = published(tmp_path, records([START_NS + 5, START_NS + 6], [START_NS, START_NS]))
    assert store.join_slow_at(OTHER, np.array([START_NS + 10]), records=2).tolist() == [[1, 2]]
    assert store.join_slow_at(KEY, np.array([START_NS + 10]), records=3).tolist() == [[3, 4]]
    assert store.read_slow(OTHER).tolist() == [1, 2]


def test_the_newest_values_are_online_and_a_push_replaces_them(tmp_path: Path) -> None:
    known = (START_NS + np.arange(5) * 10**9).tolist()
    published(tmp_path, records(known, known))
    workspace = Workspace(home=tmp_path)
    assert read_slow(workspace, KEY).tolist() == [9, 10]
    pushed = np.array([0.25, -7], dtype=np.float32)
    push_slow(workspace, KEY, known_ns=known[-1] + 10**9, exch_ns=known[-1], values=pushed)
    assert read_slow(workspace, KEY).tolist() == pushed.tolist()
    assert read_slow(workspace, KEY).dtype == np.float32


def test_a_store_nobody_published_to_knows_nothing_yet(tmp_path: Path) -> None:
    assert read_slow(Workspace(home=tmp_path), KEY).tolist() == [0, 0]


def test_the_environment_is_as_it_was_before(tmp_path: Path) -> None:
    before = dict(os.environ)
    read_slow(Workspace(home=tmp_path), KEY)
    assert "KEEL_FEAST_HOME" not in {key for key in os.environ if os.environ[key] != before.get(key)}


def test_the_definitions_are_the_catalogs(tmp_path: Path) -> None:
    store = published(tmp_path, records([START_NS], [START_NS]))._open()
    for view, names in (("tick_features", catalog.tick_names()), ("slow_features", catalog.slow_names())):
        assert tuple(field.name for field in store.get_feature_view(view).features) == names
        assert store.get_feature_view(view).tags["feature_set"] == meaning.feature_set()


@pytest.mark.parametrize("name", ["registry.db", "online.db"])
def test_a_damaged_store_is_said_and_rebuilt_after_it_was_removed(tmp_path: Path, name: str) -> None:
    published(tmp_path, records([START_NS], [START_NS]))
    damaged = tmp_path / "feast" / name
    damaged.write_bytes(b"not a database" * 100)
    with pytest.raises(LakeError, match="remove that folder"):
        read_slow(Workspace(home=tmp_path), KEY)
    damaged.unlink()
    store = published(tmp_path, records([START_NS], [START_NS]))
    assert store.read_slow(KEY).tolist() == [1, 2]
