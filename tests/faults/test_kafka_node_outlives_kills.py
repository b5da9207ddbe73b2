"""One real Kafka broker on loopback: it keeps what it acknowledged, and nothing of it outlives its owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kit.kafka_broker import needs_kafka

from market.errors import PortInUseError, ServiceError
from pipelines.stack.kafka_node import KafkaConfig, KafkaNode, answers, default_install, running_kafka
from pipelines.workspace import Address

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "kafka" / "install.sh"
MESSAGES = 2_000

pytestmark = pytest.mark.heavy


def produce(address: Address, topic: str, count: int) -> int:
    """How many messages the broker acknowledged."""
    acknowledged = 0

    def on_delivery(error: object, message: object) -> None:
        nonlocal acknowledged
        assert error is None, error
        acknowledged += 1

    producer = Producer({"bootstrap.servers": str(address), "enable.idempotence": True, "linger.ms": 5})
    for number in range(count):
        producer.produce(topic, str(number), on_delivery=on_delivery)
    producer.flush(60)
    return acknowledged


def consume(address: Address, topic: str, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": str(address), "group.id": "t", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[int] = []
    while len(found) < count:
        messages = consumer.consume(count, timeout=30)
        assert messages, f"only {len(found)} of {count} messages came"
        found += [int(message.value() or b"") for message in messages]
    consumer.close()
    return found


@needs_kafka
def test_what_was_acknowledged_is_there_after_kill_and_after_stop(tmp_path: Path) -> None:
    with KafkaNode(KafkaConfig(folder=tmp_path / "kafka", install=default_install())) as node:
        address = node.address
        admin = AdminClient({"bootstrap.servers": str(address)})  # must live until the answer is there
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(30)
        assert produce(address, "t", MESSAGES) == MESSAGES
        node.kill()
        assert not answers(address)
        assert node.start() == address  # clients find it again
        assert consume(address, "t", MESSAGES) == list(range(MESSAGES))
        with (
            pytest.raises(PortInUseError, match=f"port {address.port}"),
            running_kafka(tmp_path / "other", port=address.port),
        ):
            pass
        node.stop()
        node.start()
        assert consume(address, "t", MESSAGES) == list(range(MESSAGES))


@needs_kafka
def test_it_ends_with_its_owner_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom pipelines.stack.kafka_node import running_kafka\n"
        "with running_kafka(Path(sys.argv[1])) as address:\n    print(address.port, flush=True)\n    time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "kafka")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    with running_kafka(tmp_path / "kafka", port=0) as address:  # waits until the other has put its logs away
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        assert answers(address)


def test_without_an_installation_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"infra/kafka/install\.sh"), running_kafka(tmp_path / "k", install=tmp_path):
        pass


def test_the_set_up_says_what_is_missing_and_does_nothing_twice(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cut", "cat", "sha256sum", "id"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    bare = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "kafka")],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 1
    assert "Java 17 or newer is missing" in bare.stderr
    assert not (tmp_path / "kafka" / "installed").exists()
    stamp = default_install() / "installed"
    if stamp.is_file():
        before = stamp.stat().st_mtime_ns
        again = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=True)
        assert again.stderr == ""
        assert stamp.stat().st_mtime_ns == before
