"""kill -9 of ingest, writer, compactor, sender and broker while a capture is replayed: the lake ends as undisturbed.

A bounded part of `python -m bench.kills`, over a real capture where one lies beside the checkout, else over a simulated
recording. KILLS says how many kills (10 unless told), KILLS_SEED when.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from kit.captured import FOLDER
from kit.forked import server
from kit.kafka_broker import broker, needs_kafka
from kit.wire_frames import ToyExchange, stamped, write_lines

from bench import kills
from market.lake.lake import Lake

__all__ = ["broker"]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KILLS", "10"))
SEED = int(os.environ.get("KILLS_SEED", "7"))


@pytest.fixture(scope="module", autouse=True)
def preloaded() -> None:
    """The campaign forks its verbs from the server that runs, whoever has started it."""
    server()


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    real = FOLDER / "binance_raw" / "usdm_btcusdt_20230404.dat.gz"
    if real.exists():
        return real
    lines = stamped(ToyExchange(seed=3).session(seconds=720, rate=30))
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.gz", lines)


def whole(campaign: kills.Campaign, wanted: int) -> None:
    campaign.undisturbed()
    campaign.run(wanted)
    assert campaign.differing == []
    assert sum(each.hit for each in campaign.kills) >= wanted


def test_a_recording_whose_ingest_and_compactor_are_killed_is_landed_once(capture, tmp_path):
    campaign = kills.Campaign(capture, tmp_path, Random(SEED))
    whole(campaign, -(-KILLS // 2))
    assert {each.kind for each in campaign.kills} >= {"ingest"}


@needs_kafka
def test_a_topic_whose_sender_broker_writer_and_compactor_are_killed_is_landed_once(broker, capture, tmp_path):
    campaign = kills.Campaign(capture, tmp_path, Random(SEED), broker)
    campaign.rounds["recording"] = 1  # a topic has the first turn
    whole(campaign, KILLS // 2)


def test_one_frame_more_or_another_byte_is_seen(capture, tmp_path):
    campaign = kills.Campaign(capture, tmp_path, Random(SEED))
    campaign.undisturbed()
    home = campaign._home()
    kills.start(home, "ingest", files=(str(capture),)).join()
    lake = Lake(home / "lake")
    lake.append("raw", lake.read("raw").slice(0, 1))
    campaign._end(home, None)
    assert len(campaign.differing) == 1
