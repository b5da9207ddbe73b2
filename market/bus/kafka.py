"""The bus over Kafka: many processes on many machines can read frames for as long as the topic retains them.

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
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from market.bus.cluster import Cluster, topic_named
from market.errors import InputError, KeelError, ServiceError

SCHEMA: Final = "keel-schema"
MAX_MESSAGE: Final = 8 * 2**20  # bytes; a depth snapshot of 5,000 levels a side is under 1 MiB

_ASK_S: Final = 15.0
_DELIVER_S: Final = 60.0

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
