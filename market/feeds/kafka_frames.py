"""Raw frames through a Kafka topic: sent by a process near the exchange, landed by a process near the lake.

A message is one frame in the form of a recording's line, ``<receive ns> <payload>``, keyed by instrument. The frames of
an instrument are in one partition; a frame's number is its offset plus one. Where a recording or a session ends, its
sender writes an end mark, and what follows is another *source*: so a source is a stretch of one partition, its frames
are the same for every reader, and the lake's position in it is the next offset to read. The number of a topic's
partitions must not change while it is in use: keys would move.

A message that is not in this form is landed as a refusal: ``keel-refused REASON DETAIL\\n`` before its bytes, which
gives the same result when the source is derived again from raw.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from market.bus import kafka
from market.bus.kafka import SCHEMA, Outbox, Topic, headers_of, place_of
from market.errors import FrameError
from market.events import Events
from market.feeds.landing import Lander
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import KAFKA_PREFIX
from market.venues.formats.lines import read_line
from market.venues.protocol import NO_EVENTS, NO_STAMP

FRAME: Final = b"frame/1"
END: Final = b"end/1"
MISSING: Final = "deleted_before_landing"
UNKNOWN_SCHEMA: Final = "unknown_schema"

_FROM: Final = "keel-from"  # of a recording's frames: source id and number there
_REFUSED: Final = b"keel-refused "
_SHOWN: Final = 60
_ASK_S: Final = 10.0
_PATIENCE_S: Final = 30.0
_POLLED: Final = 2_000
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class FrameSender:
    """Sends one instrument's frames. After its block the broker has them all, or an error says why not."""

    def __init__(self, topic: Topic, instrument: str) -> None:
        self._outbox = Outbox(topic, compression="zstd")
        self._key = instrument.encode()

    def send(self, recv_ns: int, payload: bytes, *, source: str = "", number: int = 0) -> None:
        """Queue a frame; ``recv_ns`` NO_STAMP where its payload is a line without a time. Raises as Outbox.send."""
        headers = [(SCHEMA, FRAME)]
        if source:
            headers.append((_FROM, b"%s %d" % (source.encode(), number)))
        self._outbox.send(self._key, payload if recv_ns == NO_STAMP else b"%d %s" % (recv_ns, payload), headers)

    def end(self) -> None:
        """Queue an end mark: the recording, or the session, is over."""
        self._outbox.send(self._key, b"", [(SCHEMA, END)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outbox.failed:
            self._outbox.drop()
        else:
            self._outbox.flush()


class SessionSender(FrameSender):
    """Takes a live session's frames one by one: ``sent``. An end mark follows however it is left, unless the broker is
    away.
    """

    def __init__(self, topic: Topic, instrument: Instrument) -> None:
        super().__init__(topic, instrument.key)
        self.instrument = instrument
        self.sent = 0

    def feed(self, _frame: int, recv_ns: int, payload: bytes) -> None:
        """Queue a frame; its number is its position in the topic."""
        self.send(recv_ns, payload)
        self.sent += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._outbox.failed:
            self.end()
        super().__exit__(kind, error, trace)


@dataclass(frozen=True, kw_only=True)
class Forwarded:
    """How much of a recording is in a topic: up to frame ``number``, and whether an end mark follows its last frame."""

    number: int = 0
    ended: bool = False


def forwarded(topic: Topic, instrument: str, source: str) -> Forwarded:
    """Search the instrument's partition for frames of a recording."""
    found = Forwarded()
    with FrameReader(topic, instrument, first=0, group="keel-forward") as reader:
        for each in reader.messages(until=reader.end):
            if each.origin[0] == source:
                found = Forwarded(number=max(found.number, each.origin[1]))
            elif each.end and found.number:
                found = Forwarded(number=found.number, ended=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Received:
    """A message: a frame with its number, or an ``end`` mark. ``origin`` is the recording and the number there."""

    number: int
    recv_ns: int = NO_STAMP
    payload: bytes = b""
    end: bool = False
    origin: tuple[str, int] = ("", 0)


class FrameReader:
    """Reads one instrument's frames from the offset ``first`` on, or from the oldest still available.

    ``end`` is the offset after the newest message at the time of opening.
    """

    def __init__(self, topic: Topic, instrument: str, *, first: int, group: str) -> None:
        """Raises ServiceError: the cluster is unreachable or refuses us."""
        self._topic = topic
        self._key = instrument.encode()
        self._down_since: float | None = None
        self._refusal: KafkaError | None = None
        self._consumer = Consumer({**kafka.reader_settings(topic.cluster, group), "error_cb": self._on_error})
        self.partition = topic.partition_of(self._key)
        try:
            low, self.end = self._consumer.get_watermark_offsets(
                TopicPartition(topic.name, self.partition), timeout=_ASK_S
            ) or (0, 0)
        except KafkaException as error:
            self._consumer.close()
            kafka.fail(error.args[0], topic.cluster, topic.name)
        self.missing = max(0, low - first)
        self._next = max(first, low)
        self._consumer.assign([TopicPartition(topic.name, self.partition, self._next)])

    def messages(self, *, until: int | None = None) -> Iterator[Received]:
        """Frames and end marks in order, up to the offset ``until`` or forever.

        Raises:
            InputError: the topic is gone.
            ServiceError: the broker stays unreachable, or refuses us.
        """
        while until is None or self._next < until:
            wanted = _POLLED if until is None else min(_POLLED, until - self._next)
            batch = self._consumer.consume(wanted, timeout=0.5)
            self._check_up(bool(batch))
            for message in batch:
                error = message.error()
                if error is not None:
                    kafka.fail(error, self._topic.cluster, self._topic.name)
                self._next = place_of(message)[1] + 1
                if until is not None and self._next > until:
                    return
                if message.key() == self._key:
                    yield _received(message, self._next)
            if not batch and until is not None:
                self._skip_markers()

    def _skip_markers(self) -> None:
        """Offsets that hold no message (the end of another producer's transaction) are skipped all the same."""
        [place] = self._consumer.position([TopicPartition(self._topic.name, self.partition)])
        self._next = max(self._next, place.offset)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down_since = self._down_since or time.monotonic()
        elif kafka.is_refusal(error):
            self._down_since = self._down_since or time.monotonic()
            self._refusal = error

    def _check_up(self, worked: bool) -> None:
        if worked:
            self._down_since = self._refusal = None
        if self._down_since is None or time.monotonic() - self._down_since < _PATIENCE_S:
            return
        try:
            self._consumer.list_topics(self._topic.name, timeout=_ASK_S)
        except KafkaException as error:
            self._consumer.close()
            kafka.fail(self._refusal or error.args[0], self._topic.cluster, self._topic.name)
        self._down_since = self._refusal = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()


def feed(lander: Lander, received: Received) -> Events:
    """Land a frame from the topic, or from raw if it was landed before."""
    if not received.payload.startswith(_REFUSED):
        return lander.feed(received.number, received.recv_ns, received.payload)
    why, _, _ = received.payload.removeprefix(_REFUSED).partition(b"\n")
    reason, _, detail = why.decode().partition(" ")
    lander.reject(received.number, reason, detail, received.payload)
    return NO_EVENTS


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A source in a topic: from offset ``first`` up to the next end mark."""

    source: str
    first: int


def stretch(topic: Topic, instrument: Instrument, first: int) -> Stretch:
    """The source that begins at an offset."""
    key = _UNSAFE.sub("-", instrument.key)
    partition = topic.partition_of(instrument.key.encode())
    return Stretch(source=f"{KAFKA_PREFIX}{topic.name}-{topic.identity}-{partition}-{key}-{first}", first=first)


def unfinished_stretch(topic: Topic, instrument: Instrument, lake: Lake) -> Stretch:
    """The first source of the instrument that the lake does not hold up to its end mark.

    An end mark is not a frame: only after one is the position of ticks higher than that of raw.
    """
    found = stretch(topic, instrument, 0)
    while True:
        ticks, raw = (lake.position(table, found.source) or 0 for table in ("ticks", "raw"))
        if ticks <= raw:
            return found
        found = stretch(topic, instrument, ticks)


def _received(message: Message, number: int) -> Received:
    headers = headers_of(message)
    schema, value = headers.get(SCHEMA, b""), message.value() or b""
    value = value.encode() if isinstance(value, str) else value
    if schema == END:
        return Received(number=number, end=True)
    source, _, count = headers.get(_FROM, b"").decode(errors="replace").partition(" ")
    origin = (source, int(count)) if count.isdigit() else ("", 0)
    if schema != FRAME:
        seen = schema[:_SHOWN].decode(errors="replace") or "none"
        detail = f"expected a message of schema {FRAME.decode()}, saw {seen!r}; its writer has another version"
        return Received(number=number, payload=_refusal(UNKNOWN_SCHEMA, detail, value), origin=origin)
    try:
        recv_ns, payload = read_line(value)
    except FrameError as error:
        return Received(number=number, payload=_refusal(error.reason, str(error), value), origin=origin)
    return Received(number=number, recv_ns=recv_ns, payload=payload, origin=origin)


def _refusal(reason: str, detail: str, value: bytes) -> bytes:
    return b"%s%s %s\n%s" % (_REFUSED, reason.encode(), detail.replace("\n", " ").encode(), value)


def about_missing(topic: Topic, reader: FrameReader, wanted: int) -> str:
    """The error for messages that the topic deleted before they were landed."""
    return (
        f"offsets {wanted} to {wanted + reader.missing - 1} of topic {topic.name!r}, partition {reader.partition}, "
        "were deleted before they were landed; give the topic a longer retention, or land sooner"
    )
