"""Kafka: one KRaft node, the jars of infra/kafka/install.sh."""

from __future__ import annotations

import functools

from market.errors import ServiceError
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, answers, default_install
from pipelines.stack.server import Server
from pipelines.stack.site import Site


def kafka(site: Site) -> Server:
    """The node under ``data/kafka``."""
    node = KafkaNode(
        KafkaConfig(
            folder=site.data("kafka"),
            install=default_install(),
            port=site.port("kafka"),
            controller_port=site.port("kafka-controller"),
        )
    )
    return Server(
        name="kafka",
        what="the bus between machines",
        command=node.command,
        ports=("kafka", "kafka-controller"),
        prepare=node.prepare,
        probe=functools.partial(_probe, site),
        stop_seconds=30,
    )


def _probe(site: Site) -> None:
    if not answers(site.address("kafka")):
        raise ServiceError(f"Kafka at {site.address('kafka')} does not answer a client")
