"""Old versions and past times, and tables whose columns changed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

from market.errors import KeelError, LakeError, SettingsError
from market.instruments import find
from market.lake import schemas
from market.lake.lake import Lake
from market.lake.rows import rows_of
from market.lake.schemas import PROPERTY, SCHEMAS, SchemaVersion
from pipelines.cli.main import app

SIM = find("sim-usdm.BTCUSDT")
START = 1_723_161_240 * 10**9


def raw(first: int, last: int) -> pa.Table:
    numbers = np.arange(first, last + 1)
    columns = {"source": "s", "frame": numbers, "recv_ns": START + numbers, "payload": [b"x"] * len(numbers)}
    return rows_of("raw", SIM, columns)


def frames(lake: Lake) -> list[int]:
    return lake.read("raw", columns=["frame"])["frame"].to_pylist()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_a_version_is_read_as_it_was_whatever_came_later(lake: Lake) -> None:
    lake.append("raw", raw(1, 3), source="s", position=3)
    lake.append("raw", raw(4, 5), source="s", position=5)
    lake.replace("raw", raw(3, 3), {"frame": [1, 2, 3]})
    lake.compact("raw")
    lake.delete("raw", {"frame": [4, 5]})
    seen = {version: frames(lake.at({"raw": version})) for version in (0, 1, 2, 3)}
    assert seen == {0: [], 1: [1, 2, 3], 2: [1, 2, 3, 4, 5], 3: [3, 4, 5]}
    assert frames(lake) == [3]
    past = lake.at({"raw": 1})
    assert (past.version("raw"), past.position("raw", "s"), past.exists("ticks")) == (1, 3, False)
    lake.append("raw", raw(6, 6))
    assert frames(past) == [1, 2, 3], "a lake of the past does not move"


def test_a_time_is_read_as_it_was_then(lake: Lake) -> None:
    def now() -> int:
        time.sleep(0.005)  # a commit's time is in milliseconds
        at = time.time_ns()
        time.sleep(0.005)
        return at

    before = now()
    lake.append("raw", raw(1, 1))
    first = now()
    lake.append("raw", raw(2, 2))
    second = now()
    assert [frames(lake.as_of(at)) for at in (before, first, second)] == [[], [1], [1, 2]]
    assert not lake.as_of(before).exists("raw")


def test_the_past_cannot_be_changed(lake: Lake) -> None:
    lake.append("raw", raw(1, 3))
    past = lake.at({"raw": 1})
    for change in (
        lambda: past.append("raw", raw(4, 4)),
        lambda: past.delete("raw", {"frame": 1}),
        lambda: past.replace("raw", raw(1, 1), {"frame": 1}),
        lambda: past.compact("raw"),
    ):
        with pytest.raises(LakeError, match="open at a past version"):
            change()
    assert lake.version("raw") == 1


def test_a_missing_version_gives_an_error(lake: Lake) -> None:
    lake.append("raw", raw(1, 3))
    with pytest.raises(LakeError, match="table raw has no version 7; it has 0 to 1"):
        lake.at({"raw": 7}).read("raw")


def test_cat_and_ls_take_a_version_or_a_time(lake: Lake) -> None:
    lake.append("raw", raw(1, 1))
    time.sleep(0.005)
    between = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    time.sleep(0.005)
    lake.append("raw", raw(2, 2))

    def keel(*words: str) -> str:
        done = CliRunner().invoke(app, ["lake", *words, "--lake", lake.uri])
        if isinstance(done.exception, KeelError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    assert keel("cat", "raw", "--columns", "frame") == "frame\n1\n2\n"
    assert keel("cat", "raw", "--columns", "frame", "--version", "1") == "frame\n1\n"
    assert keel("cat", "raw", "--columns", "frame", "--as-of", between) == "frame\n1\n"
    assert keel("cat", "raw", "--columns", "frame", "--as-of", "2001-01-01") == "frame\n"
    assert '"version":1' in keel("ls", "--as-of", between, "--json").replace(" ", "").replace("\n", "")
    assert '"rows":1' in keel("stats", "raw", "--version", "1", "--json").replace(" ", "").replace("\n", "")
    with pytest.raises(SettingsError, match="one of the two"):
        keel("cat", "raw", "--version", "1", "--as-of", between)
    with pytest.raises(LakeError, match="no version 9"):
        keel("cat", "raw", "--version", "9")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code from a later day: raw has gained two columns, one of which has a value for older rows."""
    wider = SCHEMAS["raw"].append(pa.field("origin", pa.string())).append(pa.field("tries", pa.int64()))
    monkeypatch.setitem(SCHEMAS, "raw", wider)
    monkeypatch.setitem(schemas.ADDED, "raw", {"origin": (1, None), "tries": (1, 1)})


def new(first: int, last: int) -> pa.Table:
    n = last - first + 1
    return raw_with(raw_columns(first, last), n)


