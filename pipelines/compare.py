"""Champion against challenger over switchback blocks, by an always-valid sequential test.

What decides, and in which order:

1. *Words* (primary): mean log-loss of the direction over all horizons, both arms on the same rows, challenger less
   champion, one difference a block. Below zero the challenger is better calibrated and sharper.
2. *Guardrails*, one difference a switchback pair: what the fills were worth one second later, adverse selection over
   one second, and that the challenger still gets fills. None may be significantly worse.
3. *Shown* beside them, and deciding nothing: effective spread, slippage, adverse selection over 100 ms, fill ratio.

``promote``: the words are significantly better and no guardrail is significantly worse. ``keep``: the words or a
guardrail are significantly worse. ``undecided``: else; the champion stays. Each metric has its own confidence sequence
at ``alpha``: the chance of promoting on words that are no better is at most ``alpha``, however often one looks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import orjson

from market.clock import NS_PER_S
from market.errors import SettingsError
from pipelines.sequential import Sequence as Followed
from pipelines.sequential import sequence
from pipelines.workspace import Workspace, replacing

if TYPE_CHECKING:
    from market.lake import Lake
    from pipelines.experiment import Rows
    from serving.outcomes import BlockMetrics

Verdict = Literal["promote", "keep", "undecided"]
Role = Literal["primary", "guardrail", "shown"]

COMPARE_FILE = "compare.json"
PRIMARY = "log_loss"


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared. ``sessions`` empty: the newest session with two arms. ``block_seconds`` None: what the session
    was served with.

    ``plan`` is the number of blocks at which the interval should be tightest; ``least_fills`` the share of the
    champion's lots that the challenger must not significantly fall below.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    instrument: str
    sessions: tuple[str, ...] = ()
    block_seconds: float | None = None
    alpha: float = 0.05
    plan: int = 40
    least_fills: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric after the last look. ``lower`` and ``upper`` are None while the interval is still infinite; ``says``
    is of the challenger. ``decided_at`` is the look at which it was decided, 0 if it was not."""

    name: str
    title: str
    unit: str
    role: Role
    champion: float | None
    challenger: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    looks: int
    decided_at: int
    says: Literal["better", "worse", "not told apart"]
    note: str

    def line(self) -> str:
        if self.difference is None:
            return f"{self.title}: {self.note}"
        between = f"[{figure(self.lower)}, {figure(self.upper)}]"
        at = f" at look {self.decided_at}" if self.decided_at else ""
        return f"{self.title} {self.difference:+.4g} {self.unit} {between} after {self.looks} looks: {self.says}{at}"


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """The verdict and what it rests on. ``summary`` is for the person who approves."""

    compare_id: str
    instrument: str
    sessions: tuple[str, ...]
    champion: int
    challenger: int
    verdict: Verdict
    summary: str
    rows: int
    blocks: int
    pairs: int
    fills: int
    metrics: tuple[Metric, ...]
    path: str
    picture: str

    @property
    def guardrails(self) -> tuple[Metric, ...]:
        """Those that may veto."""
        return tuple(m for m in self.metrics if m.role == "guardrail")

    def line(self) -> str:
        primary = self.metrics[0]
        return f"{self.verdict}: version {self.challenger} against {self.champion}; {primary.line()}; {self._guards()}"

    def _guards(self) -> str:
        tested = [m for m in self.guardrails if m.difference is not None]
        worse = [m.title for m in tested if m.says == "worse"]
        if worse:
            return f"worse in {', '.join(worse)}"
        if not tested:
            return "no fills, so no guardrail was tested"
        open_ = sum(m.lower is None or m.upper is None for m in tested)
        unbounded = f" ({open_} of them with too few blocks to be bounded yet)" if open_ else ""
        return f"none of {len(tested)} guardrails is worse{unbounded}"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A metric's differences in order, challenger less champion, and the figures of each arm. ``sign`` +1: higher is
    better."""

    role: Role
    name: str
    title: str
    unit: str
    differences: list[float]
    champion: list[float]
    challenger: list[float]
    sign: int
    note: str = ""


def compare(config: CompareConfig, *, workspace: Workspace) -> CompareResult:
    """Test the challenger of an A/B session.

    Raises:
        EmptyDataError: no session with two arms.
        InputError: the blocks are not the session's.
        SettingsError: alpha or block length out of range.
    """
    from market.lake import Lake
    from pipelines import experiment

    _require_numbers(config)
    lake = Lake(workspace.lake)
    sessions = experiment.read_rows(lake, config.instrument, config.sessions, home=workspace.home)
    block_ns = int(NS_PER_S * (config.block_seconds or experiment.block_seconds(workspace.home, sessions)))
    said = [experiment.words(rows, block_ns) for rows in sessions]
    primary = _Measured(
        role="primary",
        name=PRIMARY,
        title="log-loss of the direction",
        unit="nats",
        differences=[float(d) for w in said for d in w.challenger - w.champion],
        champion=[float(v) for w in said for v in w.champion],
        challenger=[float(v) for w in said for v in w.challenger],
        sign=-1,
    )
    fills = sum(experiment.fills(lake, config.instrument, rows.session) for rows in sessions)
    paired = _pairs(lake, config, sessions, block_ns) if fills else []
    measured = [primary, *_of_pairs(paired, config.least_fills)]
    followed = [sequence(np.array(m.differences), alpha=config.alpha, plan=config.plan) for m in measured]
    return _conclude(config, workspace, sessions, (measured, followed), (fills, len(paired)))


def _require_numbers(config: CompareConfig) -> None:
    seconds = config.block_seconds
    if not 0 < config.alpha < 1 or config.plan < 1 or (seconds is not None and seconds <= 0):
        raise SettingsError(
            f"expected 0 < alpha < 1, plan >= 1 and block_seconds > 0, saw {config.alpha}, {config.plan} and {seconds}"
        )


def _pairs(
    lake: Lake, config: CompareConfig, sessions: Sequence[Rows], block_ns: int
) -> list[tuple[BlockMetrics, BlockMetrics]]:
    from pipelines import experiment

    return [pair for rows in sessions for pair in experiment.pairs(lake, config.instrument, rows, block_ns)]


def _of_pairs(paired: Sequence[tuple[BlockMetrics, BlockMetrics]], least_fills: float) -> list[_Measured]:
    """Guardrails, and what is shown beside them."""

    def lots(block: BlockMetrics) -> float:
        return 60.0 * block.lots / block.seconds

    def measured(
        role: Role, name: str, title: str, unit: str, sign: int, of: Callable[[BlockMetrics], float]
    ) -> _Measured:
        both = [(of(a), of(b)) for a, b in paired]
        both = [(a, b) for a, b in both if math.isfinite(a) and math.isfinite(b)]
        share = least_fills if name == "fills" else 1.0
        return _Measured(
            role=role,
            name=name,
            title=title,
            unit=unit,
            differences=[b - share * a for a, b in both],
            champion=[a for a, _ in both],
            challenger=[b for _, b in both],
            sign=sign,
            note="" if both else "no pair of blocks with fills, so it was not tested",
        )

    per_lot, beyond = "half ticks a lot", f"lots filled beyond {least_fills:g} of the champion's"
    per_minute = "half ticks x lots / min"
    return [
        measured("guardrail", "realised", "realised spread after 1 s", per_minute, +1, lambda b: b.pnl_per_minute),
        measured("guardrail", "adverse", "adverse selection over 1 s", per_lot, -1, lambda b: b.adverse_half_ticks),
        measured("guardrail", "fills", beyond, "lots / min", +1, lots),
        measured("shown", "effective", "effective spread", per_lot, +1, lambda b: b.effective_half_ticks),
        measured("shown", "slippage", "slippage", per_lot, -1, lambda b: b.slippage_half_ticks),
        measured(
            "shown",
            "adverse_100ms",
            "adverse selection over 100 ms",
            per_lot,
            -1,
            lambda b: b.adverse_100ms_half_ticks,
        ),
        measured("shown", "fill_ratio", "fill ratio", "lots filled of lots quoted", +1, lambda b: b.fill_ratio),
    ]


def _metric(measured: _Measured, seen: Followed) -> Metric:
    says: Literal["better", "worse", "not told apart"] = "not told apart"
    if seen.decided_at:
        says = "better" if seen.sign == measured.sign else "worse"
    empty = len(seen) == 0
    return Metric(
        name=measured.name,
        title=measured.title,
        unit=measured.unit,
        role=measured.role,
        champion=None if empty else float(np.mean(measured.champion)),
        challenger=None if empty else float(np.mean(measured.challenger)),
        difference=None if empty else float(seen.estimate[-1]),
        lower=None if empty else _finite(seen.lower[-1]),
        upper=None if empty else _finite(seen.upper[-1]),
        looks=len(seen),
        decided_at=seen.decided_at,
        says=says,
        note=measured.note,
    )


def decide(metrics: Sequence[Metric]) -> Verdict:
    """The rule of the module's first lines."""
    deciding = [m for m in metrics if m.role != "shown"]
    if any(m.says == "worse" for m in deciding):
        return "keep"
    return "promote" if deciding[0].says == "better" else "undecided"


