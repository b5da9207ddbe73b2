"""A quoting session: frames in, orders out, and everything written down on the way.

One step: lines -> landing (raw and ticks) -> events -> shared-memory ring -> hot path -> decisions -> orders. The
frames a session lands under its own name are the ones its decisions name, so every quote leads back to bytes.

Slow features, the acting arm and the inventory are words that the hot path reads. They must change exactly where the
batch computation has them change: a slow record counts from its receive time on, a block begins at its moment. So the
events of a step are handed over in pieces, cut at those moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.events import Events
from market.features.slow import slow_vector
from market.feeds.landing import Lander
from market.feeds.orders import read_report
from market.instruments import Instrument
from market.venues.protocol import NO_EVENTS, Slow
from serving.bundle import Bundle
from serving.hotpath.loop import HotPath
from serving.hotpath.records import R_NO_BOOK, R_WARM_UP
from serving.quoting.engine import Quote, QuoteEngine
from serving.recorder import Acted, Recorder
from serving.router import assign

Line = tuple[int, bytes]  # receive ns, payload
Floats = NDArray[np.float32]

FLUSH_EVERY_NS = 30 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a session is. ``versions``: one an arm, the champion first. With ``shadow`` the champion always acts and the
    second version is only stepped. ``trades``: orders are sent; without, quotes are recorded and nothing is claimed.

    ``first_slow`` answers what was known of the slow features (N_SLOW,) at the first frame's receive time. Before
    ``start_ns`` the book and the windows are built up and no model speaks.
    """

    session: str
    instrument: Instrument
    versions: tuple[int, ...]
    shadow: bool
    block_ns: int
    seed: int
    trades: bool
    first_slow: Callable[[int], Floats]
    start_ns: int = 0


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
    """What a session works with; each is closed by whoever opened it."""

    lander: Lander
    hotpath: HotPath
    recorder: Recorder


class QuotingSession:
    """Takes what an exchange (or a recording) sends and answers with order requests; sends nothing itself."""

    def __init__(self, plan: Plan, models: Sequence[Bundle], parts: Parts) -> None:
        self.plan = plan
        self.totals = Totals()
        self.engine = QuoteEngine(instrument=plan.instrument, tag=plan.session.removeprefix("live-"))
        self.lander = parts.lander
        self._models = models
        self._step_ns: list[NDArray[np.int64]] = []
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

    @property
    def acting(self) -> bool:
        """Whether both arms take turns."""
        return len(self.plan.versions) > 1 and not self.plan.shadow

    def take(self, lines: Iterable[Line]) -> None:
        """Land the frames of one step and let the hot path decide on each state of the book."""
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
        self._decide(np.concatenate(pieces) if pieces else NO_EVENTS, cuts)

    def orders(self) -> list[bytes]:
        """Requests that bring the orders at the exchange to the quote in force."""
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
        """Take the exchange's reports on our orders and its answers to our requests.

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
        """p50 and p99 of the hot path's own step times; 0 where none was measured."""
        times = np.concatenate([np.zeros(0, np.int64), *self._step_ns])
        times = times[times > 0]
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
        """Hand events over in pieces, each after the words that count for it."""
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
        """Let the arm act that was drawn for a block; answers the block."""
        if block != self._block:
            self._block = block
            self._hotpath.set_arm(assign(self.plan.seed, self.plan.instrument.key, block) if self.acting else 0)
        return block

    def _run(self, events: Events, block: int) -> None:
        if not self._started:
            events = self._build_up(events)
        decisions = self._hotpath.run(events)
        if len(decisions) == 0:
            return
        self._keep(decisions)
        self._step_ns.append(decisions["step_ns"].copy())
        self._note_quote(decisions[-1:], block)

    def _build_up(self, events: Events) -> Events:
        """Take the events before the start, on which no model speaks; answers the others.

        The networks start from zero at the first event after the start, as models do that are put in then.
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
            for arm, model in enumerate(self._models):
                self._hotpath.replace_model(arm, model)
        return events[first:]

    def _keep(self, decisions: NDArray[np.void]) -> None:
        if len(decisions):
            self.totals.decisions += len(decisions)
            self.totals.last_mid2 = int(decisions["mid2"][-1]) or self.totals.last_mid2
            self._recorder.add_decisions(decisions)

    def _note_quote(self, decision: NDArray[np.void], block: int) -> None:
        """Follow the newest decision. A quote is new when its orders change, and with every block while they stand:
        what stands on is then the word of whoever acts in that block."""
        quote = Quote.of(decision[0])
        if quote.same_orders(self._quoted) and (block == self._quoted_block or quote.empty):
            return
        arm = int(decision["arm"][0])
        self._quoted, self._quoted_block = quote, block
        self._acted[quote.n] = Acted(n=quote.n, version=int(decision["version"][0, arm]), arm=arm, block=block)
        self._recorder.add_quote(decision)
        self.totals.quotes += 1
