"""The bus over a real broker: records between processes, frames from recordings to the lake, and what may not pass."""

from __future__ import annotations

import time

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kafka_broker import broker, cluster, needs_kafka, new_topic, url_of, values
from landed_lake import contents
from wire_frames import ToyExchange, stamped, write_lines

from market.bus.kafka import KafkaPublisher, KafkaSubscriber, Outbox, find_topic
from market.errors import EmptyDataError, InputError, ServiceError
from market.feeds.kafka_frames import MISSING, UNKNOWN_SCHEMA
from market.lake.lake import Lake
from pipelines.ingestion.forward import ForwardConfig, forward
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

__all__ = ["broker", "cluster", "new_topic"]

pytestmark = [pytest.mark.heavy, needs_kafka]

PAIR = np.dtype([("n", "<i8"), ("twice", "<i8")])
KEY = "binance-usdm.BTCUSDT"
FROM_START = {}.get


def pairs(first, count):
    out = np.zeros(count, dtype=PAIR)
    out["n"] = np.arange(first, first + count)
    out["twice"] = 2 * out["n"]
    return out


def take(subscriber, count, limit=1000):
    """Poll until ``count`` records are there, at most ``limit`` at a time."""
    parts = []
    deadline = time.monotonic() + 60
    while sum(map(len, parts)) < count:
        assert time.monotonic() < deadline, f"{sum(map(len, parts))} of {count} records came"
        part = subscriber.poll(limit)
        assert len(part) <= limit
        parts.append(part)
        if not len(part):
            time.sleep(0.02)
    return np.concatenate(parts)


def landed(topic, home, **more):
    config = IngestConfig(url=url_of(topic), instrument=KEY, **{"drain": True, **more})
    return ingest(config, workspace=Workspace(home=home))


def without_source(found):
    return {table: [{k: v for k, v in row.items() if k != "source"} for row in rows] for table, rows in found.items()}


@pytest.fixture(scope="module")
def lines():
    """Three minutes with two frames that cannot be read."""
    found = list(stamped(ToyExchange(seed=3).session(seconds=180, rate=20)))
    found[1000] = found[1000][:60]
    found[2001] = found[2001].replace(b'"e"', b'"f"')
    return found


