"""Landing: writes a source's frames to the lake, each exactly once, and passes its events on at once.

Five tables are written: raw frames, ticks, slow records, summaries of options, and quarantine for unreadable frames.
Each commit carries the number of the last frame it accounts for. Everything derived is a pure function of the frames in
order, so after a kill the same frames are fed again, from the recording or from raw, and each table skips what it
already has.

Ticks are committed in whole batches (minutes of receive time; a clock that steps back does not reopen one). A batch
starts with a checkpoint of the book, so that it can be read, validated or removed on its own. For a recording, several
small batches share one commit, which costs as much for one row as for thousands. For a live source each batch is
committed when it ends, and raw also about every second. Commits run on their own thread: the quoting loop does not wait
for a disk.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import orjson
import pyarrow as pa

from market.clock import BATCH_NS, NS_PER_S, Clock
from market.errors import InputError, LakeError
from market.events import Events, joined
from market.feeds.normalise import Normaliser, Rejected, Stats
from market.feeds.writer import Writer
from market.instruments import Instrument
from market.lake.lake import Lake
from market.lake.rows import options_of, rows_of, ticks_of
from market.lake.schemas import SCHEMAS
from market.venues.protocol import NO_EVENTS, NO_STAMP, OptionSummary, Slow, Venue

_TABLES: Final = (
    "raw",
    "slow",
    "options",
    "quarantine",
    "ticks",
)  # the order of the commits; ticks last, see Lander.close
_RAW_ROWS: Final = 50_000
_RAW_BYTES: Final = 64 * 2**20
_ROWS_A_COMMIT: Final = 8_192  # frames and events of a recording: its batches wait for each other until then
_FRAMES_A_BATCH: Final = 500_000  # more than any minute has: the clock jumped ahead, or stopped


@dataclass(kw_only=True)
class _Buffers:
    """What has been fed but not yet passed to the writer."""

    raw_frame: list[int] = field(default_factory=list)
    raw_recv: list[int] = field(default_factory=list)
    raw_payload: list[bytes] = field(default_factory=list)
    raw_bytes: int = 0
    ticks: list[Events] = field(default_factory=list)  # of the current batch
    batches: list[tuple[int, list[Events]]] = field(default_factory=list)  # of the batches before it
    rows: int = 0  # frames and events of those
    slow: list[Slow] = field(default_factory=list)
    options: list[OptionSummary] = field(default_factory=list)
    rejected: list[tuple[int, Rejected]] = field(default_factory=list)


class Lander:
    """Feeds one source through a :class:`Normaliser` and lands it.

    ``with Lander(source, instrument, lake) as lander: events = lander.feed(...)``. Leaving the block normally closes
    the source; leaving it by an error leaves the source unfinished, to be fed again. With a ``clock`` the source is
    *live*: it cannot be fed again from outside, so an error also closes it, and after a kill :func:`recover` finishes
    it from raw. ``venue`` is the format of the frames (by default the instrument's live one); ``writer`` is one that
    several landers share and that its owner closes.
    """

    def __init__(
        self,
        source: str,
        instrument: Instrument,
        lake: Lake,
        *,
        clock: Clock | None = None,
        venue: Venue | None = None,
        writer: Writer | None = None,
    ) -> None:
        """Claim the source.

        Raises:
            InputError: another process is landing the same source.
            LakeError: the lake cannot be read or written.
        """
        self.source = source
        self.instrument = instrument
        self.normaliser = Normaliser(instrument, source, venue=venue)
        self._clock = clock
        self._claim = _claim(lake, _Mark(source=source, instrument=instrument.key, live=clock is not None))
        self._positions = {table: lake.position(table, source) or 0 for table in _TABLES}
        self._shared = writer is not None
        self._writer = writer or Writer(Lake(lake.uri))
        self._buffers = _Buffers()
        self._batch = -1
        self._batch_frame = 0
        self._frames_before = 0  # the batch
        self._last_frame = 0
        self._flushed_ns = clock.now_ns() if clock else 0
        self.slow: Slow | None = None
        self.landed = 0

    @property
    def stats(self) -> Stats:
        return self.normaliser.stats

    def feed(self, frame: int, recv_ns: int, payload: bytes) -> Events:
        """Events (n,) of the next frame, for immediate use; checkpoints go to the lake only.

        ``recv_ns`` may be NO_STAMP: the line had no readable time, so its frame goes to quarantine.

        Raises:
            LakeError: an earlier commit failed. Nothing after it was committed.
        """
        if recv_ns == NO_STAMP:
            self.reject(frame, "clock_unreadable", "expected `<time> <json>` with a time of 19 or 16 digits", payload)
            return NO_EVENTS
        batch = max(recv_ns // BATCH_NS, self._batch + (frame - self._batch_frame >= _FRAMES_A_BATCH))
        if batch > self._batch:
            self._next_batch(batch, frame, recv_ns)
        events = self.normaliser.feed(frame, recv_ns, payload)
        if len(events):
            self._buffers.ticks.append(events)
        if self.normaliser.slow:
            self.slow = self.normaliser.slow[-1]
        self._keep(frame, recv_ns, payload)
        return events

    def reject(self, frame: int, reason: str, detail: str, payload: bytes) -> None:
        """Land a frame that the caller could not read: it goes to raw and to quarantine."""
        recv_ns = self.stats.last_ns
        self.normaliser.reject(frame, recv_ns, reason, detail, payload)
        self._keep(frame, recv_ns, payload)

    def lost(self, frame: int, recv_ns: int) -> None:
        """Record that frames of the connection are missing before this one: the book is cleared."""
        events = self.normaliser.lost(frame, recv_ns)
        if len(events):
            self._buffers.ticks.append(events)
            self._last_frame = frame

    def note(self, reason: str, detail: str) -> None:
        """Record in quarantine that something after the last frame is missing. No frame is counted."""
        self._last_frame += 1
        self.normaliser.note(self._last_frame, reason, detail)
        self._quarantine()

    def end(self, frame: int) -> None:
        """The source announced its end, by a frame with this number that is not market data."""
        self._last_frame = frame

    def pause(self) -> None:
        """Commit the raw frames fed so far and release the source; landing resumes when it is fed again from its start.

        The last minute's ticks are not committed: a batch is never written in two parts.

        Raises:
            LakeError: a commit failed.
        """
        try:
            self._flush_raw()
            self._writer.drain()
        finally:
            self.abandon()

    def close(self) -> Stats:
        """Commit what is left, including the last batch, and release the source.

        The last commit is that of ticks, with the last frame's number even if that frame had no event: a source whose
        ticks position is not below that of raw has been read to its end.

        Raises:
            LakeError: a commit failed; the source stays unfinished, feed it again.
        """
        try:
            self._end_batch()
            self._cut()
            if self._last_frame > self._positions["ticks"]:
                self._write("ticks", SCHEMAS["ticks"].empty_table, self._last_frame)
            self._writer.drain()
        except BaseException:
            self.abandon()
            raise
        if not self._shared:
            self._writer.finish()
        self._claim.release(finished=True)
        return self.stats

    def abandon(self) -> None:
        """Stop without committing what is buffered; the source stays unfinished."""
        self._writer.stop()
        self._claim.release(finished=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (self._clock is not None and not issubclass(kind, LakeError)):
            self.close()
        else:
            self.abandon()

    def _keep(self, frame: int, recv_ns: int, payload: bytes) -> None:
        """Buffer what the frame produced, and commit raw when it is time."""
        buffers = self._buffers
        if self.normaliser.slow:
            buffers.slow += self.normaliser.slow
            self.normaliser.slow.clear()
        if self.normaliser.options:
            buffers.options += self.normaliser.options
            self.normaliser.options.clear()
        if self.normaliser.rejected:
            self._quarantine()
        self._last_frame = frame
        if frame > self._positions["raw"]:
            buffers.raw_frame.append(frame)
            buffers.raw_recv.append(recv_ns)
            buffers.raw_payload.append(payload)
            buffers.raw_bytes += len(payload)
            self.landed += 1
            if self._raw_is_due():
                self._flush_raw()

    def _quarantine(self) -> None:
        self._buffers.rejected += [(self._batch, rejected) for rejected in self.normaliser.rejected]
        self.normaliser.rejected.clear()

    def _raw_is_due(self) -> bool:
        if self._clock is not None and self._clock.now_ns() - self._flushed_ns >= NS_PER_S:
            self._flushed_ns = self._clock.now_ns()
            return True
        return len(self._buffers.raw_frame) >= _RAW_ROWS or self._buffers.raw_bytes >= _RAW_BYTES

    def _next_batch(self, batch: int, frame: int, recv_ns: int) -> None:
        self._end_batch()
        if self._clock is not None or self._buffers.rows >= _ROWS_A_COMMIT:
            self._cut()
        self._batch, self._batch_frame = batch, frame
        checkpoint = self.normaliser.checkpoint(frame, recv_ns)
        if len(checkpoint):
            self._buffers.ticks.append(checkpoint)

    def _end_batch(self) -> None:
        buffers = self._buffers
        if buffers.ticks and self._last_frame > self._positions["ticks"]:
            buffers.batches.append((self._batch, buffers.ticks))
        buffers.rows += sum(map(len, buffers.ticks)) + self.stats.frames - self._frames_before
        buffers.ticks, self._frames_before = [], self.stats.frames

    def _cut(self) -> None:
        """Pass everything to the writer; it accounts for all frames up to the last one fed, the end of a batch."""
        self._flush_raw()
        buffers, self._buffers = self._buffers, _Buffers()
        slow = [record for record in buffers.slow if record.frame > self._positions["slow"]]
        if slow:
            self._write("slow", partial(_slow_rows, self.source, self.instrument, slow), self._last_frame)
        options = [record for record in buffers.options if record.frame > self._positions["options"]]
        if options:
            self._write(
                "options",
                partial(options_of, options, source=self.source, instrument=self.instrument),
                self._last_frame,
            )
        known = self._positions["quarantine"]
        rejected = [(batch, each) for batch, each in buffers.rejected if each.frame > known]
        if rejected:
            self._write("quarantine", partial(_rejected_rows, self.source, self.instrument, rejected), self._last_frame)
        if buffers.batches:
            rows = partial(_tick_rows, self.source, self.instrument, buffers.batches)
            self._write("ticks", rows, self._last_frame)

    def _flush_raw(self) -> None:
        buffers = self._buffers
        if not buffers.raw_frame:
            return
        rows = partial(
            _raw_rows, self.source, self.instrument, buffers.raw_frame, buffers.raw_recv, buffers.raw_payload
        )
        self._write("raw", rows, buffers.raw_frame[-1])
        buffers.raw_frame, buffers.raw_recv, buffers.raw_payload, buffers.raw_bytes = [], [], [], 0

    def _write(self, table: str, rows: Callable[[], pa.Table], position: int) -> None:
        self._writer.append(table, rows, source=self.source, position=position, after=self._positions[table])
        self._positions[table] = position


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """A source whose landing was interrupted. A live one is finished from raw; a recording must be ingested again."""

    source: str
    instrument: Instrument
    live: bool


def unfinished(lake: Lake) -> list[Unfinished]:
    """Unfinished sources that no process is landing now. Known only for a lake on this machine."""
    found = []
    for path in sorted(_folder(lake).glob("*.json")) if lake.folder else []:
        mark = _read_mark(path)
        if mark is not None and not _is_held(path):
            found.append(Unfinished(source=mark.source, instrument=lake.instrument(mark.instrument), live=mark.live))
    return found


def recover(lake: Lake, source: str, instrument: Instrument) -> Stats:
    """Finish a live source from its raw frames: derive everything again, write only what is missing.

    Raises:
        InputError: another process is landing it.
        LakeError: the lake cannot be read or written.
    """
    with Lander(source, instrument, lake) as lander:
        for frame, recv_ns, payload in landed_frames(lake, source, instrument):
            lander.feed(frame, recv_ns, payload)
    return lander.stats


def recover_all(lake: Lake) -> tuple[str, ...]:
    """Finish every live source that a killed process left; to finish a recording, ingest it again."""
    live = [each for each in unfinished(lake) if each.live]
    for each in live:
        recover(lake, each.source, each.instrument)
    return tuple(each.source for each in live)


def landed_frames(lake: Lake, source: str, instrument: Instrument) -> Iterator[tuple[int, int, bytes]]:
    """``(frame number, receive ns, payload)`` of a source's frames in raw, in order."""
    columns = ["frame", "recv_ns", "payload"]
    rows = lake.read("raw", instrument=instrument.key, columns=columns, where={"source": source})
    for part in rows.to_batches(max_chunksize=8192):
        yield from zip(*(part.column(name).to_pylist() for name in columns), strict=True)


def _raw_rows(
    source: str, instrument: Instrument, frames: list[int], times: list[int], payloads: list[bytes]
) -> pa.Table:
    columns = {
        "source": source,
        "frame": np.array(frames, dtype=np.int64),
        "recv_ns": np.array(times, dtype=np.int64),
        "payload": pa.array(payloads, pa.binary()),
    }
    return rows_of("raw", instrument, columns)


def _tick_rows(source: str, instrument: Instrument, batches: list[tuple[int, list[Events]]]) -> pa.Table:
    return pa.concat_tables(
        ticks_of(joined(parts), source=source, instrument=instrument, batch=batch) for batch, parts in batches
    )


def _slow_rows(source: str, instrument: Instrument, records: list[Slow]) -> pa.Table:
    names = ("recv_ns", "exch_ns", "funding_rate", "mark_e8", "index_e8", "next_funding_ns")
    columns: dict[str, Any] = {name: [getattr(record, name) for record in records] for name in names}
    return rows_of("slow", instrument, {"source": source, **columns})


def _rejected_rows(source: str, instrument: Instrument, rejected: list[tuple[int, Rejected]]) -> pa.Table:
    columns: dict[str, Any] = {
        name: [getattr(each, name) for _, each in rejected]
        for name in ("frame", "recv_ns", "reason", "detail", "payload")
    }
    batches = [batch for batch, _ in rejected]
    return rows_of("quarantine", instrument, {"source": source, "batch": batches, "stage": "parse", **columns})


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The mark that is written next to the tables while a source is being landed."""

    source: str
    instrument: str
    live: bool


@dataclass(kw_only=True)
class _Claim:
    """The right to land a source: a locked file, released by the kernel however the process ends."""

    path: Path | None = None
    file: int = -1

    def release(self, *, finished: bool) -> None:
        if self.path is not None and self.file >= 0:
            if finished:
                self.path.unlink(missing_ok=True)
            os.close(self.file)
            self.file = -1


def _folder(lake: Lake) -> Path:
    assert lake.folder is not None  # noqa: S101 callers check first
    return lake.folder / ".landing"


def _claim(lake: Lake, mark: _Mark) -> _Claim:
    if lake.folder is None:  # no locks there; of two landers the second fails at its first commit (Lake.append)
        return _Claim()
    path = _folder(lake) / f"{mark.source}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LakeError(f"cannot write {path}: {error.strerror}; free some space or choose another KEEL_HOME") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink == 0:  # finished and removed between our open and our lock
            raise BlockingIOError
        before = _read_mark(path)
        live = before.live if before else mark.live
        text = orjson.dumps({"source": mark.source, "instrument": mark.instrument, "live": live})
        os.pwrite(file, text, 0)
        os.ftruncate(file, len(text))
    except BlockingIOError:
        os.close(file)
        raise InputError(f"{mark.source} is being landed by another process; wait for it to finish") from None
    except OSError as error:
        os.close(file)
        raise LakeError(f"cannot write {path}: {error.strerror}; free some space or choose another KEEL_HOME") from None
    return _Claim(path=path, file=file)


def _read_mark(path: Path) -> _Mark | None:
    try:
        return _Mark(**orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None  # being written, or finished meanwhile


def _is_held(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
