"""The bus over Kafka: many processes on many machines can read records for as long as the topic retains them.

Messages are keyed by instrument, so an instrument's messages are in one partition, in order. The producer is
idempotent: what it resends after a lost acknowledgement, or to a broker that came back, is stored once. Every message
names the schema of its bytes in a header.

A reader that writes to the lake commits its position there, in the same commit as the rows, and starts from that
position: exactly-once delivery without Kafka transactions. The group's own offsets are never read.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from market.bus.cluster import Cluster, topic_named
from market.bus.protocol import Records, layout_of
from market.errors import InputError, KeelError, ServiceError
from market.events import joined

SCHEMA: Final = "keel-schema"
STOP: Final = b"stop/1"
MAX_MESSAGE: Final = 8 * 2**20  # bytes; a depth snapshot of 5,000 levels a side is under 1 MiB

_FIRST: Final = "keel-first"  # number of the message's first record, among all that this publisher has sent
_CHUNK: Final = 256 * 2**10  # bytes of records in one message
_PLACES: Final = 2**20  # more records than a message may hold
_ASK_S: Final = 15.0
_DELIVER_S: Final = 60.0
_POLLED: Final = 500  # messages

_AWAY: Final = (
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.REQUEST_TIMED_OUT,
)
_NO_TOPIC: Final = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_TOO_LARGE: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_REFUSED: Final = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


@dataclass(frozen=True, kw_only=True)
class Topic:
    """An existing topic. ``identity``: 8 hex digits that no other topic has, not even a later one with this name."""

    cluster: Cluster
    name: str
    identity: str
    partitions: int

    def partition_of(self, key: bytes) -> int:
        """The partition of messages with this key: librdkafka's partitioner ``consistent``, CRC-32 of the key."""
        return zlib.crc32(key) % self.partitions


def find_topic(cluster: Cluster, name: str) -> Topic:
    """Look up a topic in the cluster.

    Raises:
        InputError: there is no topic with this name.
        ServiceError: the cluster is unreachable or refuses us.
    """
    wanted = TopicCollection([topic_named(name)])
    try:
        found = _answer(cluster, lambda admin: admin.describe_topics(wanted, request_timeout=_ASK_S)[name])
    except KafkaException as error:
        fail(error.args[0], cluster, name)
    identity = format(zlib.crc32(str(found.topic_id).encode()), "08x")
    return Topic(cluster=cluster, name=name, identity=identity, partitions=len(found.partitions))


def make_topic(cluster: Cluster, name: str, *, partitions: int = 1, copies: int = -1) -> Topic:
    """As :func:`find_topic`, but creates a missing topic; ``copies`` -1 is the cluster's default."""
    settings = {"max.message.bytes": str(MAX_MESSAGE)}
    wanted = NewTopic(topic_named(name), partitions, copies, config=settings)
    try:
        _answer(cluster, lambda admin: admin.create_topics([wanted], request_timeout=_ASK_S)[name])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            fail(error.args[0], cluster, name)
    deadline = time.monotonic() + _ASK_S
    while True:  # the call returns before every broker knows the topic
        try:
            return find_topic(cluster, name)
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _answer(cluster: Cluster, ask: Callable[[AdminClient], Future[Any]]) -> Any:
    """The result of one request. A refusal is raised at once: the request itself would only ever time out."""
    refused: list[KafkaError] = []
    settings: dict[str, Any] = {**cluster.client(), "error_cb": refused.append}
    admin = AdminClient(settings)
    answer = ask(admin)
    while not answer.done():
        admin.poll(0.05)
        for error in filter(is_refusal, refused):
            raise KafkaException(error)
    return answer.result()


def is_refusal(error: KafkaError) -> bool:
    """Whether the cluster refuses us. A connection lost while authenticating has this code too, but recovers."""
    return error.code() in _REFUSED and "Broker transport failure" not in error.str()


def fail(error: KafkaError, cluster: Cluster, topic: str) -> NoReturn:
    """Raise our error for an error of the library."""
    raise explained(error, cluster, topic) from None


def explained(error: KafkaError, cluster: Cluster, topic: str) -> KeelError:
    """Our error, with a sentence, for an error of the library."""
    code, text = error.code(), error.str()
    if code in _AWAY:
        return ServiceError(
            f"no Kafka broker answers at {cluster.servers} ({text}); check that it is up and that the address is right"
        )
    if code in _NO_TOPIC:
        return InputError(f"there is no topic {topic!r} at {cluster.servers}; create it, or name an existing one")
    if code in _TOO_LARGE:
        return InputError(
            f"a message for topic {topic!r} is larger than allowed ({text}); "
            f"raise the topic's max.message.bytes (ours go up to {MAX_MESSAGE:,} bytes)"
        )
    if code in _REFUSED:
        return ServiceError(f"Kafka at {cluster.servers} refused us ({text}); check the KEEL_KAFKA_ settings")
    return ServiceError(f"topic {topic!r} at {cluster.servers}: {text}")


