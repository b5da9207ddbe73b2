"""The stages by name: one table that the ``keel`` command, the DAG tasks and the tests all go through."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from market.errors import SettingsError
from pipelines import settings
from pipelines.workspace import Workspace


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


def run_as_task(verb: str, *, author: str = "", **overrides: Any) -> dict[str, Any]:
    """As :func:`run`, for a scheduler: the result as a dictionary of ids, versions, paths and figures. ``author``: the
    person that the task is for."""
    result = run(verb, workspace=settings.workspace(author=author), **overrides)
    return dict(dataclasses.asdict(result))
