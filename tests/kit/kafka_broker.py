"""A real Kafka broker for the tests of a run, started when the first of them asks for it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from market.bus.cluster import Cluster
from market.bus.kafka import Topic, make_topic
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, default_install

_NUMBERS = itertools.count(1)

needs_kafka = pytest.mark.skipif(
    not (default_install() / "installed").is_file() or shutil.which("java") is None,
    reason="no Kafka broker here; `bash infra/kafka/install.sh` fetches one, or says what it lacks",
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    with KafkaNode(KafkaConfig(folder=tmp_path_factory.mktemp("kafka"), install=default_install())) as node:
        yield node


@pytest.fixture
def cluster(broker: KafkaNode) -> Cluster:
    return Cluster(servers=str(broker.address))


@pytest.fixture
def new_topic(cluster: Cluster) -> Callable[..., Topic]:
    """``new_topic(partitions=1)``: a topic of its own."""
    return lambda partitions=1: make_topic(cluster, f"t{next(_NUMBERS)}", partitions=partitions)


def url_of(topic: Topic) -> str:
    return f"kafka://{topic.cluster.servers}/{topic.name}"


def values(topic: Topic, partition: int = 0) -> list[bytes]:
    """The bytes of every message, read as anybody would."""
    consumer = Consumer({"bootstrap.servers": topic.cluster.servers, "group.id": "look", "enable.auto.commit": False})
    place = TopicPartition(topic.name, partition, 0)
    _, end = consumer.get_watermark_offsets(place, timeout=30)
    consumer.assign([place])
    found: list[bytes] = []
    while len(found) < end:
        batch = consumer.consume(min(10_000, end - len(found)), timeout=30)
        assert batch, f"{len(found)} of {end} messages came"
        assert all(message.error() is None for message in batch)
        found += [message.value() or b"" for message in batch]
    consumer.close()
    return found
