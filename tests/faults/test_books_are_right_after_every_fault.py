"""Whatever the simulated exchange does wrong: after every frame the client's book is the exchange's own at that update,
or there is none; and it comes back.

Exchange and client stand in one process here, so that the exchange's book can be looked at behind every diff. The same
faults over a real socket are in tests/e2e/test_the_simulated_exchange_on_the_wire.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from kit.simulated_market import INSTRUMENT, STREAMS, Line, Reader, Sides, sides_of_world

from market.feeds.notices import notice
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.exchange import Exchange, Subscription
from market.simulator.faults import DEFAULT_SECONDS

STEPS_A_SECOND = 100
ON_THE_WAY = 3  # steps that the answer to a question takes
AWAY = 7  # steps that a connection is away


@dataclass
class Client:
    """A feed as ingest keeps it: it asks for a snapshot while it has no book, and connects again when it is cut."""

    seed: int
    reader: Reader = field(default_factory=Reader)
    truth: dict[int, Sides] = field(default_factory=dict)  # the exchange's book by update
    compared: int = 0
    cuts: int = 0
    lost_frames: int = 0

    def __post_init__(self) -> None:
        self.exchange = Exchange(ExchangeConfig(seed=self.seed, regime="volatile"))
        self.wanted = Subscription.of({"streams": [STREAMS], "stamp": ["1"]}, INSTRUMENT.symbol)
        self.desk = Desk(self.exchange._world, INSTRUMENT, 2_000_000)
        self.asked: tuple[int, bytes] | None = None
        self.away = 0

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * STEPS_A_SECOND)):
            self.step()

    def step(self) -> None:
        exchange, lines = self.exchange, []
        step_ns, diff_ns = exchange.next_step_ns, int(exchange._world._state["diff_ns"][0])
        for until_ns in sorted({step_ns, min(step_ns, diff_ns)}):  # a stop right behind the diff: to look at the book
            lines += exchange.lines_until(until_ns, self.desk, self.wanted)[0]
            self.truth[exchange._world.update_id] = sides_of_world(exchange._world)
        if self.away:
            self.lost_frames += len(lines)
            self.away -= 1
            if not self.away:
                self.feed(exchange.line(notice("connection_lost", "the connection broke")))
            return
        for line in lines:
            self.feed(line)
        if exchange.take_disconnect():
            exchange._faults.connection_ended()
            self.away, self.asked, self.cuts = AWAY, None, self.cuts + 1
        elif self.asked is not None and self.asked[0] <= exchange.now_ns:
            body, self.asked = self.asked[1], None
            self.feed(exchange.line(body))
        elif self.asked is None and not self.reader.synced and lines:
            at_ns, body = exchange.take_snapshot()
            self.asked = (at_ns + ON_THE_WAY * 10_000_000, body)

    def feed(self, line: Line) -> None:
        """A frame, and the proof."""
        self.reader.feed(line)
        if not self.reader.synced:
            assert self.reader.sides() == ({}, {}), "a book that misses something is shown to nobody"
            return
        assert self.reader.sides() == self.truth[self.update]
        self.compared += 1

    @property
    def update(self) -> int:
        """The last update in the client's book; tickers and trades have numbers of their own."""
        return self.reader.normaliser._sequence.applied

    def inject(self, kind: str) -> None:
        self.exchange._faults.inject(kind, DEFAULT_SECONDS[kind], self.exchange.now_ns)


LOSES_DIFFS = {"drop_diff", "gap", "reorder_diffs", "silence", "slow_consumer", "disconnect"}


@pytest.mark.parametrize("kind", list(DEFAULT_SECONDS))
@pytest.mark.parametrize("seed", [5, 6])
def test_the_book_is_right_behind_every_frame_after(kind: str, seed: int) -> None:
    client = Client(seed)
    if kind == "late_snapshot":
        client.inject(kind)  # of the first snapshot
    client.run(4 + DEFAULT_SECONDS["late_snapshot"])
    assert client.reader.synced
    for _ in range(3):
        client.inject(kind)
        client.run(DEFAULT_SECONDS[kind] + 2.5)
    stats, before = client.reader.stats, client.compared
    client.run(2)
    assert client.reader.synced
    assert client.compared > before + 50
    assert client.reader.sides() == client.truth[client.update]
    assert (stats.gaps, stats.resyncs) == ((3, 3) if kind in LOSES_DIFFS else (0, 0))
    assert client.cuts == (3 if kind in ("disconnect", "slow_consumer") else 0)
    assert stats.rejected == {
        "malformed": {"not_json": 3},
        "disconnect": {"connection_lost": 3},
        "slow_consumer": {"connection_lost": 3},
    }.get(kind, {})
    assert stats.duplicates == {"duplicate_diff": 3, "reorder_diffs": stats.duplicates}.get(kind, 0)
    assert stats.clock_back == {"clock_back": 3}.get(kind, stats.clock_back if client.cuts else 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_book_is_right_behind_every_frame_when_all_goes_wrong_at_once(seed: int) -> None:
    client = Client(10 + seed)
    kinds = sorted(set(DEFAULT_SECONDS) - {"trade_price"})
    for n in range(2 * len(kinds)):
        client.inject(kinds[n % len(kinds)])
        client.inject(kinds[(5 * n + seed) % len(kinds)])
        client.run(0.7)
    client.run(12)
    assert client.reader.synced
    assert client.reader.stats.resyncs > 3
    assert client.compared > 500
