"""Drift verdicts on simulated markets: false alarms where nothing changed, and how long a known change takes.

``python -m bench drift`` writes a section of the day's page. It runs for as long as allowed
(``BENCH_DRIFT_SECONDS``, default an hour), since more hours give tighter bounds; arguments are seeds of other undrifted
markets (``python -m bench drift 301 302``). The market is that of :mod:`bench.simulated`, the model a network
trained on the first hour of the reference, rule and evaluation are those of production.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.simulated import LEVERS, Form, Lever, Market, Mix, Shift, Speaker, Stretch
from market.clock import NS_PER_S
from market.features import catalog, meaning
from market.labels import HORIZON_NAMES, HORIZONS_NS, UNKNOWN
from pipelines.monitoring.drift import Judgement, Reference
from pipelines.monitoring.monitor import MonitorConfig
from pipelines.monitoring.signals import watched
from serving.hotpath import network
from serving.manifest import Heads
from training.data import datasets
from training.data.sequences import Layout
from training.data.splits import SplitConfig, split_by_time
from training.export.bundle import Card, write_bundle
from training.fitting import loop, plan

INSTRUMENT = "sim-usdm.BTCUSDT"
MIX = Mix(shares={"calm": 0.6, "volatile": 0.25, "thin": 0.15}, dwell_s=600.0)
REFERENCE_HOURS = 6
TRAINED_S = 3600.0  # of the reference is what the model is trained, validated and tested on
LOOK_S = 900.0  # as monitor_drift is scheduled
HOUR_S = 3600.0
SEEDS = (201, 202, 203, 204)  # of undrifted markets; the reference is seed 1
FACTORS: dict[Form, tuple[float, ...]] = {
    "abrupt": (1.1, 1.25, 1.5, 2.0),
    "gradual": (1.5, 2.0),
    "recurring": (1.5, 2.0),
}
PATIENCE_S: dict[Form, float] = {"abrupt": 2700.0, "gradual": 5400.0, "recurring": 4800.0}
REPETITIONS = 10
LEAD_S = 300.0  # of undrifted market before a shift, at least
WEEK_HOURS = 168

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Hours = list[tuple[int, "Judged"]]  # of undrifted markets: seed, and an hour of it, in order


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A reference, the model that predicts, and the production rule."""

    reference: Reference
    model: network.Model
    config: MonitorConfig

    @property
    def a_look(self) -> int:
        """Windows from one evaluation to the next."""
        return round(LOOK_S / self.config.window_seconds)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Windows in order: ``violated`` and ``strength`` (m,), ``effects`` (m, signals)."""

    violated: Bools
    strength: Floats
    effects: Floats

    @classmethod
    def of(cls, judgement: Judgement, windows: int) -> Judged:
        """The first ``windows``."""
        return cls(**{each.name: getattr(judgement, each.name)[:windows] for each in fields(cls)})

    @classmethod
    def joined(cls, parts: Sequence[Judged]) -> Judged:
        return cls(**{each.name: np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(cls)})

    def says(self, reference: Reference, end: int) -> bool:
        """Whether an evaluation after ``end`` windows reports drift."""
        return reference.verdict(self.violated[:end], self.effects[:end])[0]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shift of known size, and the outcome of each repetition: minutes until the first alarm, None without one."""

    lever: Lever
    factor: float
    form: Form
    delays: list[float | None] = field(default_factory=list)


def run(*words: str) -> dict[str, Any]:
    seeds = tuple(map(int, words)) or SEEDS
    seconds = float(os.environ.get("BENCH_DRIFT_SECONDS", "3600"))
    began = time.monotonic()
    watch = _watch()
    quiet = _undrifted(watch, seeds, until=began + 0.4 * seconds)
    cases = [Case(lever=a, factor=b, form=form) for form, some in FACTORS.items() for a, b in product(LEVERS, some)]
    _shifted(watch, cases, until=began + seconds)
    return _told(watch, quiet, cases, _what_levers_do())


# -- the reference ------------------------------------------------------------------------------------------------


def _watch() -> Watch:
    config = MonitorConfig(instrument=INSTRUMENT)
    market = Market(seed=1, mix=MIX)
    market.advance(60.0)
    stretches = [market.advance(HOUR_S) for _ in range(REFERENCE_HOURS)]
    with tempfile.TemporaryDirectory() as folder:
        model, tested_from = trained(Path(folder), stretches[0])
    speaker = Speaker(model=model)
    whole = _joined(stretches)
    probs, truth = speaker.probs(whole), whole.truth()
    truth[whole.recv_ns < tested_from] = UNKNOWN  # as monitoring does: not on rows the model was trained on
    segment = np.zeros(len(truth), np.int64)
    sample = watched(whole.features, probs, truth, whole.recv_ns, segment)
    return Watch(reference=Reference(sample, config.rule()), model=model, config=config)


