"""Raw Binance frames to events and events to a book: ours, hftbacktest's and nautilus_trader's, on one file.

``python -m bench peers [FILE]``. Each has a process in its own environment and works when it is its turn. Their results
are compared: a benchmark of different work is worthless.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bench import market
from bench.peers.environments import python_of
from bench.peers.turns import ROOT, Worker
from market.instruments import Instrument
from market.venues.formats.line_files import frames, recognise

CAPTURE = ROOT.parent / "shared" / "market" / "binance_raw" / "usdm_btcusdt_20240808.gz"
ROUNDS = 9

_OURS, _HFT, _NAUTILUS = "ours", "hftbacktest 2.4.4", "nautilus_trader 1.221.0"
_GOAL = ">= 2x the faster peer"
_FRAMES = ((_OURS, "lines"), (_OURS, "frames"), (_OURS, "normalised"), (_HFT, "frames"), (_NAUTILUS, "frames"))
_BOOKS = (
    (_OURS, "book"),
    (_HFT, "hash map, both books"),
    (_HFT, "hash map, local book"),
    (_HFT, "vector, both books"),
    (_HFT, "vector, local book"),
    (_NAUTILUS, "apply_deltas"),
    (_NAUTILUS, "apply_delta"),
)

Turn = tuple[str, str]
Rates = dict[Turn, NDArray[np.float64]]


def run(name: str | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path, instrument, about = _file(name, Path(folder))
        cut = Path(folder) / "cut.gz"
        count = _cut(path, cut)
        with ExitStack() as stack:
            workers = {who: stack.enter_context(worker) for who, worker in _workers(path, cut, instrument).items()}
            seconds, said = _rounds(workers)
    levels = said[_OURS, "book"]["levels"]
    frames_rates = {turn: count / seconds[turn] for turn in _FRAMES}
    book_rates = {turn: levels / seconds[turn] for turn in _BOOKS}
    return {
        "title": "Raw frames to events, events to a book, against hftbacktest and nautilus_trader",
        "rows": [*_frame_rows(frames_rates), *_book_rows(book_rates)],
        "notes": [f"{about}; {count:,} frames.", *_notes(said, frames_rates, levels)],
    }


def page(_found: dict[str, Any]) -> list[str]:
    return []


def _file(name: str | None, folder: Path) -> tuple[Path, Instrument, str]:
    path = Path(name) if name else CAPTURE
    if name or path.is_file():
        return path, recognise(path), f"Recording {path.name}, {path.stat().st_size / 1e6:.1f} MB gzip"
    path = folder / "simulated.gz"
    with gzip.open(path, "wb") as file:
        file.writelines(b"%d %s\n" % line for line in market.lines())
    return path, market.instrument(), "Simulated exchange, volatile (no recording was there)"


def _cut(path: Path, cut: Path) -> int:
    """Write the depth frames from the first snapshot on; returns how many frames the whole file has."""
    count, begun = 0, False
    with gzip.open(cut, "wb", compresslevel=1) as file:
        for number, recv_ns, payload in frames(path):
            count = number
            frame = orjson.loads(payload)
            begun |= "lastUpdateId" in frame
            if begun and ("lastUpdateId" in frame or frame["data"]["e"] == "depthUpdate"):
                file.write(b"%d %s\n" % (recv_ns, payload))
    assert begun, f"{path.name} has no snapshot: there is no book to compare"
    return count


def _workers(path: Path, cut: Path, instrument: Instrument) -> dict[str, Worker]:
    about = (str(path.resolve()), str(cut), instrument.key, str(instrument.tick), str(instrument.lot))
    return {
        _OURS: Worker(sys.executable, "bench.peers.ours", *about),
        _HFT: Worker(python_of("hftbacktest"), "bench.peers.hft", *about),
        _NAUTILUS: Worker(python_of("nautilus_trader"), "bench.peers.nautilus", *about),
    }


def _rounds(workers: dict[str, Worker]) -> tuple[Rates, dict[Turn, dict[str, Any]]]:
    """Seconds of each piece of work in each round, and its last result."""
    turns = (*_FRAMES, *_BOOKS)
    seconds: Rates = {turn: np.empty(ROUNDS) for turn in turns}
    said: dict[Turn, dict[str, Any]] = {}
    for who, what in turns:
        workers[who].do(what)  # the first of each compiles, maps and fills caches
    for number in range(ROUNDS):
        for who, what in turns:
            said[who, what] = workers[who].do(what)
            seconds[who, what][number] = said[who, what]["seconds"]
        print(f"  round {number + 1} of {ROUNDS}", flush=True)
    return seconds, said


def _frame_rows(rates: Rates) -> list[dict[str, Any]]:
    rows = []
    for ours, what in (
        ("frames", "gzip file to one array of events"),
        ("normalised", "the same, resynchronised and through our book"),
    ):
        rows += [
            _row(what, rates, ((_OURS, ours), (who, "frames")), "frames/s", f"{who}, no book" * (ours != "frames"))
            for who in (_HFT, _NAUTILUS)
        ]
    return rows


def _book_rows(rates: Rates) -> list[dict[str, Any]]:
    return [
        _row("events to a book", rates, ((_OURS, "book"), turn), "levels/s")
        for turn in _BOOKS
        if turn != (_OURS, "book")
    ]


def _row(what: str, rates: Rates, turns: tuple[Turn, Turn], unit: str, peer: str = "") -> dict[str, Any]:
    ours, theirs = (rates[turn] for turn in turns)
    who, how = turns[1]
    return {
        "what": what,
        "value": round(float(np.median(ours))),
        "unit": unit,
        "peer": peer or (who if how == "frames" else f"{who}, {how}"),
        "peer_value": round(float(np.median(theirs))),
        "ratio": float(np.median(ours / theirs)),
        "goal": _GOAL,
    }


def _notes(said: dict[Turn, dict[str, Any]], rates: Rates, levels: int) -> list[str]:
    lines = float(np.median(rates[_OURS, "lines"]))
    return [
        f"Medians of {ROUNDS} rounds in which each has its turn; a ratio is the median of the rounds' ratios. "
        "Processor time of a process each, alive all the time, one thread; imports, compilation and the first "
        "run of everything are not timed.",
        f"Frames to events begins at the gzip file for all; reading it alone is {lines:,.0f} frames/s of ours. Ours: "
        "decompress, msgspec, integers by a decimal reader of our own, one structured array; what is off the tick or "
        "of another symbol is refused. hftbacktest: its `convert` as it comes (opt='t'), so json and float(), then it "
        "shifts the local clock, orders by both clocks and validates. nautilus_trader: its live client's decoders, an "
        "object of its own for each trade, ticker and level; no array, nothing is passed on.",
        _counted(said),
        f"Events to a book: the depth frames from the first snapshot on, {levels:,} levels, the same for all, none "
        "left out by its update id, put into each one's own form before time is taken. hftbacktest: its backtest to "
        "the end in one call, no strategy. It keeps two books, an exchange's and a local one ('both books'); where the "
        "exchange's share of the events was taken out it keeps one, as we do ('local book'). Its vector has room for "
        "every price of the recording. nautilus_trader: OrderBook, L2_MBP, a call from Python a frame (apply_deltas) "
        "or a level (apply_delta).",
        _agreed(said),
    ]


def _counted(said: dict[Turn, dict[str, Any]]) -> str:
    """How many events each made of the frames.

    Raises:
        AssertionError: the numbers of levels differ.
    """
    counts = {who: said[who, "frames"] for who in (_OURS, _HFT, _NAUTILUS)}
    assert len({each["levels"] for each in counts.values()}) == 1, counts
    parts = [
        f"{who} {each['levels']:,} levels, {each['trades']:,} trades, {each['tickers']:,} tickers"
        for who, each in counts.items()
    ]
    return f"Made of the frames: {'; '.join(parts)} (trades that are not of the market are left out by the first two)."


def _agreed(said: dict[Turn, dict[str, Any]]) -> str:
    """A sentence on the books at the end.

    Raises:
        AssertionError: they got different events, or have other levels.
    """
    ours = np.array(said[_OURS, "book"]["top"])
    for turn in _BOOKS:
        found = said[turn]
        assert found["levels"] == said[_OURS, "book"]["levels"], (turn, found["levels"])
        assert np.allclose(ours, np.array(found["top"]), rtol=0, atol=1e-7), (turn, found["top"], ours.tolist())
    bid, ask = ours[:, 0]
    return (
        f"All books end with the same five best levels a side (bid {bid[1]:g} at {bid[0]:.1f}, ask {ask[1]:g} at "
        f"{ask[0]:.1f}); the run fails where they do not."
    )
