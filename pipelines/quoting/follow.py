"""Quote with whatever is in service, session after session (:mod:`serving.session.rolling`), in a workspace."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace

import numpy as np

from market.clock import NS_PER_S
from market.errors import EmptyDataError
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import live_source
from pipelines import in_service
from pipelines.features.slow import SlowSource
from pipelines.quoting.companions import Compactor, Standby
from pipelines.quoting.session_run import (
    ServeConfig,
    ServeResult,
    place_of,
    proven_bundle,
    result_of,
    unapproved,
    write_session,
)
from pipelines.workspace import Workspace, tracked
from serving.rollout.guardrails import GuardrailConfig, Worse
from serving.rollout.lineup import Lineup
from serving.session.follower import Follower, Means, Watched
from serving.session.rolling import Callbacks, Rolling
from serving.session.session import Plan, QuotingSession
from training.evaluation.sequential import Floats, sequence

_REMEMBERED = 200  # names of sessions in the result

log = logging.getLogger("keel.serve")


def follow(config: ServeConfig, workspace: Workspace, instrument: Instrument, stop: threading.Event) -> ServeResult:
    """Quote until ``stop`` is set, or for ``config.seconds`` of market time; the last session's result.

    Raises:
        EmptyDataError: the time passed and there was no champion in it.
        LakeError: a table cannot be written.
    """
    run = _Run(config=config, workspace=workspace, instrument=instrument, worse=words_test(config.guardrails))
    standby = Standby(workspace, instrument.key)
    try:
        with (
            Follower(*_followed(run, standby, stop)) as follower,
            Compactor(workspace.lake) as compactor,
            tracked(workspace.progress, "quoting", config.seconds),
        ):
            Rolling(
                place=place_of(config, instrument, workspace),
                policy=config.policy,
                follower=follower,
                callbacks=Callbacks(
                    plan=run.plan,
                    begun=run.begun,
                    over=run.over,
                    merge=compactor.begin,
                    advance=workspace.progress.advance,
                    tell=log.warning,
                ),
                stop=stop,
                roll_seconds=config.roll_seconds,
                seconds=config.seconds,
            ).run()
    finally:
        standby.close()
    if run.result is None:
        if stop.is_set():
            raise KeyboardInterrupt
        raise EmptyDataError(
            f"{instrument.key} had no champion for {config.seconds:g} s, so nothing was quoted; its market data is "
            "landed. Promote an approved version (keel promote)"
        )
    return run.result


def words_test(config: GuardrailConfig) -> Worse:
    """The always-valid test of a challenger's words, as compare makes it; what it needs is imported here."""

    def worse(differences: Floats) -> bool:
        seen = sequence(differences, alpha=config.words_alpha, plan=config.words_plan)
        return bool((seen.lower > 0).any())

    worse(np.zeros(2))
    return worse


@dataclass(kw_only=True)
class _Run:
    """What the sessions of one ``keel serve --follow`` are planned with, and what became of them."""

    config: ServeConfig
    workspace: Workspace
    instrument: Instrument
    worse: Worse
    result: ServeResult | None = field(default=None)

    def plan(self, lineup: Lineup) -> Plan:
        config = self.config
        slow = SlowSource(self.workspace, self.instrument, Lake(self.workspace.lake))
        return Plan(
            session=live_source(str(config.url), self.workspace.clock),
            instrument=self.instrument,
            lineup=lineup,
            block_ns=int(config.block_seconds * NS_PER_S),
            seed=config.seed,
            trades=place_of(config, self.instrument, self.workspace).sends_orders,
            first_slow=slow.landed_at,  # the feature store's library is no guest for hours
            shadow_blocks=config.shadow_blocks,
            guardrails=config.guardrails,
            worse=self.worse,
            inventory_limit=config.policy.max_inventory_lots,
        )

    def begun(self, session: QuotingSession) -> None:
        session.on_scene = lambda: write_session(self.workspace, self.config, session, None)

    def over(self, session: QuotingSession) -> None:
        earlier = self.result.sessions if self.result else ()
        result = result_of(self.config, session)
        self.result = replace(result, sessions=(*earlier, result.session)[-_REMEMBERED:])
        write_session(self.workspace, self.config, session, result)


def _followed(run: _Run, standby: Standby, stop: threading.Event) -> tuple[Watched, Means]:
    workspace, key = run.workspace, run.instrument.key
    watched = Watched(
        instrument=key,
        roles=in_service.state_path(workspace),
        stances=workspace.stances,
        sessions=workspace.sessions,
    )
    means = Means(
        clock=workspace.clock,
        load=lambda version: proven_bundle(workspace, key, version),
        attend=standby,
        halt=stop.set,
        tell=log.warning,
        guardrails=run.config.guardrails,
        forbidden=lambda roles: unapproved(workspace, key, roles),
    )
    return watched, means
