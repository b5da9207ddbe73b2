"""Watching a model in service: did its inputs, its words or its rightness leave what it was trained on?

The verdict is :mod:`pipelines.monitoring.drift`'s (effect sizes against the reference's own windows, k of the last n
windows and the newest). Evidently's report is kept beside it for a person to browse; it decides nothing, and its
distances agree with ours. Latency and integrity are :mod:`pipelines.monitoring.checks`'; a failing check is an alert of
its own, which ``keel notify`` mails, and no drift. See docs/drift.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from market.clock import NS_PER_S
from market.errors import InputError
from market.files import replacing
from pipelines.monitoring import report_archive
from pipelines.monitoring.checks import Check, CheckLimits
from pipelines.monitoring.report_archive import Links
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked
from serving.manifest import Heads

if TYPE_CHECKING:
    from pipelines.monitoring.drift import DriftRule, Judgement, Sample
    from pipelines.monitoring.model_quality import Fills
    from pipelines.monitoring.signals import Served, Watched
    from training.data.datasets import Dataset

MONITOR_FILE = report_archive.REPORT_FILE
_LOOKS_BACK = 32  # earlier reports in which the same drift is looked for
SLOW_NS = 86_400 * NS_PER_S  # funding and basis move over hours: a shorter reference does not know their usual range


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(StageConfig):
    """What is watched. ``dataset_id`` empty: the one the serving model was trained on. ``sessions`` empty: those of the
    serving model in the last ``last_seconds``. The rest is :class:`pipelines.monitoring.drift.DriftRule`; ``most_rows``
    and ``most_columns`` bound what Evidently is given: it draws each column with plotly, a tenth of a second each.
    ``quiet_pages``: so many of its pages are kept of looks that found nothing, of others all."""

    instrument: str
    dataset_id: str = ""
    sessions: tuple[str, ...] = ()
    last_seconds: float = 3600.0
    window_seconds: float = 60.0
    k: int = 10
    n: int = 15
    bootstrap: int = 400
    false_alarm: float = 0.05
    window_alarm: float = 0.2
    min_effect: float = 0.10
    min_strength: float = 0.02
    seed: int = 7
    most_rows: int = 4000
    most_columns: int = 16
    quiet_pages: int = 8
    top: int = 8
    limits: CheckLimits = field(default_factory=CheckLimits)

    def rule(self) -> DriftRule:
        """What counts as drift.

        Raises:
            SettingsError: it cannot be met.
        """
        from pipelines.monitoring.drift import DriftRule

        return DriftRule(
            window_ns=int(self.window_seconds * NS_PER_S),
            k=self.k,
            n=self.n,
            bootstrap=self.bootstrap,
            false_alarm=self.false_alarm,
            window_alarm=self.window_alarm,
            min_effect=self.min_effect,
            min_strength=self.min_strength,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """A signal beyond its threshold: ``effect`` in mean absolute deviations of the reference."""

    name: str
    effect: float
    threshold: float
    direction: str

    def words(self) -> str:
        return f"{self.name} {self.direction} ({self.effect:.2f}, alarm at {self.threshold:.2f})"


@dataclass(frozen=True, kw_only=True)
class MonitorResult:
    """The verdict. ``event_id`` names the drift: it stays the same while the same drift goes on, and is empty without
    one. ``alert_id`` names failing checks in the same way: it is another one when a check fails that passed before.
    ``loss_reference`` (on rows not trained on) and ``loss_now`` are mean log-losses of the direction. ``checks`` are of
    latency and integrity; ``links`` say where MLflow keeps the report."""

    monitor_id: str
    event_id: str
    alert_id: str
    instrument: str
    dataset_id: str
    sessions: tuple[str, ...]
    model_version: int
    run_id: str
    drifted: bool
    windows: int
    violated: int
    k: int
    n: int
    window_seconds: float
    since_ns: int
    until_ns: int
    share: float
    strength: float
    strength_threshold: float
    top: tuple[Drifted, ...]
    not_judged: tuple[str, ...]
    rows: int
    loss_reference: float | None
    loss_now: float | None
    path: str
    evidently: str
    picture: str
    checks: tuple[Check, ...]
    links: Links

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(each for each in self.checks if each.verdict == "fail")

    def line(self) -> str:
        failing = "; ".join(each.words() for each in self.failing)
        alert = f"; FAILING CHECKS {self.alert_id}: {failing}" if failing else ""
        waits = f"; the report waits for MLflow: {self.links.waiting}" if self.links.waiting else ""
        return self._verdict() + alert + waits

    def _verdict(self) -> str:
        seen = f"{self.violated} of {self.windows} windows beyond the reference"
        if not self.drifted:
            return f"no drift: {seen} (alarm at {self.k} of the last {self.n}, the newest among them, alike)"
        furthest = "; ".join(each.words() for each in self.top[:3])
        ago = (self.until_ns - self.since_ns) / NS_PER_S
        return f"drift {self.event_id}: {seen}, since {ago:.0f} s of market time; furthest: {furthest}"


def monitor(config: MonitorConfig, *, workspace: Workspace) -> MonitorResult:
    """Judge what a model was given and said while serving against what it was trained on.

    Raises:
        EmptyDataError: no predictions, no whole window, or a reference too short for the window.
        InputError: no such dataset, or it is of another instrument or has other labels than the model.
        SettingsError: a rule that cannot be met.
    """
    from pipelines.monitoring import model_quality
    from pipelines.monitoring.drift import Reference

    rule = config.rule()
    with tracked(workspace.progress, "looking for drift", 5) as progress:
        watched = _gather(config, workspace)
        progress.advance(1)
        then, now = watched.reference.sample, watched.current.sample
        judgement = Reference(then, rule, watched.unjudged).judge(now)
        progress.advance(1)
        result = _result(config, workspace, watched, judgement)
        _evidently(config, (then, now), _furthest(judgement), result.evidently)
        progress.advance(1)
        quality = model_quality.figures(watched.reference, watched.current, watched.fills)
        _draw(result, judgement)
        progress.advance(1)
        links = report_archive.keep(
            workspace,
            Path(result.path).parent,
            watched.run_id,
            lambda links: _write(replace(result, links=links), judgement, quality),
        )
        report_archive.forget_pages(workspace, config.quiet_pages)
        progress.advance(1)
    return replace(result, links=links)


def read_result(workspace: Workspace, monitor_id: str) -> dict[str, Any]:
    """What a monitor run wrote; of the newest run when ``monitor_id`` is empty.

    Raises:
        InputError: there is none.
    """
    files = sorted(workspace.reports.glob(f"{monitor_id or 'monitor-*'}/{MONITOR_FILE}"), key=_age)
    if not files:
        wanted = f"monitor run {monitor_id!r}" if monitor_id else "any monitor run"
        raise InputError(f"expected {wanted} under {workspace.reports}, saw none; run keel monitor first")
    found: dict[str, Any] = orjson.loads(files[-1].read_bytes())
    return found


def newest_results(workspace: Workspace, instruments: Collection[str]) -> list[dict[str, Any]]:
    """The newest run about each of some instruments that the newest runs tell of, in order of the instrument."""
    files = sorted(workspace.reports.glob(f"monitor-*/{MONITOR_FILE}"), key=_age, reverse=True)[:_LOOKS_BACK]
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if set(instruments) <= set(found):
            break
        look = orjson.loads(file.read_bytes())
        if look["instrument"] in instruments:
            found.setdefault(look["instrument"], look)
    return [found[key] for key in sorted(found)]


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """Reference and present, the signals that cannot be judged, and where the reference comes from."""

    reference: Watched
    current: Watched
    rows: Served
    instrument: str
    unjudged: tuple[str, ...]
    dataset_id: str
    run_id: str
    checks: tuple[Check, ...]
    fills: Fills


def _gather(config: MonitorConfig, workspace: Workspace) -> _Watched:
    from market.features import catalog
    from market.lake.lake import Lake
    from pipelines.monitoring import checks, model_quality, signals
    from training.data import datasets
    from training.registry.registry import bundle_at, read_manifest

    lake = Lake(workspace.lake)
    last_ns = int(config.last_seconds * NS_PER_S)
    recorded = signals.recorded(lake, config.instrument, sessions=config.sessions, last_ns=last_ns)
    bundle = bundle_at(workspace.models, workspace.tracking, config.instrument, recorded.version)
    manifest = read_manifest(bundle)
    data = datasets.load(workspace.datasets / (config.dataset_id or manifest.dataset_id))
    if data.card.instrument != config.instrument:
        raise InputError(
            f"expected a dataset of {config.instrument}, saw {data.card.instrument} in {data.card.dataset_id}"
        )
    _require_same_labels(data, manifest.heads)
    rows = signals.usable(recorded)
    sessions = tuple(sorted({str(s) for s in np.unique(recorded.session)}))
    since, until = int(recorded.recv_ns.min()), int(recorded.recv_ns.max())
    judged_from = _judged_from(workspace, manifest.run_id, data, manifest.dataset_id)
    frames = checks.landed(lake, config.instrument, sessions, recorded.recv_ns)
    return _Watched(
        reference=signals.reference(data, bundle, judged_from),
        current=signals.current(lake, config.instrument, rows, manifest.heads.labels()),
        rows=rows,
        instrument=config.instrument,
        unjudged=catalog.slow_names() if data.card.last_ns - data.card.first_ns < SLOW_NS else (),
        dataset_id=data.card.dataset_id,
        run_id=manifest.run_id,
        checks=checks.check(recorded, frames, config.limits),
        fills=model_quality.fills(lake, config.instrument, sessions, start_ns=since, end_ns=until + 1),
    )


def _require_same_labels(data: Dataset, heads: Heads) -> None:
    card, rule = data.card, data.card.labels
    theirs = Heads(
        horizons_ns=card.horizons_ns,
        move_threshold_ticks=rule.move_threshold_ticks,
        depth_fall=rule.depth_fall,
        depth_levels=rule.depth_levels,
    )
    if theirs != heads:
        raise InputError(
            f"expected a dataset with the labels of the model, {heads.words()}, saw {theirs.words()} in "
            f"{card.dataset_id}; leave dataset_id out, or cut the dataset with the model's label settings"
        )


def _judged_from(workspace: Workspace, run_id: str, data: Dataset, trained_on: str) -> int:
    """Where the rows begin that the model was not trained on: its plan's test part, else the usual split's."""
    from training.data.splits import SplitConfig, split_by_time
    from training.fitting.plan import PLAN_FILE, read_plan

    if data.card.dataset_id != trained_on:
        return 0
    if (workspace.runs / run_id / PLAN_FILE).is_file():
        return read_plan(workspace.runs / run_id).split.test_start_ns
    return split_by_time(data.recv_ns, max(data.card.horizons_ns), SplitConfig()).test_start_ns


def _result(config: MonitorConfig, workspace: Workspace, watched: _Watched, judgement: Judgement) -> MonitorResult:
    rows = watched.rows
    sessions = tuple(sorted({str(s) for s in np.unique(rows.session)}))
    monitor_id = _digest("monitor", [asdict(config), sessions, rows.version, int(rows.recv_ns[-1]), len(rows.recv_ns)])
    folder = workspace.reports / monitor_id
    newest = judgement.effects[-1]
    looks = _looks(config, workspace, monitor_id, int(judgement.end_ns[-1]))
    return MonitorResult(
        monitor_id=monitor_id,
        event_id=_event(watched, judgement, looks) if judgement.drifted else "",
        alert_id=_alert(watched, int(judgement.end_ns[-1]), looks),
        instrument=config.instrument,
        dataset_id=watched.dataset_id,
        sessions=sessions,
        model_version=rows.version,
        run_id=watched.run_id,
        drifted=judgement.drifted,
        windows=len(judgement.violated),
        violated=int(judgement.violated.sum()),
        k=config.k,
        n=config.n,
        window_seconds=config.window_seconds,
        since_ns=judgement.since_ns,
        until_ns=int(judgement.end_ns[-1]),
        share=float(judgement.share[-1]),
        strength=float(judgement.strength[-1]),
        strength_threshold=judgement.strength_threshold,
        top=tuple(
            Drifted(name=name, effect=effect, threshold=threshold, direction=direction)
            for name, effect, threshold, direction in judgement.top(config.top)
        ),
        not_judged=tuple(
            name
            for name, judged, now in zip(judgement.names, judgement.judged, newest, strict=True)
            if not (judged and np.isfinite(now))
        ),
        rows=len(rows.recv_ns),
        loss_reference=_mean_loss(watched.reference.sample),
        loss_now=_recent_loss(judgement),
        path=str(folder / MONITOR_FILE),
        evidently=str(folder / report_archive.PAGE_FILE),
        picture=str(folder / "drift.png"),
        checks=watched.checks,
        links=Links(artifacts=""),
    )


def _looks(config: MonitorConfig, workspace: Workspace, monitor_id: str, until_ns: int) -> list[dict[str, Any]]:
    """The newest other looks at this instrument that saw no later market, in order of what they saw last."""
    files = sorted(workspace.reports.glob(f"monitor-*/{MONITOR_FILE}"), key=_age)
    looks = [orjson.loads(file.read_bytes()) for file in files[-_LOOKS_BACK:]]
    mine = [look for look in looks if look["instrument"] == config.instrument and look["monitor_id"] != monitor_id]
    return sorted((look for look in mine if look["until_ns"] <= until_ns), key=lambda look: int(look["until_ns"]))


def _alert(watched: _Watched, until_ns: int, looks: Sequence[dict[str, Any]]) -> str:
    """The id of failing checks: that of the last look's where all of them are known from it, so that the alert was
    sent; else a new one."""
    failing = {each.name for each in watched.checks if each.verdict == "fail"}
    if not failing:
        return ""
    last = str(looks[-1].get("alert_id", "")) if looks else ""
    told = {
        check["name"]
        for look in looks
        if last and look.get("alert_id") == last
        for check in look["checks"]
        if check["verdict"] == "fail"
    }
    return (
        last
        if failing <= told
        else _digest("checks", [watched.instrument, watched.rows.version, sorted(failing), until_ns])
    )


def _event(watched: _Watched, judgement: Judgement, looks: Sequence[dict[str, Any]]) -> str:
    """The drift's id: that of the newest look whose drift reaches into this one; that of the last look, if it saw a
    drift and this one begins with one, so that nobody saw a calm market in between; else a new one."""
    same = {"dataset_id": watched.dataset_id, "model_version": watched.rows.version}
    before = [(look["until_ns"], look["event_id"]) for look in looks if same.items() <= look.items()]
    went_on = [event for end_ns, event in before if event and judgement.since_ns <= end_ns]
    if not went_on and before and judgement.since_ns == int(judgement.start_ns[0]):
        went_on = [before[-1][1]]
    if went_on and went_on[-1]:
        return str(went_on[-1])
    return _digest("drift", [watched.instrument, *same.values(), judgement.since_ns])


def _digest(kind: str, what: Sequence[Any]) -> str:
    return f"{kind}-{hashlib.sha256(orjson.dumps(what)).hexdigest()[:12]}"


def _mean_loss(sample: Sample) -> float | None:
    from pipelines.monitoring.signals import LOSS

    losses = sample.values[:, sample.names.index(LOSS)]
    known = losses[np.isfinite(losses)]
    return float(known.mean()) if len(known) else None


def _recent_loss(judgement: Judgement) -> float | None:
    from pipelines.monitoring.signals import LOSS

    losses = judgement.mean[-judgement.n :, judgement.names.index(LOSS)]
    known = losses[np.isfinite(losses)]
    return float(known.mean()) if len(known) else None


def _told(result: MonitorResult, judgement: Judgement) -> dict[str, Any]:
    """The result with every window and signal."""
    from pipelines.monitoring.signals import LOSS

    ratios = judgement.effects / judgement.thresholds
    loss = judgement.mean[:, judgement.names.index(LOSS)]
    return {
        **asdict(result),
        "windows_judged": [
            {
                "start_ns": int(judgement.start_ns[i]),
                "end_ns": int(judgement.end_ns[i]),
                "share": float(judgement.share[i]),
                "strength": float(judgement.strength[i]),
                "violated": bool(judgement.violated[i]),
                "log_loss": _finite(loss[i]),
            }
            for i in range(len(judgement.violated))
        ],
        "signals": [
            {
                "name": name,
                "judged": bool(judgement.judged[j]),
                "threshold": float(judgement.thresholds[j]),
                "effects": [_finite(v) for v in judgement.effects[:, j]],
                "ratios": [_finite(v) for v in ratios[:, j]],
            }
            for j, name in enumerate(judgement.names)
        ],
    }


def _draw(result: MonitorResult, judgement: Judgement) -> None:
    from pipelines.charts import drift_picture

    with replacing(Path(result.picture)) as draft:
        drift_picture(_told(result, judgement), path=draft)


def _write(result: MonitorResult, judgement: Judgement, quality: dict[str, Any]) -> None:
    """``monitor.json``."""
    found = {**_told(result, judgement), "quality": quality}
    with replacing(Path(result.path)) as draft:
        draft.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _furthest(judgement: Judgement) -> list[str]:
    """Signals by how far they went beyond their thresholds in any window; those not judged last."""
    ratios = np.nan_to_num(judgement.effects / judgement.thresholds, nan=0.0).max(axis=0)
    return [judgement.names[i] for i in np.argsort(-np.where(judgement.judged, ratios, -1.0), kind="stable")]


def _evidently(config: MonitorConfig, samples: tuple[Sample, Sample], order: Sequence[str], path: str) -> None:
    """Evidently's drift report over evenly thinned rows; it is kept for reading and decides nothing."""
    if Path(path).exists():
        return
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def frame(sample: Sample) -> pd.DataFrame:
        rows = np.unique(np.linspace(0, len(sample.recv_ns) - 1, config.most_rows).astype(int))
        return pd.DataFrame(sample.values[rows], columns=list(sample.names))

    then, now = (frame(sample) for sample in samples)
    # Evidently refuses columns that are empty or never vary
    told = [name for name in order if then[name].nunique() > 1 and now[name].notna().any()][: config.most_columns]
    # distances between columns that hardly vary divide by nearly nothing, and numpy says so a hundred times
    with np.errstate(all="ignore"):
        report = Report([DataDriftPreset(method="wasserstein")]).run(now[told], then[told])
    with replacing(Path(path)) as draft:
        report.save_html(str(draft))
