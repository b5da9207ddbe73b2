"""What tests of several folders need: a real bundle of an untrained network, written as every bundle is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from market.clock import NS_PER_S
from market.features import catalog, meaning
from market.heads import UP, by_horizon
from market.labels import HORIZONS_NS, N_OUTPUTS
from serving.families import DEFAULT
from serving.manifest import Heads

YEAR_NS = 365 * 86_400 * NS_PER_S
WRITTEN_NS = 1_790_000_000 * NS_PER_S

WriteBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def write_seeded_bundle() -> WriteBundle:
    """``write(folder, seed=1, hidden=64, family=DEFAULT, spoiled="", **card)``: its weights depend on the seed alone.

    It passes every proof, also when it is spoiled: ``words`` is sure that the mid goes up, whatever comes; ``numbers``
    answers with none as soon as an input is not zero.
    """
    from training.export.bundle import Card, write_bundle
    from training.models.family import Widths
    from training.models.registry import find

    def write(
        folder: Path, *, seed: int = 1, hidden: int = 64, family: str = DEFAULT, spoiled: str = "", **changes: Any
    ) -> Path:
        said: dict[str, Any] = {
            "model_name": "keel-sim-usdm.BTCUSDT",
            "run_id": f"run{seed}",
            "instrument": "sim-usdm.BTCUSDT",
            "feature_set": meaning.feature_set(),
            "dataset_id": "d0",
            "dataset_revision": "0" * 32,
            "author": "ada",
            "created_ns": WRITTEN_NS,
            "expires_ns": WRITTEN_NS + 10 * YEAR_NS,
            "inputs": catalog.names(),
            "heads": Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.2, depth_levels=5),
            "registry_version": 1,
            **changes,
        }
        widths = Widths(inputs=catalog.N_INPUTS, hidden=hidden, outputs=N_OUTPUTS)
        network = find(family).seeded(widths, seed=seed)
        rows = np.random.default_rng(seed).normal(size=(256, catalog.N_INPUTS)).astype(np.float32)
        if spoiled == "words":
            by_horizon(network.tensors["head.b"])[:, UP] += 8.0
        elif spoiled == "numbers":
            network.tensors["gru.b_ih"][:], network.tensors["gru.b_hh"][:], rows[:] = 0.0, 0.0, 0.0
            network.tensors["head.w"][:] = np.sign(network.tensors["head.w"]) * np.float32(3e38)
        write_bundle(network, Card(**said), rows, folder)
        return folder

    return write


# `pytest --hypothesis-profile=soak`: every property with fifty times its examples, see budget.py
hypothesis.settings.register_profile("soak", max_examples=5_000, deadline=None)
