"""`keel lake`: the contents from the logs, the contents from reading everything, and the errors of a damaged lake."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from kit.planted import Planted, write_dataset
from kit.small_lake import Market, workspace_with
from typer.testing import CliRunner

from market.errors import LakeError
from market.instruments import Instrument, find
from market.lake import inventory
from market.lake.lake import Lake
from market.lake.rows import rows_of
from market.sources import source_of_symbol
from pipelines.cli.main import app
from training.data.datasets import CARD_FILE

KEY, START_NS = "sim-usdm.BTCUSDT", 1_723_161_240_000_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake(workspace_with(tmp_path_factory.mktemp("lake") / "home", Market(seconds=130, frames=10)).lake)
    frames = np.arange(1, 21)
    said = [b'{"e":"trade"}', b"\xff not text"] * 10
    columns = {"source": "s", "frame": frames, "recv_ns": START_NS + frames, "payload": said}
    lake.append("raw", rows_of("raw", find(KEY), columns), source="s", position=20)
    return Path(lake.uri)


@pytest.fixture
def lake(whole: Path, tmp_path: Path) -> Path:
    """A copy, to break things in."""
    import shutil

    return Path(shutil.copytree(whole, tmp_path / "lake"))


def keel(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["lake", *words])
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_logs_agree_with_the_data(whole: Path) -> None:
    lake = Lake(whole)
    told = {each.table: each for each in inventory.tables(lake)}
    assert {"raw", "ticks"} <= set(told)
    for name, each in told.items():
        rows = lake.read(name)
        assert (each.holding.rows, each.version) == (rows.num_rows, lake.version(name))
        assert each.instruments == (KEY,)
        days = inventory.partitions(lake, name)
        assert sum(day.holding.rows for day in days) == rows.num_rows
        assert sum(day.holding.bytes for day in days) == each.holding.bytes
    ticks = lake.read("ticks", columns=["recv_ns"])["recv_ns"].to_pylist()
    assert (told["ticks"].holding.first_ns, told["ticks"].holding.last_ns) == (min(ticks), max(ticks))


def test_ls_and_stats_print_for_people_and_for_programs(whole: Path) -> None:
    screen = keel("ls", "--lake", str(whole))
    assert re.search(rf"^ticks +[\d,]+ .*{KEY}$", screen, re.MULTILINE)
    listed = json.loads(keel("ls", "--lake", str(whole), "--json"))
    (ticks,) = (each for each in listed["tables"] if each["table"] == "ticks")
    days = json.loads(keel("stats", "ticks", "--lake", str(whole), "--json"))["partitions"]
    assert sum(day["holding"]["rows"] for day in days) == ticks["holding"]["rows"]
    assert keel("stats", "ticks", "--lake", str(whole)).count(KEY) == len(days)


def test_cat_prints_the_requested_rows(whole: Path) -> None:
    wanted = ["--lake", str(whole), "--instrument", KEY, "--columns", "recv_ns,price", "--limit", "3"]
    rows = list(csv.DictReader(io.StringIO(keel("cat", "ticks", *wanted))))
    first = Lake(whole).read("ticks", columns=["recv_ns", "price"]).slice(0, 3).to_pylist()
    assert [{k: int(v) for k, v in row.items()} for row in rows] == first
    assert [json.loads(line) for line in keel("cat", "ticks", *wanted, "--json").splitlines()] == first
    frames = [
        json.loads(line) for line in keel("cat", "raw", "--lake", str(whole), "--limit", "2", "--json").splitlines()
    ]
    assert [frame["payload"] for frame in frames] == ['{"e":"trade"}', "\\xff not text"]


def test_an_intact_lake_is_reported_as_intact(whole: Path) -> None:
    assert "is whole" in keel("verify", "--lake", str(whole))
    assert "no tables in" in keel("verify", "--lake", str(whole / "elsewhere"))


def test_a_symbol_that_a_path_must_escape_is_not_an_error(tmp_path: Path) -> None:
    odd = Instrument(venue="bitfinex", symbol="tTEST BTC:TEST/USD%", tick=Decimal(1), lot=Decimal(1))
    columns = {"source": "s", "frame": np.arange(1, 4), "recv_ns": START_NS + np.arange(3), "payload": [b""] * 3}
    Lake(tmp_path).append("raw", rows_of("raw", odd, columns), source="s", position=3)
    assert inventory.tables(Lake(tmp_path))[0].instruments == (odd.key,)
    assert inventory.faults(Lake(tmp_path)) == ()


def test_instruments_of_one_recording_share_its_frames(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for symbol, frames in (("AA", [1, 3]), ("tB:B", [2, 5])):
        instrument = Instrument(venue="coinbase", symbol=symbol, tick=Decimal(1), lot=Decimal(1))
        source = source_of_symbol("file-1234", symbol)
        columns = {"source": source, "frame": frames, "recv_ns": [START_NS, START_NS + 1], "payload": [b""] * 2}
        lake.append("raw", rows_of("raw", instrument, columns), source=source, position=5)
    assert inventory.faults(lake) == ("raw: source file-1234: frames 1 of 1 to 5 are missing",)


def test_a_missing_or_damaged_file_is_named(lake: Path) -> None:
    gone, damaged = (next((lake / table).rglob("*.parquet")) for table in ("raw", "ticks"))
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    found = json.loads(keel("verify", "--lake", str(lake), "--json", code=4))["faults"]
    assert len(found) == 2
    assert found[0].startswith("raw: ")
    assert gone.name in found[0]
    assert found[1].startswith("ticks: ")
    assert damaged.name in found[1]


def test_missing_and_duplicate_frames_and_rows_are_counted(lake: Path) -> None:
    opened = Lake(lake)
    opened.append("raw", opened.read("raw").slice(0, 2))
    opened.delete("raw", {"source": "s", "frame": [5, 6, 7]})
    opened.delete("ticks", {"row": 1})
    found = json.loads(keel("verify", "--lake", str(lake), "--json", code=4))["faults"]
    assert found[:2] == ["raw: source s: frames 2 occur twice", "raw: source s: frames 3 of 1 to 20 are missing"]
    assert any(re.search(r"^ticks: .* rows 1 of 0 to \d+ are missing$", each) for each in found)


def test_compact_merges_and_loses_nothing(lake: Path) -> None:
    before = Lake(lake).read("ticks")
    told = json.loads(keel("compact", "--lake", str(lake), "--json"))["files"]
    old, new = told["ticks"]
    assert new <= old
    assert new == len({(day.instrument, day.date) for day in inventory.partitions(Lake(lake), "ticks")})
    assert Lake(lake).read("ticks").equals(before)


def test_only_tables_that_are_named_are_compacted(lake: Path) -> None:
    before = {each.table: each.version for each in inventory.tables(Lake(lake))}
    for symbol in range(2):
        Lake(lake).append("raw", Lake(lake).read("raw").slice(0, 1), source=f"more{symbol}", position=1)
        Lake(lake).append("ticks", Lake(lake).read("ticks").slice(0, 1))
    assert set(json.loads(keel("compact", "raw", "--lake", str(lake), "--json"))["files"]) == {"raw"}
    after = {each.table: each.version for each in inventory.tables(Lake(lake))}
    assert after["raw"] > before["raw"] + 2
    assert after["ticks"] == before["ticks"] + 2
    done = CliRunner().invoke(app, ["lake", "compact", "tick", "--lake", str(lake)])
    assert isinstance(done.exception, LakeError)
    assert "ticks" in str(done.exception)


def test_a_missing_table_gives_an_error(whole: Path) -> None:
    done = CliRunner().invoke(app, ["lake", "stats", "tick", "--lake", str(whole)])
    assert done.exit_code
    assert "ticks" in str(done.exception)


def test_vacuum_removes_what_was_replaced_but_not_what_a_dataset_was_cut_from(lake: Path, monkeypatch) -> None:
    opened = Lake(lake)
    home = lake.parent
    monkeypatch.setenv("KEEL_HOME", str(home))
    before = opened.read("ticks")
    kept = opened.version("ticks")
    for table in ("ticks", "raw"):
        opened.delete(table, {"source": "nobody's"})
        opened.compact(table)
    opened.replace("ticks", before.slice(5), {"source": before["source"][0].as_py()})
    opened.replace("ticks", before.slice(9), {"source": before["source"][0].as_py()})
    (lake / "ticks" / "orphan.parquet").write_bytes(b"of a writer that was killed")
    for path in lake.rglob("*.parquet"):
        os.utime(path, (1, 1))
    for path in (lake / "ticks" / "_delta_log").glob("*.json"):
        path.write_text(re.sub(r'"deletionTimestamp":\d+', '"deletionTimestamp":1', path.read_text()))
    card = write_dataset(home / "datasets" / "d1", Planted(rows=300)) / CARD_FILE
    card.write_text(json.dumps({**json.loads(card.read_text()), "lake_versions": {"ticks": kept}}))

    would = json.loads(keel("vacuum", "--lake", str(lake), "--dry-run", "--json"))["files"]
    files = set(lake.rglob("*.parquet"))
    done = json.loads(keel("vacuum", "--lake", str(lake), "--json"))["files"]
    assert done == would
    gone = files - set(lake.rglob("*.parquet"))
    assert len(gone) == done["ticks"][0] > 1
    assert lake / "ticks" / "orphan.parquet" in gone
    assert json.loads(keel("vacuum", "--lake", str(lake), "--json"))["files"]["ticks"] == [0, 0]
    assert Lake(lake).read("ticks").num_rows == before.num_rows - 9
    assert Lake(lake).at({"ticks": kept}).read("ticks").equals(before)
    with pytest.raises(LakeError, match="keel lake vacuum has removed it"):
        Lake(lake).at({"ticks": kept + 3}).read("ticks")
