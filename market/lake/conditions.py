"""Row filters: as Arrow expressions for reads, as SQL for changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from market.errors import LakeError
from market.lake.rows import date_of
from market.lake.schemas import SCHEMAS, time_column
from market.lake.versions import default

Where = Mapping[str, "str | int | Collection[str | int]"]


def condition(
    table: str, instrument: str | None, times: tuple[int | None, int | None], where: Where, *, strings: Any = None
) -> Any:
    """The filter for a read; with ``strings``, text columns are compared as that type."""
    parts: list[Any] = []
    if instrument is not None:
        venue, _, symbol = instrument.partition(".")
        parts += [pc.field("venue") == venue, pc.field("instrument") == symbol]
    column = time_column(table)
    start_ns, end_ns = times
    if start_ns is not None:
        parts += [pc.field("date") >= date_of(start_ns), pc.field(column) >= start_ns]
    if end_ns is not None:
        parts += [pc.field("date") <= date_of(end_ns), pc.field(column) < end_ns]
    for name, value in where.items():
        allowed = [value] if isinstance(value, str | int) else list(value)
        kind, field = SCHEMAS[table].field(name).type, pc.field(name)
        usual = default(table, name)
        if usual is not None:
            field = pc.coalesce(field, pa.scalar(usual, kind))
        if strings is not None and pa.types.is_string(kind):
            kind, field = strings, field.cast(strings)
        parts.append(field.isin(pa.array(allowed, kind)))
    whole = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole


def predicate(table: str, where: Where) -> str:
    """The filter as SQL for delta-rs; values are quoted here, so an id may contain anything."""
    if not where:
        raise LakeError("a delete or replace needs a condition; none was given")
    parts = []
    for name, value in where.items():
        allowed = [value] if isinstance(value, str | int) else list(value)
        usual = default(table, name)
        column = name if usual is None else f"coalesce({name}, {_literal(usual)})"
        parts.append(f"{column} in ({', '.join(_literal(each) for each in allowed)})" if allowed else "false")
    return " and ".join(parts)


def _literal(value: str | int) -> str:
    return str(int(value)) if not isinstance(value, str) else "'" + value.replace("'", "''") + "'"
