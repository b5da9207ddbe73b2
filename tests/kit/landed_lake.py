"""Everything that ingest writes, as values that two lakes can be compared by."""

from __future__ import annotations

from market.lake.lake import Lake

LANDED = ("raw", "ticks", "slow", "quarantine")


def contents(lake: Lake) -> dict[str, list[dict]]:
    """Rows of the landed tables in their order."""
    return {table: lake.read(table).to_pylist() for table in LANDED}