def trained(folder: Path, rows: Stretch) -> tuple[network.Model, int]:
    """A network trained on ``rows`` the way the train stage does, in this process; and where its test part begins."""
    _write_dataset(folder / "dataset", rows)
    data = datasets.load(folder / "dataset")
    split = split_by_time(data.recv_ns, max(HORIZONS_NS), SplitConfig())
    drawn = plan.draw_up(folder / "dataset", data, split, Layout(), plan.Recipe(epochs=4, precision="fp32"), 5.0)
    plan.write_plan(folder, drawn)
    worker = loop.Alone(folder / "checkpoints")
    loop.fit(folder, worker)
    latest = worker.latest()
    assert latest is not None
    learned, _ = loop.trained(drawn, data, latest)
    card = Card(
        model_name="keel-bench",
        run_id="bench",
        instrument=INSTRUMENT,
        feature_set=meaning.feature_set(),
        dataset_id="dataset",
        dataset_revision="0" * 32,
        author="bench",
        created_ns=0,
        expires_ns=2**62,
        inputs=catalog.names(),
        heads=Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.2, depth_levels=5),
    )
    write_bundle(learned, card, data.features[-256:], folder / "bundle")
    return network.load(folder / "bundle"), split.test_start_ns


def _write_dataset(folder: Path, rows: Stretch) -> None:
    n, truth = len(rows.recv_ns), rows.truth()
    columns = {
        "source": pa.repeat("bench", n),
        "segment": np.zeros(n, np.int64),
        "recv_ns": rows.recv_ns,
        "mid2": rows.mid2,
        **{name: rows.features[:, i] for i, name in enumerate(catalog.names())},
    }
    for head, what in enumerate(("dir", "bidfall", "askfall")):
        for k, name in enumerate(HORIZON_NAMES):
            columns[f"{what}_{name}"] = truth[:, k, head]
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / datasets.DATASET_FILE)
    card = {
        "dataset_id": "dataset",
        "instrument": INSTRUMENT,
        "feature_set": meaning.feature_set(),
        "rows": n,
        "sources": ["bench"],
        "first_ns": int(rows.recv_ns[0]),
        "last_ns": int(rows.recv_ns[-1]),
        "horizons_ns": list(HORIZONS_NS),
        "dataset_revision": "0" * 32,
        "lake_versions": {},
    }
    (folder / datasets.CARD_FILE).write_text(json.dumps(card))


def _joined(parts: Sequence[Stretch]) -> Stretch:
    return Stretch(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in Stretch.__dataclass_fields__})


# -- nothing changes ----------------------------------------------------------------------------------------------


def _undrifted(watch: Watch, seeds: Sequence[int], *, until: float) -> Hours:
    """Hour after hour of each seed in turn, until the time is up."""
    markets = {seed: (Market(seed=seed, mix=MIX), Speaker(model=watch.model)) for seed in seeds}
    for market, _ in markets.values():
        market.advance(60.0)
    windows = round(HOUR_S / watch.config.window_seconds)
    quiet: Hours = []
    while time.monotonic() < until:
        for seed, (market, speaker) in markets.items():
            judgement = watch.reference.judge(speaker.sample(market.advance(HOUR_S)))
            quiet.append((seed, Judged.of(judgement, windows)))
    return quiet


def alarms(says: Callable[[int], bool], windows: int, a_look: int) -> tuple[int, int, int]:
    """(evaluations, evaluations that reported drift, drifts) over windows in order; ``says(end)`` is an evaluation
    after ``end`` of them, and a drift lasts as long as consecutive evaluations report it.
    """
    said = [says(end) for end in range(a_look, windows + 1, a_look)]
    begun = sum(now and not before for before, now in zip([False, *said], said, strict=False))
    return len(said), sum(said), begun


def _counted(watch: Watch, judged: Judged) -> tuple[int, int, int]:
    return alarms(lambda end: judged.says(watch.reference, end), len(judged.violated), watch.a_look)


def _by_seed(quiet: Hours) -> dict[int, Judged]:
    seeds = dict.fromkeys(seed for seed, _ in quiet)
    return {seed: Judged.joined([hour for other, hour in quiet if other == seed]) for seed in seeds}


