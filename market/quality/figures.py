"""The figures of a batch: one small function each, over its columns, returning a number.

A figure is never below zero, and 0 where there is nothing to check: an empty batch, a feed without a book, a feed
without an exchange clock. Distances are in basis points of the mid, times in the unit of the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from market.books.price_book import CROSSED, LOCKED
from market.clock import NS_PER_MS, NS_PER_S
from market.events import (
    CLEAR,
    DEPTH,
    F_CHECKPOINT,
    F_CLOCK_BACK,
    F_LAST,
    F_NO_EXCH_TIME,
    F_NO_SIZE,
    F_RESYNC,
    F_SNAPSHOT,
    TICKER,
    TRADE,
)
from market.quality.columns import Bools, Columns, Ints

Figure = Callable[[Columns], float]

_BP: Final = 10_000.0
_KNOWN_FLAGS: Final = F_SNAPSHOT | F_LAST | F_CHECKPOINT | F_CLOCK_BACK | F_NO_EXCH_TIME | F_RESYNC | F_NO_SIZE
_NUMBERED: Final = 0.9  # from this share of steps of one (forward) on, ids are taken to be gapless (in order)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one batch by name, and its first and last receive time (ns); ``refused`` by :class:`Columns`."""

    first_ns: int
    last_ns: int
    values: Mapping[str, float]
    refused: str = ""


def measure(columns: Columns) -> Measured:
    """Every figure of a batch that holds at least one event."""
    times = columns.events["recv_ns"] if len(columns.events) else np.zeros(1, dtype=np.int64)
    return Measured(
        first_ns=int(times.min()),
        last_ns=int(times.max()),
        values={name: float(figure(columns)) for name, figure in FIGURES.items()},
        refused=columns.refused,
    )


# -- how much there is --------------------------------------------------------------------------------------------


def frames(c: Columns) -> float:
    """Wire frames that produced an event."""
    return len(np.unique(c.events["frame"]))


def events(c: Columns) -> float:
    """All events, including those of checkpoints."""
    return len(c.events)


def trades(c: Columns) -> float:
    """Trades."""
    return _count(c.trade)


def updates(c: Columns) -> float:
    """Level changes."""
    return _count(c.depth)


def volume(c: Columns) -> float:
    """Lots traded."""
    return float(c.events["size"][c.trade].sum(dtype=np.float64))


def span_s(c: Columns) -> float:
    """From the first to the last receive time."""
    return np.ptp(c.events["recv_ns"]) / NS_PER_S if len(c.events) else 0.0


def largest_gap_ns(c: Columns) -> float:
    """Longest time without an event."""
    return _largest(np.diff(c.events["recv_ns"]))


def silence_s(c: Columns) -> float:
    """The same in seconds."""
    return largest_gap_ns(c) / NS_PER_S


# -- form and order -----------------------------------------------------------------------------------------------


def refused(c: Columns) -> float:
    """1 where the book rejects an event: unknown kind or side, impossible size or price, no room."""
    return float(bool(c.refused))


def schema(c: Columns) -> float:
    """Events whose record itself is wrong: unknown flags, no exchange time although the flags say there is one, or a
    row out of place. Kinds, sides, prices and sizes are for the book to reject.
    """
    flags = c.events["flags"]
    unknown = flags & ~np.uint16(_KNOWN_FLAGS) != 0
    timeless = c.own & (flags & F_NO_EXCH_TIME == 0) & (c.events["exch_ns"] <= 0)
    misplaced = 0 if c.rows is None else int((c.rows != np.arange(len(c.rows))).sum())
    return int((unknown | timeless).sum()) + misplaced


def seq_back(c: Columns) -> float:
    """Backward steps of the venue's ids, within levels, ticker and trades separately, and not across a CLEAR.

    Ids where more than one step in ten goes backwards are not a sequence (order ids, for instance): they count as 0.
    """
    total = 0
    for kind in (DEPTH, TICKER, TRADE):
        steps = _steps(c, c.own & (c.events["kind"] == kind))
        moved = steps[steps != 0]
        back = _count(moved < 0)
        total += back if back <= (1 - _NUMBERED) * len(moved) else 0
    return total


