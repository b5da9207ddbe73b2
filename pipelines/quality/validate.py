"""The quality gate: every landed batch is judged once; a bad one goes to quarantine with its reasons, the rest goes on.

A batch is measured by :mod:`market.quality`, the rules over its figures are Great Expectations expectations
(:mod:`pipelines.quality.expectations`), and what they hold it against are the instrument's accepted limits, else those
of the table. A rule warns or holds; a batch that no rule holds passes.

The order of the commits makes a kill harmless: the figures are written first, and a batch that has some is not measured
again; the rows reach quarantine, then the verdict is written, then the rows leave the ticks. A batch found in both
places is judged again, to one end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa

from market import instruments
from market.clock import BATCH_NS
from market.lake.conditions import Where
from market.lake.lake import Lake
from market.lake.rows import events_of, rows_of
from market.quality.columns import columns
from market.quality.figures import Measured, measure
from market.quality.limits import Limits
from market.quality.rules import PASS, QUARANTINE, RULES, Verdict
from market.quality.usual import compared
from pipelines.quality import expectations, measurements, thresholds, trading_hours
from pipelines.quality import page as quality_page
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked

STAGE = "validate"

_READ_AT_ONCE: Final = 1_000_000  # events, or one batch with more
_HELD_AT_ONCE: Final = 32  # batches, whose rows are in memory together
_SHOWN_NS: Final = 1440 * BATCH_NS  # of a source, before the first batch that is judged now, in the data docs


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(StageConfig):
    """Which batches are judged. Empty ``sources``: all of the instrument; empty ``instrument``: all instruments."""

    instrument: str = ""
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ValidateResult:
    """``reasons`` counts the rules that quarantined a batch, ``warnings`` those that only told of one;
    ``quarantined`` lists ``source/batch``, ``docs`` is the page to read.

    ``instruments`` have something new that passed; of sources that were named also what an earlier run let pass, so
    that nothing is forgotten when that run was killed before it could say so.
    """

    judged: int
    passed: int
    quarantined: tuple[str, ...]
    reasons: dict[str, int] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    rows_quarantined: int = 0
    instruments: tuple[str, ...] = ()
    docs: str = ""

    def line(self) -> str:
        if not self.judged:
            return "no new batch to judge"
        why = _counted(self.reasons)
        held = f" ({why}; {self.rows_quarantined:,} events)" if why else ""
        told = f"; warnings: {_counted(self.warnings)}" if self.warnings else ""
        return (
            f"{self.judged} minutes judged, {self.passed} passed, {len(self.quarantined)} quarantined{held}{told}; "
            f"read {self.docs}"
        )


def validate(config: ValidateConfig, *, workspace: Workspace) -> ValidateResult:
    """Judge the batches that have no verdict yet.

    Raises:
        LakeError: a table cannot be read or written.
        GateError: an instrument's limits are not those that a person accepted.
    """
    lake, limits = Lake(workspace.lake), partial(thresholds.in_force, workspace)
    found: list[_Found] = []
    fresh: set[str] = set()
    for key, source in _sources(lake, config):
        batches = _unjudged(lake, key, source)
        if batches:
            found.append(_measured(lake, (key, source), batches, limits(key), workspace))
        elif config.sources:
            fresh.add(key)
    page = workspace.home / quality_page.PAGE
    sheets = [each.sheet() for each in found]
    verdicts = expectations.run(sheets, workspace.home / expectations.DOCS) if found else []
    if found:
        quality_page.write(page, sheets, verdicts, now_ns=workspace.clock.now_ns())
    held: list[str] = []
    reasons, warnings, rows = Counter[str](), Counter[str](), 0
    for each, said in zip(found, verdicts, strict=True):
        rows += _settle(lake, each, said)
        for batch, _ in each.new:
            why = measurements.held(said[batch])
            reasons.update(why)
            warnings.update(measurements.warned(said[batch]))
            held += [f"{each.source}/{batch}"] if why else []
            fresh.update([] if why else [each.key])
    total = sum(len(each.new) for each in found)
    return ValidateResult(
        judged=total,
        passed=total - len(held),
        quarantined=tuple(held),
        reasons=_ordered(reasons),
        warnings=_ordered(warnings),
        rows_quarantined=rows,
        instruments=tuple(sorted(fresh)),
        docs=str(page) if found else "",
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Batches of one source: those judged before (in sight of the docs), and those to be judged now."""

    key: str
    source: str
    earlier: Sequence[tuple[int, Measured]]
    new: Sequence[tuple[int, Measured]]
    limits: Limits

    def sheet(self) -> expectations.Sheet:
        every = sorted([*self.earlier, *self.new], key=lambda each: each[0])
        return expectations.Sheet(instrument=self.key, source=self.source, batches=every, limits=self.limits)


