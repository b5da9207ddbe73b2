"""Raw frames through Kafka: our sender and reader against librdkafka's own performance tool, on one broker.

The tool is linked with the library that our client uses (see librdkafka.sh). If it is not available, the peer is
Kafka's own producer and consumer test, in Java.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench import market
from market.bus.cluster import Cluster
from market.bus.kafka import MAX_MESSAGE, Topic, make_topic
from market.feeds.kafka_frames import FrameReader, FrameSender
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, default_install

_KEY = "sim-usdm.BTCUSDT"
_TIMES = 5  # over the same ten minutes
_ROUNDS = 3
_LIKE_OURS = {
    "enable.idempotence": "true",
    "compression.codec": "zstd",
    "linger.ms": "5",
    "message.max.bytes": str(MAX_MESSAGE),
}

Rate = tuple[float, float]  # messages a second, bytes a second


def lacks() -> str:
    """What is missing for this, in words; empty where nothing is."""
    there = (default_install() / "installed").is_file() and shutil.which("java") is not None
    return "" if there else "no Kafka broker is installed here; run bash infra/kafka/install.sh, which says why"


def run() -> dict[str, Any]:
    frames = market.lines() * _TIMES
    size = sum(len(b"%d %s" % frame) for frame in frames) // len(frames)
    with tempfile.TemporaryDirectory() as folder, KafkaNode(_node(Path(folder))) as node:
        cluster = Cluster(servers=str(node.address))
        topics = [make_topic(cluster, f"ours{i}") for i in range(_ROUNDS)]
        other = make_topic(cluster, "other")
        name, produce, consume = _peer(Path(folder), cluster)
        sent, peer_sent, got, peer_got = [], [], [], []
        for topic in topics:  # alternating, so that both run under the same conditions
            sent.append(_timed(partial(_send, topic, frames), len(frames), size))
            peer_sent.append(produce(other.name, len(frames), size))
            got.append(_timed(partial(_read, topic), len(frames), size))
            peer_got.append(consume(topic.name, len(frames), size))
    return {
        "title": "Raw frames through Kafka",
        "rows": [
            *_rows(
                "sent and acknowledged: idempotent, keyed, zstd, schema in a header", max(sent), name, max(peer_sent)
            ),
            *_rows("read back, schema and time looked at", max(got), f"{name}, same topic", max(peer_got)),
        ],
        "notes": [
            f"{len(frames):,} frames of the simulated exchange, {size} bytes on average, one partition, one broker on "
            f"loopback; best of {_ROUNDS}. Ours is one Python process.",
            "The peer sends messages of that size with the same settings, but one pattern again and again, no headers: "
            "that costs next to nothing to compress. It reads the topic that ours wrote.",
        ],
    }


def _node(folder: Path) -> KafkaConfig:
    return KafkaConfig(folder=folder / "kafka", install=default_install())


def _send(topic: Topic, frames: tuple[market.Line, ...]) -> None:
    with FrameSender(topic, _KEY) as sender:
        for number, (recv_ns, payload) in enumerate(frames, 1):
            sender.send(recv_ns, payload, source="bench", number=number)


def _read(topic: Topic) -> None:
    with FrameReader(topic, _KEY, first=0, group="bench") as reader:
        for _ in reader.messages(until=reader.end):
            pass


def _timed(work: Callable[[], None], count: int, size: int) -> Rate:
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return count / seconds, count * size / seconds


Tool = Callable[[str, int, int], Rate]


def _peer(folder: Path, cluster: Cluster) -> tuple[str, Tool, Tool]:
    spec = importlib.util.find_spec("confluent_kafka")
    assert spec is not None
    assert spec.origin is not None
    library = next(Path(spec.origin).parent.parent.glob("confluent_kafka.libs/librdkafka-*.so.1"), Path())
    made = subprocess.run([Path(__file__).with_name("librdkafka.sh"), folder, library], check=False)
    if made.returncode == 0:
        tool = str(folder / "rdkafka_performance")
        return "rdkafka_performance (C)", partial(_c_produce, tool, cluster), partial(_c_consume, tool, cluster)
    return "Kafka's performance test (Java)", partial(_java_produce, cluster), partial(_java_consume, cluster)


def _c_produce(tool: str, cluster: Cluster, topic: str, count: int, size: int) -> Rate:
    settings = [word for pair in _LIKE_OURS.items() for word in ("-X", "=".join(pair))]
    return _c(
        [tool, "-P", "-t", topic, "-b", cluster.servers, "-s", str(size), "-k", _KEY, "-c", str(count), *settings]
    )


def _c_consume(tool: str, cluster: Cluster, topic: str, count: int, _size: int) -> Rate:
    group = ["-G", f"peer-{topic}", "-X", "auto.offset.reset=earliest"]
    return _c([tool, *group, "-b", cluster.servers, "-c", str(count), "-t", topic])


def _c(command: list[str]) -> Rate:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = re.findall(r"(\d+) msgs/s (?:and |\()([\d.]+) MB/s", done.stdout)
    rate, megabytes = found[-1]
    return float(rate), 1e6 * float(megabytes)


def _java_produce(cluster: Cluster, topic: str, count: int, size: int) -> Rate:
    settings = [f"bootstrap.servers={cluster.servers}", "compression.type=zstd", "linger.ms=5"]
    words = ["--topic", topic, "--num-records", str(count), "--record-size", str(size), "--throughput", "-1"]
    said = _java("ProducerPerformance", *words, "--producer-props", *settings)
    rate = re.findall(r"([\d.]+) records/sec", said)[-1]
    return float(rate), float(rate) * size


def _java_consume(cluster: Cluster, topic: str, count: int, size: int) -> Rate:
    words = ["--bootstrap-server", cluster.servers, "--topic", topic, "--num-records", str(count), "--hide-header"]
    last = _java("ConsumerPerformance", *words).strip().splitlines()[-1]
    rate = float(last.split(",")[-1])  # fetch.nMsg.sec: without joining the group
    return rate, rate * size


def _java(name: str, *words: str) -> str:
    command = ["java", "-cp", f"{default_install()}/libs/*", f"org.apache.kafka.tools.{name}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def _rows(what: str, ours: Rate, peer: str, theirs: Rate) -> list[dict[str, Any]]:
    def row(unit: str, value: float, peer_value: float) -> dict[str, Any]:
        found = {"what": what, "value": round(value, 1), "unit": unit, "peer": peer, "peer_value": peer_value}
        return {**found, "ratio": value / peer_value}

    return [row("frames/s", ours[0], theirs[0]), row("MB/s", ours[1] / 1e6, theirs[1] / 1e6)]
