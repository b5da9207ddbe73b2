"""Land market data, raw frames then ticks, from recordings or from a WebSocket: each frame exactly once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

from market.clock import NS_PER_MS, NS_PER_S, Clock
from market.errors import CaptureError, InputError, SettingsError
from market.feeds import landing, recordings
from market.feeds.increments import Settled, Steps
from market.feeds.landing import Lander
from market.feeds.normalise import Stats
from market.feeds.recordings import Recording
from market.feeds.splitting import Splitter
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import TRUNCATED, live_source, source_of_growing
from market.venues import registry
from market.venues.formats import line_files
from market.venues.protocol import Frame, Venue
from pipelines import settings
from pipelines.ingestion import live
from pipelines.settings import StageConfig
from pipelines.workspace import Progress, Workspace, tracked

Look = tuple[tuple[int, int], ...]

_PROGRESS_EVERY = live.PROGRESS_EVERY


@dataclass(frozen=True, kw_only=True)
class IngestConfig(StageConfig):
    """Either ``files`` (recordings, plain or gzip) or a ``url`` (a WebSocket stream).

    ``instrument`` is a key ``venue.SYMBOL``: needed with a URL; recordings are detected, unless it is given.
    ``venue`` is the name of the recordings' format, else recognised. ``tick`` and ``lot`` are decimals, for an
    instrument that is not known; else they are inferred from the data. ``lake`` is another lake than the workspace's.
    ``feeds``: more streams in the same process, each ``VENUE.SYMBOL=URL``; one that fails does not end the others.
    ``growing``: lines are still being added to the recordings. What is there is landed, but for a half line; the
    same command lands the rest. With ``ended`` it is the last time: then the last minute is landed, too.
    A ``kafka://host:port/topic`` is followed until Ctrl-C, or with ``drain`` up to what lies there now.
    ``seconds``: stop the stream after this much market time. ``snapshot_url``: where depth snapshots are fetched;
    empty: Binance's own address for Binance's streams, otherwise the stream is expected to carry them.
    """

    files: tuple[str, ...] = ()
    url: str | None = None
    seconds: float | None = None
    drain: bool = False
    growing: Literal["no", "still", "ended"] = "no"
    instrument: str | None = None
    venue: str | None = None
    tick: str | None = None
    lot: str | None = None
    lake: str | None = None
    snapshot_url: str = ""
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Landed:
    """One source: one instrument of one recording or stream. ``new_frames`` were not in the lake before; all other
    counts are of the whole source. ``rows`` are those of the recording, of which a frame may hold several. ``slow``
    counts records of marks and funding, ``options`` summaries of options. ``steps``: whether tick and lot were
    ``known``, ``given`` or ``inferred``. ``proved`` counts the venue's checksums that held.

    ``quarantined`` counts frames by reason. ``synced``: the book followed a snapshot at the end. ``offset_ms`` is the
    mean of receive minus exchange time: below zero where the local clock is behind; ``clock_offset_ms`` is the least
    of its last minute (:mod:`market.feeds.clock_offset`), which says how far the clocks are apart. ``interrupted``
    counts notices (:mod:`market.feeds.notices`), ``shed`` frames of a stream that the lake could not take.
    """

    source: str
    instrument: str
    venue: str
    origin: str
    tick: str
    lot: str
    steps: str
    rows: int
    frames: int
    new_frames: int
    events: int
    trades: int
    slow: int
    options: int
    quarantined: dict[str, int]
    gaps: int
    resyncs: int
    duplicates: int
    proved: int
    crossed: int
    locked: int
    clock_back: int
    first_ns: int
    last_ns: int
    offset_ms: float
    synced: bool
    truncated: bool = False
    clock_offset_ms: float | None = None
    interrupted: int = 0
    shed: int = 0

    def line(self) -> str:
        seconds = (self.last_ns - self.first_ns) / NS_PER_S
        said = f"{self.instrument}: {self.frames:,} frames ({self.new_frames:,} new) of {seconds:,.0f} s"
        said += f" -> {self.events:,} events, {self.trades:,} trades, {self.gaps} gaps, {self.resyncs} resyncs"
        said += f", {self.crossed} crossed"
        if self.slow:
            said += f", {self.slow:,} slow records"
        if self.options:
            said += f", {self.options:,} summaries of options"
        if self.proved:
            said += f", {self.proved:,} checksums right"
        if self.quarantined:
            said += ", quarantined " + ", ".join(f"{why} {n}" for why, n in sorted(self.quarantined.items()))
        if self.clock_back:
            said += f", the receiving clock ran back {self.clock_back:,} times"
        if self.steps == "inferred":
            said += f"; tick {self.tick} and lot {self.lot} inferred from its decimals"
        if self.interrupted:
            said += f", interrupted {self.interrupted:,} times"
        if self.shed:
            said += f"; SHED {self.shed:,} frames that the lake could not take"
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
        LakeError: the lake cannot be written; rerun when repaired.
    """
    if bool(config.files) == bool(config.url or config.feeds):
        raise SettingsError(
            "expected recordings or --url, one of the two: `keel ingest FILE...` or `keel ingest --url URL`"
        )
    lake = Lake(config.lake or workspace.lake)
    recovered = landing.recover_all(lake)
    if config.url and config.url.startswith("kafka://"):
        landed = _land_topic(config, config.url, lake, workspace.progress)
    elif config.url or config.feeds:
        taken = asyncio.run(live.land(_feeds(config, lake, workspace.clock), lake, workspace))
        landed = [
            dataclasses.replace(
                _landed(each.lander, each.feed.url, registry.live(each.feed.instrument), "known"),
                shed=each.shed.frames,
            )
            for each in taken
        ]
    else:
        landed = _land_recordings(config, lake, workspace.progress)
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