def _sources(lake: Lake, config: ValidateConfig) -> list[tuple[str, str]]:
    """``(instrument key, source)`` of every source with ticks."""
    chosen = {"source": config.sources} if config.sources else {}
    table = lake.read(
        "ticks", instrument=config.instrument or None, columns=["venue", "instrument", "source"], where=chosen
    )
    keys = table.group_by(["venue", "instrument", "source"]).aggregate([]).to_pylist()
    return sorted((f"{row['venue']}.{row['instrument']}", row["source"]) for row in keys)


def _unjudged(lake: Lake, key: str, source: str) -> dict[int, int]:
    """Batches with ticks that have not passed yet, ascending, and how many rows each has.

    One that was quarantined but still has ticks is half-moved.
    """
    present = lake.read("ticks", instrument=key, columns=["batch"], where={"source": source})
    done = {batch for _, batch in measurements.passed(lake, key, where={"source": source})}
    numbers, counts = np.unique(present.column("batch").to_numpy(), return_counts=True)
    return {int(batch): int(n) for batch, n in zip(numbers, counts, strict=True) if batch not in done}


def _measured(
    lake: Lake, where: tuple[str, str], batches: Mapping[int, int], limits: Limits, workspace: Workspace
) -> _Found:
    key, source = where
    first_ns = min(batches) * BATCH_NS - _SHOWN_NS  # a batch's number is never behind its minute
    known = {
        batch: each for _, batch, each in measurements.read(lake, key, start_ns=first_ns, where={"source": source})
    }
    passed = measurements.passed(lake, key, where={"source": source})
    fresh = {batch: known[batch] for batch in batches if batch in known}
    wanted = {batch: rows for batch, rows in batches.items() if batch not in known}
    with tracked(workspace.progress, f"measuring {source}", len(wanted)) as progress:
        measured = []
        for batch, ticks in _ticks(lake, key, source, wanted):
            rows = ticks.column("row").to_numpy()
            measured.append((batch, measure(columns(events_of(ticks), bounds=limits.bounds, rows=rows))))
            progress.advance(1)
    earlier = [known[batch] for batch in sorted(known) if (source, batch) in passed]
    beside = compared(earlier, [each for _, each in measured], partial(trading_hours.minutes, key.partition(".")[0]))
    fresh |= {batch: each for (batch, _), each in zip(measured, beside, strict=True)}
    return _Found(
        key=key,
        source=source,
        earlier=[(batch, each) for batch, each in known.items() if batch not in fresh],
        new=sorted(fresh.items()),
        limits=limits,
    )


