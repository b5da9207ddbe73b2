"""Features and book: nanoseconds per event, the compiled step in one call against the same step called from Python."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench import market
from market.books.price_book import Book, new_book
from market.events import F_LAST
from market.features import catalog, kernels


def run() -> dict[str, Any]:
    events = market.events()
    rows = int((events["flags"] & F_LAST != 0).sum())
    kernels.compute(events[:1000])
    step_ns = _best(lambda: kernels.compute(events)) / len(events)
    book_ns = _best(lambda: Book().apply_batch(events)) / len(events)
    some = events[:50_000]
    called_ns = _best(lambda: _from_python(some)) / len(some)
    return {
        "title": "Features",
        "rows": [
            {
                "what": f"book and {catalog.N_TICK} tick features",
                "value": step_ns,
                "unit": "ns an event",
                "peer": "the same step, called once an event from Python",
                "peer_value": called_ns,
                "ratio": called_ns / step_ns,
                "goal": "<= 150 ns",
            },
            {
                "what": "events through book and features, one core",
                "value": 1e9 / step_ns,
                "unit": "events/s",
                "goal": ">= 5 M",
            },
            {"what": "book alone", "value": book_ns, "unit": "ns an event"},
            {"what": "book and features", "value": step_ns * len(events) / rows, "unit": "ns a row"},
        ],
        "notes": [
            f"{len(events):,} events in {rows:,} rows of the simulated exchange, volatile; batch call, one core."
        ],
    }


def _from_python(events: np.ndarray) -> None:
    book, state, out = new_book(), kernels.new_state(), np.zeros(catalog.N_TICK, np.float32)
    for event in events:
        kernels.step(book, state, event, out)


def _best(work: Any) -> float:
    """Nanoseconds of the best of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - began)
    return float(min(times))