def _land_recordings(config: IngestConfig, lake: Lake, progress: Progress) -> list[Landed]:
    venue = registry.named(config.venue) if config.venue else None
    with recordings.opened([Path(name) for name in config.files], venue) as found:
        for recording in found:
            _check(recording, config)
        growing = config.growing != "no"
        sources = {each.path: source_of_growing(each.path) if growing else each.source() for each in found}
        looks = {each.path: _look(each) for each in found}
        steps = Steps(lake)
        for recording in found:
            key = config.instrument or recording.key
            steps.look_at(recording, sources[recording.path], key=key, given=_given(key, config))
        steps.keep()
        landed: dict[str, Landed] = {}
        for recording in found:
            job = _Job(
                recording=recording,
                source=sources[recording.path],
                key=config.instrument or recording.key,
                growing=config.growing,
                look=looks[recording.path],
            )
            for each in _land(job, steps, lake, progress):
                landed.setdefault(each.source, each)
        return list(landed.values())


def _look(recording: Recording) -> Look:
    """What changes when its files are written to: size and time of each."""
    stats = [part.stat() for part in recording.venue.parts(recording.path)]
    return tuple((each.st_size, each.st_mtime_ns) for each in stats)


def _check(recording: Recording, config: IngestConfig) -> None:
    """Check the request before anything is landed."""
    symbol = recording.key.partition(".")[2]
    if bool(config.tick) != bool(config.lot):
        raise SettingsError("expected --tick and --lot together, or neither")
    if recording.several and (config.instrument or config.tick):
        raise InputError(f"{recording.origin} holds several instruments; leave --instrument, --tick and --lot away")
    if config.growing != "no" and recording.venue.frames is not line_files.frames:
        raise InputError(
            f"{recording.origin} is of the format {recording.venue.name}; only lines `<receive time> <json>`, plain or "
            "gzip, can be landed while they grow: wait until it is complete"
        )
    if config.instrument and config.instrument.partition(".")[2] != symbol:
        raise InputError(
            f"{recording.origin} is a recording of {recording.key}, not of {config.instrument}; leave --instrument away"
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    recording: Recording
    source: str
    key: str
    growing: str
    look: Look

    @property
    def venue(self) -> Venue:
        return self.recording.venue

    def frames(self) -> Iterator[Frame]:
        """Its frames; those of a recording that is not said to grow must be all of them.

        Raises:
            InputError: it has been written to meanwhile.
        """
        if self.growing != "no":
            yield from line_files.frames(self.recording.path, growing=True)
            return
        yield from self.venue.frames(self.recording.path)
        if _look(self.recording) != self.look:
            raise InputError(
                f"{self.recording.origin} was written to while it was read; give it again when it is complete, or land "
                "it as it grows: --set growing=still, and --set growing=ended once it is complete"
            )


def _land(job: _Job, steps: Steps, lake: Lake, progress: Progress) -> list[Landed]:
    with tracked(progress, f"landing {job.recording.origin}"):
        if job.recording.several:
            return _land_several(job, steps, lake, progress)
        return [_land_one(job, steps[job.key], lake, progress)]


def _land_one(job: _Job, found: Settled, lake: Lake, progress: Progress) -> Landed:
    if job.growing != "no":
        return _land_growing(job, found, lake, progress)
    truncated = False
    with Lander(job.source, found.instrument, lake, venue=job.venue) as lander:
        try:
            for number, recv_ns, payload in job.frames():
                lander.feed(number, recv_ns, payload)
                if number % _PROGRESS_EVERY == 0:
                    progress.advance(_PROGRESS_EVERY)
        except CaptureError as error:
            truncated = True
            lander.note(TRUNCATED, str(error))
    return _landed(lander, job.recording.origin, job.venue, found.origin, truncated=truncated)


def _land_growing(job: _Job, found: Settled, lake: Lake, progress: Progress) -> Landed:
    """Land what is there. Until it has ended its last minute waits: a batch is never written in two parts."""
    ticks, raw = (lake.position(table, job.source) or 0 for table in ("ticks", "raw"))
    lander = Lander(job.source, found.instrument, lake, venue=job.venue)
    try:
        for number, recv_ns, payload in job.frames():
            if ticks >= raw > 0 and number > raw:
                raise InputError(
                    f"{job.recording.origin} has grown after it was said to have ended; land it in a new lake"
                )
            lander.feed(number, recv_ns, payload)
            if number % _PROGRESS_EVERY == 0:
                progress.advance(_PROGRESS_EVERY)
    except BaseException:
        lander.abandon()
        raise
    if job.growing == "ended" or ticks >= raw > 0:
        lander.close()
    else:
        lander.pause()
    return _landed(lander, job.recording.origin, job.venue, found.origin)


def _land_several(job: _Job, steps: Steps, lake: Lake, progress: Progress) -> list[Landed]:
    name = job.key.partition(".")[0]
    truncated = False
    with Splitter(job.source, job.venue, lake, lambda symbol: steps[f"{name}.{symbol}"].instrument) as splitter:
        try:
            for frame in job.frames():
                splitter.feed(frame)
                if frame[0] % _PROGRESS_EVERY == 0:
                    progress.advance(_PROGRESS_EVERY)
        except CaptureError as error:
            truncated = True
            splitter.note(TRUNCATED, str(error))
    return [
        _landed(lander, job.recording.origin, job.venue, steps[f"{name}.{symbol}"].origin, truncated=truncated)
        for symbol, lander in sorted(splitter.landers.items())
    ]


def _given(key: str, config: IngestConfig) -> Instrument | None:
    if not (config.tick and config.lot):
        return None
    venue, _, symbol = key.partition(".")
    try:
        tick, lot = Decimal(config.tick), Decimal(config.lot)
    except InvalidOperation:
        raise SettingsError(f"expected decimals in --tick and --lot, saw {config.tick!r}, {config.lot!r}") from None
    if not (tick > 0 and lot > 0 and tick.is_finite() and lot.is_finite()):
        raise SettingsError(f"expected steps above zero in --tick and --lot, saw {tick} and {lot}")
    return Instrument(venue=venue, symbol=symbol, tick=tick, lot=lot)


def _land_topic(config: IngestConfig, url: str, lake: Lake, progress: Progress) -> list[Landed]:
    from pipelines.ingestion.kafka import LandTopic, land_topic

    cluster, name = settings.kafka_topic(url)
    instrument = _instrument(config, lake)
    asked = LandTopic(cluster=cluster, topic=name, instrument=instrument, seconds=config.seconds, drain=config.drain)
    with tracked(progress, f"landing {url}"):
        landers = land_topic(asked, lake, lambda: progress.advance(_PROGRESS_EVERY), _PROGRESS_EVERY)
    return [_landed(lander, url, registry.live(instrument), "known") for lander in landers]


def _instrument(config: IngestConfig, lake: Lake) -> Instrument:
    if config.instrument is None:
        raise SettingsError(
            "expected the instrument of the stream: --set instrument=binance-usdm.BTCUSDT, for instance"
        )
    return lake.instrument(config.instrument)


def _feeds(config: IngestConfig, lake: Lake, clock: Clock) -> list[live.Feed]:
    """What ``url`` and ``feeds`` ask for.

    Raises:
        SettingsError: a feed is not ``VENUE.SYMBOL=URL``, or an instrument is missing or there twice.
    """
    named: list[tuple[str | None, str]] = [(config.instrument, config.url)] if config.url else []
    for each in config.feeds:
        name, sign, address = each.partition("=")
        if not sign:
            raise SettingsError(f"expected a feed as VENUE.SYMBOL=URL, saw {each!r}")
        named.append((name, address))
    if len({key for key, _ in named}) < len(named):
        raise SettingsError("expected every instrument in one feed only: two would be landed beside each other")
    found = []
    for key, url in named:
        instrument = _instrument(dataclasses.replace(config, instrument=key), lake)
        source = live_source(url if len(named) == 1 else f"{url} {instrument.key}", clock)
        feed = live.Feed(url=url, instrument=instrument, source=source, seconds=config.seconds)
        found.append(dataclasses.replace(feed, snapshot_url=config.snapshot_url))
    return found


def _landed(lander: Lander, origin: str, venue: Venue, steps: str, *, truncated: bool = False) -> Landed:
    stats: Stats = lander.stats
    offset_ns = lander.normaliser.clock_offset.ns
    return Landed(
        source=lander.source,
        instrument=lander.instrument.key,
        venue=venue.name,
        origin=origin,
        tick=format(lander.instrument.tick, "f"),
        lot=format(lander.instrument.lot, "f"),
        steps=steps,
        rows=stats.rows,
        frames=stats.frames,
        new_frames=lander.landed,
        events=stats.events,
        trades=stats.trades,
        slow=stats.slow,
        options=stats.options,
        quarantined=dict(stats.rejected),
        gaps=stats.gaps,
        resyncs=stats.resyncs,
        duplicates=stats.duplicates,
        proved=stats.proved,
        crossed=stats.crossed,
        locked=stats.locked,
        clock_back=stats.clock_back,
        first_ns=stats.first_ns,
        last_ns=stats.last_ns,
        offset_ms=round(stats.offset_mean_ns / NS_PER_MS, 3),
        synced=lander.normaliser.synced,
        truncated=truncated,
        clock_offset_ms=None if offset_ns is None else round(offset_ns / NS_PER_MS, 3),
        interrupted=stats.interrupted,
    )