def _reach(watch: Watch, quiet: Hours) -> Floats:
    """The rule's statistic at each window: the k-th largest strength of the last n, but at most the newest, and, where
    that would be an alarm, at most that of what they have in common.
    """
    config, line = watch.config, watch.reference.strength_threshold
    reach: list[float] = []
    for each in _by_seed(quiet).values():
        for end in range(config.n, len(each.strength) + 1):
            held = min(each.strength[end - 1], np.sort(each.strength[end - config.n : end])[-config.k])
            alike = watch.reference.common(each.violated[:end], each.effects[:end]) if held > line else held
            reach.append(min(held, alike))
    return np.array(reach)


def _extrapolated(reach: Floats, line: float) -> float:
    """Alarms a week if the largest twentieth of ``reach`` has an exponential tail (peaks over a threshold)."""
    start = float(np.quantile(reach, 0.95))
    beyond = reach[reach > start] - start
    share = 0.05 * float(np.exp(-(line - start) / beyond.mean())) if len(beyond) and line > start else 0.05
    return share * WEEK_HOURS * HOUR_S / LOOK_S


def _weeks(watch: Watch, quiet: Hours, *, weeks: int = 500) -> NDArray[np.int64]:
    """Drifts in weeks assembled from whole hours drawn at random."""
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, len(quiet), (weeks, WEEK_HOURS))
    return np.array([_counted(watch, Judged.joined([quiet[i][1] for i in one]))[2] for one in drawn])


# -- something changes --------------------------------------------------------------------------------------------


def _shifted(watch: Watch, cases: Sequence[Case], *, until: float) -> None:
    """Repetition after repetition over all cases, so that all have the same number when the time is up."""
    for form in FACTORS:
        for repetition in range(REPETITIONS):
            if time.monotonic() > until:
                return
            for i, case in enumerate(cases):
                if case.form == form:
                    case.delays.append(_delay(watch, case, 10_000 + 100 * repetition + i))


def _delay(watch: Watch, case: Case, seed: int) -> float | None:
    """Minutes of market time from the shift to the evaluation that reports drift. Evaluations come at the ends of
    LOOK_S; the shift starts somewhere in between.
    """
    into = float(np.random.default_rng(seed).uniform(LEAD_S, LOOK_S))  # into the first evaluation's interval
    shift = Shift(lever=case.lever, factor=case.factor, form=case.form, start_ns=int((60.0 + into) * NS_PER_S))
    market, speaker = Market(seed=seed, mix=MIX, shift=shift), Speaker(model=watch.model)
    market.advance(60.0)
    seen: list[Judged] = []
    passed = 0.0
    while passed < into + PATIENCE_S[case.form]:
        seen.append(Judged.of(watch.reference.judge(speaker.sample(market.advance(LOOK_S))), watch.a_look))
        passed += LOOK_S
        judged = Judged.joined(seen)
        if judged.says(watch.reference, len(judged.violated)):
            return (passed - into) / 60
    return None


def _what_levers_do() -> list[dict[str, Any]]:
    """The effect of a factor of 2 on a calm market, as ratios to the market without it."""
    plain = _size_of(Market(seed=9, mix=Mix(shares={"calm": 1.0}, dwell_s=1e9)))
    found = []
    for lever in LEVERS:
        shift = Shift(lever=lever, factor=2.0, form="abrupt", start_ns=0)
        moved = _size_of(Market(seed=9, mix=Mix(shares={"calm": 1.0}, dwell_s=1e9), shift=shift))
        found.append({"lever": lever, **{name: moved[name] / plain[name] for name in plain}})
    return found


def _size_of(market: Market) -> dict[str, float]:
    market.advance(60.0)
    rows = market.advance(900.0)
    names = catalog.names()
    return {
        "rows a second": float(len(rows.recv_ns)),
        "spread": float(rows.features[:, names.index("spread")].mean()),
        "vol_10s": float(rows.features[:, names.index("vol_10s")].mean()),
        "near depth": float((rows.bid_depth + rows.ask_depth).mean()),
    }


# -- the page -----------------------------------------------------------------------------------------------------


