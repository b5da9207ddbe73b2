"""Decides which depth diffs may be applied, for each continuity :data:`~market.venues.protocol.Rule`.

Two are Binance's documented rules for joining a stream to a snapshot that is fetched separately. Spot ("How to manage a
local order book correctly", Binance spot WebSocket streams): drop diffs with ``u`` <= ``lastUpdateId`` of the snapshot;
the first one applied has ``U`` <= ``lastUpdateId`` + 1 <= ``u``; from then on each ``U`` is the previous ``u`` + 1.
Futures, USD-M and COIN-M alike: drop ``u`` < ``lastUpdateId``; the first has ``U`` <= ``lastUpdateId`` <= ``u``; then
each ``pu`` is the previous ``u``.

In the others the snapshot comes in the stream, in its place among the diffs: nothing is buffered, and every snapshot is
a fresh start.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from market.venues.protocol import Parsed, Rule

Verdict = Literal["apply", "wait", "duplicate", "gap"]

IN_STREAM: Final = ("sequence", "previous", "snapshots", "open")
BUFFERED: Final = 4096  # diffs kept while there is no snapshot: two minutes of the fastest stream


def is_stale(market: Rule, diff: Parsed, snapshot_id: int) -> bool:
    """Whether the snapshot already contains everything in the diff."""
    return diff.last < snapshot_id if market == "futures" else diff.last <= snapshot_id


def bridges(market: Rule, diff: Parsed, snapshot_id: int) -> bool:
    """Whether the diff may be the first one after the snapshot; for futures also one whose ``pu`` is its id."""
    if market == "stamped":
        return diff.last > snapshot_id
    reached = snapshot_id + 1 if market == "spot" else snapshot_id
    return diff.first <= reached <= diff.last or (market == "futures" and diff.previous == snapshot_id > 0)


def follows(market: Rule, diff: Parsed, applied: int) -> bool:
    """Whether nothing is missing between the update ``applied`` and the diff."""
    if market == "stamped":
        return diff.last > applied
    return diff.first == applied + 1 if market in ("spot", "sequence") else diff.previous == applied


class Sequence:
    """The state of one book's updates: waiting for a snapshot (and buffering), or following it.

    ``applied`` is the id of the last update in the book, ``expected`` the id that the next diff should have continued.
    """

    def __init__(self, market: Rule) -> None:
        self._market = market
        self._waiting: deque[Parsed] = deque(maxlen=BUFFERED)
        self._bridged = False
        self.in_stream = market in IN_STREAM
        self.synced = market == "open"
        self.applied = 0

    def on_diff(self, diff: Parsed) -> Verdict:
        """What to do with a diff. After ``gap`` the book must be cleared; the diff waits for the next snapshot."""
        if self.in_stream:
            return self._in_stream(diff)
        if not self.synced:
            self._wait(diff)
            return "wait"
        if self._bridged:
            fits = follows(self._market, diff, self.applied)
        elif is_stale(self._market, diff, self.applied):
            return "duplicate"
        else:
            fits = bridges(self._market, diff, self.applied)
        if fits:
            self.applied, self._bridged = diff.last, True
            return "apply"
        if diff.last <= self.applied:
            return "duplicate"
        self.lose()
        self._wait(diff)
        return "gap"

    def on_snapshot(self, snapshot: Parsed) -> list[Parsed] | None:
        """The buffered diffs to apply after the snapshot, in order; None when it cannot be joined to them.

        A snapshot that is older than the buffer, or that lies in a hole of it, leaves the state unchanged; so does one
        from outside the stream while the book is in order.
        """
        if self.synced and not self.in_stream:
            return None
        if self._market == "stamped" and self._waiting and self._waiting[0].last > snapshot.last:
            return None  # the updates between the snapshot and the first diff are unknown
        joined = [diff for diff in self._waiting if not is_stale(self._market, diff, snapshot.last)]
        if joined and not bridges(self._market, joined[0], snapshot.last):
            return None
        self._waiting.clear()
        self.synced, self._bridged = True, bool(joined)
        self.applied = joined[-1].last if joined else snapshot.last
        return joined

    def lose(self) -> None:
        """Discard all state: the next snapshot is a fresh start."""
        self._waiting.clear()
        self.synced = self._bridged = False

    def _in_stream(self, diff: Parsed) -> Verdict:
        if not self.synced:
            return "wait"
        if self._market in ("sequence", "previous"):
            if diff.last <= self.applied:
                return "duplicate"
            if not follows(self._market, diff, self.applied):
                self.lose()
                return "gap"
        self.applied = diff.last
        return "apply"

    def _wait(self, diff: Parsed) -> None:
        if self._waiting and not follows(self._market, diff, self._waiting[-1].last):
            if diff.last <= self._waiting[-1].last:
                return
            self._waiting.clear()  # what came before the hole cannot be joined to what comes after it
        self._waiting.append(diff)
