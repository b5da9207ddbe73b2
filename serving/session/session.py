"""A quoting session: frames in, orders out, and everything recorded on the way.

One step: lines -> landing (raw and ticks) -> events -> shared-memory ring -> hot path -> decisions -> orders. The
frames a session lands under its own name are the ones its decisions name, so every quote leads back to bytes.

Slow features, the active arm and the inventory are variables that the hot path reads. They must change exactly where
they change in the batch computation: a slow record counts from its receive time on, a block begins at its start time.
So the events of a step are handed over in pieces, cut at those times.

The line-up may change during a session: :meth:`QuotingSession.play` hands over another one, which is taken up between
two steps. Nothing is cancelled because of it, and the book and the features continue. A version on trial is evaluated
on the session's own rows; when it breaks a guardrail, the version before it is active from the next row on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.events import Events, joined
from market.features.slow import slow_vector
from market.feeds.landing import Lander
from market.feeds.orders import read_report
from market.instruments import Instrument
from market.labels import LabelConfig
from market.venues.protocol import Slow
from serving.bundle import Bundle
from serving.hotpath.loop import HotPath
from serving.hotpath.network import Model
from serving.quoting.engine import Holdings, Quote, QuoteEngine
from serving.records import R_NO_BOOK, R_WARM_UP
from serving.rollout.assignment import ARMS
from serving.rollout.guardrails import Breach, GuardrailConfig, Held, Judge, Position, Worse, judge_of, trial_of
from serving.rollout.lineup import Lineup, Phase
from serving.session.recorder import Acted, Recorder

Line = tuple[int, bytes]  # receive ns, payload
Floats = NDArray[np.float32]

FLUSH_EVERY_NS = 30 * NS_PER_S
_STEPS_REMEMBERED = 1 << 16  # decisions whose times make the percentiles


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a session. ``lineup``: the line-up at its beginning. ``trades``: orders are sent; otherwise quotes
    are only recorded and nothing is claimed.

    ``first_slow`` returns the slow features (N_SLOW,) known at the first frame's receive time. Before ``start_ns`` the
    book and the windows are built up and no model predicts. A new challenger is a shadow for ``shadow_blocks``, unless
    it is one of ``introduced``; it is subject to ``guardrails`` if ``worse`` tests its predictions. ``holdings``: what
    an earlier session left, ``judge``: its judge; ``inventory_limit`` in lots.
    """

    session: str
    instrument: Instrument
    lineup: Lineup
    block_ns: int
    seed: int
    trades: bool
    first_slow: Callable[[int], Floats]
    start_ns: int = 0
    shadow_blocks: int = 0
    introduced: frozenset[int] = frozenset()
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)
    worse: Worse | None = None
    inventory_limit: int = 0
    holdings: Holdings = field(default_factory=Holdings)
    judge: Judge | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A line-up and the number of the first decision made under it."""

    from_n: int
    lineup: Lineup


@dataclass(kw_only=True)
class Totals:
    """Counts of a session so far; times are the feed's receive times."""

    frames: int = 0
    decisions: int = 0
    quotes: int = 0
    fills: int = 0
    requests: int = 0
    first_ns: int = 0
    last_ns: int = 0
    last_mid2: int = 0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a session works with; each part is closed by the caller that opened it."""

    lander: Lander
    hotpath: HotPath
    recorder: Recorder


class QuotingSession:
    """Takes what an exchange (or a recording) sends and returns order requests; sends nothing itself."""

    def __init__(self, plan: Plan, models: Sequence[Bundle], parts: Parts) -> None:
        self.plan = plan
        self.totals = Totals()
        tag = plan.session.removeprefix("live-")
        self.engine = QuoteEngine(instrument=plan.instrument, tag=tag, holdings=plan.holdings)
        self.lander = parts.lander
        self.lineup = plan.lineup
        self.scenes: tuple[Scene, ...] = ()
        self.on_breach: Callable[[Breach], None] = lambda _breach: None
        self.on_scene: Callable[[], None] = lambda: None
        self.breach: Breach | None = None
        self._models: dict[int, Bundle | Model] = dict(zip(plan.lineup.versions, models, strict=True))
        self._introduced = set(plan.introduced)
        self._next: tuple[Lineup, dict[int, Bundle | Model], LabelConfig] | None = None
        self._taken_up = False  # whether a row was met by the line-up in force
        self._labels = models[0].manifest.heads.labels()
        self.judge = self._judge_of(plan.lineup)
        if plan.judge is not None and self.judge is not None and plan.judge.trial == self.judge.trial:
            self.judge = plan.judge.resume(plan.session)
        self._step_ns = np.zeros(_STEPS_REMEMBERED, np.int64)
        self._hotpath = parts.hotpath
        self._recorder = parts.recorder
        self._started = plan.start_ns == 0
        self._slow: Slow | None = None
        self._block: int | None = None
        self._quoted = Quote(n=0)
        self._quoted_block = -1
        self._acted: dict[int, Acted] = {}
        self._withdrawn = False
        self._flushed_ns = 0
        self._hotpath.set_inventory(plan.holdings.inventory)

    @property
    def target(self) -> Lineup:
        """The next line-up if one was handed over, else the current one."""
        handed = self._next
        return handed[0] if handed else self.lineup

    @property
    def introduced(self) -> frozenset[int]:
        """Challengers that have completed their shadow phase."""
        return frozenset(self._introduced)

    @property
    def phase(self) -> Phase:
        """Phase of the line-up; a challenger that is not active yet is a shadow."""
        lineup = self.lineup
        waits = lineup.phase == "switchback" and (self._block is None or self._block < lineup.acts_from)
        return "shadow" if waits else lineup.phase

    @property
    def canary_share(self) -> float:
        """The canary's share of the blocks; 0 without a canary."""
        canary = self.lineup.canary
        return canary.share if canary else 0.0

    def held(self) -> Held | None:
        """Progress of the current trial; None if no version is on trial."""
        return self.judge.held() if self.judge and self.judge.since_ns else None

    def play(self, lineup: Lineup, models: Mapping[int, Bundle | Model], labels: LabelConfig) -> None:
        """Take up another line-up with the next step; ``models`` holds every version of it, verified, and ``labels``
        are the settings that all of them were trained on. May be called from another thread."""
        self._next = lineup, {version: models[version] for version in lineup.versions}, labels

    def set_safe(self, safe: bool) -> None:
        """Whether to quote as in the safe state. May be called from another thread."""
        self._hotpath.set_safe(safe)

    def take(self, lines: Iterable[Line]) -> None:
        """Land the frames of one step and let the hot path decide on each state of the book."""
        self._take_up_next()
        pieces: list[Events] = []
        cuts: list[tuple[int, Slow]] = []
        count = 0
        for recv_ns, payload in lines:
            events = self._land(recv_ns, payload)
            record = self.lander.slow
            if record is not None and record is not self._slow:
                self._slow = record
                cuts.append((count, record))
            if len(events):
                pieces.append(events)
                count += len(events)
        self._decide(joined(pieces), cuts)

    def orders(self) -> list[bytes]:
        """Requests that bring the orders at the exchange to the current quote."""
        if self._withdrawn or not self.plan.trades:
            return []
        requests = self.engine.want(self._quoted)
        self.totals.requests += len(requests)
        return requests

    def withdraw(self) -> list[bytes]:
        """Requests that cancel everything; from now on nothing is quoted."""
        self._withdrawn = True
        return self.engine.cancel_all()

    def hear(self, user_data: Iterable[Line], replies: Iterable[Line]) -> None:
        """Take the exchange's reports on our orders and its replies to our requests.

        Raises:
            FrameError: a report is not of the documented form.
        """
        for recv_ns, payload in user_data:
            report = read_report(self.plan.instrument, recv_ns, payload)
            fill = self.engine.on_report(report) if report else None
            if fill is not None:
                self.totals.fills += 1
                self._recorder.add_fill(fill, self._acted[fill.quote_n])
        for _, payload in replies:
            answer = orjson.loads(payload)
            if answer.get("status") != 200:
                self.engine.on_refusal(str(answer.get("id")))
        self._hotpath.set_inventory(self.engine.holdings.inventory)

    def step_percentiles_ns(self) -> tuple[int, int]:
        """p50 and p99 of the hot path's own times over the last decisions; 0 if none was measured."""
        times = self._step_ns[self._step_ns > 0]
        if len(times) == 0:
            return 0, 0
        p50, p99 = np.percentile(times, (50, 99))
        return int(p50), int(p99)

    def flush(self, *, final: bool = False) -> None:
        """Write what is buffered, at the end all of it.

        Raises:
            LakeError: a table cannot be written.
        """
        if final or self.totals.last_ns - self._flushed_ns >= FLUSH_EVERY_NS:
            self._flushed_ns = self.totals.last_ns
            self._recorder.flush(final=final)
            wanted = {*self.engine.quoted, self._quoted.n}
            self._acted = {n: acted for n, acted in self._acted.items() if n in wanted}

    # -- inside -------------------------------------------------------------------------------------------------

    def _land(self, recv_ns: int, payload: bytes) -> Events:
        totals = self.totals
        totals.frames += 1
        if totals.first_ns == 0 and recv_ns > 0:
            totals.first_ns = self._flushed_ns = recv_ns
            self._hotpath.set_slow(self.plan.first_slow(recv_ns))
        totals.last_ns = max(totals.last_ns, recv_ns)
        return self.lander.feed(totals.frames, recv_ns, payload)

    def _decide(self, events: Events, slow: list[tuple[int, Slow]]) -> None:
        """Hand events over in pieces, each after the slow features that apply to it."""
        done = 0
        for count, record in slow:
            later = np.flatnonzero(events["recv_ns"][done:count] >= record.recv_ns)
            first = done + int(later[0]) if len(later) else count
            self._pass_blocks(events[done:first])
            self._hotpath.set_slow(slow_vector(record.funding_rate, record.mark_e8, record.index_e8))
            done = first
        self._pass_blocks(events[done:])

    def _pass_blocks(self, events: Events) -> None:
        if len(events) == 0:
            return
        recv_ns, block_ns = events["recv_ns"], self.plan.block_ns
        first, last = int(recv_ns.min()) // block_ns, int(recv_ns.max()) // block_ns
        if first == last:
            self._run(events, self._enter(first))
            return
        blocks = recv_ns // block_ns
        starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]]).tolist()
        for start, end in zip(starts, [*starts[1:], len(events)], strict=True):
            self._run(events[start:end], self._enter(int(blocks[start])))

    def _enter(self, block: int) -> int:
        """Activate the arm drawn for a block; returns the block."""
        if not self._taken_up:
            self._begin_scene(block)
        if block != self._block:
            self._block = block
            self._hotpath.set_arm(self.lineup.arm(self.plan.seed, self.plan.instrument.key, block))
            if self.lineup.phase == "switchback" and block >= self.lineup.acts_from:
                self._introduced.add(self.lineup.versions[1])
        return block

    def _take_up_next(self) -> None:
        """Take up the line-up that was handed over, once the previous one has met a row."""
        handed = self._next
        if handed is None or not self._taken_up:
            return
        self._next = None
        lineup, models, labels = handed
        trial, breach = trial_of(lineup), self.breach
        ended = (
            trial is not None and breach is not None and (trial.version, trial.number) == (breach.version, breach.trial)
        )
        if not ended:
            self._labels = labels
            self._change_to(lineup, models)

    def _change_to(self, lineup: Lineup, models: dict[int, Bundle | Model]) -> None:
        self._hotpath.line_up([models[version] for version in lineup.versions])
        now = self.lineup
        played = (lineup.phase, lineup.versions, lineup.test) == (now.phase, now.versions, now.test)
        # a version that already has blocks of its own keeps them; others begin with a whole block, see _begin_scene
        self.lineup = replace(lineup, acts_from=self.lineup.acts_from if played else 0)
        self._models, self._taken_up, self._block = dict(models), played, None
        if played:
            self._note_scene()
        self.judge = self._judge_of(self.lineup)

    def _judge_of(self, lineup: Lineup) -> Judge | None:
        plan = self.plan
        return judge_of(
            plan.guardrails, lineup, plan.session, labels=self._labels, block_ns=plan.block_ns, worse=plan.worse
        )

    def _begin_scene(self, block: int) -> None:
        """Enter a line-up's first block. A version with blocks of its own begins with a whole one."""
        self._taken_up = True
        first = block if not self.scenes else block + 1
        if self.lineup.phase == "switchback":
            shadow = 0 if self.lineup.versions[1] in self._introduced else self.plan.shadow_blocks
            acts_from = first + shadow
            # both blocks of a pair, so that each arm gets one
            self.lineup = replace(self.lineup, acts_from=acts_from + acts_from % ARMS if acts_from > block else 0)
        elif self.lineup.phase == "canary":
            self.lineup = replace(self.lineup, acts_from=first)
        self._note_scene()

    def _note_scene(self) -> None:
        self.scenes = (*self.scenes, Scene(from_n=self.totals.decisions + 1, lineup=self.lineup))
        self.on_scene()

    def _step_back(self, breach: Breach) -> None:
        """The version active before the one on trial is active from the next row on, and alone."""
        self.breach = breach
        self._introduced.discard(breach.version)
        self._change_to(Lineup(versions=(breach.against,)), {breach.against: self._models[breach.against]})
        self.on_breach(breach)

    def _run(self, events: Events, block: int) -> None:
        if not self._started:
            events = self._build_up(events)
        decisions = self._hotpath.run(events)
        if len(decisions) == 0:
            return
        self._keep(decisions)
        self._step_ns[decisions["n"] % _STEPS_REMEMBERED] = decisions["step_ns"]
        self._note_quote(decisions[-1:], block)
        if self.judge is not None:
            holdings = self.engine.holdings
            worth2 = holdings.worth2(self.totals.last_mid2)
            held = Position(inventory=holdings.inventory, limit=self.plan.inventory_limit, worth2=worth2)
            breach = self.judge.add(decisions, block, held)
            if breach is not None:
                self._step_back(breach)

    def _build_up(self, events: Events) -> Events:
        """Take the events before the start, on which no model predicts; returns the others.

        The networks start from zero at the first event after the start, like models that are deployed then.
        """
        late = np.flatnonzero(events["recv_ns"] >= self.plan.start_ns)
        first = int(late[0]) if len(late) else len(events)
        early = self._hotpath.run(events[:first])
        early["version"], early["probs"] = 0, np.nan
        for name in ("bid_price", "ask_price", "bid_size", "ask_size"):
            early[name] = 0
        early["reasons"] = np.where(early["mid2"] > 0, R_WARM_UP, R_NO_BOOK)
        self._keep(early)
        if first < len(events):
            self._started = True
            for arm, version in enumerate(self.lineup.versions):
                self._hotpath.replace_model(arm, self._models[version])
        return events[first:]

    def _keep(self, decisions: NDArray[np.void]) -> None:
        if len(decisions):
            self.totals.decisions += len(decisions)
            self.totals.last_mid2 = int(decisions["mid2"][-1]) or self.totals.last_mid2
            self._recorder.add_decisions(decisions)

    def _note_quote(self, decision: NDArray[np.void], block: int) -> None:
        """Follow the newest decision. A quote is new when its orders change, and with every block while they stand:
        standing orders then belong to the version active in that block."""
        quote = Quote.of(decision[0])
        if quote.same_orders(self._quoted) and (block == self._quoted_block or quote.empty):
            return
        arm = int(decision["arm"][0])
        self._quoted, self._quoted_block = quote, block
        self._acted[quote.n] = Acted(n=quote.n, version=int(decision["version"][0, arm]), arm=arm, block=block)
        self._recorder.add_quote(decision)
        self.totals.quotes += 1
