"""The same lake in a bucket: a real SeaweedFS on loopback, with keys of its own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
from itertools import count
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from kit.doomed import Ended, keel
from kit.seaweed import Seaweed, needs_seaweed, seaweed
from kit.wire_frames import USDM, ToyExchange, bytes_of, stamped, write_lines
from typer.testing import CliRunner

from market.clock import ManualClock
from market.errors import InputError, LakeError, SettingsError
from market.feeds.landing import Lander
from market.instruments import find
from market.lake import inventory
from market.lake.lake import Lake
from market.lake.rows import rows_of
from market.lake.schemas import SCHEMAS
from pipelines.cli.main import app
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.settings import workspace as workspace_of_the_environment
from pipelines.workspace import Workspace

__all__ = ["seaweed"]
pytestmark = needs_seaweed

_PREFIXES = count(1)
SIM = find("sim-usdm.BTCUSDT")
START = 1_723_161_240 * 10**9
KILLS = 6


@pytest.fixture
def uri(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in the bucket that nobody used, with the keys in the environment."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    return seaweed.new_prefix("s3://lakes/", next(_PREFIXES))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five minutes with a frame that cannot be read."""
    lines = list(stamped(ToyExchange(seed=3).session(seconds=300, rate=60)))
    lines[2000] = lines[2000][:60]
    return write_lines(tmp_path_factory.mktemp("recording") / "toy.gz", lines)


def digest(lake: Lake) -> dict[str, str]:
    """sha256 of every table's rows in their order, by column."""
    found = {}
    for table in SCHEMAS:
        rows = lake.read(table)
        values = json.dumps([str(column.to_pylist()) for column in rows.columns])
        found[table] = f"{rows.num_rows} {hashlib.sha256(values.encode()).hexdigest()}"
    return found


def raw(first: int, last: int, source: str = "s"):
    numbers = np.arange(first, last + 1)
    columns = {"source": source, "frame": numbers, "recv_ns": START + numbers, "payload": [b"x"] * len(numbers)}
    return rows_of("raw", SIM, columns)


