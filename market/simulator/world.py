"""The simulated market as an object: advance its time, read its book and trade in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from market.clock import NS_PER_MS
from market.events import BID
from market.simulator import flow, matching
from market.simulator.config import ExchangeConfig, params
from market.simulator.state import ASKS, BIDS, DIFF, MASK, new_core

STEP_NS = flow.SLICE_NS

Levels = list[tuple[int, int]]  # (price in ticks, size in lots), best first


class Record(NamedTuple):
    """One output of the core, with columns as defined in :mod:`market.simulator.state` for its ``kind``.

    A DIFF has its ``levels`` here instead of an offset in ``price``.
    """

    kind: int
    side: int
    t_ns: int
    recv_ns: int
    ident: int
    price: int
    size: int
    x0: int
    x1: int
    x2: int
    levels: list[list[int]]  # DIFF: [2 * price + side, size] of every changed level


@dataclass(frozen=True, kw_only=True)
class BookImage:
    """The book as a snapshot shows it."""

    update_id: int
    t_ms: int
    bids: Levels
    asks: Levels


class World:
    """One market. The same config, orders and regime changes at the same world times give the same records, however the
    time between them is split into calls of :meth:`advance`.
    """

    def __init__(self, config: ExchangeConfig) -> None:
        self.regime = config.regime
        self._core = new_core(config)
        self._state = self._core.state
        self._start_ns = self.now_ns
        flow.open_book(self._core)

    @property
    def now_ns(self) -> int:
        return int(self._state["t_ns"][0])

    @property
    def next_step_ns(self) -> int:
        """The next point of the step grid."""
        return self.now_ns + STEP_NS - (self.now_ns - self._start_ns) % STEP_NS

    @property
    def last_stamp(self) -> int:
        """The receive time of the last line sent."""
        return int(self._state["recv_ns"][0])

    @property
    def update_id(self) -> int:
        return int(self._state["update_id"][0])

    def set_regime(self, name: str) -> None:
        """Switch the market to this regime from now on.

        Raises:
            SettingsError: no regime has this name.
        """
        self._core.params[:] = params(name)
        self.regime = name

    def advance(self, until_ns: int) -> list[Record]:
        """Advance time to ``until_ns``; returns what the exchange published and matched meanwhile, in order."""
        records: list[Record] = []
        while True:
            flow.run(self._core, until_ns)
            records += self._drain()
            if self.now_ns >= until_ns:
                return records

    def place(self, side: int, price: int, size: int) -> tuple[int, int]:
        """Rest a post-only order (``side`` as in events); returns (verdict of ``matching``, order id)."""
        verdict, order_id = matching.place_own(self._core, BIDS if side == BID else ASKS, price, size)
        return int(verdict), int(order_id)

    def cancel(self, order_id: int) -> int:
        """Cancel our order; returns what was left of it in lots, -1 when it no longer rests."""
        return int(matching.cancel_own(self._core, order_id))

    def resting(self) -> dict[int, tuple[int, int]]:
        """Our resting orders: order id -> (left in lots, others' size ahead of it in lots)."""
        live = self._core.own[self._core.own["id"] != 0]
        return {int(o["id"]): (int(o["left"]), int(o["ahead"])) for o in live}

    def stamp(self) -> int:
        """A receive time for a line that the exchange sends now."""
        return int(matching.stamp(self._core, self.now_ns))

    def book(self, limit: int = 1_000_000) -> BookImage:
        """At most ``limit`` levels a side."""
        return BookImage(
            update_id=self.update_id,
            t_ms=self.now_ns // NS_PER_MS,
            bids=self._side(int(BIDS), limit),
            asks=self._side(int(ASKS), limit),
        )

    def _side(self, side: int, limit: int) -> Levels:
        best = int(self._core.best[side])
        edge = int(self._state["low_edge" if side == BIDS else "high_edge"][0])
        prices = np.arange(best, edge - 1, -1) if side == BIDS else np.arange(best, edge + 1)
        sizes = self._core.sizes[side, prices & MASK]
        levels: dict[int, int] = {int(p): int(q) for p, q in zip(prices, sizes, strict=True) if q > 0}
        for order in self._core.own:  # ours may lie beyond the populated grid
            if order["id"] != 0 and order["side"] == side:
                levels[int(order["price"])] = int(self._core.sizes[side, int(order["price"]) & MASK])
        return sorted(levels.items(), reverse=bool(side == BIDS))[:limit]

    def _drain(self) -> list[Record]:
        n = int(self._state["n_out"][0])
        records = [self._record(*columns) for columns in self._core.out[:n].tolist()]
        self._state["n_out"] = 0
        self._state["n_levels"] = 0
        return records

    def _record(self, *columns: Any) -> Record:
        kind, offset, count = columns[0], columns[5], columns[6]
        levels = self._core.levels[offset : offset + count].tolist() if kind == DIFF else []
        record = Record._make((*columns, levels))
        return record._replace(price=0) if kind == DIFF else record  # the offset depends on when it is read
