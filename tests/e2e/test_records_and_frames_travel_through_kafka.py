"""The bus over a real broker: frames from recordings to the lake, and what may not pass."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from kit.kafka_broker import broker, cluster, needs_kafka, new_topic, url_of, values
from kit.landed_lake import contents
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.bus.kafka import Outbox, find_topic
from market.errors import EmptyDataError, InputError, ServiceError
from market.feeds.kafka_frames import MISSING, UNKNOWN_SCHEMA
from market.lake.lake import Lake
from pipelines.ingestion.forward import ForwardConfig, forward
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

__all__ = ["broker", "cluster", "new_topic"]

pytestmark = [pytest.mark.heavy, needs_kafka]

KEY = "binance-usdm.BTCUSDT"


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
