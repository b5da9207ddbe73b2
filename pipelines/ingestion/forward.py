"""Put raw frames into a Kafka topic, from recordings or from a WebSocket: what ``keel ingest --url kafka://...`` lands.

A recording that is forwarded again after a kill resumes where the topic's copy of it ends. A stream is live: what came
while no forwarder ran is missing, and shows as a gap in the venue's update ids.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from market.bus.kafka import Topic, find_topic, make_topic
from market.errors import CaptureError, InputError, SettingsError
from market.feeds import recordings, websocket
from market.feeds.kafka_frames import FrameSender, SessionSender, forwarded
from market.feeds.recordings import Recording
from market.lake.lake import Lake
from market.venues import registry
from market.venues.binance import snapshot_url
from pipelines import settings
from pipelines.ingestion.live import PROGRESS_EVERY, Feed, take
from pipelines.settings import StageConfig
from pipelines.workspace import Progress, Workspace, tracked


@dataclass(frozen=True, kw_only=True)
class ForwardConfig(StageConfig):
    """Either ``files`` (recordings) or a ``url`` (a WebSocket), ``to`` a ``kafka://host:port/topic``.

    ``instrument``, ``seconds`` and ``snapshot_url`` are as of ingest. ``partitions`` above 0: make the topic if it is
    missing; in production the cluster's operator creates topics.
    """

    to: str
    files: tuple[str, ...] = ()
    url: str | None = None
    seconds: float | None = None
    instrument: str | None = None
    snapshot_url: str = ""
    partitions: int = 0


@dataclass(frozen=True, kw_only=True)
class ForwardResult:
    """``frames`` were sent and acknowledged; ``there`` of the recordings lay in the topic before, ``shed`` of a stream
    found no room while the broker was unavailable."""

    topic: str
    instruments: tuple[str, ...]
    frames: int
    there: int = 0
    shed: int = 0

    def line(self) -> str:
        before = f" ({self.there:,} were there before)" if self.there else ""
        shed = f"; SHED {self.shed:,} frames that the broker could not take" if self.shed else ""
        return f"{', '.join(self.instruments)}: {self.frames:,} frames -> topic {self.topic}{before}{shed}"


def forward(config: ForwardConfig, *, workspace: Workspace) -> ForwardResult:
    """Send frames; when this returns the broker has them all.

    Raises:
        SettingsError: neither files nor a URL, or both; no topic in ``to``; the cluster's settings cannot work.
        InputError: a path cannot be read, no such topic, a frame larger than the topic allows.
        CaptureError: a file is not a recording, or is damaged; what comes before the damage was sent.
        ServiceError: the stream cannot be reached, or no broker takes messages for a minute.
    """
    if bool(config.files) == bool(config.url):
        raise SettingsError("expected recordings or --url, one of the two, and --to kafka://host:port/topic")
    if config.partitions < 0:
        raise SettingsError(f"expected partitions of 0 or more, saw {config.partitions}")
    cluster, name = settings.kafka_topic(config.to)
    topic = make_topic(cluster, name, partitions=config.partitions) if config.partitions else find_topic(cluster, name)
    if config.url:
        return asyncio.run(_forward_stream(config, config.url, topic, workspace))
    with recordings.opened([Path(each) for each in config.files]) as found:
        for recording in found:
            _check(recording)
        return _sum([_forward_recording(recording, topic, workspace.progress) for recording in found])


def _check(recording: Recording) -> None:
    """The frames must be such as the instrument's live stream has: a topic does not say of which format they are."""
    if recording.several:
        raise InputError(f"{recording.origin} holds several instruments; a topic takes recordings of one")
    if recording.key.partition(".")[0] not in recording.venue.live:
        raise InputError(
            f"{recording.origin} is of the format {recording.venue.name}, which no live stream has; land it by itself"
        )


def _sum(results: list[ForwardResult]) -> ForwardResult:
    return ForwardResult(
        topic=results[0].topic,
        instruments=tuple(dict.fromkeys(name for each in results for name in each.instruments)),
        frames=sum(each.frames for each in results),
        there=sum(each.there for each in results),
    )


def _forward_recording(recording: Recording, topic: Topic, progress: Progress) -> ForwardResult:
    source = recording.source()
    there = forwarded(topic, recording.key, source)
    sent = 0
    if not there.ended:
        with FrameSender(topic, recording.key) as sender, tracked(progress, f"forwarding {recording.origin}"):
            try:
                for number, recv_ns, payload in recording.venue.frames(recording.path):
                    if number <= there.number:
                        continue
                    sender.send(recv_ns, payload, source=source, number=number)
                    sent += 1
                    if sent % PROGRESS_EVERY == 0:
                        progress.advance(PROGRESS_EVERY)
            except CaptureError:
                sender.end()  # there is no more of it
                raise
            sender.end()
    return ForwardResult(topic=topic.name, instruments=(recording.key,), frames=sent, there=there.number)


async def _forward_stream(config: ForwardConfig, url: str, topic: Topic, workspace: Workspace) -> ForwardResult:
    if config.instrument is None:
        raise SettingsError("expected the instrument of the stream: --instrument binance-usdm.BTCUSDT, for instance")
    instrument = Lake(workspace.lake).instrument(config.instrument)
    registry.live(instrument)
    connection = websocket.ConnectionConfig(snapshot_url=config.snapshot_url or snapshot_url(instrument, url))
    feed = Feed(url=url, instrument=instrument, source="", seconds=config.seconds)
    sender = SessionSender(topic, instrument)
    with tracked(workspace.progress, f"forwarding {url}"):
        shed = await take(feed, sender, connection, workspace)
    return ForwardResult(topic=topic.name, instruments=(instrument.key,), frames=sender.sent, shed=shed.frames)