def test_ingest_lands_on_s3_what_it_lands_in_a_folder(uri, recording, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KEEL_LAKE_URI", uri)
    monkeypatch.setenv("KEEL_HOME", str(tmp_path / "home"))
    there = workspace_of_the_environment()
    assert there.lake == uri
    landed = ingest(IngestConfig(files=(str(recording),)), workspace=there)
    here = Workspace(home=tmp_path / "here")
    assert ingest(IngestConfig(files=(str(recording),)), workspace=here).landed == landed.landed
    assert digest(Lake(uri)) == digest(Lake(here.lake))
    assert not (tmp_path / "home").exists(), "nothing of it lies on this machine"
    again = ingest(IngestConfig(files=(str(recording),)), workspace=there)
    assert again.landed[0].new_frames == 0


def test_a_landing_that_is_killed_at_any_commit_goes_on_and_lands_each_frame_once(
    uri, recording, tmp_path, seaweed
) -> None:
    here = Workspace(home=tmp_path / "here")
    ingest(IngestConfig(files=(str(recording),)), workspace=here)
    expected = digest(Lake(here.lake))

    def land(place: object, at: int = 0) -> Ended:
        variables = {**seaweed.environment(), "KEEL_LAKE_URI": f"{uri}/{place}"}
        return keel(tmp_path / "home", "ingest", str(recording), at=at, **variables)

    quiet = land("whole")
    assert quiet.code == 0, quiet.err
    assert quiet.changes >= 8

    chance = random.Random(11)
    for place in range(KILLS):
        killed = land(place, at=chance.randint(1, quiet.changes))
        assert killed.killed, killed.err
        assert land(place).code == 0
        assert digest(Lake(f"{uri}/{place}")) == expected
    assert inventory.faults(Lake(f"{uri}/0")) == ()


def _append_many(uri: str, source: str) -> None:
    lake = Lake(uri)
    for n in range(1, 16):
        lake.append("raw", raw(n, n, source), source=source, position=n, after=n - 1)


def test_writers_at_once_lose_no_commit_of_each_other(uri) -> None:
    context = multiprocessing.get_context("spawn")
    names = ("a", "b", "c")
    writers = [context.Process(target=_append_many, args=(uri, name)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    rows = Lake(uri).read("raw", columns=["source", "frame"]).to_pylist()
    assert [(row["source"], row["frame"]) for row in rows] == [(name, n) for name in names for n in range(1, 16)]


def test_two_that_land_the_same_source_do_not_land_it_twice(uri, recording) -> None:
    lake = Lake(uri)
    first, second = (Lander("s", SIM, Lake(uri)) for _ in range(2))
    for n in range(1, 4):
        for lander in (first, second):
            lander.feed(n, START + n, b"{}")
    first.close()
    with pytest.raises(LakeError, match="another process lands s too"):
        second.close()
    assert lake.read("raw", columns=["frame"])["frame"].to_pylist() == [1, 2, 3]
    assert lake.position("raw", "s") == 3


def test_a_live_session_that_was_killed_is_finished_from_its_raw_frames(uri) -> None:
    lake, session = Lake(uri), ToyExchange(seed=4).session(seconds=100)
    frames = [(n, recv_ns, bytes_of(frame)) for n, (recv_ns, frame) in enumerate(session, start=1)]
    killed = Lander("live-1", USDM, lake, clock=ManualClock(START))
    for frame in frames:
        killed.feed(*frame)
    killed.pause()  # raw is committed, the last minute of ticks is not
    assert (lake.position("raw", "live-1"), lake.position("ticks", "live-1")) != (len(frames), len(frames))

    words = ["lake", "finish", "live-1", "--instrument", USDM.key, "--lake", uri, "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["frames"] == len(frames)
    assert lake.position("ticks", "live-1") == len(frames)
    quiet = Lake(f"{uri}-quiet")
    with Lander("live-1", USDM, quiet) as lander:
        for frame in frames:
            lander.feed(*frame)
    assert digest(lake) == digest(quiet)
    unknown = CliRunner().invoke(app, ["lake", "finish", "live-2", "--instrument", USDM.key, "--lake", uri])
    assert isinstance(unknown.exception, InputError)


def test_keel_lake_works_on_a_bucket(uri) -> None:
    def keel(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["lake", *words, "--lake", uri])
        assert done.exit_code == code, done.output
        return done.stdout

    assert "no tables in" in keel("ls")
    lake = Lake(uri)
    for n in range(1, 5):
        lake.append("raw", raw(n, n), source="s", position=n)
    (listed,) = json.loads(keel("ls", "--json"))["tables"]
    assert (listed["table"], listed["version"], listed["holding"]["rows"]) == ("raw", 4, 4)
    assert json.loads(keel("stats", "raw", "--json"))["partitions"][0]["holding"]["files"] == 4
    assert keel("cat", "raw", "--columns", "frame", "--version", "2") == "frame\n1\n2\n"
    assert "is whole" in keel("verify")
    assert json.loads(keel("compact", "--json"))["files"] == {"raw": [4, 1]}
    assert keel("cat", "raw", "--columns", "frame") == "frame\n1\n2\n3\n4\n"

    lake._storage.filesystem("raw").delete_file(lake.files("raw")[0].path)
    assert "cannot be read" in keel("verify", code=4)


def test_duckdb_and_polars_read_a_bucket(uri) -> None:
    Lake(uri).append("raw", raw(1, 5))
    plain = {"allow_http": "true"}
    assert pl.scan_delta(f"{uri}/raw", storage_options=plain).select(pl.col("frame").sum()).collect().item() == 15
    found = duckdb.from_arrow(DeltaTable(f"{uri}/raw", storage_options=plain).to_pyarrow_dataset())
    assert found.aggregate("sum(frame)").fetchall() == [(15,)]


def test_a_compacted_bucket_can_be_read_as_it_was(uri) -> None:
    lake = Lake(uri)
    for n in (1, 2):
        lake.append("raw", raw(n, n))
    lake.compact("raw")
    lake.delete("raw", {"frame": 1})
    past = [lake.at({"raw": version}).read("raw", columns=["frame"]).num_rows for version in range(6)]
    assert past == [0, 1, 2, 2, 2, 1]
    moment = DeltaTable(f"{uri}/raw", storage_options={"allow_http": "true"}).history()[-2]["timestamp"]
    assert lake.as_of(moment * 1_000_000).version("raw") == 1
    assert lake.as_of((moment - 1) * 1_000_000).version("raw") == 0, "S3 itself tells whole seconds"


def test_a_server_that_refuses_us_or_is_away_is_said_without_the_keys(uri, monkeypatch, seaweed) -> None:
    Lake(uri).append("raw", raw(1, 1))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(LakeError, match=r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY") as refused:
        Lake(uri).read("raw")
    assert seaweed.key not in str(refused.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret)
    with pytest.raises(LakeError, match=r"NoSuchBucket.*bucket's name"):
        Lake("s3://no-such-bucket/lake").read("raw")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(LakeError, match=r"(?i)connection refused.*what was committed is safe") as away:
        Lake(uri).append("raw", raw(2, 2))
    assert seaweed.secret not in str(away.value)


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"),
        ({"AWS_ENDPOINT_URL": "http://s3.example:8333"}, "without TLS.*use https"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:8333"}, "expected http"),
    ],
)
def test_an_environment_that_cannot_work_is_said_before_anybody_is_asked(uri, monkeypatch, variables, match) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=match):
        Lake(uri).read("raw")


def test_an_address_of_another_kind_is_refused() -> None:
    for address in ("gs://bucket/lake", "s3://"):
        with pytest.raises(SettingsError, match="expected a folder or s3://bucket/prefix"):
            Lake(address)