@pytest.fixture(scope="module")
def recording(lines, tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.gz", lines)


@pytest.fixture(scope="module")
def straight(recording, tmp_path_factory):
    """What the lake holds of the recording when it is landed without a topic between."""
    workspace = Workspace(home=tmp_path_factory.mktemp("straight"))
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    return without_source(contents(Lake(workspace.lake)))


def test_records_come_in_order_and_the_stop_after_them(new_topic):
    topic = new_topic(partitions=3)
    publisher = KafkaPublisher(topic, PAIR, key=KEY)
    subscriber = KafkaSubscriber(topic, PAIR, group="a", positions=FROM_START)
    for first in range(0, 100_000, 20_000):
        publisher.publish(pairs(first, 20_000))
    publisher.stop()
    assert np.array_equal(take(subscriber, 100_000, limit=777), pairs(0, 100_000))
    deadline = time.monotonic() + 30
    while not subscriber.stopped and time.monotonic() < deadline:
        assert len(subscriber.poll(10)) == 0
        time.sleep(0.02)
    assert (subscriber.stopped, subscriber.lost) == (True, 0)
    assert list(subscriber.positions) == [topic.partition_of(KEY.encode())]
    subscriber.close()


def test_a_reader_begins_where_the_lake_stands_also_within_a_message_and_whatever_its_group_says(new_topic):
    topic = new_topic()
    publisher = KafkaPublisher(topic, PAIR, key=KEY)
    for first in range(0, 300, 100):
        publisher.publish(pairs(first, 100))
    publisher.flush()
    first = KafkaSubscriber(topic, PAIR, group="b", positions=FROM_START)
    assert np.array_equal(take(first, 250, limit=50), pairs(0, 250))
    kept = dict(first.positions)
    take(first, 50)
    first.close()
    again = KafkaSubscriber(topic, PAIR, group="b", positions=kept.get)
    assert np.array_equal(take(again, 50), pairs(250, 50))
    again.close()


def test_what_the_topic_dropped_while_nobody_read_is_counted(new_topic, cluster):
    topic = new_topic()
    publisher = KafkaPublisher(topic, PAIR, key=KEY)
    for first in range(0, 50, 10):
        publisher.publish(pairs(first, 10))
    publisher.flush()
    cut = TopicPartition(topic.name, 0, 3)
    admin = AdminClient(cluster.client())
    admin.delete_records([cut])[cut].result(30)
    subscriber = KafkaSubscriber(topic, PAIR, group="c", positions={0: 1 << 20}.get)  # the first message was taken
    assert take(subscriber, 20)["n"].tolist() == list(range(30, 50))
    assert subscriber.lost == 2  # messages; how many records were in them nobody knows
    subscriber.close()


def test_members_of_a_group_share_the_partitions_and_go_on_where_the_one_that_left_stood(new_topic):
    topic = new_topic(partitions=4)
    keys = [f"binance-usdm.K{number}" for number in range(8)]
    publishers = [KafkaPublisher(topic, PAIR, key=key) for key in keys]
    kept: dict[int, int] = {}  # as the lake would
    members = [KafkaSubscriber(topic, PAIR, group="shared", positions=kept.get) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not all(member.assigned for member in members) and time.monotonic() < deadline:
        assert sum(len(member.poll(10)) for member in members) == 0
        time.sleep(0.02)
    assert sorted(members[0].assigned | members[1].assigned) == [0, 1, 2, 3]
    assert not members[0].assigned & members[1].assigned

    def send(first, count):
        for number, publisher in enumerate(publishers):
            publisher.publish(pairs(1000 * number + first, count))
            publisher.flush()

    send(0, 100)
    seen = [[], []]
    while sum(map(len, seen)) < 8 * 100 and time.monotonic() < deadline:
        for who, member in enumerate(members):
            seen[who] += member.poll(33)["n"].tolist()
            kept.update(member.positions)
        time.sleep(0.01)
    members[0].close()
    send(100, 50)
    rest = take(members[1], 8 * 50)["n"].tolist()
    together = seen[0] + seen[1] + rest
    assert sorted(together) == sorted(1000 * number + n for number in range(8) for n in range(150))
    assert members[1].lost == 0
    members[1].close()


def test_records_of_another_version_are_refused_with_both_named(new_topic):
    topic = new_topic()
    publisher = KafkaPublisher(topic, np.dtype([("n", "<i8")]), key=KEY)
    publisher.publish(np.zeros(5, dtype=[("n", "<i8")]))
    publisher.flush()
    subscriber = KafkaSubscriber(topic, PAIR, group="d", positions=FROM_START)
    with pytest.raises(InputError, match=r"expected records of schema records/\w{8}, saw records/\w{8}"):
        take(subscriber, 1)
    subscriber.close()


def test_a_recording_through_a_topic_gives_the_lake_it_gives_by_itself(new_topic, recording, lines, straight, tmp_path):
    topic = new_topic(partitions=4)
    workspace = Workspace(home=tmp_path)
    sent = forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=workspace)
    assert (sent.frames, sent.there, sent.instruments) == (len(lines), 0, (KEY,))
    assert values(topic, topic.partition_of(KEY.encode())) == [*lines, b""]  # ours and the broker's partitioner agree
    again = forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=workspace)
    assert (again.frames, again.there) == (0, len(lines))
    result = landed(topic, tmp_path)
    assert without_source(contents(Lake(workspace.lake))) == straight
    assert (result.landed[0].frames, result.landed[0].new_frames, result.unfinished) == (len(lines), len(lines), ())
    with pytest.raises(EmptyDataError, match="no new frames"):
        landed(topic, tmp_path)
    assert without_source(contents(Lake(workspace.lake))) == straight


def test_what_is_landed_in_parts_is_what_is_landed_at_once(new_topic, recording, lines, straight, tmp_path):
    topic = new_topic()
    forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=Workspace(home=tmp_path))
    ends = []
    for _ in range(10):
        result = landed(topic, tmp_path, seconds=37)
        ends.append(result.landed[0].frames)
        if not result.unfinished:
            break
    assert len(ends) > 3
    assert ends == sorted(ends)
    assert without_source(contents(Lake(tmp_path / "lake"))) == straight


