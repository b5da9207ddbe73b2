"""Quote on and on, with whatever is in service: sessions one after the other, market data landed while nobody is
champion.

A session is rolled over every ``roll_seconds`` of market time: its orders are cancelled and confirmed, its rows
written, and the next one begins with what it held. So a trace never has to go back further than that, memory stays
flat, and the small files of the session before are merged beside the next one. The same happens when the exchange goes
away.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field, replace

import numpy as np

from market.clock import NS_PER_S
from market.errors import EmptyDataError, ServiceError
from market.feeds.landing import Lander
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import live_source
from pipelines import in_service
from pipelines.features.slow import SlowSource
from pipelines.quoting.companions import Compactor, Standby
from pipelines.quoting.session_run import (
    ServeConfig,
    ServeResult,
    exchange_of,
    proven_bundle,
    result_of,
    run_session,
    sends_orders,
    unapproved,
    write_session,
)
from pipelines.workspace import Workspace
from serving.quoting.engine import Holdings
from serving.risk.safe_state import STANCE_FILE
from serving.rollout.guardrails import GuardrailConfig, Judge, Worse
from serving.rollout.lineup import Lineup
from serving.session import drivers
from serving.session.follower import Follower, Means, Watched
from serving.session.session import Plan, QuotingSession
from training.evaluation.sequential import Floats, sequence

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 15.0
_REMEMBERED = 200  # names of sessions in the result

log = logging.getLogger("keel.serve")


@dataclass(kw_only=True)
class _Going:
    """What goes from one session to the next."""

    config: ServeConfig
    workspace: Workspace
    instrument: Instrument
    stop: threading.Event
    follower: Follower
    worse: Worse
    holdings: Holdings = field(default_factory=Holdings)
    introduced: frozenset[int] = frozenset()
    judge: Judge | None = None
    passed_ns: int = 0
    wait_s: float = _FIRST_WAIT_S
    result: ServeResult | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds of market time that are left; None without an end."""
        seconds = self.config.seconds
        return None if seconds is None else seconds - self.passed_ns / NS_PER_S

    @property
    def is_over(self) -> bool:
        left = self.left_s
        return self.stop.is_set() or (left is not None and left <= 0)


def follow(config: ServeConfig, workspace: Workspace, instrument: Instrument, stop: threading.Event) -> ServeResult:
    """Quote until ``stop`` is set, or for ``config.seconds`` of market time; the last session's result.

    Raises:
        EmptyDataError: the time passed and nobody was champion in it.
        LakeError: a table cannot be written.
    """
    watched = Watched(
        instrument=instrument.key,
        roles=in_service.state_path(workspace),
        stances=workspace.home / STANCE_FILE,
        sessions=workspace.home / "sessions",
    )
    standby = Standby(workspace, instrument.key)
    means = Means(
        clock=workspace.clock,
        load=lambda version: proven_bundle(workspace, instrument.key, version),
        attend=standby,
        halt=stop.set,
        tell=log.warning,
        guardrails=config.guardrails,
        forbidden=lambda roles: unapproved(workspace, instrument.key, roles),
    )
    try:
        with Follower(watched, means) as follower, Compactor(workspace.lake) as compactor:
            going = _Going(
                config=config,
                workspace=workspace,
                instrument=instrument,
                stop=stop,
                follower=follower,
                worse=words_test(config.guardrails),
            )
            while not going.is_over:
                follower.check()
                passed_ns = going.passed_ns
                try:
                    _quote(going) if follower.ready is not None else _land(going)
                    going.wait_s = _FIRST_WAIT_S
                except ServiceError as error:
                    follower.pause("away")
                    log.warning("%s; looking again in %g s", error, going.wait_s)
                    stop.wait(going.wait_s)
                    going.wait_s = min(2 * going.wait_s, _LONGEST_WAIT_S)
                if going.passed_ns != passed_ns:  # while the exchange is away there is nothing new
                    compactor.begin()
    finally:
        standby.close()
    if going.result is None:
        if stop.is_set():
            raise KeyboardInterrupt
        raise EmptyDataError(
            f"nobody was champion of {instrument.key} for {config.seconds:g} s, so nothing was quoted; its market data "
            "is landed. Promote an approved version (keel promote)"
        )
    return going.result