class Outbox:
    """The send queue of one topic. Sending blocks only while the queue is full.

    ``failed``: a message was abandoned; nothing sent after it is in the topic.
    """

    def __init__(self, topic: Topic, *, compression: str = "lz4") -> None:
        self.topic = topic
        self.failed = False
        self._problem: KafkaError | None = None
        self._producer = Producer(
            {
                **topic.cluster.client(),
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,  # an abandoned message stops all later ones
                "compression.type": compression,
                "partitioner": "consistent",
                "linger.ms": 5,
                "message.max.bytes": MAX_MESSAGE,
                "delivery.timeout.ms": int(_DELIVER_S * 1000),
                "delivery.report.only.error": True,
                "on_delivery": self._on_failure,
            }
        )

    def send(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """Queue one message.

        Raises:
            InputError: it is larger than allowed.
            ServiceError: the broker has been unreachable for a minute; the queue is full, or a message was abandoned.
        """
        deadline: float | None = None
        while True:
            self._check()
            try:
                self._producer.produce(self.topic.name, value, key, headers=headers)  # type: ignore[arg-type]
            except BufferError:
                deadline = deadline or time.monotonic() + _DELIVER_S
                if time.monotonic() > deadline:
                    raise self._left(len(self._producer)) from None
                self._serve(lambda: self._producer.poll(0.1))
            except KafkaException as error:
                self._on_failure(error.args[0], None)
            else:
                self._serve(lambda: self._producer.poll(0))
                return

    def flush(self) -> None:
        """Wait until the broker has everything.

        Raises:
            InputError: a message is larger than the broker allows.
            ServiceError: the broker does not accept it within a minute.
        """
        left = self._serve(lambda: self._producer.flush(_DELIVER_S + 5))
        self._check()
        if left:
            raise self._left(left)

    def drop(self) -> None:
        """Discard what is still queued."""
        self._producer.purge()
        self._serve(lambda: self._producer.flush(1))

    def _serve(self, work: Callable[[], int]) -> int:
        """Run the library's callbacks through ``work`` and return its result.

        When the library (2.16) gives up a message it raises from within the callbacks, in varying forms, one of which
        is not an Exception. Running them once more delivers the message's outcome.
        """
        try:
            return work()
        except KeyboardInterrupt:
            raise
        except:  # noqa: E722 see above
            raised: object = sys.exc_info()[1]
            found = raised.args[0] if isinstance(raised, KafkaException) else raised
            if isinstance(found, KafkaError):
                self._on_failure(found, None)
            elif self._problem is None:
                raise
        return work()

    def _on_failure(self, error: KafkaError | None, _message: Message | None) -> None:
        """Keep the first error, except that an abandoned message says more than "no more may be sent after it"."""
        if self._problem is None or self._problem.code() == KafkaError._GAPLESS_GUARANTEE:
            self._problem = error

    def _check(self) -> None:
        if self._problem is not None:
            self.failed = True
            fail(self._problem, self.topic.cluster, self.topic.name)

    def _left(self, count: int) -> ServiceError:
        self.failed = True
        where, name = self.topic.cluster.servers, self.topic.name
        return ServiceError(f"no Kafka broker at {where} took {count:,} messages for topic {name!r} in time; is it up?")


class KafkaPublisher:
    """Sends records of one dtype for one key (an instrument); see :class:`market.bus.protocol.Publisher`."""

    def __init__(self, topic: Topic, dtype: np.dtype[np.void], *, key: str) -> None:
        self.dtype = dtype
        self._outbox = Outbox(topic)
        self._key = key.encode()
        self._schema = schema_of(dtype)
        self._sent = 0

    def publish(self, records: Records) -> None:
        records = np.ascontiguousarray(records, dtype=self.dtype)
        step = max(1, _CHUNK // self.dtype.itemsize)
        for start in range(0, len(records), step):
            part = records[start : start + step]
            headers = [(SCHEMA, self._schema), (_FIRST, b"%d" % self._sent)]
            self._outbox.send(self._key, part.tobytes(), headers)
            self._sent += len(part)

    def flush(self) -> None:
        """Wait until the broker has everything. Raises as :meth:`Outbox.flush`."""
        self._outbox.flush()

    def stop(self) -> None:
        self._outbox.send(self._key, b"", [(SCHEMA, STOP), (_FIRST, b"%d" % self._sent)])
        self._outbox.flush()


def schema_of(dtype: np.dtype[np.void]) -> bytes:
    """The schema header of records of this dtype."""
    return b"records/%08x" % layout_of(dtype)


class KafkaSubscriber:
    """A member of a consumer group: the group's members share the topic's partitions.

    ``positions`` returns where to start reading a partition, as previously reported by :attr:`positions` of this class
    and stored in the lake; None is the oldest message available. See :class:`market.bus.protocol.Subscriber`. ``lost``
    counts records that the topic had dropped before they were read; what was dropped while no member was reading is
    counted in messages only, so the count is then too low, but never 0. A member that is reassigned a partition resumes
    where it stopped, unless the lake is further by then.
    """

    def __init__(
        self, topic: Topic, dtype: np.dtype[np.void], *, group: str, positions: Callable[[int], int | None]
    ) -> None:
        self.dtype = dtype
        self.lost = 0
        self.positions: dict[int, int] = {}
        self._topic = topic
        self._schema = schema_of(dtype)
        self._asked = positions
        self._waiting: deque[tuple[int, int, Records]] = deque()  # partition, position of its first record, records
        self._begins: dict[int, int] = {}  # offset by partition, where no message has come since it was assigned
        self._left: dict[int, int] = {}  # the position in partitions that were revoked
        self._next: dict[bytes, int] = {}
        self._running: dict[bytes, bool] = {}
        self._consumer = Consumer(reader_settings(topic.cluster, group))
        self._consumer.subscribe([topic.name], on_assign=self._assigned, on_revoke=self._revoked)

    def poll(self, limit: int) -> Records:
        """See the protocol.

        Raises:
            InputError: a message has another schema; reader and writer are of different versions.
            ServiceError: the cluster refuses us.
        """
        if not self._waiting:
            for message in self._consumer.consume(_POLLED, timeout=0):
                self._take(message)
        parts, room = list[Records](), limit
        while self._waiting and room > 0:
            partition, position, records = self._waiting.popleft()
            part, rest = records[:room], records[room:]
            parts.append(part)
            room -= len(part)
            if len(rest):
                self._waiting.appendleft((partition, position + len(part), rest))
                self.positions[partition] = position + len(part)
            else:
                self.positions[partition] = (position // _PLACES + 1) * _PLACES
        return joined(parts, self.dtype)

    @property
    def assigned(self) -> frozenset[int]:
        """Partitions assigned to this member now; they change only in :meth:`poll`."""
        return frozenset(each.partition for each in self._consumer.assignment())

    @property
    def stopped(self) -> bool:
        return bool(self._running) and not any(self._running.values()) and not self._waiting

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            fail(error, self._topic.cluster, self._topic.name)
        partition, offset = place_of(message)
        self.lost += max(0, offset - self._begins.pop(partition, offset))
        key, value, headers = message.key() or b"", message.value() or b"", headers_of(message)
        if headers.get(SCHEMA) == STOP:
            self._count_lost(_bytes(key), int(headers[_FIRST]), 0)
            self._running[_bytes(key)] = False
            self._waiting.append((partition, offset * _PLACES, np.empty(0, self.dtype)))
            return
        if headers.get(SCHEMA) != self._schema or len(value) % self.dtype.itemsize:
            raise InputError(
                f"topic {self._topic.name!r}, partition {partition}, offset {offset}: expected records of schema "
                f"{self._schema.decode()}, saw {headers.get(SCHEMA, b'none').decode(errors='replace')}; "
                "run writer and reader in the same version"
            )
        records = np.frombuffer(_bytes(value), dtype=self.dtype)
        self._count_lost(_bytes(key), int(headers[_FIRST]), len(records))
        taken = max(0, self.positions.get(partition, 0) - offset * _PLACES)  # of a message read in part
        self._waiting.append((partition, offset * _PLACES + taken, records[taken:]))

    def _count_lost(self, key: bytes, first: int, count: int) -> None:
        expected = self._next.get(key, first)
        self.lost += max(0, first - expected)  # a lower number comes from a new publisher
        self._next[key] = first + count
        self._running[key] = True

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            position = max(self._asked(each.partition) or 0, self._left.pop(each.partition, 0))
            if position:
                self.positions[each.partition] = position
                each.offset = self._begins[each.partition] = position // _PLACES
            else:
                each.offset = -2  # the oldest
        consumer.assign(partitions)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {each.partition for each in partitions}
        self._waiting = deque(each for each in self._waiting if each[0] not in gone)
        for partition in gone:
            self._left[partition] = self.positions.pop(partition, 0)
            self._begins.pop(partition, None)
        for key in [key for key in self._next if self._topic.partition_of(key) in gone]:  # another member reads on
            del self._next[key], self._running[key]


def reader_settings(cluster: Cluster, group: str) -> dict[str, Any]:
    """Settings of a consumer whose position is stored outside its group."""
    return {
        **cluster.client(),
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "fetch.message.max.bytes": MAX_MESSAGE,
        "queued.max.messages.kbytes": 65_536,
    }


def place_of(message: Message) -> tuple[int, int]:
    """Partition and offset of a message that was received."""
    partition, offset = message.partition(), message.offset()
    assert partition is not None  # noqa: S101 None only for messages that were never sent
    assert offset is not None  # noqa: S101
    return partition, offset


def headers_of(message: Message) -> dict[str, bytes]:
    """Headers by name; the last one where a name repeats."""
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    return {name: _bytes(value or b"") for name, value in pairs}


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