def gaps(c: Columns) -> float:
    """Resynchronisations after missing updates."""
    wanted = F_RESYNC | F_LAST
    return _count(c.events["flags"] & wanted == wanted)


def repeated_trades(c: Columns) -> float:
    """Trades with the id of the trade before them, where the feed numbers its trades without gaps."""
    steps = _steps(c, c.trade & (c.events["seq"] > 0))
    return _count(steps == 0) if _numbered(steps) else 0.0


def missing_trades(c: Columns) -> float:
    """Missing ids, where the feed numbers its trades without gaps."""
    steps = _steps(c, c.trade & (c.events["seq"] > 0))
    return float((steps[steps > 0] - 1).sum()) if _numbered(steps) else 0.0


# -- times --------------------------------------------------------------------------------------------------------


def clock_back(c: Columns) -> float:
    """Events received earlier than their predecessor."""
    return _count(c.events["flags"] & F_CLOCK_BACK != 0)


def clock_back_rate(c: Columns) -> float:
    """Their share."""
    return clock_back(c) / max(1, len(c.events))


def exch_back_rate(c: Columns) -> float:
    """Share of frames that the exchange stamped earlier than the frame before, within levels, ticker and trades."""
    back, total = 0, 0
    for kind in (DEPTH, TICKER, TRADE):
        times = c.events["exch_ns"][c.own & (c.events["kind"] == kind) & (c.events["exch_ns"] > 0)]
        back, total = back + int((np.diff(times) < 0).sum()), total + len(times)
    return back / max(1, total)


def repeated_time_rate(c: Columns) -> float:
    """Share of frames with both times of the frame before."""
    first = np.flatnonzero(np.diff(c.events["frame"], prepend=-1) != 0)
    times = c.events[first]
    same = (np.diff(times["recv_ns"]) == 0) & (np.diff(times["exch_ns"]) == 0)
    return int(same.sum()) / max(1, len(first))


def median_offset_ms(c: Columns) -> float:
    """Receive minus exchange time; the only figure that may be below zero."""
    return float(np.median(c.offset_ns)) / NS_PER_MS if len(c.offset_ns) else 0.0


def offset_ms(c: Columns) -> float:
    """How far apart the two clocks are, in either direction."""
    return abs(median_offset_ms(c))


def offset_spread_ms(c: Columns) -> float:
    """Largest deviation of a single event from that."""
    return _largest(np.abs(c.offset_ns / NS_PER_MS - median_offset_ms(c)))


# -- the book -----------------------------------------------------------------------------------------------------


def crossed_rate(c: Columns) -> float:
    """Share of shown books with bid > ask."""
    return _share(c, CROSSED)


def locked_rate(c: Columns) -> float:
    """Share of shown books with bid = ask."""
    return _share(c, LOCKED)


def largest_jump_bp(c: Columns) -> float:
    """Largest move of the mid from one shown book to the next."""
    mid2 = (c.bid + c.ask)[c.quoted]
    return _largest(_BP * np.abs(np.diff(mid2)) / mid2[:-1])


def largest_spread_bp(c: Columns) -> float:
    """Of the shown books; a crossed book has none."""
    return _largest(_spreads_bp(c))


def median_spread_bp(c: Columns) -> float:
    """Of the shown books."""
    return _median(_spreads_bp(c))


def median_depth(c: Columns) -> float:
    """Lots in the five best levels of both sides together."""
    return _median(c.near[c.quoted])


def largest_size(c: Columns) -> float:
    """Largest level, lots."""
    return _largest(c.events["size"][c.depth])


def stale_s(c: Columns) -> float:
    """Longest time during which trades continued while the book did not change."""
    kind = c.events["kind"]
    stretch = np.cumsum((kind == DEPTH) | (kind == TICKER) | (kind == CLEAR))[c.priced]
    times = c.events["recv_ns"][c.priced]
    if not len(times):
        return 0.0
    first = np.flatnonzero(np.diff(stretch, prepend=-1))
    return max(0.0, float((times[np.append(first[1:], len(times)) - 1] - times[first]).max()) / NS_PER_S)