def _ticks(lake: Lake, key: str, source: str, batches: Mapping[int, int]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each of the batches, which come with the numbers of their rows."""
    read = np.cumsum(list(batches.values())) // _READ_AT_ONCE
    for _, group in groupby(zip(batches, read, strict=True), key=lambda each: each[1]):
        part = [batch for batch, _ in group]
        rows = lake.read("ticks", instrument=key, where={"source": source, "batch": part})
        edges = np.searchsorted(rows.column("batch").to_numpy(), [*part, part[-1] + 1])
        for batch, start, end in zip(part, edges[:-1], edges[1:], strict=True):
            yield batch, rows.slice(start, end - start)


def _settle(lake: Lake, found: _Found, said: expectations.Verdicts) -> int:
    """Write figures and verdicts; failing batches move to quarantine. Answers how many events moved."""
    instrument, source = lake.instrument(found.key), found.source
    every = [(batch, each, said[batch]) for batch, each in found.new]
    measurements.write(lake, source, measurements.rows(instrument, source, every, found.limits))
    passing = [(batch, each) for batch, each, broken in every if not measurements.held(broken)]
    if passing:
        where: Where = {"source": source, "batch": [batch for batch, _ in passing]}
        lake.replace("batches", _batch_rows(instrument, source, ((*each, ()) for each in passing)), where)
    held = [each for each in every if measurements.held(each[2])]
    return sum(_hold(lake, found, held[i : i + _HELD_AT_ONCE]) for i in range(0, len(held), _HELD_AT_ONCE))


def _hold(lake: Lake, found: _Found, held: Sequence[tuple[int, Measured, dict[str, Verdict]]]) -> int:
    """Move batches from the ticks to quarantine. Answers how many events they have."""
    instrument, source = lake.instrument(found.key), found.source
    these: Where = {"source": source, "batch": [batch for batch, _, _ in held]}
    ticks = dict(_ticks(lake, found.key, source, {batch: int(each.values["events"]) for batch, each, _ in held}))
    rows = [
        _quarantine_row(instrument, (source, batch), ticks[batch], _detail(each, broken, found.limits, ticks[batch]))
        for batch, each, broken in held
    ]
    lake.replace("quarantine", pa.concat_tables(rows), {**these, "stage": STAGE})
    verdicts = ((batch, each, measurements.held(broken)) for batch, each, broken in held)
    lake.replace("batches", _batch_rows(instrument, source, verdicts), these)
    lake.delete("ticks", these)
    return sum(each.num_rows for each in ticks.values())


@dataclass(frozen=True, kw_only=True)
class _Detail:
    reasons: str
    text: str


def _detail(measured: Measured, broken: dict[str, Verdict], limits: Limits, ticks: pa.Table) -> _Detail:
    """Which limits the batch did not keep, and what the book said where it refused an event."""
    said = [
        f"{rule.name}: {rule.figure} {measured.values[rule.figure]:g} > {limits.of(rule).hold:g}"
        for rule in RULES
        if broken.get(rule.name) == QUARANTINE
    ]
    refused = [columns(events_of(ticks)).refused] if measured.values["refused"] else []
    return _Detail(reasons=",".join(measurements.held(broken)), text="; ".join([*said, *refused]))


def _quarantine_row(
    instrument: instruments.Instrument, where: tuple[str, int], ticks: pa.Table, detail: _Detail
) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ticks.schema) as writer:
        writer.write_table(ticks)
    return rows_of(
        "quarantine",
        instrument,
        {
            "source": where[0],
            "batch": where[1],
            "frame": -1,
            "recv_ns": ticks.column("recv_ns").to_numpy().min(keepdims=True),
            "stage": STAGE,
            "reason": detail.reasons,
            "detail": detail.text,
            "payload": [sink.getvalue().to_pybytes()],
        },
    )


_COUNTS: Final = ("frames", "events", "trades", "updates", "gaps", "largest_gap_ns", "clock_back")
_SHARES: Final = ("crossed_rate", "locked_rate", "trade_outside_rate", "worst_trade_bp")
_LARGEST: Final = ("largest_jump_bp", "largest_spread_bp")


def _batch_rows(
    instrument: instruments.Instrument, source: str, batches: Iterable[tuple[int, Measured, tuple[str, ...]]]
) -> pa.Table:
    every = list(batches)
    told: dict[str, Any] = {name: [int(each.values[name]) for _, each, _ in every] for name in _COUNTS}
    told |= {name: [each.values[name] for _, each, _ in every] for name in (*_SHARES, *_LARGEST)}
    told |= {
        "source": source,
        "batch": [batch for batch, _, _ in every],
        "first_ns": np.array([each.first_ns for _, each, _ in every], dtype=np.int64),
        "last_ns": [each.last_ns for _, each, _ in every],
        "largest_size_ratio": [each.values["size_ratio"] for _, each, _ in every],
        "verdict": [QUARANTINE if why else PASS for _, _, why in every],
        "reasons": [",".join(why) for _, _, why in every],
    }
    return rows_of("batches", instrument, told)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {rule.name: counts[rule.name] for rule in RULES if rule.name in counts}
