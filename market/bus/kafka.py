"""Frames over Kafka: they stay readable as long as the topic keeps them, by many processes on many machines.

What is sent is keyed by instrument, so that an instrument's messages lie in one partition, in order. The producer is
idempotent: what it sends again after a lost answer, or to a broker that came back, is stored once. Every message says
in a header which schema its bytes have.

A reader that keeps what it reads in the lake commits its position there, in the same commit as the rows, and begins at
that position: exactly once without Kafka's transactions. The group's own offsets are never read.
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
    """A topic as it is. ``identity`` are 8 hex digits that no other topic has, not even a later one of this name."""

    cluster: Cluster
    name: str
    identity: str
    partitions: int

    def partition_of(self, key: bytes) -> int:
        """Where messages of this key lie: librdkafka's partitioner ``consistent``, CRC-32 of the key."""
        return zlib.crc32(key) % self.partitions


def find_topic(cluster: Cluster, name: str) -> Topic:
    """Ask the cluster about a topic.

    Raises:
        InputError: there is none of this name.
        ServiceError: the cluster is away or refuses us.
    """
    wanted = TopicCollection([topic_named(name)])
    try:
        found = _answer(cluster, lambda admin: admin.describe_topics(wanted, request_timeout=_ASK_S)[name])
    except KafkaException as error:
        fail(error.args[0], cluster, name)
    identity = format(zlib.crc32(str(found.topic_id).encode()), "08x")
    return Topic(cluster=cluster, name=name, identity=identity, partitions=len(found.partitions))


def make_topic(cluster: Cluster, name: str, *, partitions: int = 1, copies: int = -1) -> Topic:
    """As :func:`find_topic`, but a topic that is missing is made; ``copies`` -1 is the cluster's default."""
    settings = {"max.message.bytes": str(MAX_MESSAGE)}
    wanted = NewTopic(topic_named(name), partitions, copies, config=settings)
    try:
        _answer(cluster, lambda admin: admin.create_topics([wanted], request_timeout=_ASK_S)[name])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            fail(error.args[0], cluster, name)
    deadline = time.monotonic() + _ASK_S
    while True:  # the answer comes before every broker knows of the topic
        try:
            return find_topic(cluster, name)
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _answer(cluster: Cluster, ask: Callable[[AdminClient], Future[Any]]) -> Any:
    """The answer to one question. A refusal is told at once: the question itself would only ever time out."""
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
    """We are not wanted. A connection that is lost while we present ourselves has the same code, and mends itself."""
    return error.code() in _REFUSED and "Broker transport failure" not in error.str()


def fail(error: KafkaError, cluster: Cluster, topic: str) -> NoReturn:
    """Raise what an error of the library means."""
    raise explained(error, cluster, topic) from None


def explained(error: KafkaError, cluster: Cluster, topic: str) -> KeelError:
    """An error of the library as a sentence."""
    code, said = error.code(), error.str()
    if code in _AWAY:
        return ServiceError(
            f"no Kafka broker answers at {cluster.servers} ({said}); is it up, and is the address right?"
        )
    if code in _NO_TOPIC:
        return InputError(f"there is no topic {topic!r} at {cluster.servers}; create it, or give the name of one")
    if code in _TOO_LARGE:
        return InputError(
            f"a message for topic {topic!r} is larger than allowed ({said}); "
            f"raise the topic's max.message.bytes (ours go up to {MAX_MESSAGE:,} bytes)"
        )
    if code in _REFUSED:
        return ServiceError(f"Kafka at {cluster.servers} refused us ({said}); look at the KEEL_KAFKA_ settings")
    return ServiceError(f"topic {topic!r} at {cluster.servers}: {said}")


class Outbox:
    """What is sent to one topic. Sending waits only where a whole queue waits for the broker.

    ``failed``: something was given up; nothing that was sent after it is in the topic.
    """

    def __init__(self, topic: Topic, *, compression: str = "lz4") -> None:
        self.topic = topic
        self.failed = False
        self._problem: KafkaError | None = None
        self._producer = Producer(
            {
                **topic.cluster.client(),
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,  # a message that is given up stops all after it
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
            ServiceError: the broker has been away for a minute; the queue is full, or a message was given up.
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
            InputError: the broker found a message larger than it allows.
            ServiceError: the broker does not take it within a minute.
        """
        left = self._serve(lambda: self._producer.flush(_DELIVER_S + 5))
        self._check()
        if left:
            raise self._left(left)

    def drop(self) -> None:
        """Forget what is still queued."""
        self._producer.purge()
        self._serve(lambda: self._producer.flush(1))

    def _serve(self, work: Callable[[], int]) -> int:
        """Run the library's callbacks by ``work``; its answer.

        When a message is given up the library (2.16) raises in the midst of them, in changing forms, one of which is
        no exception. Run once more, they tell what became of the message.
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
        """Keep the first; but a message that was given up tells more than that none may be sent after it."""
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
    """Settings of a consumer whose place is kept elsewhere than in its group."""
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
    assert partition is not None  # noqa: S101 only of messages that were never sent
    assert offset is not None  # noqa: S101
    return partition, offset


def headers_of(message: Message) -> dict[str, bytes]:
    """Headers by name; of several with one name the last."""
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    return {name: _bytes(value or b"") for name, value in pairs}


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
