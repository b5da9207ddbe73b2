"""The quality gate: every landed batch is judged once; a bad one goes to quarantine with its reasons, the rest goes on.

The figures of a batch come from one compiled pass (:mod:`market.quality`); the rules over them are Great Expectations
expectations on a table with one row a batch. The order of the commits makes a kill harmless: the rows reach quarantine,
then the verdict is written, then the rows leave the ticks; a batch found in both places is judged again, to one end.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from market import instruments
from market.lake import Lake, events_of, rows_of
from market.quality import Figures, figures
from pipelines.workspace import Workspace, tracked

PASS, QUARANTINE = "pass", "quarantine"
STAGE = "validate"

_NOT_KEPT = ("largest_size", "refused")  # the table keeps the ratio and the reason instead


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Limits a batch must keep. Empty ``sources``: all of the instrument; empty ``instrument``: all instruments.

    ``outside_bp``: how far from the touch a trade may print before it counts as outside the book (basis points).
    ``size_ratio``: largest level against the source's median of largest levels.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str = ""
    sources: tuple[str, ...] = ()
    outside_bp: float = 50.0
    trade_outside_rate: float = 0.01
    crossed_rate: float = 0.01
    largest_jump_bp: float = 200.0
    largest_spread_bp: float = 200.0
    size_ratio: float = 10_000.0
    clock_back_rate: float = 0.01


@dataclass(frozen=True, kw_only=True)
class ValidateResult:
    """``reasons`` counts the rules that quarantined a batch; ``quarantined`` lists ``source/batch``.

    ``instruments`` have something new that passed; of sources that were named also what an earlier run let pass, so
    that nothing is forgotten when that run was killed before it could say so.
    """

    judged: int
    passed: int
    quarantined: tuple[str, ...]
    reasons: dict[str, int] = field(default_factory=dict)
    rows_quarantined: int = 0
    instruments: tuple[str, ...] = ()

    def line(self) -> str:
        if not self.judged:
            return "no new batch to judge"
        why = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        held = f" ({why}; {self.rows_quarantined:,} events)" if why else ""
        return f"{self.judged} minutes judged, {self.passed} passed, {len(self.quarantined)} quarantined{held}"


def validate(config: ValidateConfig, *, workspace: Workspace) -> ValidateResult:
    """Judge the batches that have no verdict yet.

    Raises:
        LakeError: a table cannot be read or written.
    """
    lake = Lake(workspace.lake)
    passed, held, reasons, rows = 0, [], Counter[str](), 0
    fresh: set[str] = set()
    for key, source in _sources(lake, config):
        batches = _unjudged(lake, key, source)
        if not batches:
            fresh.update([key] if config.sources else [])
            continue
        with tracked(workspace.progress, f"judging {source}", len(batches)) as progress:
            judged = []
            for batch in batches:
                judged.append((batch, _judge(lake, key, (source, batch), config)))
                progress.advance(1)
        verdicts = _verdicts(source, judged, config)
        usual = _usual_size(judged)
        for (batch, found), why in zip(judged, verdicts, strict=True):
            verdict = _Verdict(source=source, batch=batch, figures=found, usual_size=usual, reasons=why)
            rows += _settle(lake, lake.instrument(key), verdict)
            reasons.update(why)
            held += [f"{source}/{batch}"] if why else []
            passed += not why
            fresh.update([] if why else [key])
    return ValidateResult(
        judged=passed + len(held),
        passed=passed,
        quarantined=tuple(held),
        reasons=dict(reasons),
        rows_quarantined=rows,
        instruments=tuple(sorted(fresh)),
    )


def _sources(lake: Lake, config: ValidateConfig) -> list[tuple[str, str]]:
    """``(instrument key, source)`` of every source with ticks."""
    chosen = {"source": config.sources} if config.sources else {}
    table = lake.read(
        "ticks", instrument=config.instrument or None, columns=["venue", "instrument", "source"], where=chosen
    )
    keys = table.group_by(["venue", "instrument", "source"]).aggregate([]).to_pylist()
    return sorted((f"{row['venue']}.{row['instrument']}", row["source"]) for row in keys)


def _unjudged(lake: Lake, key: str, source: str) -> list[int]:
    """Batches with ticks that have not passed yet; one that was quarantined but still has ticks is half-moved."""
    where = {"source": source}
    present = lake.read("ticks", instrument=key, columns=["batch"], where=where)
    done = lake.read("batches", instrument=key, columns=["batch"], where={**where, "verdict": PASS})
    left = np.setdiff1d(present.column("batch").to_numpy(), done.column("batch").to_numpy())
    return [int(batch) for batch in left]


def _judge(lake: Lake, key: str, where: tuple[str, int], config: ValidateConfig) -> Figures:
    source, batch = where
    events = events_of(lake.read("ticks", instrument=key, where={"source": source, "batch": batch}))
    return figures(events, outside_bp=config.outside_bp)


def _verdicts(source: str, judged: Sequence[tuple[int, Figures]], config: ValidateConfig) -> list[tuple[str, ...]]:
    """For each batch the reasons it fails, in the order of the rules; empty means it passes."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    usual = _usual_size(judged)
    rows = [{"source": source, "batch": batch, **_judged_by(found, usual)} for batch, found in judged]
    # it tells of every temporary folder, on a logger whose level it sets itself when it is imported
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset("batches")
    suite = context.suites.add(gx.ExpectationSuite(name="ticks", expectations=_rules(config)))
    gate = gx.ValidationDefinition(name="gate", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    outcome = gate.run(
        batch_parameters={"dataframe": pd.DataFrame(rows)},
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["batch"],
            "return_unexpected_index_query": False,
        },
    )
    failed: dict[int, list[str]] = {batch: ["refused_by_book"] if f.refused else [] for batch, f in judged}
    for result in outcome.results:
        for row in result.result.get("unexpected_index_list") or ():
            failed[int(row["batch"])].append(result.expectation_config.meta["reason"])
    return [tuple(failed[batch]) for batch, _ in judged]


