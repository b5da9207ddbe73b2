"""Slow, obvious versions of the compiled parts, written from the catalog's text: the fast ones must equal them."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np

from market.books.price_book import CROSSED, EMPTY, LOCKED
from market.events import ASK, BID, CLEAR, DEPTH, F_CHECKPOINT, F_LAST, F_RESYNC, TICKER, TRADE
from market.features.catalog import FEATURES, N_TICK, WARM_NS

MS = 1_000_000
S = 1_000_000_000


class SlowBook:
    def __init__(self):
        self.clear()

    def clear(self):
        self.sides = {BID: {}, ASK: {}}
        self.ticker = {BID: (0, 0), ASK: (0, 0)}
        self.depth_seq = self.ticker_seq = 0
        self.live = False
        self.status, self.top = EMPTY, (0, 0, 0, 0)
        self.delta = self.rank = 0

    def best_first(self, side):
        return sorted(self.sides[side].items(), key=lambda level: -side * level[0])

    def apply(self, e):
        kind, side, price, size = (int(e[k]) for k in ("kind", "side", "price", "size"))
        if kind == CLEAR:
            self.clear()
            self.depth_seq = int(e["seq"]) if e["flags"] & F_CHECKPOINT else 0
        elif kind == DEPTH:
            self.delta = size - self.sides[side].get(price, 0)
            self.rank = sum(side * p > side * price for p in self.sides[side])
            self.sides[side].pop(price, None)
            if size:
                self.sides[side][price] = size
            self.depth_seq = max(self.depth_seq, int(e["seq"]))
        elif kind == TICKER and e["seq"] >= self.ticker_seq:
            self.ticker[side] = (price, size)
            self.ticker_seq = int(e["seq"])
        if e["flags"] & F_LAST:
            self._end()

    def _end(self):
        bids, asks = self.best_first(BID), self.best_first(ASK)
        self.top = (*(bids[0] if bids else (0, 0)), *(asks[0] if asks else (0, 0)))
        if not bids or not asks:
            self.status = EMPTY
            return
        self.status, self.live = self._mark(self.top), True
        if self.ticker_seq > self.depth_seq:
            if self.ticker[BID][1] and self.ticker[ASK][1]:
                self.top = (*self.ticker[BID], *self.ticker[ASK])
                self.status |= self._mark(self.top)
            else:
                self.status |= EMPTY

    @staticmethod
    def _mark(top):
        return CROSSED if top[0] > top[2] else LOCKED if top[0] == top[2] else 0


def share(a, b):
    return (a - b) / (a + b) if a + b > 0 else 0.0


class SlowFeatures:
    """Keeps every row since the windows began and recomputes each window from them."""

    def __init__(self):
        self.book = SlowBook()
        self.now, self.recv, self.segment = 0, None, 0
        self._restart()

    def _restart(self):
        self.rows = []
        self.slow = {}
        self.pending = dict.fromkeys(("flow", "trades", "bid_net", "ask_net", "bid_removed", "ask_removed"), 0)
        self.traded = None

    def step(self, e):
        """None, or (features float32, mid2, near bid depth, near ask depth, warm, segment)."""
        if e["flags"] & F_CHECKPOINT and self.book.live:
            return None
        if self.recv is not None:
            self.now += min(max(int(e["recv_ns"]) - self.recv, 0), 3600 * S)
        self.recv = int(e["recv_ns"])
        if e["kind"] == CLEAR or e["flags"] & F_RESYNC:
            self._restart()
        self.book.apply(e)
        self._collect(e)
        if not e["flags"] & F_LAST or self.book.status:
            return None
        return self._row()

    def _collect(self, e):
        if e["kind"] == TRADE:
            self.pending["flow"] += int(e["side"]) * int(e["size"])
            self.pending["trades"] += 1
            self.traded = self.now
        elif e["kind"] == DEPTH and self.book.live and self.book.rank < 5:
            name = "bid" if e["side"] == BID else "ask"
            self.pending[name + "_net"] += self.book.delta
            self.pending[name + "_removed"] += max(-self.book.delta, 0)

    def _row(self):
        now = self.book.top
        if not self.rows:
            self.since = self.moved = self.traded = self.row_at = self.now
            self.previous, self.queue = now, [now[1], now[3]]
            self.segment += 1
        before = self.previous
        move = now[0] + now[2] - before[0] - before[2]
        self.moved = self.now if move else self.moved
        e = (now[0] >= before[0]) * now[1] - (now[0] <= before[0]) * before[1]
        e += (now[2] >= before[2]) * before[3] - (now[2] <= before[2]) * now[3]
        self.rows.append({"t": self.now, "ofi": e, "move": move, "sq": move * move, **self.pending})
        self.pending = dict.fromkeys(self.pending, 0)
        for i in (0, 1):
            same = now[2 * i] == before[2 * i]
            self.queue[i] = max(self.queue[i], now[2 * i + 1]) if same else now[2 * i + 1]
        values = self._features(now)
        self.previous = now
        near = [sum(q for _, q in self.book.best_first(side)[:5]) for side in (BID, ASK)]
        return values, now[0] + now[2], *near, self.now - self.since >= WARM_NS, self.segment

    def _sum(self, what, window):
        return sum(r[what] for r in self.rows if r["t"] > self.now - window)

    def _count(self, window):
        return sum(r["t"] > self.now - window for r in self.rows)

    def _slow_values(self, near, top_size):
        dt, age = self.now - self.row_at, self.row_at - self.since
        seen = {"top": (top_size, 30 * S), "bid": (near[BID], 30 * S), "ask": (near[ASK], 30 * S)}
        seen |= {"rows": (self._count(100 * MS), 60 * S), "trades": (self._sum("trades", S), 60 * S)}
        for name, (value, tau) in seen.items():
            if age + dt == 0:
                self.slow[name] = float(value)
            elif dt:
                self.slow[name] += (value - self.slow[name]) * (dt / (min(tau, age) + dt))
        self.slow["variance"] = self.slow.get("variance", 0.0) * (10e9 / (10e9 + dt)) + self.rows[-1]["sq"]
        self.row_at = self.now

    def _features(self, now):
        bids, asks = self.book.best_first(BID), self.book.best_first(ASK)
        near = {BID: sum(q for _, q in bids[:5]), ASK: sum(q for _, q in asks[:5])}
        ten = [sum(q for _, q in side[:10]) for side in (bids, asks)]
        far = [
            sum(float(q) * abs(p - side[0][0]) for p, q in side[:10]) / t
            for side, t in zip((bids, asks), ten, strict=True)
        ]
        self._slow_values(near, 0.5 * (now[1] + now[3]))
        spread, imbalance = now[2] - now[0], share(now[1], now[3])
        top, bp = self.slow["top"], 1e4 / (now[0] + now[2])
        moved, traded = self.now - self.moved, self.now - self.traded
        values = {
            "spread": spread,
            "micro_offset": spread * imbalance,
            "imbalance_1": imbalance,
            "imbalance_5": share(near[BID], near[ASK]),
            "imbalance_10": share(*ten),
            "slope_asymmetry": share(far[1], far[0]),
            "bid_depth_rel": share(near[BID], self.slow["bid"]),
            "ask_depth_rel": share(near[ASK], self.slow["ask"]),
            "bid_queue_left": now[1] / self.queue[0],
            "ask_queue_left": now[3] / self.queue[1],
            "ofi_50ms": self._sum("ofi", 50 * MS) / top,
            "ofi_100ms": self._sum("ofi", 100 * MS) / top,
            "ofi_500ms": self._sum("ofi", 500 * MS) / top,
            "ofi_1s": self._sum("ofi", S) / top,
            "trade_flow_100ms": self._sum("flow", 100 * MS) / top,
            "trade_flow_500ms": self._sum("flow", 500 * MS) / top,
            "trade_flow_1s": self._sum("flow", S) / top,
            "bid_net_500ms": self._sum("bid_net", 500 * MS) / self.slow["bid"],
            "ask_net_500ms": self._sum("ask_net", 500 * MS) / self.slow["ask"],
            "bid_removed_1s": self._sum("bid_removed", S) / self.slow["bid"],
            "ask_removed_1s": self._sum("ask_removed", S) / self.slow["ask"],
            "ret_100ms": self._sum("move", 100 * MS) * bp,
            "ret_500ms": self._sum("move", 500 * MS) * bp,
            "ret_1s": self._sum("move", S) * bp,
            "vol_1s": sqrt(self._sum("sq", S)) * bp,
            "vol_10s": sqrt(self.slow["variance"]) * bp,
            "mid_age": moved / (moved + S),
            "trade_age": traded / (traded + S),
            "event_rate_rel": share(self._count(100 * MS), self.slow["rows"]),
            "trade_rate_rel": share(self._sum("trades", S), self.slow["trades"]),
        }
        clips = [(f.name, f.clip) for f in FEATURES[:N_TICK]]
        return np.array([min(max(values[name], -clip), clip) for name, clip in clips], dtype=np.float32)


def slow_labels(columns, horizon, config):
    """Rows (direction, bid fall, ask fall), from a scan of every later row."""
    recv_ns, mid2, bid, ask, segment = columns
    time = [0]
    for a, b in pairwise(recv_ns):
        time.append(time[-1] + max(int(b) - int(a), 0))
    out = []
    for i in range(len(recv_ns)):
        end = i
        while end + 1 < len(recv_ns) and segment[end + 1] == segment[i]:
            end += 1
        if time[end] < time[i] + horizon:
            out.append((-1, -1, -1))
            continue
        j = max(k for k in range(i, end + 1) if time[k] <= time[i] + horizon)
        move = int(mid2[j]) - int(mid2[i])
        direction = 2 if move > config.threshold_half_ticks else 0 if move < -config.threshold_half_ticks else 1
        keep = 1 - config.depth_fall_percent / 100
        out.append((direction, int(bid[j] <= keep * bid[i] + 1e-9), int(ask[j] <= keep * ask[i] + 1e-9)))
    return out
