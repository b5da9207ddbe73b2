"""What a session records: every prediction, every quote it acted on, and the outcome of every fill.

Rows are buffered and appended to the lake from time to time, each append with the session's position in the same
commit, so that a table never holds a row twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.events import joined
from market.instruments import Instrument
from market.lake.lake import Lake
from market.lake.rows import rows_of
from serving.outcomes import LATER_NS, UNKNOWN, mids_at_fills
from serving.quoting.engine import Fill
from serving.records import DECISION

Decisions = NDArray[np.void]  # shape (n,), dtype DECISION
Int64s = NDArray[np.int64]

_MEMORY_NS = 60 * NS_PER_S  # how far back a mid before a fill is looked for


@dataclass(frozen=True, kw_only=True)
class Acted:
    """The quote an order came from: its decision's number, and the version and arm that were active."""

    n: int
    version: int
    arm: int
    block: int


@dataclass(kw_only=True)
class Recorder:
    """Buffers of one session. ``feature_set`` goes with every prediction."""

    lake: Lake
    instrument: Instrument
    session: str
    feature_set: str
    predictions: int = 0
    quotes: int = 0
    outcomes: int = 0
    _decisions: list[Decisions] = field(default_factory=list)
    _quotes: list[Decisions] = field(default_factory=list)
    _fills: list[tuple[Fill, Acted]] = field(default_factory=list)
    _mids: list[tuple[Int64s, Int64s]] = field(default_factory=list)
    _last_ns: int = 0

    def add_decisions(self, decisions: Decisions) -> None:
        """Predictions (n,) in order; the memory is copied."""
        if len(decisions):
            self._decisions.append(decisions.copy())
            self._last_ns = max(self._last_ns, int(decisions["recv_ns"][-1]))

    def add_quote(self, decision: Decisions) -> None:
        """The decision (1,) whose quote is acted on from now on."""
        self._quotes.append(decision.copy())

    def add_fill(self, fill: Fill, acted: Acted) -> None:
        self._fills.append((fill, acted))

    @property
    def buffered(self) -> int:
        """Decisions that are not in the lake yet."""
        return sum(map(len, self._decisions))

    def flush(self, *, final: bool = False) -> None:
        """Append all complete rows. Fills wait for their last mid; with ``final`` they are written without it.

        Raises:
            LakeError: a table cannot be written; what was not written stays buffered.
        """
        self._flush_quotes()
        self._flush_decisions()
        self._flush_fills(final=final)

    def _flush_decisions(self) -> None:
        if not self._decisions:
            return
        rows = joined(self._decisions, DECISION)
        last = int(rows["n"][-1])
        self.lake.append("predictions", self._prediction_rows(rows), source=self.session, position=last)
        self._decisions.clear()
        self.predictions += len(rows)
        self._remember(rows)

    def _flush_quotes(self) -> None:
        if not self._quotes:
            return
        rows = joined(self._quotes, DECISION)
        self.lake.append("quotes", self._quote_rows(rows), source=self.session, position=int(rows["n"][-1]))
        self._quotes.clear()
        self.quotes += len(rows)

    def _flush_fills(self, *, final: bool) -> None:
        ready = len(self._fills)
        if not final:
            known_until = self._last_ns - LATER_NS[-1]
            ready = sum(fill.recv_ns <= known_until for fill, _ in self._fills)
        if ready == 0:
            return
        done, self._fills = self._fills[:ready], self._fills[ready:]
        position = self.outcomes + ready
        try:
            self.lake.append("outcomes", self._outcome_rows(done), source=self.session, position=position)
        except BaseException:
            self._fills = done + self._fills
            raise
        self.outcomes = position

    def _remember(self, rows: Decisions) -> None:
        """Keep the mids that later fills may be measured against."""
        usable = rows["mid2"] > 0
        recv_ns, mid2 = rows["recv_ns"][usable], rows["mid2"][usable]
        if len(recv_ns) == 0:
            return
        self._mids.append((recv_ns, mid2))
        oldest = min([fill.recv_ns for fill, _ in self._fills], default=self._last_ns) - _MEMORY_NS
        while len(self._mids) > 1 and self._mids[0][0][-1] < oldest:
            self._mids.pop(0)

    def _prediction_rows(self, rows: Decisions) -> pa.Table:
        same = {name: rows[name] for name in ("n", "frame", "seq", "recv_ns", "exch_ns", "mid2", "arm", "step_ns")}
        columns: dict[str, Any] = {
            **same,
            "session": self.session,
            "prediction_id": self._ids("p", rows["n"]),
            "version0": rows["version"][:, 0],
            "version1": rows["version"][:, 1],
            "probs0": rows["probs"][:, 0],
            "probs1": rows["probs"][:, 1],
            "features": rows["features"],
            "feature_set": self.feature_set,
        }
        return rows_of("predictions", self.instrument, columns)

    def _quote_rows(self, rows: Decisions) -> pa.Table:
        names = ("n", "recv_ns", "arm", "bid_price", "ask_price", "bid_size", "ask_size", "reasons", "mid2")
        columns: dict[str, Any] = {
            **{name: rows[name] for name in names},
            "session": self.session,
            "quote_id": self._ids("q", rows["n"]),
            "prediction_id": self._ids("p", rows["n"]),
            "version": np.take_along_axis(rows["version"], rows["arm"][:, None].astype(np.int64), axis=1)[:, 0],
        }
        return rows_of("quotes", self.instrument, columns)

    def _outcome_rows(self, done: list[tuple[Fill, Acted]]) -> pa.Table:
        fill_ns = np.array([fill.recv_ns for fill, _ in done], np.int64)
        recv_ns, mid2 = self._known_mids()
        mids = mids_at_fills(fill_ns, recv_ns, mid2, end_ns=self._last_ns)
        columns: dict[str, Any] = {
            "session": self.session,
            "quote_id": [f"q-{self.session}.{acted.n}" for _, acted in done],
            "order_id": [fill.client_id for fill, _ in done],
            "side": [fill.side for fill, _ in done],
            "price": [fill.price for fill, _ in done],
            "size": [fill.size for fill, _ in done],
            "fill_ns": fill_ns,
            **{name: _or_null(v) for name, v in zip(("mid2_fill", "mid2_100ms", "mid2_1s"), mids, strict=True)},
            "version": [acted.version for _, acted in done],
            "arm": [acted.arm for _, acted in done],
            "block": [acted.block for _, acted in done],
        }
        return rows_of("outcomes", self.instrument, columns)

    def _known_mids(self) -> tuple[Int64s, Int64s]:
        """Times and mids in memory; a clock that went back counts as standing still, as it does for features."""
        if not self._mids:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        recv_ns = np.maximum.accumulate(np.concatenate([times for times, _ in self._mids]))
        return recv_ns, np.concatenate([mids for _, mids in self._mids])

    def _ids(self, letter: str, numbers: Int64s) -> list[str]:
        start = f"{letter}-{self.session}."
        return [start + str(n) for n in numbers.tolist()]


def _or_null(values: Int64s) -> Any:
    return pa.array(values, pa.int64(), mask=values == UNKNOWN)
