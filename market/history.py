"""Feature rows of a source, recomputed from its ticks in the lake exactly as the live kernel computed them.

A *run* is a series of batches with nothing missing between them; book and kernel state are carried through it. A batch
that is missing because it was rejected (or not yet validated) is a hole: the next batch starts a new run, from its
checkpoint and with empty windows. A minute in which the source sent nothing is not a hole: the live kernel also
continued through it. Within a run the kernel starts a new segment wherever the feed resynchronised; segments are
numbered across the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from market.books.price_book import new_book
from market.events import F_CHECKPOINT, Events
from market.features import kernels
from market.features.catalog import N_TICK, tick_names
from market.features.meaning import feature_set
from market.instruments import Instrument
from market.labels import HORIZON_NAMES, Labels
from market.lake.lake import Lake
from market.lake.rows import events_of, rows_of
from market.lake.schemas import SCHEMAS

Int64s = NDArray[np.int64]

_BATCHES_AT_ONCE = 32  # minutes of ticks held in memory at a time

PASS = "pass"  # noqa: S105  # verdict of an accepted batch


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of one source, ascending: accepted, rejected by validation, and not yet validated."""

    source: str
    accepted: tuple[int, ...]
    refused: tuple[int, ...]
    unjudged: tuple[int, ...]

    def runs(self) -> list[tuple[int, ...]]:
        """Accepted batches in runs without a hole."""
        return runs(self.accepted, holes=(*self.refused, *self.unjudged))


@dataclass(frozen=True, kw_only=True)
class History:
    """``n`` rows of one source in the order of its events.

    Times in ns, ``mid2`` in half ticks, depths in lots: (n,) int64. ``warm``: (n,) bool. ``features``: (n, N_TICK)
    float32.
    """

    batch: Int64s
    segment: Int64s
    frame: Int64s
    seq: Int64s
    recv_ns: Int64s
    exch_ns: Int64s
    mid2: Int64s
    bid_depth: Int64s
    ask_depth: Int64s
    warm: NDArray[np.bool_]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.recv_ns)


def batches(lake: Lake, instrument: str, sources: Sequence[str] = ()) -> list[Batches]:
    """The batches of ``instrument`` in the lake (all its sources when none is named), sources in order of time."""
    named = {"source": list(sources)} if sources else None
    landed = lake.read("ticks", instrument=instrument, columns=["source", "batch"], where=named)
    judged = lake.read("batches", instrument=instrument, columns=["source", "batch", "verdict"], where=named)
    verdicts = {(s, b): v for s, b, v in zip(*(judged.column(i).to_pylist() for i in range(3)), strict=True)}
    pairs = set(verdicts)
    if landed.num_rows:
        distinct = landed.group_by(["source", "batch"]).aggregate([])
        pairs |= set(zip(distinct["source"].to_pylist(), distinct["batch"].to_pylist(), strict=True))
    found: dict[str, list[tuple[int, str]]] = {}
    for source, batch in sorted(pairs):
        found.setdefault(source, []).append((batch, verdicts.get((source, batch), "")))
    listed = [_sorted_by_verdict(source, entries) for source, entries in found.items()]
    return sorted(listed, key=lambda b: (min((*b.accepted, *b.refused, *b.unjudged)), b.source))


def _sorted_by_verdict(source: str, entries: list[tuple[int, str]]) -> Batches:
    return Batches(
        source=source,
        accepted=tuple(batch for batch, verdict in entries if verdict == PASS),
        refused=tuple(batch for batch, verdict in entries if verdict not in ("", PASS)),
        unjudged=tuple(batch for batch, verdict in entries if not verdict),
    )


def runs(present: Iterable[int], *, holes: Iterable[int]) -> list[tuple[int, ...]]:
    """``present`` batch numbers, ascending, split wherever one of ``holes`` lies between two of them."""
    cuts = np.array(sorted(holes), dtype=np.int64)
    split: list[list[int]] = []
    side = -1
    for batch in sorted(present):
        where = int(np.searchsorted(cuts, batch))
        if not split or where != side:
            split.append([])
        split[-1].append(batch)
        side = where
    return [tuple(run) for run in split]


class Stretch(NamedTuple):
    """Consecutive events (m,) with the batch each lies in (m,)."""

    events: Events
    batch: Int64s


def stretches_of(lake: Lake, instrument: str, source: str, run: Sequence[int]) -> Iterator[Stretch]:
    """Events of those batches of ``run`` that are in ``ticks``, in order, some minutes at a time."""
    for first in range(0, len(run), _BATCHES_AT_ONCE):
        wanted = list(run[first : first + _BATCHES_AT_ONCE])
        yield _stretch(lake.read("ticks", instrument=instrument, where={"source": source, "batch": wanted}))