def test_a_message_of_another_schema_goes_to_quarantine_and_the_rest_is_landed(new_topic, cluster, lines, tmp_path):
    topic = new_topic()
    producer = Producer(cluster.client())
    strange = [
        ([("keel-schema", b"frame/9")], b"from the future"),
        ([], lines[3]),
        ([("keel-schema", b"frame/1")], b"no time {}"),
    ]
    for line in lines[:100]:
        producer.produce(topic.name, line, KEY, headers=[("keel-schema", b"frame/1")])
    for headers, value in strange:
        producer.produce(topic.name, value, KEY, headers=headers)
    producer.produce(topic.name, lines[5], "binance-usdm.ETHUSDT", headers=[("keel-schema", b"frame/1")])
    for line in lines[100:200]:
        producer.produce(topic.name, line, KEY, headers=[("keel-schema", b"frame/1")])
    producer.flush()
    result = landed(topic, tmp_path)
    expected = {UNKNOWN_SCHEMA: 2, "clock_unreadable": 1}
    assert result.landed[0].quarantined == expected
    assert result.landed[0].frames == 203  # the other instrument's is not ours
    producer.produce(topic.name, b"", KEY, headers=[("keel-schema", b"end/1")])
    producer.flush()
    result = landed(topic, tmp_path)  # derived again from raw: the same is refused for the same reasons
    assert result.landed[0].quarantined == expected
    rows = Lake(tmp_path / "lake").read("quarantine").to_pylist()
    assert sorted(row["reason"] for row in rows) == sorted(["clock_unreadable", *[UNKNOWN_SCHEMA] * 2])
    assert "saw 'frame/9'" in rows[0]["detail"]
    assert rows[0]["payload"].endswith(b"from the future")


def test_frames_deleted_before_they_were_landed_are_put_on_record(new_topic, cluster, recording, lines, tmp_path):
    topic = new_topic()
    workspace = Workspace(home=tmp_path)
    forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=workspace)
    had = landed(topic, tmp_path, seconds=30).landed[0].frames
    cut = TopicPartition(topic.name, 0, had + 500)
    admin = AdminClient(cluster.client())
    admin.delete_records([cut])[cut].result(30)
    result = landed(topic, tmp_path)
    assert result.landed[0].frames == len(lines) - 500
    assert result.landed[0].quarantined[MISSING] == 1
    [row] = [r for r in Lake(workspace.lake).read("quarantine").to_pylist() if r["reason"] == MISSING]
    assert f"offsets {had} to {had + 499}" in row["detail"]


def test_a_topic_that_was_made_anew_is_another_source(new_topic, cluster, recording, tmp_path):
    topic = new_topic()
    forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=Workspace(home=tmp_path))
    first = landed(topic, tmp_path).sources
    admin = AdminClient(cluster.client())
    admin.delete_topics([topic.name])[topic.name].result(30)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            find_topic(cluster, topic.name)
        except InputError:
            break
        time.sleep(0.1)
    config = ForwardConfig(files=(str(recording),), to=url_of(topic), partitions=1)
    forward(config, workspace=Workspace(home=tmp_path))
    assert landed(topic, tmp_path).sources != first


def test_a_message_larger_than_allowed_is_refused_with_the_limit(new_topic, cluster):
    topic = new_topic()
    outbox = Outbox(topic)
    with pytest.raises(InputError, match=r"larger than allowed .* max\.message\.bytes"):
        outbox.send(b"k", bytes(9 * 2**20), [])
    admin = AdminClient(cluster.client())
    small = Outbox(find_topic(cluster, topic.name), compression="none")
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    change = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource("topic", topic.name, incremental_configs=[change])
    admin.incremental_alter_configs([resource])[resource].result(30)
    small.send(b"k", bytes(5000), [])
    with pytest.raises(InputError, match="larger than allowed"):
        small.flush()


def test_a_broker_that_is_away_and_a_topic_that_is_not_there_are_said_in_a_sentence(cluster, tmp_path):
    workspace = Workspace(home=tmp_path)
    with pytest.raises(InputError, match="there is no topic 'nothing'"):
        ingest(IngestConfig(url=f"kafka://{cluster.servers}/nothing", instrument=KEY), workspace=workspace)
    with pytest.raises(ServiceError, match=r"no Kafka broker answers at 127\.0\.0\.1:9;? ?"):
        ingest(IngestConfig(url="kafka://127.0.0.1:9/frames", instrument=KEY), workspace=workspace)
