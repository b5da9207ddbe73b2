"""Train the streaming network on a dataset: Ray Train workers, bf16, gradient accumulation, exact resume.

A run is identified by its plan (dataset, split, parameters). Running the same plan again resumes the run that a kill
interrupted, and returns a finished one at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from market.errors import SettingsError
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked
from serving.families import DEFAULT, FAMILIES

if TYPE_CHECKING:
    from training.fitting.checkpoint import Standing
    from training.fitting.plan import Plan


@dataclass(frozen=True, kw_only=True)
class ModelConfig(StageConfig):
    """``family``: a row of :mod:`serving.families`."""

    family: str = DEFAULT

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise SettingsError(
                f"expected model.family to be one of {', '.join(sorted(FAMILIES))}, saw {self.family!r}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StageConfig):
    """``trigger``: what requested it (a drift, the schedule, a person), a tag of the run. ``model`` is what is trained,
    its layers ``hidden`` wide.

    ``workers`` 0 trains in this process. Shares of ``split`` are of the rows; times in nanoseconds.

    ``seq_len`` steps are back-propagated through, ``lanes`` sequences a worker at a time, ``accumulate`` of them make
    one update.
    """

    dataset_id: str
    trigger: str = "by hand"
    model: ModelConfig = field(default_factory=ModelConfig)
    workers: int = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["cpu", "cuda"] = "cpu"
    hidden: int = 64
    epochs: int = 8
    accumulate: int = 2
    learning_rate: float = 4e-3
    seq_len: int = 64
    burn_in: int = 64
    lanes: int = 8
    train_share: float = 0.6
    valid_share: float = 0.2
    embargo_ns: int = 1_000_000_000
    norm_clip: float = 5.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """``labelled_steps`` over ``seconds`` of the loop alone; losses are the objective (nats)."""

    run_id: str
    dataset_id: str
    instrument: str
    family: str
    path: str
    rows: dict[str, int]
    epochs: int
    best_epoch: int
    valid_loss: float
    first_valid_loss: float
    labelled_steps: int
    seconds: float
    workers: int
    precision: str
    resumed_from: int

    def line(self) -> str:
        gone_on = f", resumed after epoch {self.resumed_from}" if self.resumed_from else ""
        return (
            f"run {self.run_id[:12]}: {self.family.upper()} on {self.rows['train']:,} rows, {self.epochs} epochs, "
            f"{self.precision}, {self.workers} workers, validation loss {self.first_valid_loss:.4f} -> "
            f"{self.valid_loss:.4f}{gone_on}"
        )


def train(config: TrainConfig, *, workspace: Workspace) -> TrainResult:
    """Fit the network; the run's id is its MLflow run id.

    Raises:
        InputError: no such dataset.
        FeatureSetError: the dataset was made with other features than the code computes.
        EmptyDataError: too few rows for the split.
    """
    from training import runs

    plan = _plan(config, workspace)
    folder = runs.same_plan(workspace.runs, plan)
    if folder is None:
        folder = _begin(plan, config, workspace)
    finished = (folder / runs.TRAINED).is_dir()
    done_before = 0 if finished else _epochs_done(folder)
    if not finished:
        with tracked(workspace.progress, f"training {folder.name[:12]} on {config.workers or 1} workers"):
            runs.keep_trained(folder, _fit(folder, plan, config, workspace))
    standing = runs.load(folder)[3]
    _log(folder.name, standing, workspace)
    return _result(folder, plan, standing, config, done_before)


def _plan(config: TrainConfig, workspace: Workspace) -> Plan:
    from training import runs
    from training.data import datasets
    from training.data.sequences import Layout
    from training.data.splits import SplitConfig, split_by_time
    from training.fitting import plan

    folder = workspace.datasets / config.dataset_id
    data = datasets.load(folder)
    runs.check_feature_set(data.card.feature_set, f"dataset {config.dataset_id}")
    shares = SplitConfig(train=config.train_share, valid=config.valid_share, embargo_ns=config.embargo_ns)
    return plan.draw_up(
        folder,
        data,
        split_by_time(data.recv_ns, max(data.card.horizons_ns), shares),
        Layout(seq_len=config.seq_len, burn_in=config.burn_in, lanes=config.lanes),
        plan.Recipe(
            family=config.model.family,
            hidden=config.hidden,
            epochs=config.epochs,
            accumulate=config.accumulate,
            learning_rate=config.learning_rate,
            precision=config.precision,
            device=config.device,
            seed=config.seed,
        ),
        config.norm_clip,
    )


def _begin(plan: Plan, config: TrainConfig, workspace: Workspace) -> Path:
    from training.fitting.plan import write_plan
    from training.registry import tracking
    from training.registry.registry import model_name

    client = tracking.client(workspace.tracking)
    experiment = tracking.experiment(client, model_name(plan.instrument), workspace.artifacts)
    digest = plan.digest()
    tags = {
        "dataset_id": plan.dataset_id,
        "dataset_revision": plan.dataset_revision,
        "feature_set": plan.feature_set,
        "instrument": plan.instrument,
        "author": workspace.author,
        "trigger": config.trigger,
        "plan": digest,
    }
    with tracking.spoken("start a run", workspace.tracking):
        # a run killed before its folder existed is resumed, not left behind
        open_runs = client.search_runs([experiment], f"tags.plan = '{digest}' and attributes.status = 'RUNNING'")
        run_id = str((open_runs[0] if open_runs else client.create_run(experiment, tags=tags)).info.run_id)
        for name in ("workers", "precision", "hidden", "epochs", "accumulate", "learning_rate", "seq_len", "seed"):
            client.log_param(run_id, name, getattr(config, name))
        client.log_param(run_id, "family", config.model.family)
    write_plan(workspace.runs / run_id, plan)
    return workspace.runs / run_id


def _fit(folder: Path, plan: Plan, config: TrainConfig, workspace: Workspace) -> Path:
    """Folder of the last checkpoint."""
    if config.workers:
        from training.fitting.distributed import fit_on_ray

        return fit_on_ray(folder, plan, config.workers, workspace.ray)
    from training.fitting.loop import Alone, device_of, fit

    alone = Alone(folder / "checkpoints", device_of(plan.recipe))
    fit(folder, alone)
    latest = alone.latest()
    if latest is None:
        raise SettingsError(f"expected at least one epoch, saw epochs={config.epochs}")
    return latest


def _epochs_done(folder: Path) -> int:
    from training.fitting.checkpoint import STATE_FILE, read_standing

    states = list(folder.glob(f"checkpoints/epoch-*/{STATE_FILE}")) + list(folder.glob(f"ray/**/{STATE_FILE}"))
    return max((read_standing(state.parent).epochs_done for state in states), default=0)


def _log(run_id: str, standing: Standing, workspace: Workspace) -> None:
    """History as metrics; logging the same step again replaces nothing and is skipped."""
    from mlflow.entities import Metric

    from training.registry import tracking

    client = tracking.client(workspace.tracking)
    with tracking.spoken("log the history", workspace.tracking):
        run = client.get_run(run_id)
        if run.info.status == "FINISHED":
            return
        now_ms = workspace.clock.now_ns() // 1_000_000
        metrics = [
            Metric(name, value, now_ms, entry.epoch)
            for entry in standing.history
            for name, value in (("train_loss", entry.train_loss), ("valid_loss", entry.valid_loss))
        ]
        if "valid_loss" not in run.data.metrics:  # else a kill came between the two
            client.log_batch(run_id, metrics=metrics)
        client.set_terminated(run_id)


def _result(folder: Path, plan: Plan, standing: Any, config: TrainConfig, done_before: int) -> TrainResult:
    return TrainResult(
        run_id=folder.name,
        dataset_id=plan.dataset_id,
        instrument=plan.instrument,
        family=plan.recipe.family,
        path=str(folder),
        rows=plan.rows,
        epochs=standing.epochs_done,
        best_epoch=standing.best_epoch,
        valid_loss=standing.best_loss,
        first_valid_loss=standing.history[0].valid_loss,
        labelled_steps=sum(entry.labelled_steps for entry in standing.history),
        seconds=round(sum(entry.seconds for entry in standing.history), 3),
        workers=config.workers,
        precision=config.precision,
        resumed_from=done_before,
    )
