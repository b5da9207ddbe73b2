"""A quoting session as ``keel serve`` runs it, with an untrained network and a lake in a folder.

:func:`prepare` imports torch, so it belongs into another process than the session.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench import market
from bench.hotpath import seeded_bundle
from market.clock import NS_PER_S, Clock
from market.features import catalog
from market.feeds import websocket
from market.feeds.landing import Lander
from market.feeds.websocket import ConnectionConfig
from market.instruments import find
from market.lake import Lake
from pipelines.quoting import ServeConfig, sends_orders, simulated_stream
from serving import drivers
from serving.bundle import load_bundle
from serving.drivers import Until
from serving.hotpath.loop import HotPath
from serving.lineup import Lineup
from serving.recorder import Recorder
from serving.session import Parts, Plan, QuotingSession


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
    ping_s: float = ConnectionConfig.ping_s,
) -> QuotingSession:
    """Take the stream of ``config`` to its end; everything is compiled before it begins.

    ``begin`` is told of the session, ``advance`` of seconds of market time as they pass. The way is that of
    ``pipelines.quoting.run_session``; only the connection may be given more patience (``ping_s``), for an exchange
    that sends more than is taken: its answer to a ping waits behind what it has sent.
    """
    instrument = find(config.instrument)
    trades = sends_orders(config, instrument)
    url = simulated_stream(str(config.url), instrument, config.seconds, pace=config.pace) if trades else str(config.url)
    bundle = load_bundle(folder / "bundle", now_ns=clock.now_ns(), feature_set=catalog.feature_set())
    plan = Plan(
        session="live-bench",
        instrument=instrument,
        lineup=Lineup(versions=(bundle.manifest.registry_version,)),
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=trades,
        first_slow=lambda _ns: np.zeros(catalog.N_SLOW, np.float32),
    )
    with HotPath((bundle,), config.policy, instrument, name=ring_name()) as first:
        first.run(market.events()[:100])
    until = Until(seconds=config.seconds, stop=threading.Event(), advance=advance)
    lake = Lake(folder / "lake")
    recorder = Recorder(lake=lake, instrument=instrument, session=plan.session, feature_set=bundle.manifest.feature_set)
    with (
        HotPath((bundle,), config.policy, instrument, name=ring_name()) as hotpath,
        Lander(plan.session, instrument, lake, clock=clock) as lander,
    ):
        session = QuotingSession(plan, (bundle,), Parts(lander=lander, hotpath=hotpath, recorder=recorder))
        begin(session)
        connection = websocket.Session(url, clock=clock, config=ConnectionConfig(ping_s=ping_s))
        asyncio.run(drivers.trade(session, connection, until))
        session.flush(final=True)
    return session


def ring_name() -> str:
    """The rings of this process's session."""
    return f"bench-{os.getpid()}"