def _usual_size(judged: Sequence[tuple[int, Figures]]) -> float:
    return float(np.median([f.largest_size for _, f in judged if f.largest_size] or [1]))


def _judged_by(found: Figures, usual_size: float) -> dict[str, float]:
    """What the rules look at: the figures, and what only a look at the source's other batches gives."""
    return {
        **{name: float(value) for name, value in asdict(found).items() if name != "refused"},
        "clock_back_rate": found.clock_back / found.events,
        "largest_size_ratio": found.largest_size / usual_size,
    }


def _rules(config: ValidateConfig) -> list[Any]:
    """Expectations; ``meta.reason`` is the stable word that quarantine and counts use."""
    from great_expectations.expectations import ExpectColumnValuesToBeBetween

    limits = {
        "trade_outside_rate": ("trade_outside_book", config.trade_outside_rate),
        "crossed_rate": ("crossed_book", config.crossed_rate),
        "largest_jump_bp": ("price_jump", config.largest_jump_bp),
        "largest_spread_bp": ("wide_spread", config.largest_spread_bp),
        "largest_size_ratio": ("size_outlier", config.size_ratio),
        "clock_back_rate": ("clock_back", config.clock_back_rate),
    }
    return [
        ExpectColumnValuesToBeBetween(column=column, min_value=0.0, max_value=limit, meta={"reason": reason})
        for column, (reason, limit) in limits.items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    source: str
    batch: int
    figures: Figures
    usual_size: float
    reasons: tuple[str, ...]


def _settle(lake: Lake, instrument: instruments.Instrument, verdict: _Verdict) -> int:
    """Write the verdict; a failing batch moves to quarantine. Answers how many events moved."""
    this: dict[str, str | int] = {"source": verdict.source, "batch": verdict.batch}
    moved = 0
    if verdict.reasons:
        ticks = lake.read("ticks", instrument=instrument.key, where=this)
        moved = ticks.num_rows
        lake.replace("quarantine", _quarantine_row(instrument, verdict, ticks), {**this, "stage": STAGE})
    lake.replace("batches", _batch_row(instrument, verdict), this)
    if verdict.reasons:
        lake.delete("ticks", this)
    return moved


def _quarantine_row(instrument: instruments.Instrument, verdict: _Verdict, ticks: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ticks.schema) as writer:
        writer.write_table(ticks)
    seen = {name: value for name, value in asdict(verdict.figures).items() if value}
    columns = {
        "source": verdict.source,
        "batch": verdict.batch,
        "frame": -1,
        "recv_ns": np.array([verdict.figures.first_ns]),
        "stage": STAGE,
        "reason": ",".join(verdict.reasons),
        "detail": ", ".join(f"{name} {value}" for name, value in seen.items()),
        "payload": [sink.getvalue().to_pybytes()],
    }
    return rows_of("quarantine", instrument, columns)


def _batch_row(instrument: instruments.Instrument, verdict: _Verdict) -> pa.Table:
    found = verdict.figures
    columns: dict[str, Any] = {name: [value] for name, value in asdict(found).items() if name not in _NOT_KEPT}
    columns |= {
        "source": verdict.source,
        "batch": verdict.batch,
        "first_ns": np.array([found.first_ns]),
        "largest_size_ratio": found.largest_size / verdict.usual_size,
        "verdict": QUARANTINE if verdict.reasons else PASS,
        "reasons": ",".join(verdict.reasons),
    }
    return rows_of("batches", instrument, columns)
