"""Compare a run with naive rules, logistic regression, LightGBM and the champion, on the same test rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.settings import StageConfig
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from training.evaluation.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StageConfig):
    """The gate: better than the prior beyond chance, and ``max_ece``. Losing to another model is
    reported, but does not fail it."""

    run_id: str
    max_ece: float = 0.1
    most_rows: int = 12_000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """``losses``: mean log-loss of each model in nats, every head and horizon counting alike."""

    run_id: str
    path: str
    rows: int
    losses: dict[str, float]
    best: str
    ece_before: float
    ece: float
    less_than_prior: float
    less_than_prior_interval: tuple[float, float]
    passed: bool
    why: str

    def line(self) -> str:
        ranked = ", ".join(f"{name} {loss:.4f}" for name, loss in sorted(self.losses.items(), key=lambda item: item[1]))
        gate = "gate passed" if self.passed else f"gate FAILED: {self.why}"
        return f"{self.rows:,} test rows, log-loss: {ranked}; ECE {self.ece:.3f}; {gate}"


def evaluate(config: EvaluateConfig, *, workspace: Workspace) -> EvaluateResult:
    """Calibrate, score every model, write ``evaluation.json`` next to the run and the figures to MLflow.

    Raises:
        InputError: no such run.
        ModelError: the run has not finished, or the champion's bundle is not what was registered.
    """
    from training import runs
    from training.evaluation import evaluate as evaluation

    folder = runs.find(workspace.runs, config.run_id)
    plan, data, network, _ = runs.load(folder)
    found, _ = evaluation.evaluate(
        data,
        plan.split,
        network,
        evaluation.Comparison(most_rows=config.most_rows, seed=config.seed),
        champion=_champion(workspace, plan.instrument, plan.feature_set),
    )
    found = evaluation.through_gate(found, config.max_ece)
    runs.write_evaluation(folder, found)
    result = _result(config, folder, found)
    _log(config.run_id, result, workspace)
    return result


def _champion(workspace: Workspace, instrument: str, feature_set: str) -> Path | None:
    """Bundle of the model in service; one of another feature set cannot read these rows."""
    from training.registry.registry import CHAMPION, Registry, model_name, read_manifest

    registry, name = Registry(workspace.tracking), model_name(instrument)
    version = registry.get_alias(name, CHAMPION)
    if version is None:
        return None
    bundle = registry.fetch_bundle(name, version, workspace.models / instrument / str(version))
    return bundle if read_manifest(bundle).feature_set == feature_set else None


def _result(config: EvaluateConfig, folder: Path, found: Evaluation) -> EvaluateResult:
    from training.evaluation.evaluate import NETWORK

    losses = {judged.model: judged.log_loss for judged in found.models}
    prior = found.against("prior")
    refusals = found.refusals or ()
    return EvaluateResult(
        run_id=config.run_id,
        path=str(folder),
        rows=found.rows,
        losses=losses,
        best=min(losses, key=lambda name: losses[name] if name != NETWORK else losses[name] - 1e-12),
        ece_before=found.ece_before,
        ece=found.ece,
        less_than_prior=prior.mean,
        less_than_prior_interval=(prior.low, prior.high),
        passed=not refusals,
        why="; ".join(refusals),
    )


def _log(run_id: str, result: EvaluateResult, workspace: Workspace) -> None:
    from training import runs
    from training.registry import tracking

    client = tracking.client(workspace.tracking)
    with tracking.spoken("log the evaluation", workspace.tracking):
        for name, loss in result.losses.items():
            client.log_metric(run_id, f"test_log_loss_{name.replace(' ', '_').lower()}", loss)
        client.log_metric(run_id, "test_ece", result.ece)
        client.log_artifact(run_id, str(Path(result.path) / runs.EVALUATION))
