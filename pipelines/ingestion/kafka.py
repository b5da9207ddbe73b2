"""Land an instrument's frames from a Kafka topic: each exactly once, however often this process or a broker is killed.

The place in the topic is in the lake's commits and nowhere else. What raw already holds of an unfinished source is fed
again from raw (a topic forgets), what follows comes from the topic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from market.bus.cluster import Cluster
from market.bus.kafka import Topic, find_topic
from market.clock import NS_PER_S
from market.errors import EmptyDataError
from market.feeds import kafka_frames as feed_of_topic
from market.feeds.kafka_frames import FrameReader, Received, Stretch
from market.feeds.landing import Lander, landed_frames
from market.instruments import Instrument
from market.lake.lake import Lake

GROUP = "keel-ingest"


@dataclass(frozen=True, kw_only=True)
class LandTopic:
    """``seconds``: stop after this much market time. ``drain``: stop behind what lies in the topic when this begins."""

    cluster: Cluster
    topic: str
    instrument: Instrument
    seconds: float | None = None
    drain: bool = False


def land_topic(asked: LandTopic, lake: Lake, tell: Callable[[], None], tell_every: int) -> list[Lander]:
    """Follow the topic, source by source; the landers of those that frames came of, closed or paused.

    Raises:
        InputError: no such topic, or another process is landing it.
        EmptyDataError: it was drained and held no frame of the instrument.
        ServiceError: the cluster is unavailable or refuses us.
        LakeError: the lake cannot be written; rerun when repaired.
    """
    topic = find_topic(asked.cluster, asked.topic)
    run = _Run(asked=asked, topic=topic, lake=lake, tell=tell, tell_every=tell_every)
    place = feed_of_topic.unfinished_stretch(topic, asked.instrument, lake)
    landers: list[Lander] = []
    while True:
        lander, ended = run.land(place)
        if lander.stats.frames:
            landers.append(lander)
        if not ended:
            break
        place = feed_of_topic.stretch(topic, asked.instrument, ended)
    if not landers:
        raise EmptyDataError(
            f"topic {topic.name!r} holds no new frames of {asked.instrument.key}; is anybody forwarding to it?"
        )
    return landers


@dataclass(kw_only=True)
class _Run:
    asked: LandTopic
    topic: Topic
    lake: Lake
    tell: Callable[[], None]
    tell_every: int
    until: int | None = None  # offset
    until_ns: int | None = None
    fed: int = 0

    def land(self, place: Stretch) -> tuple[Lander, int]:
        """Land one source; the offset behind its end mark, 0 where it was not reached."""
        instrument = self.asked.instrument
        lander = Lander(place.source, instrument, self.lake)
        try:
            for number, recv_ns, payload in landed_frames(self.lake, place.source, instrument):
                feed_of_topic.feed(lander, Received(number=number, recv_ns=recv_ns, payload=payload))
            ended = self._follow(lander, max(place.first, self.lake.position("raw", place.source) or 0))
        except BaseException:
            lander.abandon()
            raise
        if ended:
            lander.end(ended)
        if ended or not lander.stats.frames:
            lander.close()
        else:
            lander.pause()
        return lander, ended

    def _follow(self, lander: Lander, first: int) -> int:
        with FrameReader(self.topic, self.asked.instrument.key, first=first, group=GROUP) as reader:
            if self.asked.drain and self.until is None:
                self.until = reader.end
            if reader.missing and first:
                lander.note(feed_of_topic.MISSING, feed_of_topic.about_missing(self.topic, reader, first))
            for received in self._wanted(reader):
                if received.end:
                    return received.number
                feed_of_topic.feed(lander, received)
                self.fed += 1
                if self.fed % self.tell_every == 0:
                    self.tell()
        return 0

    def _wanted(self, reader: FrameReader) -> Iterator[Received]:
        """Messages until the time is up."""
        for received in reader.messages(until=self.until):
            if received.recv_ns > 0 and self.asked.seconds is not None:
                self.until_ns = self.until_ns or received.recv_ns + int(self.asked.seconds * NS_PER_S)
                if received.recv_ns >= self.until_ns:
                    return
            yield received