def _told(watch: Watch, quiet: Hours, cases: Sequence[Case], levers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from scipy.stats import chi2

    config = watch.config
    counts = [_counted(watch, each) for each in _by_seed(quiet).values()]
    looks, _, drifts = (sum(c[i] for c in counts) for i in range(3))
    hours = len(quiet)
    bound = float(chi2.ppf(0.95, 2 * (drifts + 1))) / 2 * WEEK_HOURS / max(hours, 1)
    weeks = _weeks(watch, quiet)
    reach, line = _reach(watch, quiet), watch.reference.strength_threshold
    whole = Judged.joined([hour for _, hour in quiet])
    violated = float(whole.violated.mean())
    goal = "<= 1 a week"
    return {
        "title": "Drift",
        "rows": [
            {
                "what": "undrifted market watched",
                "value": hours,
                "unit": f"hours, {looks:,} looks, {len(counts)} seeds",
            },
            {"what": "windows violated", "value": 100 * violated, "unit": "%"},
            {"what": "false alarms", "value": drifts, "unit": "", "goal": goal},
            {
                "what": "false alarms, as a rate",
                "value": drifts * WEEK_HOURS / max(hours, 1),
                "unit": "a week",
                "goal": goal,
            },
            {"what": "false alarms, exact 95 % upper bound (Poisson)", "value": bound, "unit": "a week", "goal": goal},
            {
                "what": "weeks of drawn hours (500): mean",
                "value": float(weeks.mean()),
                "unit": "a week",
                "goal": goal,
            },
            {
                "what": "weeks of drawn hours (500): with more than one",
                "value": 100 * float((weeks > 1).mean()),
                "unit": "%",
            },
            {
                "what": f"furthest that {config.k} of {config.n} windows went, at any minute; 1 is an alarm",
                "value": float(reach.max()) / line,
                "unit": "of the line",
            },
            {
                "what": "false alarms, extrapolated from the tail of that",
                "value": _extrapolated(reach, line),
                "unit": "a week",
                "goal": goal,
            },
        ],
        "notes": [
            f"Rule: windows of {config.window_seconds:g} s, {config.k} of the last {config.n} and the newest, a look "
            f"every {LOOK_S / 60:g} min; what they have in common is stronger than a window may be; chance of a window "
            f"to be violated {config.window_alarm:g}, of a signal to be beyond its bound {config.false_alarm:g}, least "
            f"effect {config.min_effect:g}, strength above {watch.reference.strength_threshold:.3f}.",
            f"Market: regimes {', '.join(f'{n} {s:.0%}' for n, s in MIX.shares.items())} of the time, redrawn after "
            f"{MIX.dwell_s / 60:g} min on average; reference: seed 1, {REFERENCE_HOURS} h, "
            f"{int(watch.reference.judged.sum())} signals evaluated; undrifted: seeds "
            f"{', '.join(map(str, _by_seed(quiet)))}.",
            "Delay: from the shift, somewhere between two looks, to the look that reports drift; a look is up to "
            f"{LOOK_S / 60:g} min away by itself. Gradual: over an hour. Recurring: 20 min on, 20 min off. Not found: "
            f"not within {', '.join(f'{PATIENCE_S[f] / 60:g} min ({f})' for f in FACTORS)}.",
        ],
        "levers": levers,
        "delays": [_case_row(watch, each) for each in cases if each.delays],
        "strengths": {f"q{q:g}": float(np.quantile(whole.strength, q)) for q in (0.5, 0.9, 0.95, 0.99, 1)},
    }


def _case_row(watch: Watch, case: Case) -> dict[str, Any]:
    found = sorted(d for d in case.delays if d is not None)
    # one that was not detected took longer than any that was
    every = np.array(found + [np.inf] * (len(case.delays) - len(found)))
    median, p90 = (float(np.quantile(every, q, method="higher")) for q in (0.5, 0.9))
    windows = 60 / watch.config.window_seconds
    return {
        "form": case.form,
        "lever": case.lever,
        "factor": case.factor,
        "repetitions": len(case.delays),
        "found": len(found) / len(case.delays),
        "median_min": _finite(median),
        "p90_min": _finite(p90),
        "median_windows": _finite(median * windows),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def page(found: dict[str, Any]) -> list[str]:
    """The tables in addition to the usual one."""
    sizes = [name for name in found["levers"][0] if name != "lever"]
    lines = ["## Effect of a factor of 2 on a calm market", "", f"| lever | {' | '.join(sizes)} |"]
    lines += ["|---" * (len(sizes) + 1) + "|"]
    lines += [f"| {row['lever']} | {' | '.join(f'{row[name]:.2f}x' for name in sizes)} |" for row in found["levers"]]
    head = "| shift | lever | factor | repetitions | found | delay, median | delay, p90 | median, windows |"
    lines += ["", "## Delay", "", head, "|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r['form']} | {r['lever']} | {r['factor']:g} | {r['repetitions']} | {r['found']:.0%} | "
        f"{_minutes(r['median_min'])} | {_minutes(r['p90_min'])} | {_whole(r['median_windows'])} |"
        for r in found["delays"]
    ]
    return [*lines, ""]


def _minutes(value: float | None) -> str:
    return "not found" if value is None else f"{value:.0f} min"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
