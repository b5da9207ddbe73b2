"""Land market data, raw frames then ticks, from recordings or from a WebSocket: each frame exactly once."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from market import instruments
from market.clock import NS_PER_MS, NS_PER_S, Clock
from market.errors import CaptureError, EmptyDataError, InputError, SettingsError
from market.feeds import landing, websocket
from market.feeds.landing import Lander
from market.feeds.normalise import Stats
from market.feeds.replay import frames, recognise_key, source_of
from market.instruments import Instrument
from market.lake import Lake
from market.venues.binance import snapshot_url
from pipelines.workspace import Progress, Workspace, tracked

TRUNCATED = "truncated"

_PROGRESS_EVERY = 2_000  # frames
_COMPACTED = ("raw", "ticks")  # a live source commits these often


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Either ``files`` (recordings, plain or gzip) or a ``url`` (a WebSocket stream).

    ``instrument`` is a key ``venue.SYMBOL``: needed with a URL; recordings are recognised, unless it is given.
    ``seconds``: stop the stream after this much market time. ``snapshot_url``: where depth snapshots are fetched;
    empty: Binance's own address for Binance's streams, otherwise the stream is expected to carry them.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    files: tuple[str, ...] = ()
    url: str | None = None
    seconds: float | None = None
    instrument: str | None = None
    snapshot_url: str = ""


@dataclass(frozen=True, kw_only=True)
class Landed:
    """One source. ``new_frames`` were not in the lake before; all other counts are of the whole source.

    ``quarantined`` counts frames by reason. ``synced``: the book followed a snapshot at the end. ``offset_ms`` is the
    mean of receive minus exchange time: below zero where the local clock is behind.
    """

    source: str
    instrument: str
    origin: str
    frames: int
    new_frames: int
    events: int
    trades: int
    slow: int
    quarantined: dict[str, int]
    gaps: int
    resyncs: int
    duplicates: int
    crossed: int
    locked: int
    clock_back: int
    first_ns: int
    last_ns: int
    offset_ms: float
    synced: bool
    truncated: bool = False

    def line(self) -> str:
        seconds = (self.last_ns - self.first_ns) / NS_PER_S
        said = f"{self.instrument}: {self.frames:,} frames ({self.new_frames:,} new) of {seconds:,.0f} s"
        said += f" -> {self.events:,} events, {self.trades:,} trades, {self.gaps} gaps, {self.resyncs} resyncs"
        said += f", {self.crossed} crossed"
        if self.quarantined:
            said += ", quarantined " + ", ".join(f"{why} {n}" for why, n in sorted(self.quarantined.items()))
        if not self.synced:
            said += "; the book has no snapshot to follow"
        return said + ("; TRUNCATED, all that can be read is landed" if self.truncated else "")


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """What was landed, in the order given. ``recovered``: live sources of killed runs, finished from their raw frames.

    ``unfinished``: recordings whose landing was once cut short and which were not given again.
    """

    landed: tuple[Landed, ...]
    recovered: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    sources: tuple[str, ...] = field(default=())
    instruments: tuple[str, ...] = field(default=())
    first_ns: int = 0
    last_ns: int = 0

    def line(self) -> str:
        parts = [each.line() for each in self.landed]
        if self.recovered:
            parts.append(f"finished what a killed run had left: {', '.join(self.recovered)}")
        if self.unfinished:
            parts.append(f"still unfinished, give their recordings again: {', '.join(self.unfinished)}")
        return " | ".join(parts)


def ingest(config: IngestConfig, *, workspace: Workspace) -> IngestResult:
    """Land recordings or a stream.

    Raises:
        SettingsError: neither files nor a URL, or both.
        InputError: a path cannot be read, the instrument is not known, or another process lands the same source.
        CaptureError: a file is not a recording. (A truncated one is landed as far as it goes, and says so.)
        EmptyDataError: a file or the stream holds no frames.
        ServiceError: the stream cannot be reached.
        LakeError: the lake cannot be written; run again when mended.
    """
    if bool(config.files) == bool(config.url):
        raise SettingsError(
            "expected recordings or --url, one of the two: `keel ingest FILE...` or `keel ingest --url URL`"
        )
    lake = Lake(workspace.lake)
    recovered = landing.recover_all(lake)
    if config.url:
        landed = [asyncio.run(_land_stream(config, config.url, lake, workspace))]
    else:
        recordings = [_Recording.of(Path(name), config.instrument) for name in dict.fromkeys(config.files)]
        landed = [_land_file(recording, lake, workspace.progress) for recording in recordings]
    left = tuple(each.source for each in landing.unfinished(lake))
    return IngestResult(
        landed=tuple(landed),
        recovered=recovered,
        unfinished=left,
        sources=tuple(each.source for each in landed),
        instruments=tuple(dict.fromkeys(each.instrument for each in landed)),
        first_ns=min(each.first_ns for each in landed),
        last_ns=max(each.last_ns for each in landed),
    )


@dataclass(frozen=True, kw_only=True)
class _Recording:
    path: Path
    instrument: Instrument

    @classmethod
    def of(cls, path: Path, asked: str | None) -> _Recording:
        """Look at the file before anything is landed."""
        seen = recognise_key(path)
        instrument = instruments.find(asked or seen)
        if seen.partition(".")[2] != instrument.symbol:
            raise InputError(f"{path.name} is a recording of {seen}, not of {instrument.key}; leave --instrument away")
        return cls(path=path, instrument=instrument)


def _land_file(recording: _Recording, lake: Lake, progress: Progress) -> Landed:
    path = recording.path
    lander = Lander(source_of(path), recording.instrument, lake)
    truncated = False
    with lander, tracked(progress, f"landing {path.name}"):
        try:
            for number, recv_ns, payload in frames(path):
                lander.feed(number, recv_ns, payload)
                if number % _PROGRESS_EVERY == 0:
                    progress.advance(_PROGRESS_EVERY)
        except CaptureError as error:
            truncated = True
            lander.note(TRUNCATED, str(error))
    return _landed(lander, path.name, truncated=truncated)


async def _land_stream(config: IngestConfig, url: str, lake: Lake, workspace: Workspace) -> Landed:
    if config.instrument is None:
        raise SettingsError(
            "expected the instrument of the stream: --set instrument=binance-usdm.BTCUSDT, for instance"
        )
    instrument = instruments.find(config.instrument)
    connection = websocket.ConnectionConfig(snapshot_url=config.snapshot_url or snapshot_url(instrument, url))
    source = live_source(url, workspace.clock)
    until_ns: int | None = None
    progress = workspace.progress
    with Lander(source, instrument, lake, clock=workspace.clock) as lander, tracked(progress, f"landing {url}"):
        async with aclosing(websocket.stream(url, clock=workspace.clock, config=connection)) as incoming:
            async for number, recv_ns, payload in incoming:
                if until_ns is None and config.seconds is not None:
                    until_ns = recv_ns + int(config.seconds * NS_PER_S)
                if until_ns is not None and recv_ns >= until_ns:
                    break
                lander.feed(number, recv_ns, payload)
                if number % _PROGRESS_EVERY == 0:
                    progress.advance(_PROGRESS_EVERY)
    if not lander.stats.frames:
        raise EmptyDataError(f"{url} sent no frames; look at its stream names")
    for table in _COMPACTED:
        lake.compact(table)
    return _landed(lander, url)


def live_source(url: str, clock: Clock) -> str:
    """``live-<UTC time>-<4 hex>`` for a stream that begins now."""
    now_ns = clock.now_ns()
    stamp = datetime.fromtimestamp(now_ns // NS_PER_S, tz=UTC).strftime("%Y%m%dT%H%M%S")
    return f"live-{stamp}-{hashlib.sha256(f'{url} {now_ns}'.encode()).hexdigest()[:4]}"


def _landed(lander: Lander, origin: str, *, truncated: bool = False) -> Landed:
    stats: Stats = lander.stats
    return Landed(
        source=lander.source,
        instrument=lander.instrument.key,
        origin=origin,
        frames=stats.frames,
        new_frames=lander.landed,
        events=stats.events,
        trades=stats.trades,
        slow=stats.slow,
        quarantined=dict(stats.rejected),
        gaps=stats.gaps,
        resyncs=stats.resyncs,
        duplicates=stats.duplicates,
        crossed=stats.crossed,
        locked=stats.locked,
        clock_back=stats.clock_back,
        first_ns=stats.first_ns,
        last_ns=stats.last_ns,
        offset_ms=round(stats.offset_mean_ns / NS_PER_MS, 3),
        synced=lander.normaliser.synced,
        truncated=truncated,
    )