def _conclude(
    config: CompareConfig,
    workspace: Workspace,
    sessions: Sequence[Rows],
    tested: tuple[list[_Measured], list[Followed]],
    counts: tuple[int, int],
) -> CompareResult:
    from pipelines.reporting.charts import sequence_picture

    metrics = tuple(_metric(m, f) for m, f in zip(*tested, strict=True))
    champion, challenger = sessions[0].versions
    compare_id = _identity(config, sessions)
    folder = workspace.reports / compare_id
    verdict = decide(metrics)
    series = [_series(m, f) for m, f in zip(*tested, strict=True)]
    result = CompareResult(
        compare_id=compare_id,
        instrument=config.instrument,
        sessions=tuple(rows.session for rows in sessions),
        champion=champion,
        challenger=challenger,
        verdict=verdict,
        summary=_summary(verdict, metrics, champion, challenger, alpha=config.alpha),
        rows=sum(len(rows.recv_ns) for rows in sessions),
        blocks=metrics[0].looks,
        pairs=counts[1],
        fills=counts[0],
        metrics=metrics,
        path=str(folder / COMPARE_FILE),
        picture=str(folder / "verdict.png"),
    )
    with replacing(Path(result.picture)) as draft:
        sequence_picture(series, alpha=config.alpha, path=draft)
    with replacing(Path(result.path)) as draft:
        draft.write_bytes(
            orjson.dumps({**asdict(result), "alpha": config.alpha, "series": series}, option=orjson.OPT_INDENT_2)
        )
    return result


