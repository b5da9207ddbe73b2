"""Champion against challenger over switchback blocks, by an always-valid sequential test.

What decides, and in which order:

1. *Predictions* (primary): mean log-loss of the direction over all horizons, both arms on the same rows, challenger
   less champion, one difference a block. Below zero the challenger is better calibrated and sharper.
2. *Guardrails*, one difference a switchback pair: what the fills were worth one second later, adverse selection over
   one second, and that the challenger still gets fills. None may be significantly worse.
3. *Shown* alongside, and deciding nothing: effective spread, slippage, adverse selection over 100 ms, fill ratio.

``promote``: the predictions are significantly better and no guardrail is significantly worse; where orders are sent,
only once the challenger had turns of its own, since a guardrail needs data. ``keep``: the predictions or a guardrail
are significantly worse. ``undecided``: else; the champion stays. Each metric has its own confidence sequence
at ``alpha``: the chance of promoting on predictions that are no better is at most ``alpha``, however often one looks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import orjson

from market.clock import NS_PER_S
from market.errors import EmptyDataError, SettingsError
from market.files import replacing
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from training.evaluation.sequential import Floats, sequence
from training.evaluation.sequential import Sequence as Followed

if TYPE_CHECKING:
    from market.lake.lake import Lake
    from pipelines.experiments.blocks import Rows, Test, Words
    from pipelines.experiments.shadow import Shadow, ShadowRows
    from serving.outcomes import BlockMetrics

Verdict = Literal["promote", "keep", "undecided"]
Role = Literal["primary", "guardrail", "shown"]

COMPARE_FILE = "compare.json"
PRIMARY = "log_loss"


@dataclass(frozen=True, kw_only=True)
class CompareConfig(StageConfig):
    """What is compared. ``sessions`` empty: all of the newest test. ``block_seconds`` None: what they were served with.

    ``plan`` is the number of blocks at which the interval should be tightest; ``least_fills`` the share of the
    champion's lots that the challenger must not significantly fall below, ``least_pairs`` the switchback pairs without
    which no version is promoted where orders are sent.
    """

    instrument: str
    sessions: tuple[str, ...] = ()
    block_seconds: float | None = None
    alpha: float = 0.05
    plan: int = 40
    least_fills: float = 0.5
    least_pairs: int = 4


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
    """The verdict and what it rests on. ``summary`` is for the person who approves, ``test`` names the test in the
    roles. ``shadow``: the phase before the challenger had turns of its own, where there was one."""

    compare_id: str
    instrument: str
    sessions: tuple[str, ...]
    champion: int
    challenger: int
    test: int
    verdict: Verdict
    summary: str
    rows: int
    blocks: int
    pairs: int
    fills: int
    metrics: tuple[Metric, ...]
    shadow: Shadow | None
    path: str
    picture: str
    shadow_picture: str

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
        ModelError: the two versions learned different labels, or one of them is not registered.
        SettingsError: alpha or block length out of range.
    """
    from market.lake.lake import Lake
    from pipelines.experiments import blocks as experiment
    from pipelines.experiments.shadow import shadow

    _require_numbers(config)
    lake = Lake(workspace.lake)
    test, sessions = experiment.sessions_of(lake, config.instrument, config.sessions, cards=workspace.sessions)
    block_ns = int(NS_PER_S * (config.block_seconds or experiment.block_seconds(workspace.sessions, sessions)))
    labels = experiment.labels_of(workspace, config.instrument, test.versions)
    compared = experiment.Compared(versions=test.versions, labels=labels, block_ns=block_ns)
    seen = _Seen(test=test)
    for session in sessions:
        rows = experiment.read_rows(lake, config.instrument, session, compared, cards=workspace.sessions)
        if rows is not None:
            _look_at(seen, lake, config.instrument, rows, block_ns)
    if not seen.sessions:
        raise EmptyDataError(f"no rows of {config.instrument} on which both arms spoke in {', '.join(sessions)}")
    primary = _Measured(
        role="primary",
        name=PRIMARY,
        title="log-loss of the direction",
        unit="nats",
        differences=[float(d) for w in seen.words for d in w.challenger - w.champion],
        champion=[float(v) for w in seen.words for v in w.champion],
        challenger=[float(v) for w in seen.words for v in w.challenger],
        sign=-1,
    )
    measured = [primary, *_of_pairs(seen.pairs, config.least_fills)]
    policy = experiment.policy_of(workspace.sessions, seen.sessions[-1])
    report = shadow(seen.shadow, seen.shadow_words, policy, alpha=config.alpha, plan=config.plan)
    return _conclude(config, workspace, seen, measured, report)