def lost_s(c: Columns) -> float:
    """Time without a book after one was lost: from the feed's CLEAR to the next book, or to the end."""
    times = c.events["recv_ns"]
    back = np.flatnonzero(c.shown)
    clears = np.flatnonzero(c.own & (c.events["kind"] == CLEAR) & (c.events["flags"] & F_LAST != 0))
    clears = clears[clears > back[0]] if len(back) else clears[:0]  # a book that never existed cannot be lost
    until = np.append(back, len(times) - 1)[np.searchsorted(back, clears)]
    return _largest(times[until] - times[clears]) / NS_PER_S


def lowest_price(c: Columns) -> float:
    """Of trades and shown touches, ticks."""
    prices = _prices(c)
    return float(prices.min()) if len(prices) else 0.0


def highest_price(c: Columns) -> float:
    """Of trades and shown touches, ticks."""
    return _largest(_prices(c))


def prices_outside(c: Columns) -> float:
    """Trades and shown touches beyond the price bounds."""
    prices = _prices(c)
    return _count((prices < c.bounds.lowest_price) | (prices > c.bounds.highest_price))


def sizes_outside(c: Columns) -> float:
    """Levels and trades beyond the size bound."""
    return _count(c.events["size"][c.depth | c.trade] > c.bounds.largest_size)


# -- trades -------------------------------------------------------------------------------------------------------


def trade_outside_rate(c: Columns) -> float:
    """Share of trades further than ``outside_bp`` from the touch, of those that can be checked against a book."""
    away = _away_bp(c)
    return int((away > c.bounds.outside_bp).sum()) / max(1, len(away))


def worst_trade_bp(c: Columns) -> float:
    """Largest distance of a trade from the touch."""
    return _largest(_away_bp(c))


def trade_alone_bp(c: Columns) -> float:
    """Largest distance of a trade from the batch's median trade, of those that cannot be checked against a book."""
    prices = c.events["price"][c.trade & ~c.priced]
    return _largest(_BP * np.abs(prices / np.median(prices) - 1)) if len(prices) else 0.0


def _away_bp(c: Columns) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    at = np.flatnonzero(c.priced)
    bid, ask, price = c.bid[at - 1], c.ask[at - 1], c.events["price"][at]
    away = np.maximum(np.maximum(bid - price, price - ask), 0)
    return np.asarray(2 * _BP * away / np.maximum(1, bid + ask))


def _spreads_bp(c: Columns) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    bid, ask = c.bid[c.quoted], c.ask[c.quoted]
    return np.asarray(2 * _BP * np.maximum(0, ask - bid) / np.maximum(1, bid + ask))


def _prices(c: Columns) -> Ints:
    return np.concatenate([c.events["price"][c.trade], c.bid[c.quoted], c.ask[c.quoted]])


def _numbered(steps: Ints) -> bool:
    moved = steps[steps != 0]
    return len(moved) > 0 and bool((moved == 1).mean() >= _NUMBERED)


def _steps(c: Columns, chosen: Bools) -> Ints:
    """Steps of ``seq`` from one chosen event to the next of the same section."""
    seq, section = c.events["seq"][chosen], c.sections[chosen]
    return np.asarray(np.diff(seq)[np.diff(section) == 0])


def _share(c: Columns, bit: int) -> float:
    return int((c.status[c.shown] & bit != 0).sum()) / max(1, int(c.shown.sum()))


def _count(chosen: Bools) -> int:
    return int(chosen.sum())


def _largest(values: np.ndarray[tuple[int], np.dtype[np.float64]] | Ints) -> float:
    return max(0.0, float(values.max())) if len(values) else 0.0


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]] | Ints) -> float:
    return float(np.median(values)) if len(values) else 0.0


FIGURES: Final[Mapping[str, Figure]] = {
    each.__name__: each
    for each in (
        *(frames, events, trades, updates, volume, span_s, largest_gap_ns, silence_s),
        *(refused, schema, seq_back, gaps, repeated_trades, missing_trades),
        *(clock_back, clock_back_rate, exch_back_rate, repeated_time_rate),
        *(median_offset_ms, offset_ms, offset_spread_ms),
        *(crossed_rate, locked_rate, largest_jump_bp, largest_spread_bp, median_spread_bp, median_depth, largest_size),
        *(
            stale_s,
            lost_s,
            lowest_price,
            highest_price,
            prices_outside,
            sizes_outside,
            trade_outside_rate,
            worst_trade_bp,
            trade_alone_bp,
        ),
    )
}
