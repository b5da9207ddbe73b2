"""One local stack for all tests of this folder, each of which goes on where the last one ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
from kit.live_ring import KEY, LEARNED_S, LiveRing
from kit.local_stack import LONG, running_stack, until
from kit.ring import run_keel

from market.clock import NS_PER_S
from market.lake.lake import Lake
from pipelines import settings
from pipelines.stack.environment import variables
from serving.triton.server import default_install

PACE = "10"  # of the market, against real time
LEARN_S = 480  # of market time
LAKE_BYTES = 1 << 32  # at most: memory is taken as it fills

# The market runs ten times as fast, so days become minutes; a drift starts one retraining.
PARAMS = {
    "retrain": {"cool_down_hours": 0.5, "last_seconds": LEARNED_S, "cron": ""},  # a night may fall while this runs
    "monitor": {
        "last_seconds": 240.0,
        "window_seconds": 15.0,
        "k": 3,
        "n": 4,
        "window_alarm": 0.05,
        "min_strength": 0.08,
    },
    "train": {"workers": 0},
    "evaluate": {"most_rows": 4000},
    "serve": {"shadow_blocks": 6, "guardrails": {"step_p99_us": 50_000.0}},  # a step may wait for the others here
    "promote": {"step_seconds": 30.0, "window_seconds": 60.0},
    "deploy": {"max_p50_ms": 1000.0},  # beside everything else on a small machine
}


@pytest.fixture(scope="package")
def ring() -> Iterator[LiveRing]:
    if not (default_install() / "installed").is_file():
        pytest.skip("no Triton server here; run infra/triton/install.sh")
    with (
        running_stack("--pace", PACE, params=PARAMS, lake_bytes=LAKE_BYTES) as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("KEEL_")]:
            patch.delenv(name)
        for name, value in variables(stack.site).items():
            patch.setenv(name, value)
        until(stack.is_well, every=1.0)
        screen = run_keel(stack.home, "status").stdout
        ring = LiveRing(stack=stack, workspace=settings.workspace(), first_screen=screen)
        try:
            yield ring
        finally:
            print(ring.told)


@pytest.fixture(scope="package")
def first(ring: LiveRing) -> LiveRing:
    """The first version, trained and let in."""
    until(partial(_landed, ring, LEARN_S), LONG)
    ring.start("ingest_ticks")
    ring.ends_well("build_features", run_type="asset_triggered")
    ring.start("train_model", instrument=KEY)
    ring.answer("quant", ring.question(), "approve", "the first one, and its gate passed").raise_for_status()
    ring.ends_well("promote_model", run_type="asset_triggered")
    ring.champion_becomes(1)
    return ring


def _landed(ring: LiveRing, seconds: float) -> bool:
    """the quoter to land enough to learn from"""
    files = Lake(ring.workspace.lake).files("ticks") if Lake(ring.workspace.lake).exists("ticks") else []
    times = [(file.first_ns, file.last_ns) for file in files if file.last_ns is not None]
    return bool(times) and max(b for _, b in times) - min(a for a, _ in times) >= seconds * NS_PER_S
