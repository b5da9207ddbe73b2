"""A dataset with a signal we put there ourselves, laid out as featurize lays one out.

The mid moves in the direction of a slow average of ``ofi_100ms``: one row says a little, its history says more, so a
network with memory can beat one without. ``imbalance_1`` carries part of it for the simple rules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from market.features import catalog, meaning
from market.labels import HORIZON_NAMES, HORIZONS_NS

START_NS = 1_700_000_000_000_000_000
INSTRUMENT = "sim-usdm.BTCUSDT"


@dataclass(frozen=True, kw_only=True)
class Planted:
    rows: int = 6000
    segments: int = 2
    seed: int = 0
    signal: float = 1.0


def write_dataset(folder: Path, planted: Planted | None = None, *, feature_set: str | None = None) -> Path:
    planted = planted or Planted()
    table = pa.concat_tables([_segment(planted, s) for s in range(planted.segments)])
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "dataset.parquet")
    recv = table["recv_ns"].to_numpy()
    card = {
        "dataset_id": folder.name,
        "instrument": INSTRUMENT,
        "feature_set": feature_set or meaning.feature_set(),
        "rows": table.num_rows,
        "sources": ["file-0123456789abcdef"],
        "segments": planted.segments,
        "first_ns": int(recv.min()),
        "last_ns": int(recv.max()),
        "horizons_ns": list(HORIZONS_NS),
        "labels": {"move_threshold_ticks": 0.0, "depth_fall": 0.2, "depth_levels": 5},
        "lake_versions": {"ticks": 3, "features": 2},
        "dataset_revision": "0" * 32,
    }
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def _segment(planted: Planted, segment: int) -> pa.Table:
    rng = np.random.default_rng([planted.seed, segment])
    n = planted.rows // planted.segments
    recv = START_NS + segment * 3_600_000_000_000 + np.cumsum(rng.integers(5_000_000, 45_000_000, n))
    features = rng.normal(size=(n, catalog.N_INPUTS)).astype(np.float32)
    names = catalog.names()
    pushed = features[:, names.index("ofi_100ms")]
    slow = np.zeros(n)
    for i in range(1, n):
        slow[i] = 0.9 * slow[i - 1] + 0.45 * pushed[i]
    features[:, names.index("imbalance_1")] = np.tanh(0.7 * slow + 0.7 * rng.normal(size=n))
    features[:, names.index("funding_rate_bps")] = 1.0
    # the row after this one moves as the average says now
    drift = np.r_[0.0, slow[:-1]] * planted.signal
    moves = (rng.random(n) < 0.25) * np.where(rng.random(n) < 1 / (1 + np.exp(-2.5 * drift)), 1, -1)
    mid2 = 600_000 + 2 * np.cumsum(moves)
    depth = np.maximum(1, (1000 * np.exp(np.cumsum(rng.normal(scale=0.1, size=(2, n)), axis=1) % 1.0))).astype(np.int64)
    columns = {
        "instrument": np.full(n, INSTRUMENT),
        "source": np.full(n, "file-0123456789abcdef"),
        "segment": np.full(n, segment),
        "frame": np.arange(1, n + 1),
        "seq": np.arange(1, n + 1),
        "recv_ns": recv,
        "exch_ns": recv - 1_000_000,
        "mid2": mid2,
        "bid_depth": depth[0],
        "ask_depth": depth[1],
        **{name: features[:, i] for i, name in enumerate(names)},
        **_labels(recv, mid2, depth),
    }
    return pa.table(columns)


def _labels(recv: np.ndarray, mid2: np.ndarray, depth: np.ndarray) -> dict[str, np.ndarray]:
    columns = {}
    for name, horizon in zip(HORIZON_NAMES, HORIZONS_NS, strict=True):
        later = np.searchsorted(recv, recv + horizon, side="right") - 1
        known = recv + horizon <= recv[-1]
        columns[f"dir_{name}"] = np.where(known, np.sign(mid2[later] - mid2) + 1, -1).astype(np.int8)
        for side, values in zip(("bidfall", "askfall"), depth, strict=True):
            fell = values[later] <= 0.8 * values
            columns[f"{side}_{name}"] = np.where(known, fell, -1).astype(np.int8)
    return columns