def raw_columns(first: int, last: int) -> dict[str, object]:
    numbers = np.arange(first, last + 1)
    return {"source": "s", "frame": numbers, "recv_ns": START + numbers, "payload": [b"x"] * len(numbers)}


def raw_with(columns: dict[str, object], n: int) -> pa.Table:
    return rows_of("raw", SIM, {**columns, "origin": ["wire"] * n, "tries": np.full(n, 2)})


def test_a_new_table_records_its_schema_version(lake: Lake) -> None:
    assert lake.schema_version("raw") is None
    lake.append("raw", raw(1, 1))
    assert lake.schema_version("raw") == SchemaVersion(1, 0)
    properties = DeltaTable(f"{lake.uri}/raw").metadata().configuration
    assert properties[PROPERTY] == "1.0"


def test_an_added_column_reads_as_its_default_in_older_rows(lake: Lake, request) -> None:
    lake.append("raw", raw(1, 2), source="s", position=2)
    request.getfixturevalue("later")
    assert lake.read("raw", columns=["frame", "origin", "tries"]).to_pylist() == [
        {"frame": 1, "origin": None, "tries": 1},
        {"frame": 2, "origin": None, "tries": 1},
    ]
    assert lake.schema_version("raw") == SchemaVersion(1, 0), "reading changes nothing"

    lake.append("raw", new(3, 3), source="s", position=3)
    assert lake.schema_version("raw") == SchemaVersion(1, 1)
    assert lake.position("raw", "s") == 3
    assert lake.read("raw", columns=["tries"])["tries"].to_pylist() == [1, 1, 2]
    assert lake.read("raw", columns=["frame"], where={"tries": 1})["frame"].to_pylist() == [1, 2]
    lake.compact("raw")
    assert lake.read("raw", columns=["tries"])["tries"].to_pylist() == [1, 1, 2]
    assert lake.at({"raw": 1}).read("raw", columns=["tries"])["tries"].to_pylist() == [1, 1]
    lake.delete("raw", {"tries": 1})
    assert frames(lake) == [3]


def test_earlier_code_reads_and_writes_a_table_with_an_unknown_column(lake: Lake, request) -> None:
    with pytest.MonkeyPatch.context() as patched:
        wider = SCHEMAS["raw"].append(pa.field("tries", pa.int64()))
        patched.setitem(SCHEMAS, "raw", wider)
        patched.setitem(schemas.ADDED, "raw", {"tries": (1, 1)})
        columns = {**raw_columns(1, 2), "tries": np.full(2, 2)}
        lake.append("raw", rows_of("raw", SIM, columns))
    assert lake.read("raw").schema == SCHEMAS["raw"]
    lake.append("raw", raw(3, 3), source="s", position=3)
    lake.replace("raw", raw(2, 2), {"frame": 2})
    assert frames(lake) == [1, 2, 3]
    assert lake.schema_version("raw") == SchemaVersion(1, 1), "what newer code said of the table stays"
    lake.compact("raw")
    whole = DeltaTable(f"{lake.uri}/raw").to_pyarrow_table()
    assert sorted(zip(whole["frame"].to_pylist(), whole["tries"].to_pylist(), strict=True)) == [
        (1, 2),
        (2, None),
        (3, None),
    ]


@pytest.mark.parametrize(("found", "match"), [("2.0", "a newer one wrote it.*Update"), ("0.3", "version of quotekeel")])
def test_a_table_of_another_major_version_is_refused_and_left_unchanged(lake: Lake, found: str, match: str) -> None:
    lake.append("raw", raw(1, 1))
    DeltaTable(f"{lake.uri}/raw").alter.set_table_properties({PROPERTY: found}, raise_if_not_exists=False)
    version = DeltaTable(f"{lake.uri}/raw").version()
    for use in (lambda: lake.read("raw"), lambda: lake.append("raw", raw(2, 2)), lambda: Lake(lake.uri).compact("raw")):
        with pytest.raises(LakeError, match=f"raw has schema {found}, this quotekeel reads 1.x.*{match}"):
            use()
    assert DeltaTable(f"{lake.uri}/raw").version() == version


def test_an_invalid_schema_version_gives_an_error(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"expected quotekeel.schema to be like 1.0, saw 'one'"):
        SchemaVersion.parse("one")


def test_columns_added_later_are_columns_of_their_tables() -> None:
    for table, added in schemas.ADDED.items():
        assert set(added) <= set(SCHEMAS[table].names)
        assert all(minor > 0 for minor, _ in added.values())


def test_a_dataset_s_lake_can_be_read_again_from_its_card(tmp_path: Path) -> None:
    """``lake_versions`` of a card is the argument of :meth:`Lake.at`."""
    lake = Lake(tmp_path)
    lake.append("raw", raw(1, 2))
    card = {table: version for table in SCHEMAS if (version := lake.version(table)) is not None}
    lake.append("raw", raw(3, 4))
    assert frames(lake.at(card)) == [1, 2]
