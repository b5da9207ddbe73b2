"""Convert the frames of one source to events that a book can apply, with resynchronisation.

The output is safe to apply in order, frame by frame:

* Trades and tickers pass straight through. Diffs pass only while the book follows a snapshot.
* A snapshot that can be joined to the buffered diffs becomes one batch: CLEAR, its levels, the buffered diffs, one
  F_LAST at the end. The whole batch carries the snapshot's frame number and receive time, which is when it became
  known.
* A snapshot that comes in the stream is such a batch by itself, at any time.
* A gap, including one detected by the venue's checksum, becomes a lone CLEAR at once, so that no consumer reads a book
  that missed something; the batch of the next snapshot carries F_RESYNC. A recording may hold no further snapshot: then
  the book stays unsynced, and reports it.
* Order-level frames become the levels that their orders add up to, and their trades. An invalid order event (an unknown
  order) goes to quarantine on its own.
* An unreadable frame gives no event and a :class:`Rejected` entry.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from market.books.levels import CAPACITY
from market.books.order_book import REASONS, OrderBook, refusal
from market.books.price_book import CROSSED, LOCKED, Book
from market.errors import BookError, ChecksumError, FrameError
from market.events import (
    ASK,
    BID,
    CLEAR,
    DEPTH,
    F_CHECKPOINT,
    F_CLOCK_BACK,
    F_LAST,
    F_NO_EXCH_TIME,
    F_RESYNC,
    F_SNAPSHOT,
    TRADE,
    Events,
    empty,
    joined,
)
from market.feeds import notices
from market.feeds.clock_offset import MinFilter
from market.feeds.resync import Sequence
from market.instruments import Instrument
from market.venues import registry
from market.venues.protocol import NO_EVENTS, OptionSummary, Parsed, Slow, Venue

_FULL: Final = 3 / 4  # of a side's room: beyond it the farthest levels are dropped
_KEPT: Final = 1 / 2
_HARMLESS: Final = ("unknown_frame", "wrong_symbol")  # reasons of frames that did not concern this book


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A frame that produced nothing: ``reason`` is a stable code, ``detail`` a sentence."""

    frame: int
    recv_ns: int
    reason: str
    detail: str
    payload: bytes


@dataclass(kw_only=True)
class Stats:
    """Counts since the start of the source.

    ``diffs`` counts those applied, ``before_snapshot`` those that waited; ``snapshots_unused`` came while the book was
    in order or could not be joined. ``proved`` counts checksums of the venue that matched. ``crossed`` and ``locked``
    count book and ticker frames that left the book in that state. Offsets are receive minus exchange time: below zero
    where the local clock is behind. ``interrupted`` counts notices (:mod:`market.feeds.notices`).
    """

    frames: int = 0
    rows: int = 0
    events: int = 0
    trades: int = 0
    tickers: int = 0
    diffs: int = 0
    before_snapshot: int = 0
    snapshots: int = 0
    snapshots_unused: int = 0
    other: int = 0
    slow: int = 0
    options: int = 0
    interrupted: int = 0
    gaps: int = 0
    resyncs: int = 0
    duplicates: int = 0
    trimmed: int = 0
    proved: int = 0
    crossed: int = 0
    locked: int = 0
    clock_back: int = 0
    first_ns: int = 0
    last_ns: int = 0
    timed: int = 0
    offset_sum_ns: int = 0
    offset_min_ns: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def offset_mean_ns(self) -> int:
        return self.offset_sum_ns // self.timed if self.timed else 0

    def saw_offset(self, offset_ns: int) -> None:
        self.offset_min_ns = min(self.offset_min_ns, offset_ns) if self.timed else offset_ns
        self.offset_sum_ns += offset_ns
        self.timed += 1