def _identity(config: CompareConfig, sessions: Sequence[Rows]) -> str:
    seen = [(rows.session, len(rows.recv_ns), int(rows.recv_ns[-1])) for rows in sessions]
    text = orjson.dumps([asdict(config), seen])
    return f"compare-{hashlib.sha256(text).hexdigest()[:12]}"


def _series(measured: _Measured, seen: Followed) -> dict[str, Any]:
    """Running estimate and interval after each look; None where the interval is infinite."""
    return {
        "name": measured.name,
        "role": measured.role,
        "title": measured.title,
        "unit": measured.unit,
        "better": "higher" if measured.sign > 0 else "lower",
        "estimate": [float(v) for v in seen.estimate],
        "lower": [_finite(v) for v in seen.lower],
        "upper": [_finite(v) for v in seen.upper],
        "decided_at": seen.decided_at,
        "note": measured.note,
    }


def _summary(verdict: Verdict, metrics: Sequence[Metric], champion: int, challenger: int, *, alpha: float) -> str:
    means = {
        "promote": f"Version {challenger} speaks better than version {champion} and no guardrail is worse.",
        "keep": f"Version {challenger} is worse than version {champion}; the champion should stay.",
        "undecided": f"Version {challenger} was not shown to be better than version {champion}; the champion stays.",
    }[verdict]
    intervals = f"Always-valid intervals at {100 * (1 - alpha):g} % each."
    return " ".join([means, *(f"{m.line()}." for m in metrics if m.role != "shown"), intervals])


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def figure(value: float | None) -> str:
    """A bound of an interval in words."""
    return "unbounded" if value is None else f"{value:+.4g}"
