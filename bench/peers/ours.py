"""Ours: ``python -m bench.peers.ours FILE CUT KEY``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.turns import Stopwatch, Work, serve
from market.books.price_book import Book
from market.events import DEPTH, EVENT, TICKER, TRADE, Events
from market.feeds.normalise import Normaliser
from market.instruments import Instrument, find
from market.venues.binance import Parser
from market.venues.formats.line_files import frames


def works(path: Path, cut: Path, instrument: Instrument) -> dict[str, Work]:
    events = _parsed(cut, instrument)
    return {
        "frames": lambda stopwatch: _frames(stopwatch, path, instrument),
        "normalised": lambda stopwatch: _normalised(stopwatch, path, instrument),
        "book": lambda stopwatch: _book(stopwatch, events, instrument),
        "lines": lambda stopwatch: _lines(stopwatch, path),
    }


def _parsed(path: Path, instrument: Instrument) -> Events:
    parse = Parser(instrument).parse
    return _joined([parse(payload, recv_ns, number).events for number, recv_ns, payload in frames(path)])


def _joined(parts: list[Events]) -> Events:
    """One array. ``np.concatenate`` promotes the dtype of each part and takes longer than the parser."""
    return np.frombuffer(bytearray().join(parts), EVENT)


def _frames(stopwatch: Stopwatch, path: Path, instrument: Instrument) -> dict[str, Any]:
    with stopwatch:
        events = _parsed(path, instrument)
    return _counts(events)


def _normalised(stopwatch: Stopwatch, path: Path, instrument: Instrument) -> dict[str, Any]:
    with stopwatch:
        feed = Normaliser(instrument, "bench").feed
        events = _joined([feed(number, recv_ns, payload) for number, recv_ns, payload in frames(path)])
    return _counts(events)


def _counts(events: Events) -> dict[str, Any]:
    kinds = {"levels": (DEPTH, 1), "trades": (TRADE, 1), "tickers": (TICKER, 2)}
    return {name: int((events["kind"] == kind).sum()) // each for name, (kind, each) in kinds.items()}


def _book(stopwatch: Stopwatch, events: Events, instrument: Instrument) -> dict[str, Any]:
    book = Book()
    with stopwatch:
        book.apply_batch(events)
    tick, lot = float(instrument.tick), float(instrument.lot)
    sides = [[[float(price) * tick, float(size) * lot] for price, size in side(5)] for side in (book.bids, book.asks)]
    return {"levels": int((events["kind"] == DEPTH).sum()), "top": sides}


def _lines(stopwatch: Stopwatch, path: Path) -> dict[str, Any]:
    with stopwatch:
        count = sum(1 for _ in frames(path))
    return {"frames": count}


if __name__ == "__main__":
    serve(lambda: works(Path(sys.argv[1]), Path(sys.argv[2]), find(sys.argv[3])))