class Normaliser:
    """State of one source: its book, its position in the updates, its counts.

    ``venue`` is the format of its frames: by default that of the instrument's live stream. ``slow``, ``options`` and
    ``rejected`` grow; their consumer clears them. ``depth_limit`` is the room for levels per side: when three quarters
    are in use, the levels beyond half of it, far from the touch, are dropped (DEPTH events of size 0 at the end of the
    frame).
    """

    def __init__(
        self, instrument: Instrument, source: str, depth_limit: int = CAPACITY, venue: Venue | None = None
    ) -> None:
        venue = venue or registry.live(instrument)
        self.instrument = instrument
        self.source = source
        self.stats = Stats()
        self.clock_offset = MinFilter()
        self.slow: list[Slow] = []
        self.options: list[OptionSummary] = []
        self.rejected: list[Rejected] = []
        rule = venue.rule(instrument)
        self._parse = venue.parser(instrument).parse
        self._rows = venue.rows
        self._sequence = Sequence(rule)
        self._unnumbered = rule in ("snapshots", "stamped")
        self._book: Book = venue.book(depth_limit)
        self._trim_above = int(depth_limit * _FULL)
        self._trim_to = int(depth_limit * _KEPT)
        self._broken = False  # a gap or a rejected event lies before the next snapshot

    @property
    def synced(self) -> bool:
        """Whether the book follows a snapshot now."""
        return self._sequence.synced

    def feed(self, frame: int, recv_ns: int, payload: bytes) -> Events:
        """Events (n,) of the next frame, to be applied before those of the one after it; often none.

        The array belongs to the caller; it is not written again.
        """
        stats = self.stats
        back = recv_ns < stats.last_ns
        stats.frames += 1
        stats.rows += self._rows(payload)
        stats.first_ns = stats.first_ns or recv_ns
        stats.last_ns = recv_ns
        notice = notices.read(payload) if payload.startswith(notices.PREFIX) else None
        if notice is not None:
            stats.clock_back += back
            stats.interrupted += 1
            self._reject(frame, recv_ns, notice, payload)
            return self.lost(frame, recv_ns) if self._unnumbered else NO_EVENTS
        try:
            parsed = self._parse(payload, recv_ns, frame)
        except FrameError as error:
            stats.clock_back += back
            self._reject(frame, recv_ns, (error.reason, str(error)), payload)
            return self._missed(error, frame, recv_ns)
        events = self._normalise(parsed, frame, payload)
        if len(events):
            stats.events += len(events)
            if parsed.exch_ns:
                stats.saw_offset(recv_ns - parsed.exch_ns)
                self.clock_offset.saw(recv_ns, recv_ns - parsed.exch_ns)
        if back:
            stats.clock_back += 1
            events["flags"] |= F_CLOCK_BACK
        return events

    def reject(self, frame: int, recv_ns: int, reason: str, detail: str, payload: bytes) -> None:
        """Count and store a frame that the caller could not read."""
        self.stats.frames += 1
        self.stats.rows += self._rows(payload)
        self._reject(frame, recv_ns, (reason, detail), payload)

    def note(self, frame: int, reason: str, detail: str) -> None:
        """Store an entry about the source itself, not about one of its frames."""
        self._reject(frame, self.stats.last_ns, (reason, detail), b"")

    def checkpoint(self, frame: int, recv_ns: int) -> Events:
        """The current book as events that rebuild it (F_SNAPSHOT | F_CHECKPOINT); none while it is not in order."""
        if not self.synced:
            return NO_EVENTS
        template = empty(1)
        template["frame"], template["recv_ns"] = frame, recv_ns
        return self._book.snapshot_events(template[0], flags=F_SNAPSHOT | F_CHECKPOINT | F_NO_EXCH_TIME)

    def _normalise(self, parsed: Parsed, frame: int, payload: bytes) -> Events:
        stats = self.stats
        if parsed.slow is not None:
            stats.slow += 1
            self.slow.append(parsed.slow)
        if parsed.option is not None:
            stats.options += 1
            self.options.append(parsed.option)
        if parsed.kind == "ticker":
            stats.tickers += 1
            return self._applied(parsed.events, payload)
        if parsed.kind == "trade":
            stats.trades += len(parsed.events)
            return parsed.events
        if parsed.kind == "diff":
            return self._diff(parsed, frame, payload)
        if parsed.kind == "snapshot":
            return self._snapshot(parsed, payload)
        stats.other += parsed.kind == "other"
        return NO_EVENTS

    def _missed(self, error: FrameError, frame: int, recv_ns: int) -> Events:
        """The effect of a rejected frame on the book: none, or a lone CLEAR if something may be missing now."""
        wrong = isinstance(error, ChecksumError) or (self._unnumbered and error.reason not in _HARMLESS)
        return self.lost(frame, recv_ns) if wrong else NO_EVENTS

    def lost(self, frame: int, recv_ns: int) -> Events:
        """Frames are missing before this one: the book waits for a snapshot; a lone CLEAR if it was in order."""
        if not self.synced:
            return NO_EVENTS
        self._sequence.lose()
        self.stats.gaps += 1
        return self._forgotten(frame, recv_ns, frame)

    def _diff(self, diff: Parsed, frame: int, payload: bytes) -> Events:
        verdict = self._sequence.on_diff(diff)
        if verdict == "apply":
            self.stats.diffs += 1
            self.stats.proved += diff.proved
            events = self._trimmed(self._applied(diff.events, payload)) if len(diff.events) else diff.events
            if self._sequence.in_stream:  # such a frame may hold trades as well as levels
                self.stats.trades += events["kind"].tobytes().count(TRADE)  # a tenth of numpy's time for few events
            return events
        if verdict == "gap":
            self.stats.gaps += 1
            return self._forgotten(frame, self.stats.last_ns, diff.last)
        self.stats.before_snapshot += verdict == "wait"
        self.stats.duplicates += verdict == "duplicate"
        return NO_EVENTS

    def _snapshot(self, snapshot: Parsed, payload: bytes) -> Events:
        diffs = self._sequence.on_snapshot(snapshot)
        if diffs is None:
            self.stats.snapshots_unused += 1
            return NO_EVENTS
        self.stats.snapshots += 1
        self.stats.proved += snapshot.proved
        self.stats.resyncs += self._broken
        self.stats.diffs += len(diffs)
        batch: Events = joined([self._near(snapshot.events), *(diff.events for diff in diffs)])
        first = snapshot.events[0]
        batch["frame"], batch["recv_ns"] = first["frame"], first["recv_ns"]
        batch["flags"] &= ~np.uint16(F_LAST)
        batch["flags"] |= F_RESYNC if self._broken else 0
        batch["flags"][-1] |= F_LAST
        self._broken = False
        return self._applied(batch, payload)

    def _applied(self, events: Events, payload: bytes) -> Events:
        """The events, after our own book has applied them; a lone CLEAR if it rejects one."""
        if isinstance(self._book, OrderBook):
            return self._sifted(self._book, events, payload)
        try:
            self._book.apply_batch(events)
        except BookError as error:
            self._sequence.lose()
            frame, recv_ns, seq = (int(events[name][0]) for name in ("frame", "recv_ns", "seq"))
            self._reject(frame, recv_ns, ("book_refused", str(error)), payload)
            return self._forgotten(frame, recv_ns, seq)
        self._count_status()
        return events

    def _sifted(self, book: OrderBook, events: Events, payload: bytes) -> Events:
        """The effect of orders on the levels. An invalid event is stored with its frame and skipped."""
        level_events, codes = book.sift(events)
        for i in codes.nonzero()[0]:
            code, event = int(codes[i]), events[i]
            why = (REASONS[code], str(refusal(code, event)))
            self._reject(int(event["frame"]), int(event["recv_ns"]), why, payload)
        self._count_status()
        return level_events

    def _count_status(self) -> None:
        status = self._book.status
        if status:
            self.stats.crossed += bool(status & CROSSED)
            self.stats.locked += bool(status & LOCKED)

    def _forgotten(self, frame: int, recv_ns: int, seq: int) -> Events:
        """Clear our book, and tell every other book to do the same: a lone CLEAR."""
        self._broken = True
        self._book.clear()
        lone = empty(1)
        lone["frame"], lone["recv_ns"], lone["seq"] = frame, recv_ns, seq
        lone["kind"], lone["flags"] = CLEAR, F_LAST | F_NO_EXCH_TIME
        return lone

    def _near(self, snapshot: Events) -> Events:
        """The snapshot without the levels that are too far away to keep."""
        if len(snapshot) <= self._trim_above or isinstance(self._book, OrderBook):
            return snapshot
        keep = np.ones(len(snapshot), dtype=bool)
        for side in (BID, ASK):
            mine = np.flatnonzero((snapshot["kind"] == DEPTH) & (snapshot["side"] == side))
            if len(mine) > self._trim_above:
                order = np.argsort(-side * snapshot["price"][mine], kind="stable")
                keep[mine[order[self._trim_to :]]] = False
        self.stats.trimmed += int((~keep).sum())
        return snapshot[keep]

    def _trimmed(self, events: Events) -> Events:
        """``events`` and the removal of what is too far away to keep."""
        bids, asks = self._book.counts()
        if max(bids, asks) <= self._trim_above or isinstance(self._book, OrderBook):  # orders must not be dropped
            return events
        far = [(BID, row) for row in self._book.bids(bids)[self._trim_to :]]
        far += [(ASK, row) for row in self._book.asks(asks)[self._trim_to :]]
        removal = empty(len(far))
        removal[:] = events[-1]
        removal["kind"], removal["size"] = DEPTH, 0
        removal["side"], removal["price"] = [side for side, _ in far], [row[0] for _, row in far]
        whole: Events = joined([events, removal])
        whole["flags"] &= ~np.uint16(F_LAST)
        whole["flags"][-1] |= F_LAST
        self._book.apply_batch(whole[len(events) :])
        self.stats.trimmed += len(far)
        return whole

    def _reject(self, frame: int, recv_ns: int, why: tuple[str, str], payload: bytes) -> None:
        reason, detail = why
        self.stats.rejected[reason] += 1
        self.rejected.append(Rejected(frame=frame, recv_ns=recv_ns, reason=reason, detail=detail, payload=payload))
