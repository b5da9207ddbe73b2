"""Real captures, beside the checkout where somebody keeps them, and what a parser makes of one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.books.order_book import REASONS, OrderBook
from market.errors import FrameError
from market.events import EVENT, F_LAST, Events
from market.instruments import Instrument

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "market"


def capture(name: str) -> Path:
    """The capture ``folder/file``; skips the test where it is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no capture {name} in ../shared/market beside the checkout")
    return path


def manifest_rows(name: str) -> Any:
    entries = json.loads((FOLDER / "MANIFEST.json").read_text())
    return next(entry["rows"] for entry in entries if entry["file"] == name)


@dataclass
class Read:
    """A whole recording: ``times`` are the receive times of its rows."""

    rows: int = 0
    parts: list[Events] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    times: list[int] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)

    @property
    def events(self) -> Events:
        return np.concatenate([np.zeros(0, EVENT), *self.parts])

    @property
    def clock_back(self) -> int:
        return int((np.diff(self.times) < 0).sum())


def read(module: Any, path: Path, instrument: Instrument, *, most: int | None = None) -> Read:
    """Every row of a recording, or its first ``most``, through the parser of its venue."""
    done = Read()
    parser = module.Parser(instrument)
    for frame, recv_ns, payload in islice(module.frames(path), most):
        done.rows += 1
        assert frame == done.rows
        done.times.append(recv_ns)
        try:
            parsed = parser.parse(payload, recv_ns, frame)
        except FrameError as error:
            done.rejected[error.reason] += 1
            continue
        done.kinds[parsed.kind] += 1
        done.parts.append(parsed.events)
    return done


def refused(events: Events) -> tuple[OrderBook, Counter[str]]:
    """A book of orders after the events, and how many of them it refused, by reason."""
    book = OrderBook()
    _, codes = book.sift(events)
    return book, Counter(REASONS[int(code)] for code in codes[codes != 0])


def statuses(book: Any, events: Events) -> Counter[int]:
    """How many batches ended in which status of ``book``, which takes them on the way."""
    seen: Counter[int] = Counter()
    ends = np.flatnonzero(events["flags"] & F_LAST) + 1
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        book.apply_batch(events[begin:end])
        seen[book.status] += 1
    return seen
