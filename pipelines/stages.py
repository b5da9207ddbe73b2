"""The stages by name: one table that the ``keel`` command, the DAG tasks and the tests all go through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from market.clock import NS_PER_S
from market.errors import SettingsError
from pipelines import settings
from pipelines.workspace import Workspace

DAY_NS = 86_400 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage function and the class of its configuration."""

    config: type[Any]
    function: Callable[..., Any]


def table() -> Mapping[str, Stage]:
    """Every stage, in the order of the ring."""
    from pipelines.alerting import acknowledge, escalate, notify
    from pipelines.deployment import deploy
    from pipelines.experiments import compare
    from pipelines.features import featurize, refresh
    from pipelines.governance import approve
    from pipelines.ingestion import forward, ingest
    from pipelines.models import evaluate, export, register, retrain, train
    from pipelines.monitoring import monitor, skew
    from pipelines.promotion import dossier, promote, rollback, withdraw
    from pipelines.quality import validate
    from pipelines.quoting import safe_state, serve
    from pipelines.reports import report, trace

    return {
        "forward": Stage(config=forward.ForwardConfig, function=forward.forward),
        "ingest": Stage(config=ingest.IngestConfig, function=ingest.ingest),
        "validate": Stage(config=validate.ValidateConfig, function=validate.validate),
        "featurize": Stage(config=featurize.FeaturizeConfig, function=featurize.featurize),
        "refresh": Stage(config=refresh.RefreshConfig, function=refresh.refresh),
        "train": Stage(config=train.TrainConfig, function=train.train),
        "evaluate": Stage(config=evaluate.EvaluateConfig, function=evaluate.evaluate),
        "export": Stage(config=export.ExportConfig, function=export.export),
        "register": Stage(config=register.RegisterConfig, function=register.register),
        "deploy": Stage(config=deploy.DeployConfig, function=deploy.deploy),
        "serve": Stage(config=serve.ServeConfig, function=serve.serve),
        "skew": Stage(config=skew.SkewConfig, function=skew.skew),
        "monitor": Stage(config=monitor.MonitorConfig, function=monitor.monitor),
        "notify": Stage(config=notify.NotifyConfig, function=notify.notify),
        "acknowledge": Stage(config=acknowledge.AcknowledgeConfig, function=acknowledge.acknowledge),
        "escalate": Stage(config=escalate.EscalateConfig, function=escalate.escalate),
        "safe": Stage(config=safe_state.SafeConfig, function=safe_state.safe),
        "resume": Stage(config=safe_state.ResumeConfig, function=safe_state.resume),
        "retrain": Stage(config=retrain.RetrainConfig, function=retrain.retrain),
        "compare": Stage(config=compare.CompareConfig, function=compare.compare),
        "withdraw": Stage(config=withdraw.WithdrawConfig, function=withdraw.withdraw),
        "dossier": Stage(config=dossier.DossierConfig, function=dossier.dossier),
        "approve": Stage(config=approve.ApproveConfig, function=approve.approve),
        "promote": Stage(config=promote.PromoteConfig, function=promote.promote),
        "rollback": Stage(config=rollback.RollbackConfig, function=rollback.rollback),
        "trace": Stage(config=trace.TraceConfig, function=trace.trace),
        "report": Stage(config=report.ReportConfig, function=report.report),
    }


def run(verb: str, *, workspace: Workspace | None = None, **overrides: Any) -> Any:
    """Run one stage with its parameters and ``overrides``; returns its result object.

    Raises:
        SettingsError: no such stage, or an override it does not know.
    """
    stages = table()
    if verb not in stages:
        raise SettingsError(f"no stage named {verb!r}; there are {', '.join(stages)}")
    stage = stages[verb]
    config = settings.stage_config(verb, stage.config, overrides)
    return stage.function(config, workspace=workspace or settings.workspace())


def run_as_task(verb: str, **overrides: Any) -> dict[str, Any]:
    """As :func:`run`, for a scheduler: the result as a dictionary of ids, versions, paths and figures."""
    result = run(verb, **overrides)
    return dict(dataclasses.asdict(result))


def to_judge(landed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the quality gate should look at, one configuration of validate an instrument: the sources that ``landed``
    names (results of ingest), and of every other instrument in the lake whatever was not judged yet."""
    from market.lake.lake import Lake

    named: dict[str, list[str]] = {}
    for each in (one for result in landed for one in result["landed"]):
        named.setdefault(each["instrument"], []).append(each["source"])
    others = set(Lake(settings.workspace().lake).newest("ticks")) - set(named)
    return [{"instrument": key, "sources": named.get(key, [])} for key in sorted({*named, *others})]


def bounds_of(day: str | None) -> dict[str, int]:
    """A day in UTC as ``start_ns`` and ``end_ns``; nothing of no day.

    Raises:
        SettingsError: not a date.
    """
    if not day:
        return {}
    try:
        start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    except ValueError:
        raise SettingsError(f"expected a day such as 2026-01-31, saw {day!r}") from None
    start_ns = int(start.timestamp()) * NS_PER_S
    return {"start_ns": start_ns, "end_ns": start_ns + DAY_NS}


def in_service() -> list[str]:
    """Instruments with a champion, for a scheduler that looks after each."""
    from pipelines.deployment.inference_server import state_path
    from serving.rollout.roles import read_state

    return sorted(key for key, roles in read_state(state_path(settings.workspace())).items() if roles.champion)


def under_test() -> list[str]:
    """Instruments with a champion and a challenger about which nobody has decided."""
    from pipelines.governance.approve import undecided

    served = in_service()
    return [key for key in undecided(settings.workspace()) if key in served]


def may_retrain(instrument: str) -> tuple[bool, str]:
    """Whether the last retraining of an instrument is long enough ago, and why not."""
    from pipelines.models.cooldown import admission

    answer = admission(settings.workspace(), instrument, _retraining().cool_down_seconds)
    return answer.admitted, answer.why


def begin_retraining(instrument: str, trigger: str, *, asked_by_a_person: bool) -> tuple[bool, str]:
    """Begin a retraining, or go on with it; whether it may, and why not. No cool-down holds up a person, and an
    instrument's first model is no retraining."""
    from pipelines.models.cooldown import admit

    if instrument not in in_service():
        return True, ""
    cool_down = 0.0 if asked_by_a_person else _retraining().cool_down_seconds
    answer = admit(settings.workspace(), instrument, trigger, cool_down_seconds=cool_down)
    return answer.admitted, answer.why


def learned_from() -> dict[str, float | None]:
    """What a retraining's dataset is cut from: the newest so many seconds, or all there is."""
    return {"last_seconds": _retraining().last_seconds}


def take_turn(instrument: str, run: str, *, is_running: Callable[[str], bool]) -> str:
    """Whether a run about an instrument may go on, has to wait, or is to leave (see approval_queue)."""
    from pipelines.orchestration import approval_queue

    return approval_queue.take_turn(settings.workspace(), instrument, run, is_running=is_running)


def _retraining() -> Any:
    return settings.stage_config("retrain", table()["retrain"].config, {})
