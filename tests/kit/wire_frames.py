"""A toy exchange that writes Binance frames, and the book that a reader of them must end up with."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from market.instruments import Instrument, find

START_NS = 1_723_161_240_000_000_000  # a whole minute
MS = 1_000_000
SPOT = find("binance-spot.BTCUSDT")
USDM = find("binance-usdm.BTCUSDT")
COINM = find("binance-coinm.BTCUSD_PERP")

Line = tuple[int, dict]  # receive ns, frame


def depth(first: int, last: int, *, previous: int = 0, bids=(), asks=(), at_ms=1_723_161_240_000, on=USDM) -> dict:
    """A diff in the form of the instrument's market."""
    data = {"e": "depthUpdate", "E": at_ms, "T": at_ms, "s": on.symbol, "U": first, "u": last, "pu": previous}
    if on is SPOT:
        del data["T"], data["pu"]
    data |= {"b": [list(level) for level in bids], "a": [list(level) for level in asks]}
    return {"stream": f"{on.symbol.lower()}@depth@100ms", "data": data}


def ticker(update: int, bid: tuple[str, str], ask: tuple[str, str], *, at_ms=1_723_161_240_000, on=USDM) -> dict:
    data = {"e": "bookTicker", "u": update, "s": on.symbol, "b": bid[0], "B": bid[1], "a": ask[0], "A": ask[1]}
    data |= {"T": at_ms, "E": at_ms}
    if on is SPOT:
        del data["e"], data["T"], data["E"]
    return {"stream": f"{on.symbol.lower()}@bookTicker", "data": data}


def trade(number: int, price: str, size: str, *, maker_bought=False, at_ms=1_723_161_240_000, on=USDM, **more) -> dict:
    data = {"e": "trade", "E": at_ms, "T": at_ms, "s": on.symbol, "t": number, "p": price, "q": size, "m": maker_bought}
    return {"stream": f"{on.symbol.lower()}@trade", "data": data | more}


def snapshot(update: int, bids=(), asks=()) -> dict:
    return {"lastUpdateId": update, "bids": [list(level) for level in bids], "asks": [list(level) for level in asks]}


def mark_price(mark: str, index: str, rate: str, *, at_ms=1_723_161_240_000, on=USDM) -> dict:
    data = {"e": "markPriceUpdate", "E": at_ms, "s": on.symbol, "p": mark, "i": index, "r": rate, "T": at_ms + 1000}
    return {"stream": f"{on.symbol.lower()}@markPrice@1s", "data": data}


def bytes_of(frame: dict) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode()


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """A recording: gzip when its name says so, each line ended."""
    data = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def stamped(lines: Iterable[Line]) -> Iterator[bytes]:
    for recv_ns, frame in lines:
        yield b"%d %s" % (recv_ns, bytes_of(frame))


@dataclass
class ToyExchange:
    """Random but consistent: levels move around 60,000 and never cross; ``levels`` is the true book in tick text."""

    instrument: Instrument = USDM
    seed: int = 0
    update: int = 1000
    levels: dict[str, dict[int, int]] = field(default_factory=lambda: {"b": {}, "a": {}})

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.mid = 600_000
        self.previous = self.update
        self.trades = 0
        for i in range(1, 40):
            self.levels["b"][self.mid - i] = self.random.randint(1, 500)
            self.levels["a"][self.mid + i] = self.random.randint(1, 500)

    def price(self, ticks: int) -> str:
        return format(self.instrument.price_of(ticks), "f")

    def size(self, lots: int) -> str:
        return format(self.instrument.size_of(lots), "f")

    def best(self) -> tuple[int, int]:
        return max(self.levels["b"]), min(self.levels["a"])

    def changes(self, at_ms: int) -> dict[str, dict[int, int]]:
        """What happens to the levels: side, price, and the lots that stay there."""
        changed: dict[str, dict[int, int]] = {"b": {}, "a": {}}
        for _ in range(self.random.randint(1, 6)):
            side = self.random.choice("ba")
            bid, ask = self.best()
            price = self.random.randint(bid - 30, ask - 1) if side == "b" else self.random.randint(bid + 1, ask + 30)
            lots = self.random.choice((0, self.random.randint(1, 500)))
            if lots == 0 and len(self.levels[side]) > 10:
                self.levels[side].pop(price, None)
                changed[side][price] = 0
            elif lots:
                self.levels[side][price] = changed[side][price] = lots
            self.update += 1
        return changed

    def diff(self, at_ms: int) -> dict:
        """Change some levels: sizes, removals, new ones within the spread or away."""
        first, changed = self.update + 1, self.changes(at_ms)
        self.update = max(self.update, first)
        frame = depth(
            first,
            self.update,
            previous=self.previous,
            bids=[(self.price(p), self.size(q)) for p, q in changed["b"].items()],
            asks=[(self.price(p), self.size(q)) for p, q in changed["a"].items()],
            at_ms=at_ms,
            on=self.instrument,
        )
        self.previous = self.update
        return frame

    def snapshot(self) -> dict:
        bids, asks = sorted(self.levels["b"].items(), reverse=True), sorted(self.levels["a"].items())
        return snapshot(
            self.update,
            [(self.price(p), self.size(q)) for p, q in bids],
            [(self.price(p), self.size(q)) for p, q in asks],
        )

    def frame(self, at_ms: int) -> dict:
        """The next frame of the stream."""
        kind = self.random.random()
        bid, ask = self.best()
        if kind < 0.5:
            return self.diff(at_ms)
        if kind < 0.75:
            top = [(self.price(p), self.size(self.levels[s][p])) for s, p in (("b", bid), ("a", ask))]
            return ticker(self.update, top[0], top[1], at_ms=at_ms, on=self.instrument)
        if kind < 0.97 or self.instrument is SPOT:
            self.trades += 1
            sold = self.random.random() < 0.5
            lots = self.size(self.random.randint(1, 50))
            price = self.price(bid if sold else ask)
            return trade(self.trades, price, lots, maker_bought=sold, at_ms=at_ms, on=self.instrument)
        return mark_price("60001.10000000", "60000.50000000", "0.00010000", at_ms=at_ms, on=self.instrument)

    def session(
        self, *, seconds: float, rate: int = 20, snapshot_after: int = 5, start_ns: int = START_NS
    ) -> list[Line]:
        """``rate`` frames a second; the snapshot comes after ``snapshot_after`` frames, taken two frames before."""
        lines: list[Line] = []
        taken: dict | None = None
        for i in range(int(seconds * rate)):
            recv_ns = start_ns + i * (1_000_000_000 // rate)
            lines.append((recv_ns, self.frame(recv_ns // MS + 3)))
            if i == max(0, snapshot_after - 2):
                taken = self.snapshot()
            if i == snapshot_after and taken is not None:
                lines.append((recv_ns + 1000, taken))
        return lines


class BreathingExchange(ToyExchange):
    """Its touch fills on one side while it empties on the other, in turns of a second: depth can be foretold here."""

    def changes(self, at_ms: int) -> dict[str, dict[int, int]]:
        changed = super().changes(at_ms)
        tide = math.sin(at_ms * math.pi / 1000)
        for side, sign in (("b", 1), ("a", -1)):
            for price in sorted(self.levels[side], reverse=side == "b")[:5]:
                lots = round(300 + sign * 200 * tide) + self.random.randint(0, 20)
                self.levels[side][price] = changed[side][price] = lots
        return changed
