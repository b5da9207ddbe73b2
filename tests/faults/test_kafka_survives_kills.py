"""kill -9 of the broker and of whoever sends or lands: the topic and the lake end as if nothing had happened.

KAFKA_KILLS says how many kills each test makes (two unless told), KAFKA_SEED when.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from kit.forked import Forked
from kit.kafka_broker import broker, cluster, needs_kafka, new_topic, url_of, values
from kit.landed_lake import contents
from kit.stamped_server import StampedServer
from kit.wire_frames import ToyExchange, stamped, write_lines

from market.lake.lake import Lake
from pipelines import stages
from pipelines.ingestion.forward import ForwardConfig, forward
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.workspace import Workspace

__all__ = ["broker", "cluster", "new_topic"]

pytestmark = [pytest.mark.heavy, needs_kafka, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KAFKA_KILLS", "2"))
SEED = int(os.environ.get("KAFKA_SEED", "7"))
KEY = "binance-usdm.BTCUSDT"


def run(home: Path, verb: str, given: dict[str, str]) -> None:
    words: dict[str, Any] = {**given, **({"files": [given["files"]]} if "files" in given else {})}
    stages.run(verb, workspace=Workspace(home=home), **words)


def start(home: Path, verb: str, **given: str) -> Forked:
    return Forked(run, home, verb, given)


def without_source(found):
    return {table: [{k: v for k, v in row.items() if k != "source"} for row in rows] for table, rows in found.items()}


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Four minutes with two frames that cannot be read."""
    lines = list(stamped(ToyExchange(seed=3).session(seconds=240, rate=30)))
    lines[2000] = lines[2000][:60]
    lines[5000] = lines[5000].replace(b'"e"', b'"f"')
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.txt", lines)


@pytest.fixture(scope="module")
def straight(recording, tmp_path_factory):
    """What the lake holds of the recording when nothing lies between and nothing is killed."""
    workspace = Workspace(home=tmp_path_factory.mktemp("straight"))
    ingest(IngestConfig(files=(str(recording),)), workspace=workspace)
    return without_source(contents(Lake(workspace.lake)))


def test_a_broker_killed_while_it_is_sent_to_stores_every_frame_once_and_in_order(broker, new_topic, tmp_path):
    chance = random.Random(SEED)
    lines = list(stamped(ToyExchange(seed=4).session(seconds=150 * KILLS)))
    topic = new_topic()
    with StampedServer(lines, messages_a_second=800) as server:
        child = start(tmp_path, "forward", url=server.url, to=url_of(topic), instrument=KEY)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.3, 2.5))
            broker.kill()
            time.sleep(chance.uniform(0, 1))
            broker.start()
        assert child.ended() == 0
    assert values(topic) == [*lines, b""]


def test_a_recording_whose_sender_is_killed_is_in_the_topic_once(new_topic, recording, tmp_path):
    chance = random.Random(SEED)
    lines = recording.read_bytes().splitlines()
    topic = new_topic()
    for _ in range(KILLS):
        child = start(tmp_path, "forward", files=str(recording), to=url_of(topic))
        time.sleep(chance.uniform(0.05, 0.6))
        child.kill()
    forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=Workspace(home=tmp_path))
    assert values(topic) == [*lines, b""]


def test_a_lander_killed_at_random_moments_lands_every_frame_once(new_topic, recording, straight, tmp_path):
    topic = new_topic()
    forward(ForwardConfig(files=(str(recording),), to=url_of(topic)), workspace=Workspace(home=tmp_path))
    began = time.monotonic()
    child = start(tmp_path / "quiet", "ingest", url=url_of(topic), instrument=KEY, drain="true")
    child.ended()
    seconds = time.monotonic() - began
    chance = random.Random(SEED)
    killed, lakes = 0, 0
    while killed < KILLS:
        lakes += 1
        home = tmp_path / str(lakes)
        finished = False
        while not finished:
            child = start(home, "ingest", url=url_of(topic), instrument=KEY, drain="true")
            time.sleep(chance.uniform(0, seconds))
            finished = not child.kill()
            killed += not finished
            finished = finished or killed >= KILLS
        rest = start(home, "ingest", url=url_of(topic), instrument=KEY, drain="true")
        rest.ended()  # fails only where everything had been landed already
        assert without_source(contents(Lake(home / "lake"))) == straight


def test_a_broker_killed_while_frames_are_landed_as_they_come(broker, new_topic, recording, straight, tmp_path):
    chance = random.Random(SEED)
    topic = new_topic()
    lines = recording.read_bytes().splitlines()
    with StampedServer(lines, messages_a_second=1200) as server:
        sender = start(tmp_path / "sender", "forward", url=server.url, to=url_of(topic), instrument=KEY)
        lander = start(tmp_path / "lander", "ingest", url=url_of(topic), instrument=KEY)
        time.sleep(chance.uniform(1, 3))
        broker.kill()
        time.sleep(chance.uniform(0, 1))
        lander.kill()
        broker.start()
        lander = start(tmp_path / "lander", "ingest", url=url_of(topic), instrument=KEY)
        assert sender.ended() == 0
    lander.kill()
    ingest(IngestConfig(url=url_of(topic), instrument=KEY, drain=True), workspace=Workspace(home=tmp_path / "lander"))
    assert without_source(contents(Lake(tmp_path / "lander" / "lake"))) == straight
