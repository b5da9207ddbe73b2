"""Quote continuously with the versions in service: one session after another; while there is no champion, market data
is only landed.

A session is rolled over every ``roll_seconds`` of market time: its orders are cancelled and confirmed, its rows
written, and the next one starts with its holdings. So a trace never has to go back further than that, memory use stays
flat, and the small files of the previous session are merged while the next one runs. The same happens when the
exchange becomes unreachable.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from market.clock import NS_PER_S
from market.errors import ServiceError
from market.feeds.landing import Lander
from market.lake.lake import Lake
from market.sources import live_source
from serving.quoting.engine import Holdings
from serving.quoting.policy import PolicyConfig
from serving.rollout.guardrails import Judge
from serving.rollout.lineup import Lineup
from serving.session import drivers
from serving.session.follower import Follower
from serving.session.runner import Place, run_session
from serving.session.session import Plan, QuotingSession

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """The callbacks of :class:`Rolling`.

    ``plan``: the plan of a session with this line-up; state carried from one session to the next is filled in here.
    ``begun`` is called with each session before its first frame, ``over`` after its last; ``merge`` is called when the
    lake has something new to merge; ``advance`` receives the market seconds that have passed, ``tell`` is a logger's
    ``warning``.
    """

    plan: Callable[[Lineup], Plan]
    begun: Callable[[QuotingSession], None]
    over: Callable[[QuotingSession], None]
    merge: Callable[[], None]
    advance: Callable[[float], None]
    tell: Callable[..., Any]


@dataclass(kw_only=True)
class Rolling:
    """Sessions of one instrument, one after the other.

    ``seconds`` of market time in all (None: until ``stop`` is set), ``roll_seconds`` a session.
    """

    place: Place
    policy: PolicyConfig
    follower: Follower
    callbacks: Callbacks
    stop: threading.Event
    roll_seconds: float
    seconds: float | None = None
    holdings: Holdings = field(default_factory=Holdings)
    introduced: frozenset[int] = frozenset()
    judge: Judge | None = None
    passed_ns: int = 0
    _wait_s: float = _FIRST_WAIT_S

    @property
    def left_s(self) -> float | None:
        """Seconds of market time that are left; None without an end."""
        return None if self.seconds is None else self.seconds - self.passed_ns / NS_PER_S

    @property
    def is_over(self) -> bool:
        left = self.left_s
        return self.stop.is_set() or (left is not None and left <= 0)

    def run(self) -> None:
        """Until the time has passed or ``stop`` is set.

        Raises:
            LakeError: a table cannot be written.
        """
        while not self.is_over:
            self.follower.check()
            passed_ns = self.passed_ns
            try:
                self._quote() if self.follower.ready is not None else self._land()
                self._wait_s = _FIRST_WAIT_S
            except ServiceError as error:
                self.follower.pause("away")
                self.callbacks.tell("%s; looking again in %g s", error, self._wait_s)
                self.stop.wait(self._wait_s)
                self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            if self.passed_ns != passed_ns:  # while the exchange is away there is nothing new
                self.callbacks.merge()

    def _quote(self) -> None:
        assert self.follower.ready is not None  # noqa: S101  # asked by the caller
        lineup, loaded = self.follower.ready
        bundles = tuple(loaded[version] for version in lineup.versions)
        left = self.left_s
        until = drivers.Until(
            seconds=self.roll_seconds if left is None else min(self.roll_seconds, left),
            stop=self.stop,
            advance=self.callbacks.advance,
            endless=True,
        )
        begun: list[QuotingSession] = []

        def begin(session: QuotingSession) -> None:
            begun.append(session)
            self.callbacks.begun(session)
            self.follower.begin(session)

        plan = replace(
            self.callbacks.plan(lineup), introduced=self.introduced, holdings=self.holdings, judge=self.judge
        )
        try:
            run_session(self.place, plan, bundles, self.policy, until, begin=begin)
        finally:
            self.follower.pause("away")
            for session in begun:
                self._put_away(session)

    def _put_away(self, session: QuotingSession) -> None:
        totals = session.totals
        self.holdings, self.introduced, self.judge = session.engine.holdings, session.introduced, session.judge
        self.passed_ns += totals.last_ns - totals.first_ns
        self.callbacks.over(session)

    def _land(self) -> None:
        """Land market data until there is a champion, for as long as a session would be."""
        place = self.place
        source = live_source(str(place.url), place.clock)
        self.callbacks.tell(
            "%s has no champion: its market data is landed as %s, no quote is made", place.instrument.key, source
        )
        self.follower.pause("waiting", source)
        first_ns = last_ns = 0

        def until(newest_ns: int) -> bool:
            nonlocal first_ns, last_ns
            first_ns, last_ns = first_ns or newest_ns, newest_ns
            left, passed_s = self.left_s, (last_ns - first_ns) / NS_PER_S
            over = passed_s >= self.roll_seconds or (left is not None and passed_s >= left)
            return over or self.stop.is_set() or self.follower.ready is not None or self.follower.has_ended

        try:
            with Lander(source, place.instrument, Lake(place.lake_uri), clock=place.clock) as lander:
                asyncio.run(drivers.listen(lander, place.connection(None), until))
        finally:
            self.passed_ns += last_ns - first_ns