@dataclass(kw_only=True)
class _Seen:
    """What was seen of a test, session by session."""

    test: Test
    sessions: list[str] = field(default_factory=list)
    rows: int = 0
    last_ns: int = 0
    fills: int = 0
    words: list[Words] = field(default_factory=list)
    pairs: list[tuple[BlockMetrics, BlockMetrics]] = field(default_factory=list)
    shadow: list[ShadowRows] = field(default_factory=list)
    said_in_shadow: list[Words] = field(default_factory=list)

    @property
    def shadow_words(self) -> tuple[Floats, Floats]:
        """Log-loss (b,) of champion and challenger in the blocks of the shadow."""
        champion = [w.champion for w in self.said_in_shadow]
        challenger = [w.challenger for w in self.said_in_shadow]
        return np.concatenate([np.zeros(0), *champion]), np.concatenate([np.zeros(0), *challenger])


def _look_at(seen: _Seen, lake: Lake, instrument: str, rows: Rows, block_ns: int) -> None:
    from pipelines.experiments import blocks as experiment

    seen.sessions.append(rows.session)
    seen.rows += len(rows.recv_ns)
    seen.last_ns = int(rows.recv_ns[-1])
    seen.words.append(experiment.words(rows, block_ns))
    fills = experiment.fills(lake, instrument, rows.session)
    seen.fills += fills
    if fills:
        seen.pairs += experiment.pairs(lake, instrument, rows, block_ns)
    if rows.in_shadow.any():
        seen.shadow.append(experiment.in_shadow(rows))
        seen.said_in_shadow.append(experiment.words(rows, block_ns, only=rows.in_shadow))


def _require_numbers(config: CompareConfig) -> None:
    seconds = config.block_seconds
    if not 0 < config.alpha < 1 or config.plan < 1 or config.least_pairs < 1 or (seconds is not None and seconds <= 0):
        raise SettingsError(
            f"expected 0 < alpha < 1, plan and least_pairs >= 1 and block_seconds > 0, saw "
            f"{config.alpha}, {config.plan}, {config.least_pairs} and {seconds}"
        )


def _of_pairs(paired: Sequence[tuple[BlockMetrics, BlockMetrics]], least_fills: float) -> list[_Measured]:
    """Guardrails, and what is shown alongside."""

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
    seen: _Seen,
    measured: Sequence[_Measured],
    report: Shadow | None,
) -> CompareResult:
    from pipelines.charts import sequence_picture
    from pipelines.experiments import shadow

    followed = [sequence(np.array(m.differences), alpha=config.alpha, plan=config.plan) for m in measured]
    metrics = tuple(_metric(m, f) for m, f in zip(measured, followed, strict=True))
    series = [_series(m, f) for m, f in zip(measured, followed, strict=True)]
    champion, challenger = seen.test.versions
    compare_id = _identity(config, seen)
    folder = workspace.reports / compare_id
    verdict = decide(metrics)
    waits = verdict == "promote" and seen.fills > 0 and len(seen.pairs) < config.least_pairs
    result = CompareResult(
        compare_id=compare_id,
        instrument=config.instrument,
        sessions=tuple(seen.sessions),
        champion=champion,
        challenger=challenger,
        test=seen.test.number,
        verdict="undecided" if waits else verdict,
        summary=_summary("undecided" if waits else verdict, metrics, champion, challenger, alpha=config.alpha)
        + (f" Pairs of blocks so far: {len(seen.pairs)}, at least {config.least_pairs} are wanted." if waits else ""),
        rows=seen.rows,
        blocks=metrics[0].looks,
        pairs=len(seen.pairs),
        fills=seen.fills,
        metrics=metrics,
        shadow=report,
        path=str(folder / COMPARE_FILE),
        picture=str(folder / "verdict.png"),
        shadow_picture=str(folder / "shadow.png") if report else "",
    )
    with replacing(Path(result.picture)) as draft:
        sequence_picture(series, alpha=config.alpha, path=draft)
    if report is not None:
        shadow.draw(seen.shadow_words, seen.shadow, Path(result.shadow_picture))
    with replacing(Path(result.path)) as draft:
        draft.write_bytes(
            orjson.dumps({**asdict(result), "alpha": config.alpha, "series": series}, option=orjson.OPT_INDENT_2)
        )
    return result


def _identity(config: CompareConfig, seen: _Seen) -> str:
    text = orjson.dumps([asdict(config), seen.sessions, seen.test.number, seen.rows, seen.last_ns])
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
    """A bound of an interval as text."""
    return "unbounded" if value is None else f"{value:+.4g}"
