"""A quoting session as ``keel serve`` runs it, with an untrained network and a lake in a folder.

:func:`prepare` imports torch, so it belongs in a different process from the session.
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
from market.features import catalog, meaning
from market.feeds.landing import Lander
from market.instruments import find
from market.lake.lake import Lake
from pipelines.quoting.session_run import ServeConfig
from serving.bundle import load_bundle
from serving.hotpath.loop import HotPath
from serving.rollout.lineup import Lineup
from serving.session.drivers import Until
from serving.session.recorder import Recorder
from serving.session.session import Parts, Plan, QuotingSession

Drive = Callable[[QuotingSession, Until], None]


def prepare(folder: Path, key: str) -> None:
    """Write the network that sessions in ``folder`` serve."""
    seeded_bundle(folder / "bundle", key)


def ring_name() -> str:
    """The rings of this process's session."""
    return f"bench-{os.getpid()}"


def run(
    key: str, folder: Path, clock: Clock, drive: Drive, advance: Callable[[float], None] = lambda _seconds: None
) -> QuotingSession:
    """A session of an instrument, driven by ``drive``; everything is compiled beforehand. No orders are sent.

    ``advance`` is called with seconds of market time as they pass. Everything is set up as
    ``pipelines.quoting.session_run.run_session`` does it.
    """
    config, instrument = ServeConfig(instrument=key), find(key)
    bundle = load_bundle(folder / "bundle", now_ns=clock.now_ns(), feature_set=meaning.feature_set())
    plan = Plan(
        session="live-bench",
        instrument=instrument,
        lineup=Lineup(versions=(bundle.manifest.registry_version,)),
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=False,
        first_slow=lambda _ns: np.zeros(catalog.N_SLOW, np.float32),
    )
    with HotPath((bundle,), config.policy, instrument, name=ring_name()) as first:
        first.run(market.events()[:100])
    lake = Lake(folder / "lake")
    recorder = Recorder(lake=lake, instrument=instrument, session=plan.session, feature_set=bundle.manifest.feature_set)
    with (
        HotPath((bundle,), config.policy, instrument, name=ring_name()) as hotpath,
        Lander(plan.session, instrument, lake, clock=clock) as lander,
    ):
        session = QuotingSession(plan, (bundle,), Parts(lander=lander, hotpath=hotpath, recorder=recorder))
        drive(session, Until(seconds=None, stop=threading.Event(), advance=advance))
        session.flush(final=True)
    return session
