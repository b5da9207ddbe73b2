"""A lake filled by hand: a lively small market, minute by minute, with checkpoints as the ingest stage writes them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from market.books.price_book import Book
from market.clock import BATCH_NS
from market.events import ASK, BID, CLEAR, DEPTH, EVENT, F_LAST, F_SNAPSHOT, TICKER, TRADE, Events
from market.instruments import Instrument, find
from market.lake.lake import Lake
from market.lake.rows import rows_of, ticks_of
from market.lake.schemas import SCHEMAS
from pipelines.workspace import Workspace

INSTRUMENT = find("sim-usdm.BTCUSDT")
START_NS = 1_700_000_000_000_000_000 // BATCH_NS * BATCH_NS
MID = 600_000


@dataclass(frozen=True, kw_only=True)
class Market:
    """``frames`` a second for ``seconds`` from ``start_ns``; a mark price record every ``slow_every`` seconds."""

    source: str = "file-0123456789abcdef"
    seconds: float = 150.0
    frames: int = 20
    seed: int = 0
    start_ns: int = START_NS
    slow_every: float = 1.0
    instrument: Instrument = field(default=INSTRUMENT)


def events_of_market(market: Market) -> Events:
    """Events without checkpoints, one frame after the other, frames numbered from 1."""
    rng = np.random.default_rng(market.seed)
    book = Book()
    n = int(market.seconds * market.frames)
    times = market.start_ns + np.sort(rng.integers(0, int(market.seconds * 1e9), n))
    parts = [_snapshot(rng)]
    book.apply_batch(parts[0])
    for i in range(1, n):
        part = _frame(rng, book, seq=100 + i)
        book.apply_batch(part)
        parts.append(part)
    for i, part in enumerate(parts):
        part["frame"], part["recv_ns"], part["exch_ns"] = i + 1, times[i], times[i] - 3_000_000
    return np.concatenate(parts)


def with_checkpoints(events: Events) -> list[Events]:
    """Minutes of events, each but the first opened by a checkpoint of the book as it was."""
    book = Book()
    minutes = []
    for batch in np.unique(events["recv_ns"] // BATCH_NS):
        part = events[events["recv_ns"] // BATCH_NS == batch]
        opened = [book.snapshot_events(part[0])] if book.status == 0 else []
        minutes.append(np.concatenate([*opened, part]))
        book.apply_batch(part)
    return minutes


def land(lake: Lake, market: Market, *, verdicts: dict[int, str] | None = None) -> list[Events]:
    """Ticks, slow records and verdicts of a market; ``verdicts`` by the minute's place, ``pass`` by default.

    A refused minute is moved to quarantine as validation does; ``""`` leaves a minute unjudged.
    """
    minutes = with_checkpoints(events_of_market(market))
    for i, minute in enumerate(minutes):
        ticks = ticks_of(minute, source=market.source, instrument=market.instrument)
        verdict = (verdicts or {}).get(i, "pass")
        if verdict in ("pass", ""):
            lake.append("ticks", ticks, source=market.source, position=i)
        else:
            lake.append("quarantine", _quarantined(market, minute, ticks))
        if verdict:
            lake.append("batches", judged(market, minute, verdict))
    if market.slow_every:
        lake.append("slow", slow_of(market))
    return minutes


def slow_of(market: Market) -> pa.Table:
    """Mark price records that arrive 40 to 90 ms after the time they are of."""
    rng = np.random.default_rng([market.seed, 1])
    exch = market.start_ns + (np.arange(0, market.seconds, market.slow_every) * 1e9).astype(np.int64)
    index = 60_000 * 10**8 + rng.integers(-(10**9), 10**9, len(exch))
    columns = {
        "source": market.source,
        "recv_ns": exch + rng.integers(40_000_000, 90_000_000, len(exch)),
        "exch_ns": exch,
        "funding_rate": 1e-4 + 1e-6 * rng.integers(-5, 6, len(exch)),
        "mark_e8": index + rng.integers(-(10**10), 10**10, len(exch)),
        "index_e8": index,
        "next_funding_ns": market.start_ns + 8 * 3_600_000_000_000,
    }
    return rows_of("slow", market.instrument, columns)


def workspace_with(home: Path, *markets: Market, verdicts: dict[int, str] | None = None) -> Workspace:
    """A workspace whose lake holds ``markets``."""
    workspace = Workspace(home=home)
    lake = Lake(workspace.lake)
    for market in markets or (Market(),):
        land(lake, market, verdicts=verdicts)
    return workspace


def later(market: Market, seconds: float, **changes: object) -> Market:
    """The same market starting later."""
    return replace(market, start_ns=market.start_ns + int(seconds * 1e9), **changes)  # type: ignore[arg-type]


def _record(kind: int, side: int = 0, price: int = 0, size: int = 0, *, flags: int = 0, seq: int = 100) -> np.void:
    out = np.zeros((), dtype=EVENT)
    out["kind"], out["side"], out["price"], out["size"] = kind, side, price, size
    out["flags"], out["seq"] = flags, seq
    return out


def _closed(rows: list[np.void]) -> Events:
    events = np.array(rows, dtype=EVENT)
    events["flags"][-1] |= F_LAST
    return events


def _snapshot(rng: np.random.Generator) -> Events:
    rows = [_record(CLEAR, flags=F_SNAPSHOT)]
    for i in range(30):
        for side in (BID, ASK):
            price = MID - side * (1 + i)
            rows.append(_record(DEPTH, side, price, int(rng.integers(5, 60)), flags=F_SNAPSHOT))
    return _closed(rows)


def _frame(rng: np.random.Generator, book: Book, seq: int) -> Events:
    bid, ask = int(book.bids(1)[0, 0]), int(book.asks(1)[0, 0])
    kind = int(rng.integers(0, 3))
    side = BID if rng.integers(0, 2) else ASK
    if kind == 0:
        return _closed([_record(TRADE, side, ask if side == BID else bid, int(rng.integers(1, 20)), seq=seq)])
    if kind == 1:
        top = (book.bids(1)[0], book.asks(1)[0])
        return _closed(
            [_record(TICKER, s, int(t[0]), int(t[1]), seq=seq) for s, t in zip((BID, ASK), top, strict=True)]
        )
    rows = []
    for _ in range(int(rng.integers(1, 4))):
        best = bid if side == BID else ask
        price = best - side * int(rng.integers(-1 if ask - bid > 1 else 0, 9))
        removed = rng.random() < 0.3 and min(book.counts()) > 15
        rows.append(_record(DEPTH, side, price, 0 if removed else int(rng.integers(1, 60)), seq=seq))
    return _closed(rows)


def judged(market: Market, minute: Events, verdict: str) -> pa.Table:
    """The verdict about a minute, as validation writes it."""
    columns: dict[str, object] = dict.fromkeys(SCHEMAS["batches"].names, 0)
    columns |= {"source": market.source, "verdict": verdict, "reasons": "" if verdict == "pass" else "made up"}
    columns |= {"batch": int(minute["recv_ns"][0] // BATCH_NS), "first_ns": minute["recv_ns"][:1]}
    for name in ("venue", "instrument", "date"):
        del columns[name]
    return rows_of("batches", market.instrument, columns)


def _quarantined(market: Market, minute: Events, ticks: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ticks.schema) as writer:
        writer.write_table(ticks)
    columns = {
        "source": market.source,
        "batch": int(minute["recv_ns"][0] // BATCH_NS),
        "frame": -1,
        "recv_ns": minute["recv_ns"][:1],
        "stage": "validate",
        "reason": "made_up",
        "detail": "",
        "payload": [sink.getvalue().to_pybytes()],
    }
    return rows_of("quarantine", market.instrument, columns)
