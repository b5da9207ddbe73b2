"""DuckDB and Polars read the lake as docs/lake.md describes, and Arrow's memory is passed on without a copy."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from kit.small_lake import Market, workspace_with

from market.lake.lake import Lake
from market.lake.rows import arrays_of

KEY = "sim-usdm.BTCUSDT"
PAGE = Path(__file__).parents[3] / "docs" / "lake.md"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(workspace_with(tmp_path_factory.mktemp("home"), Market(seconds=130, frames=10)).lake)
    lake.compact("ticks")
    return lake


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_polars_reads_the_rows_that_the_lake_gives(lake: Lake) -> None:
    rows = pl.from_arrow(lake.read("ticks"))
    assert isinstance(rows, pl.DataFrame)
    order = ["source", "batch", "row"]
    assert pl.read_delta(f"{lake.uri}/ticks").select(rows.columns).sort(order).equals(rows)
    lazy = pl.scan_delta(f"{lake.uri}/ticks").filter(pl.col("instrument") == "BTCUSDT", pl.col("recv_ns") > 0)
    assert lazy.select(pl.len()).collect().item() == rows.height
    assert pl.read_delta(f"{lake.uri}/ticks", version=1).height < rows.height


def test_duckdb_reads_the_rows_that_the_lake_gives(lake: Lake) -> None:
    from deltalake import DeltaTable

    rows = lake.read("ticks")
    ticks = duckdb.from_arrow(DeltaTable(f"{lake.uri}/ticks").to_pyarrow_dataset())
    total = sum(rows["price"].to_pylist())
    assert ticks.aggregate("count(*), sum(price)").fetchall() == [(rows.num_rows, total)]
    files = DeltaTable(f"{lake.uri}/ticks").file_uris()
    found = duckdb.execute(
        "select instrument, count(*) from read_parquet($1, hive_partitioning => true) group by 1", [files]
    ).fetchall()
    assert found == [("BTCUSDT", rows.num_rows)]


def test_the_python_of_the_page_runs_as_it_stands(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(lake.uri).parent
    monkeypatch.chdir(home.parent)
    (home.parent / ".keel").symlink_to(home)
    examples = blocks("python")
    assert len(examples) >= 3
    for number, example in enumerate(examples):
        script = home.parent / f"example{number}.py"
        script.write_text(example)
        runpy.run_path(str(script))


def test_numeric_columns_become_numpy_without_a_copy(lake: Lake) -> None:
    (batch,) = lake.read("ticks").combine_chunks().to_batches()
    import pyarrow as pa

    rows = pa.Table.from_batches([batch])
    arrays = arrays_of(rows)
    assert set(arrays) == {field.name for field in rows.schema if not pa.types.is_string(field.type)}
    for name, values in arrays.items():
        buffer = rows[name].chunk(0).buffers()[1]
        assert values.ctypes.data == buffer.address + rows[name].chunk(0).offset * values.itemsize
        assert not values.flags.writeable, "the memory is the table's"
        assert np.array_equal(values, rows[name].to_pylist())


def test_columns_in_several_chunks_are_joined_once_and_others_are_left_out(lake: Lake) -> None:
    import pyarrow as pa

    rows = lake.read("ticks", columns=["source", "recv_ns", "price"])
    pieces = pa.concat_tables([rows.slice(0, 10), rows.slice(10)])
    arrays = arrays_of(pieces)
    assert set(arrays) == {"recv_ns", "price"}
    assert np.array_equal(arrays["price"], rows["price"].to_numpy())


def test_polars_uses_arrow_memory_without_a_copy(lake: Lake) -> None:
    rows = lake.read("ticks", columns=["recv_ns"]).combine_chunks()
    series = pl.from_arrow(rows)["recv_ns"]  # type: ignore[index]
    address = rows["recv_ns"].chunk(0).buffers()[1].address
    assert series.to_numpy(allow_copy=False).ctypes.data == address
