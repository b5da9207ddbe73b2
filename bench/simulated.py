"""Weeks of the simulated market in minutes: the exchange's core straight to events, without frames; a model on top.

A regime is redrawn after exponential times, so that hours differ and weeks do not. ``Shift`` changes the market
by a known factor from a known moment on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from market.books.price_book import new_book
from market.clock import NS_PER_S
from market.compiled import compiled
from market.events import ASK, BID, DEPTH, EVENT, F_LAST, F_SNAPSHOT, TICKER, TRADE, Events
from market.features import kernels, slow
from market.labels import N_OUTPUTS, LabelConfig, labels
from market.simulator import flow, state
from market.simulator.config import ExchangeConfig, params
from market.simulator.world import World
from pipelines.monitoring import signals
from pipelines.monitoring.drift import Sample
from serving.hotpath import network
from serving.hotpath.families import registry

Lever = Literal["intensity", "depth", "volatility", "spread"]
Form = Literal["abrupt", "gradual", "recurring"]

# what a lever multiplies (1) or divides (-1) in every regime
LEVERS: dict[Lever, dict[str, int]] = {
    "intensity": {"market_rate": 1, "add_rate": 1, "cancel_rate": 1, "far_rate": 1},
    "depth": {"depth": -1, "order_size": -1},
    "volatility": {"market_size": 1, "sweep": 1},
    "spread": {"improve": -1},
}
RAMP_NS = 3600 * NS_PER_S  # of a gradual shift
TURN_NS = 20 * 60 * NS_PER_S  # a recurring shift is on so long, then off so long
_SLICE_NS = 10 * NS_PER_S  # how often the market is steered
_network_step = registry.step


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Share of time of each regime, and the mean time (s) until one is redrawn."""

    shares: dict[str, float]
    dwell_s: float


@dataclass(frozen=True, kw_only=True)
class Shift:
    lever: Lever
    factor: float
    form: Form
    start_ns: int  # world time since the beginning

    def strength(self, now_ns: int) -> float:
        """Factor at a world time since the beginning."""
        passed = now_ns - self.start_ns
        if passed < 0:
            return 1.0
        if self.form == "gradual":
            return 1.0 + (self.factor - 1.0) * min(passed / RAMP_NS, 1.0)
        return self.factor if self.form == "abrupt" or passed // TURN_NS % 2 == 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """``n`` warm rows of a market: ``features`` (n, F), the rest (n,)."""

    features: NDArray[np.float32]
    recv_ns: NDArray[np.int64]
    mid2: NDArray[np.int64]
    bid_depth: NDArray[np.int64]
    ask_depth: NDArray[np.int64]

    def truth(self) -> NDArray[np.int8]:
        """(n, H, 3) labels, unknown at the very end."""
        one = np.zeros(len(self.recv_ns), np.int64)
        found = labels(self.recv_ns, self.mid2, self.bid_depth, self.ask_depth, one, LabelConfig())
        return np.stack([found.direction, found.bid_fall, found.ask_fall], axis=2)


