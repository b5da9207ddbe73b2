"""Train a challenger on newer data: featurize, train, evaluate, export, register. One at a time an instrument."""

from __future__ import annotations

from dataclasses import dataclass

import filelock

from market.errors import ServiceError
from pipelines.features import featurize
from pipelines.models import cooldown, evaluate, export, register, train
from pipelines.models.retraining_schedule import RetrainingSchedule
from pipelines.settings import StageConfig, stage_config
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(StageConfig, RetrainingSchedule):
    """The data to learn from: ``sources`` (empty: all) between the times, or only the newest ``last_seconds``;
    ``trigger`` names what requested it.

    ``cool_down_hours``: how long after a retraining began a scheduler may not begin another of the instrument. ``cron``
    and ``timezone``: when the DAG ``retrain_nightly`` asks for one of each instrument in service.
    """

    instrument: str = "sim-usdm.BTCUSDT"
    sources: tuple[str, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    last_seconds: float | None = None
    trigger: str = "by hand"
    cool_down_hours: float = 6.0

    @property
    def cool_down_seconds(self) -> float:
        return 3600.0 * self.cool_down_hours


@dataclass(frozen=True, kw_only=True)
class RetrainResult:
    """``version`` is None when the new model did not pass its gate: nothing was registered, and ``why`` says it."""

    instrument: str
    trigger: str
    dataset_id: str
    run_id: str
    version: int | None
    losses: dict[str, float]
    why: str
    steps: tuple[str, ...]

    def line(self) -> str:
        ended = f"challenger version {self.version}" if self.version else f"no challenger: {self.why}"
        ranked = ", ".join(f"{name} {loss:.4f}" for name, loss in sorted(self.losses.items(), key=lambda item: item[1]))
        return f"triggered by {self.trigger}: {ended}; run {self.run_id[:12]}; test log-loss {ranked}"


def retrain(config: RetrainConfig, *, workspace: Workspace) -> RetrainResult:
    """Run the stages from featurize to register. A direct call does not wait for a cool-down, but starts one.

    Raises:
        ServiceError: a retraining of this instrument is in progress.
        KeelError: whatever a stage raises.
    """
    workspace.home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(workspace.home / f"retrain-{config.instrument}.lock")
    try:
        with lock.acquire(timeout=0):
            cooldown.admit(workspace, config.instrument, config.trigger, cool_down_seconds=0.0)
            return _retrain(config, workspace)
    except filelock.Timeout:
        raise ServiceError(
            f"{config.instrument} is being retrained already; one retraining at a time. Wait for it to end"
        ) from None


def _retrain(config: RetrainConfig, workspace: Workspace) -> RetrainResult:
    cut: dict[str, object] = {"instrument": config.instrument, "sources": config.sources, "start_ns": config.start_ns}
    cut |= {"end_ns": config.end_ns, "last_seconds": config.last_seconds}
    dataset = featurize.featurize(stage_config("featurize", featurize.FeaturizeConfig, cut), workspace=workspace)
    asked = {"dataset_id": dataset.dataset_id, "trigger": config.trigger}
    run = train.train(stage_config("train", train.TrainConfig, asked), workspace=workspace)
    this = {"run_id": run.run_id}
    judged = evaluate.evaluate(stage_config("evaluate", evaluate.EvaluateConfig, this), workspace=workspace)
    steps, version = [dataset.line(), run.line(), judged.line()], None
    if judged.passed:
        exported = export.export(stage_config("export", export.ExportConfig, this), workspace=workspace)
        made = register.register(stage_config("register", register.RegisterConfig, this), workspace=workspace)
        steps += [exported.line(), made.line()]
        version = made.version
    return RetrainResult(
        instrument=config.instrument,
        trigger=config.trigger,
        dataset_id=dataset.dataset_id,
        run_id=run.run_id,
        version=version,
        losses=judged.losses,
        why=judged.why,
        steps=tuple(steps),
    )
