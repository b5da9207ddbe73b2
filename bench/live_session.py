"""A quoting session as ``keel serve`` runs it, with an untrained network and a lake in a folder.

:func:`prepare` imports torch, so it belongs into another process than the session.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import market
from bench.hotpath import seeded_bundle
from market.clock import NS_PER_S, Clock
from market.features import catalog
from market.instruments import find
from pipelines.quoting import ServeConfig, run_session, sends_orders
from pipelines.workspace import Workspace
from serving.bundle import load_bundle
from serving.drivers import Until
from serving.hotpath.loop import HotPath
from serving.lineup import Lineup
from serving.session import Plan, QuotingSession


def prepare(folder: Path, key: str) -> None:
    """Write the network that sessions in ``folder`` play."""
    seeded_bundle(folder / "bundle", key)


def run(
    config: ServeConfig,
    folder: Path,
    clock: Clock,
    *,
    begin: Callable[[QuotingSession], None] = lambda _session: None,
    advance: Callable[[float], None] = lambda _seconds: None,
) -> QuotingSession:
    """Take the stream of ``config`` to its end; everything is compiled before it begins.

    ``begin`` is told of the session, ``advance`` of seconds of market time as they pass.
    """
    instrument = find(config.instrument)
    bundle = load_bundle(folder / "bundle", now_ns=clock.now_ns(), feature_set=catalog.feature_set())
    plan = Plan(
        session="live-bench",
        instrument=instrument,
        lineup=Lineup(versions=(bundle.manifest.registry_version,)),
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=sends_orders(config, instrument),
        first_slow=lambda _ns: np.zeros(catalog.N_SLOW, np.float32),
    )
    with HotPath((bundle,), config.policy, instrument, name=f"bench-{os.getpid()}") as first:
        first.run(market.events()[:100])
    until = Until(seconds=config.seconds, stop=threading.Event(), advance=advance)
    workspace = Workspace(home=folder, clock=clock)
    return run_session(config, workspace, plan, (bundle,), until, begin=begin)[0]
