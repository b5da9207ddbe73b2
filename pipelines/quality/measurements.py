"""The ``quality`` table: what batches were measured at, by source, read back and written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa

from market.instruments import Instrument
from market.lake.conditions import Where
from market.lake.lake import Lake
from market.lake.rows import rows_of
from market.quality.figures import Measured
from market.quality.limits import Limits
from market.quality.rules import PASS, QUARANTINE, RULES, Limit, Verdict

_BY_FIGURE: Final = {rule.figure: rule for rule in RULES}
_COLUMNS: Final = ("source", "batch", "first_ns", "last_ns", "figure", "value")


def read(
    lake: Lake, instrument: str, *, start_ns: int | None = None, where: Where | None = None
) -> list[tuple[str, int, Measured]]:
    """``(source, batch, figures)`` of an instrument's measured batches from ``start_ns`` on, in the table's order."""
    rows = lake.read("quality", instrument=instrument, start_ns=start_ns, columns=_COLUMNS, where=where)
    lists = zip(*(rows.column(name).to_pylist() for name in _COLUMNS), strict=True)
    found = []
    for (source, batch, first_ns, last_ns), group in groupby(lists, key=lambda row: row[:4]):
        values = {figure: value for *_, figure, value in group}
        found.append((source, batch, Measured(first_ns=first_ns, last_ns=last_ns, values=values)))
    return found


def passed(lake: Lake, instrument: str, *, where: Where | None = None) -> set[tuple[str, int]]:
    """``(source, batch)`` of those that passed."""
    chosen = {**(where or {}), "verdict": PASS}
    rows = lake.read("batches", instrument=instrument, columns=["source", "batch"], where=chosen)
    return {(str(row["source"]), int(row["batch"])) for row in rows.to_pylist()}


def write(lake: Lake, source: str, rows: pa.Table) -> None:
    """Put what was found of batches in the place of what the table holds of them, in one commit."""
    batches: list[int] = rows["batch"].unique().to_numpy().tolist()
    if batches:
        lake.replace("quality", rows, {"source": source, "batch": batches})


def rows(
    instrument: Instrument,
    source: str,
    batches: Sequence[tuple[int, Measured, dict[str, Verdict]]],
    limits: Limits,
) -> pa.Table:
    """Rows for the table; of each batch its number, its figures, and the rules that it did not keep."""
    columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS[1:], "rule", "warn", "hold", "verdict")}
    for batch, measured, broken in batches:
        for figure, value in measured.values.items():
            rule = _BY_FIGURE.get(figure)
            limit = limits.of(rule) if rule else Limit()
            columns["batch"].append(batch)
            columns["first_ns"].append(measured.first_ns)
            columns["last_ns"].append(measured.last_ns)
            columns["figure"].append(figure)
            columns["value"].append(value)
            columns["rule"].append(rule.name if rule else "")
            columns["warn"].append(np.inf if limit.warn is None else limit.warn)
            columns["hold"].append(np.inf if limit.hold is None else limit.hold)
            columns["verdict"].append(broken.get(rule.name, PASS) if rule else "")
    times = np.array(columns.pop("first_ns"), dtype=np.int64)
    return rows_of("quality", instrument, {"source": source, "first_ns": times, **columns})


def held(broken: dict[str, Verdict]) -> tuple[str, ...]:
    """Names of the rules that hold a batch back, in the table's order."""
    return tuple(rule.name for rule in RULES if broken.get(rule.name) == QUARANTINE)


def warned(broken: dict[str, Verdict]) -> Iterable[str]:
    """Names of the rules that only warn of it."""
    return (name for name, verdict in broken.items() if verdict != QUARANTINE)