def stretches_as_fed(
    lake: Lake, instrument: str, source: str, *, from_batch: int = 0, until_batch: int | None = None
) -> Iterator[Stretch]:
    """All events of ``source`` as its feed delivered them, including rejected batches: what a live kernel saw."""
    for entry in batches(lake, instrument, [source]):
        refused = set(entry.refused)
        every = sorted({*entry.accepted, *entry.unjudged, *refused})
        wanted = [batch for batch in every if batch >= from_batch and (until_batch is None or batch <= until_batch)]
        for gone, group in groupby(wanted, key=refused.__contains__):
            if not gone:
                yield from stretches_of(lake, instrument, source, list(group))
                continue
            for batch in group:
                yield _stretch(refused_ticks(lake, instrument, source, batch))


def _stretch(ticks: pa.Table) -> Stretch:
    return Stretch(events_of(ticks), ticks.column("batch").to_numpy())


def refused_ticks(lake: Lake, instrument: str, source: str, batch: int) -> pa.Table:
    """The rows of ``ticks`` that validation moved to quarantine."""
    where: dict[str, Any] = {"source": source, "batch": batch, "stage": "validate"}
    entries = lake.read("quarantine", instrument=instrument, columns=["payload"], where=where)
    if not entries.num_rows:
        return SCHEMAS["ticks"].empty_table()
    return pa.ipc.open_stream(entries["payload"][0].as_py()).read_all()


def compute(
    lake: Lake, instrument: str, source: Batches, *, advance: Callable[[float], None] = lambda _batches: None
) -> History:
    """Rows of all accepted batches of ``source``. ``advance`` is called with the number of batches done.

    Raises:
        BookError: the ticks hold an event that the book rejects.
    """
    parts: list[History] = []
    segments = 0
    for run in source.runs():
        part = replay(stretches_of(lake, instrument, source.source, run), first_segment=segments)
        segments = int(part.segment[-1]) + 1 if len(part) else segments
        parts.append(part)
        advance(len(run))
    return join(parts)


def replay(stretches: Iterable[Stretch], *, first_segment: int = 0) -> History:
    """Rows of consecutive stretches, from an empty book, state carried from one to the next.

    Segments are numbered from ``first_segment``. The row that a checkpoint produces after a hole only starts the
    windows and is left out: the feed sent no such frame.

    Raises:
        BookError: an event was rejected.
    """
    book, state = new_book(), kernels.new_state()
    parts = []
    for stretch in stretches:
        rows = kernels.compute(stretch.events, book=book, state=state)
        own = np.flatnonzero(stretch.events["flags"][rows.event] & F_CHECKPOINT == 0)
        at = stretch.events[rows.event[own]]
        parts.append(
            History(
                batch=stretch.batch[rows.event[own]],
                segment=rows.segment[own] - 1 + first_segment,
                **{name: np.ascontiguousarray(at[name]) for name in ("frame", "seq", "recv_ns", "exch_ns")},
                mid2=rows.mid2[own],
                bid_depth=rows.bid_depth[own],
                ask_depth=rows.ask_depth[own],
                warm=rows.warm[own],
                features=rows.features[own],
            )
        )
    return join(parts)


def join(parts: Sequence[History]) -> History:
    """The histories concatenated; of no histories, one without rows."""
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        columns: dict[str, Any] = {f.name: none for f in fields(History)}
        columns["warm"] = none.astype(np.bool_)
        columns["features"] = np.zeros((0, N_TICK), dtype=np.float32)
        return History(**columns)
    return History(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(History)})


def feature_rows(history: History, instrument: Instrument, source: str) -> pa.Table:
    """Rows for the lake's ``features``."""
    columns: dict[str, Any] = {f.name: getattr(history, f.name) for f in fields(History) if f.name != "features"}
    for i, name in enumerate(tick_names()):
        columns[name] = history.features[:, i]
    return rows_of("features", instrument, {**columns, "source": source, "feature_set": feature_set()})


def label_rows(history: History, labels: Labels, instrument: Instrument, source: str) -> pa.Table:
    """Rows for the lake's ``labels``, in the order of the history."""
    columns: dict[str, Any] = {"source": source, "frame": history.frame, "recv_ns": history.recv_ns}
    return rows_of("labels", instrument, {**columns, **label_columns(labels)})


def label_columns(labels: Labels) -> dict[str, NDArray[np.int8]]:
    """``{column: (n,) int8}`` as the lake and the datasets name them."""
    heads = (("dir", labels.direction), ("bidfall", labels.bid_fall), ("askfall", labels.ask_fall))
    return {f"{head}_{name}": values[:, h] for head, values in heads for h, name in enumerate(HORIZON_NAMES)}