@dataclass(kw_only=True)
class Market:
    """One simulated market that continues without end."""

    seed: int
    mix: Mix
    shift: Shift | None = None
    _slow: list[NDArray[np.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = np.random.default_rng([self.seed, 1])
        self._world = World(ExchangeConfig(seed=self.seed, regime=self._draw()))
        self._began = self._world.now_ns
        self._until = self._began + self._dwell()
        self._book, self._state = new_book(), kernels.new_state()
        self._next: Events | None = self._snapshot()
        self._steer()

    def advance(self, seconds: float) -> Stretch:
        """Advance by ``seconds`` and return that stretch."""
        end = self._world.now_ns + int(seconds * NS_PER_S)
        parts, marks = [], []
        while self._world.now_ns < end:
            self._steer()
            events, mark = self._run(min(end, self._world.now_ns + _SLICE_NS))
            parts.append(events)
            marks.append(mark)
        events = np.concatenate(parts)
        self._slow = [*self._slow[-1:], np.concatenate(marks)]
        rows = kernels.compute(events, book=self._book, state=self._state)
        at = events["recv_ns"][rows.event]
        warm = rows.warm
        return Stretch(
            features=np.hstack([rows.features, self._slow_at(at)])[warm],
            recv_ns=at[warm],
            mid2=rows.mid2[warm],
            bid_depth=rows.bid_depth[warm],
            ask_depth=rows.ask_depth[warm],
        )

    def _slow_at(self, at: NDArray[np.int64]) -> NDArray[np.float32]:
        known = np.concatenate(self._slow)
        values = slow.slow_vectors(known[:, 1] / 1e8, known[:, 2], known[:, 3])
        return slow.last_known(known[:, 0], values, at)

    def _draw(self) -> str:
        return str(self._chance.choice(list(self.mix.shares), p=list(self.mix.shares.values())))

    def _dwell(self) -> int:
        return int(self._chance.exponential(self.mix.dwell_s) * NS_PER_S)

    def _steer(self) -> None:
        now = self._world.now_ns
        while now >= self._until:
            self._world.set_regime(self._draw())
            self._until += self._dwell()
        if self.shift is not None:
            strength = self.shift.strength(now - self._began)
            wanted = params(self._world.regime)
            for name, sign in LEVERS[self.shift.lever].items():
                wanted[name] *= strength**sign
            self._world._core.params[:] = wanted

    def _snapshot(self) -> Events:
        book = self._world.book()
        events = np.zeros(len(book.bids) + len(book.asks), EVENT)
        sides = [(BID, *level) for level in book.bids] + [(ASK, *level) for level in book.asks]
        events["side"], events["price"], events["size"] = np.array(sides).T
        events["kind"], events["flags"], events["seq"] = DEPTH, F_SNAPSHOT, book.update_id
        events["exch_ns"] = events["recv_ns"] = self._world.now_ns
        events["flags"][-1] |= F_LAST
        return events

    def _run(self, until_ns: int) -> tuple[Events, NDArray[np.int64]]:
        """Events and mark records (m, 4: received, funding 1e-8, mark, index) until then."""
        core = self._world._core
        parts, marks = [] if self._next is None else [self._next], []
        self._next = None
        while True:
            flow.run(core, until_ns)
            n = int(core.state["n_out"][0])
            out = core.out[:n]
            parts.append(_events(out, core.levels, _count(out)))
            said = out[out["kind"] == state.MARK]
            marks.append(np.stack([said[name] for name in ("recv_ns", "price", "x0", "x1")], axis=1))
            core.state["n_out"] = core.state["n_levels"] = 0
            if self._world.now_ns >= until_ns:
                return np.concatenate(parts), np.concatenate(marks)


@dataclass(kw_only=True)
class Speaker:
    """A network whose state continues over stretches of one market."""

    model: network.Model

    def __post_init__(self) -> None:
        self._memory = self.model.memory()

    def probs(self, stretch: Stretch) -> NDArray[np.float32]:
        """(n, P) its predictions over the next stretch."""
        said = np.zeros((len(stretch.features), N_OUTPUTS), np.float32)
        packed = self.model.packed
        rows = np.ascontiguousarray(stretch.features, np.float32)
        _speak((packed.layout, packed.weights), self._memory, rows, said)
        return said

    def sample(self, stretch: Stretch) -> Sample:
        """The signals that monitoring watches, over the next stretch."""
        segment = np.zeros(len(stretch.features), np.int64)
        return signals.watched(stretch.features, self.probs(stretch), stretch.truth(), stretch.recv_ns, segment)


@compiled
def _speak(network: Any, memory: Any, rows: Any, probs: Any) -> None:
    layout, weights = network
    for i in range(len(rows)):
        _network_step(layout, weights, memory, rows[i], probs[i])


@compiled
def _count(out: Any) -> int:
    n = 0
    for i in range(len(out)):
        kind = out[i].kind
        if kind == state.TRADE:
            n += 1
        elif kind == state.TICKER:
            n += 2
        elif kind == state.DIFF:
            n += out[i].size
    return n


@compiled
def _put(event: Any, record: Any, kind: int, side: int, price: int, size: int) -> None:
    event.exch_ns = record.t_ns // 1_000_000 * 1_000_000  # the wire has milliseconds
    event.recv_ns = record.recv_ns
    event.seq = record.id
    event.kind = kind
    event.side = side
    event.price = price
    event.size = size


@compiled
def _fill(out: Any, levels: Any, events: Any) -> None:
    n = 0
    for i in range(len(out)):
        record = out[i]
        if record.kind == state.TRADE:
            side = BID if record.side == state.BIDS else ASK
            _put(events[n], record, TRADE, side, record.price, record.size)
            n += 1
        elif record.kind == state.TICKER:
            _put(events[n], record, TICKER, BID, record.price, record.size)
            _put(events[n + 1], record, TICKER, ASK, record.x0, record.x1)
            n += 2
        elif record.kind == state.DIFF:
            first, size = record.price, record.size
            order = np.argsort(levels[first : first + size, 0])
            for side in (BID, ASK):  # bids, then asks, both ascending, as on the wire
                for k in order:
                    code = levels[first + k, 0]
                    if (code & 1 == 0) == (side == BID):
                        _put(events[n], record, DEPTH, side, code >> 1, levels[first + k, 1])
                        n += 1
        else:
            continue
        events[n - 1].flags = F_LAST


def _events(out: Any, levels: Any, n: int) -> Events:
    events = np.zeros(n, EVENT)
    _fill(out, levels, events)
    return events
