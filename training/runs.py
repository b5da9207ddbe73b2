"""A training run's folder: the files each stage leaves there for the next, and the run's name.

``<run id>/plan.json`` (before the first step), ``trained/`` (the finished fit), ``evaluation.json`` (with the
temperatures), ``bundle/`` (after export). Each appears as a whole, so rerun an interrupted stage to complete it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from market.errors import FeatureSetError, InputError, ModelError
from market.features import meaning
from market.files import replacing, replacing_folder
from training.data import datasets
from training.data.datasets import Dataset
from training.evaluation.evaluate import Evaluation
from training.fitting.checkpoint import Standing
from training.fitting.loop import trained
from training.fitting.plan import PLAN_FILE, Plan, read_plan
from training.models.heads import Network

TRAINED = "trained"
EVALUATION = "evaluation.json"
BUNDLE = "bundle"


def same_plan(runs: Path, plan: Plan) -> Path | None:
    """The run that follows exactly this plan, finished or not."""
    for folder in _folders(runs):
        if read_plan(folder).digest() == plan.digest():
            return folder
    return None


def _folders(runs: Path) -> Iterator[Path]:
    yield from (path.parent for path in sorted(runs.glob(f"*/{PLAN_FILE}")))


def find(runs: Path, run_id: str) -> Path:
    """Folder of a run.

    Raises:
        InputError: there is none; the newest ones are named.
    """
    folder = runs / run_id
    if not run_id or not (folder / PLAN_FILE).is_file():
        newest = sorted(_folders(runs), key=lambda f: f.stat().st_mtime)[-3:]
        known = ", ".join(f.name for f in newest) or "none yet; `keel train` starts one"
        raise InputError(f"no run {run_id!r}; the newest are: {known}")
    return folder


def keep_trained(folder: Path, checkpoint: Path) -> None:
    """Put the last checkpoint where the next stage looks for it; it appears as a whole."""
    with replacing_folder(folder / TRAINED) as draft:
        shutil.copytree(checkpoint, draft, dirs_exist_ok=True)


def load(folder: Path) -> tuple[Plan, Dataset, Network, Standing]:
    """A finished run: its plan, its data, the best network (uncalibrated) and its history.

    Raises:
        ModelError: the fit has not finished.
        FeatureSetError: the features mean something else today.
    """
    plan = read_plan(folder)
    check_feature_set(plan.feature_set, f"run {folder.name}")
    if not (folder / TRAINED).is_dir():
        raise ModelError(f"run {folder.name} has not finished training; rerun the same `keel train` to resume it")
    data = datasets.load(Path(plan.dataset))
    network, standing = trained(plan, data, folder / TRAINED)
    return plan, data, network, standing


def check_feature_set(seen: str, whose: str) -> None:
    """Raise FeatureSetError unless ``seen`` is what the code computes today."""
    if seen != meaning.feature_set():
        raise FeatureSetError(
            f"{whose} was made with feature set {seen}, the code computes {meaning.feature_set()}; run featurize (and "
            "train) again, or check out the code it was made with"
        )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Store an evaluation with its run."""
    with replacing(folder / EVALUATION) as draft:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(evaluation), indent=1))


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation of a run.

    Raises:
        ModelError: it has not been evaluated, or by code that wrote it differently.
    """
    try:
        return msgspec.json.decode((folder / EVALUATION).read_bytes(), type=Evaluation)
    except FileNotFoundError:
        raise ModelError(f"run {folder.name} has not been evaluated; run `keel evaluate --run {folder.name}`") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ModelError(
            f"{folder / EVALUATION} is not an evaluation: {error}; run `keel evaluate --run {folder.name}` again"
        ) from error


def calibrated(network: Network, evaluation: Evaluation) -> Network:
    """The network with the temperatures of its evaluation."""
    return replace(network, temperature=evaluation.temperature)
