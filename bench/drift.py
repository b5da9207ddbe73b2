"""Drift verdicts on weeks of simulated market: false alarms where nothing changed, and how long a known change takes.

``python -m bench.drift`` writes docs/benchmarks/<date>.drift.md. The market is :mod:`bench.simulated`, the model a GRU
trained on the first part of the reference, the judging :mod:`pipelines.drift`'s.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.simulated import Stretch
from market.features import catalog
from market.labels import HORIZON_NAMES, HORIZONS_NS
from serving.hotpath import network
from serving.manifest import Heads
from training import datasets, fit, plan
from training.export import Card, write_bundle
from training.sequences import Layout
from training.splits import SplitConfig, split_by_time

INSTRUMENT = "sim-usdm.BTCUSDT"
TRAINED_S = 3600.0  # of the reference are what the model is trained, validated and tested on


def trained(folder: Path, rows: Stretch) -> network.Model:
    """A GRU trained on ``rows`` the way the train stage does, in this process."""
    _write_dataset(folder / "dataset", rows)
    data = datasets.load(folder / "dataset")
    split = split_by_time(data.recv_ns, max(HORIZONS_NS), SplitConfig())
    drawn = plan.draw_up(folder / "dataset", data, split, Layout(), plan.Recipe(epochs=4, precision="fp32"), 5.0)
    plan.write_plan(folder, drawn)
    worker = fit.Alone(folder / "checkpoints")
    fit.fit(folder, worker)
    latest = worker.latest()
    assert latest is not None
    learned, _ = fit.trained(drawn, data, latest)
    card = Card(
        model_name="keel-bench",
        run_id="bench",
        instrument=INSTRUMENT,
        feature_set=catalog.feature_set(),
        dataset_id="dataset",
        dataset_revision="0" * 32,
        author="bench",
        created_ns=0,
        expires_ns=2**62,
        inputs=catalog.names(),
        heads=Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.2, depth_levels=5),
    )
    write_bundle(learned, card, data.features[-256:], folder / "bundle")
    return network.load(folder / "bundle")


def _write_dataset(folder: Path, rows: Stretch) -> None:
    n, truth = len(rows.recv_ns), rows.truth()
    columns = {
        "source": pa.repeat("bench", n),
        "segment": np.zeros(n, np.int64),
        "recv_ns": rows.recv_ns,
        "mid2": rows.mid2,
        **{name: rows.features[:, i] for i, name in enumerate(catalog.names())},
    }
    for head, what in enumerate(("dir", "bidfall", "askfall")):
        for k, name in enumerate(HORIZON_NAMES):
            columns[f"{what}_{name}"] = truth[:, k, head]
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / datasets.DATASET_FILE)
    card = {
        "dataset_id": "dataset",
        "instrument": INSTRUMENT,
        "feature_set": catalog.feature_set(),
        "rows": n,
        "sources": ["bench"],
        "first_ns": int(rows.recv_ns[0]),
        "last_ns": int(rows.recv_ns[-1]),
        "horizons_ns": list(HORIZONS_NS),
        "dataset_revision": "0" * 32,
        "lake_versions": {},
    }
    (folder / datasets.CARD_FILE).write_text(json.dumps(card))