def words_test(config: GuardrailConfig) -> Worse:
    """The always-valid test of a challenger's words, as compare makes it; what it needs is imported here."""

    def worse(differences: Floats) -> bool:
        seen = sequence(differences, alpha=config.words_alpha, plan=config.words_plan)
        return bool((seen.lower > 0).any())

    worse(np.zeros(2))
    return worse


def _quote(going: _Going) -> None:
    config, workspace, follower = going.config, going.workspace, going.follower
    assert follower.ready is not None  # noqa: S101  # asked by the caller
    lineup, loaded = follower.ready
    bundles = tuple(loaded[version] for version in lineup.versions)
    slow = SlowSource(workspace, going.instrument, Lake(workspace.lake))
    left = going.left_s
    until = drivers.Until(
        seconds=config.roll_seconds if left is None else min(config.roll_seconds, left),
        stop=going.stop,
        advance=workspace.progress.advance,
    )
    begun: list[QuotingSession] = []

    def begin(session: QuotingSession) -> None:
        begun.append(session)
        session.on_scene = lambda: write_session(workspace, config, session, None)
        follower.begin(session)

    try:
        run_session(config, workspace, _plan(going, lineup, slow), bundles, until, begin=begin)
    finally:
        follower.pause("away")
        for session in begun:
            _put_away(going, session)


def _plan(going: _Going, lineup: Lineup, slow: SlowSource) -> Plan:
    config = going.config
    return Plan(
        session=live_source(str(config.url), going.workspace.clock),
        instrument=going.instrument,
        lineup=lineup,
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=sends_orders(config, going.instrument),
        first_slow=slow.landed_at,  # the feature store's library is no guest for hours
        shadow_blocks=config.shadow_blocks,
        introduced=going.introduced,
        guardrails=config.guardrails,
        worse=going.worse,
        inventory_limit=config.policy.max_inventory_lots,
        holdings=going.holdings,
        judge=going.judge,
    )


def _put_away(going: _Going, session: QuotingSession) -> None:
    totals = session.totals
    going.holdings, going.introduced, going.judge = session.engine.holdings, session.introduced, session.judge
    going.passed_ns += totals.last_ns - totals.first_ns
    earlier = going.result.sessions if going.result else ()
    result = result_of(going.config, session)
    going.result = replace(result, sessions=(*earlier, result.session)[-_REMEMBERED:])
    write_session(going.workspace, going.config, session, result)


def _land(going: _Going) -> None:
    """Land market data until there is a champion, for as long as a session would be."""
    config, workspace, follower = going.config, going.workspace, going.follower
    source = live_source(str(config.url), workspace.clock)
    log.warning(
        "nobody is champion of %s: its market data is landed as %s, no quote is made", config.instrument, source
    )
    follower.pause("waiting", source)
    first_ns = last_ns = 0

    def until(newest_ns: int) -> bool:
        nonlocal first_ns, last_ns
        first_ns, last_ns = first_ns or newest_ns, newest_ns
        left, passed_s = going.left_s, (last_ns - first_ns) / NS_PER_S
        over = passed_s >= config.roll_seconds or (left is not None and passed_s >= left)
        return over or going.stop.is_set() or follower.ready is not None or follower.has_ended

    try:
        with Lander(source, going.instrument, Lake(workspace.lake), clock=workspace.clock) as lander:
            exchange = exchange_of(config, going.instrument, workspace, None)
            asyncio.run(drivers.listen(lander, exchange, until))
    finally:
        going.passed_ns += last_ns - first_ns
