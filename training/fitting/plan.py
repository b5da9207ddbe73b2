"""The plan of one fit: everything decided before the first step, written as JSON next to the run.

Workers get the path of the plan and read the rest themselves; a run that is resumed reads the plan it began with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from market.errors import EmptyDataError, ModelError
from market.files import replacing
from market.heads import BID_FALLS, DIRECTIONS, GROUP
from serving.families import DEFAULT
from training.data.datasets import Dataset, Run
from training.data.sequences import Layout
from training.data.splits import Part, Split
from training.models.heads import Floats, Normalisation

PLAN_FILE = "plan.json"
_WINSOR = (0.005, 0.995)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What network is trained, and how. ``warm_up`` is a share of all steps; ``accumulate`` chunks make one step."""

    family: str = DEFAULT
    hidden: int = 64
    epochs: int = 8
    accumulate: int = 2
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.1
    clip_gradient: float = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """See the module. ``mean``, ``scale`` (F,) and ``head_bias`` (P,) are measured on the train rows only."""

    dataset: str
    dataset_id: str
    dataset_revision: str
    instrument: str
    feature_set: str
    rows: dict[str, int]
    split: Split
    layout: Layout
    recipe: Recipe
    norm_clip: float
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    head_bias: tuple[float, ...]

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(
            mean=np.array(self.mean, np.float32), scale=np.array(self.scale, np.float32), clip=self.norm_clip
        )

    def runs(self, data: Dataset, part: Part) -> list[Run]:
        """The part's rows as runs."""
        return data.runs(self.split.mask(part, data.recv_ns))

    def digest(self) -> str:
        """Changes whenever anything in the plan does."""
        said = msgspec.to_builtins(self)
        if self.recipe.family == DEFAULT:  # as plans had it before there was a choice: their checkpoints still fit
            said["recipe"].pop("family", None)
        return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:16]


def draw_up(folder: Path, data: Dataset, split: Split, layout: Layout, recipe: Recipe, norm_clip: float) -> Plan:
    """Measure what has to be measured on the train rows and put the plan together.

    Raises:
        EmptyDataError: the train rows carry no known label of some head.
    """
    train = split.mask("train", data.recv_ns)
    mean, scale = measure_normalisation(data.features[train])
    return Plan(
        dataset=str(folder),
        dataset_id=data.card.dataset_id,
        dataset_revision=data.card.dataset_revision,
        instrument=data.card.instrument,
        feature_set=data.card.feature_set,
        rows={part: int(split.mask(part, data.recv_ns).sum()) for part in ("train", "valid", "test")},
        split=split,
        layout=layout,
        recipe=recipe,
        norm_clip=norm_clip,
        mean=_floats(mean),
        scale=_floats(scale),
        head_bias=_floats(prior_logits(data.labels[train])),
    )


def measure_normalisation(features: Floats) -> tuple[Floats, Floats]:
    """Mean and 1 / deviation (F,), after pulling the outermost half percent on each side in.

    A feature that does not vary gets scale 0: the network learned nothing about it, so it must not act on it later.
    """
    low, high = np.quantile(features, _WINSOR, axis=0)
    pulled = np.clip(features, low, high).astype(np.float64)
    mean, deviation = pulled.mean(axis=0), pulled.std(axis=0)
    varies = deviation > 1e-6 * np.maximum(1.0, np.abs(mean))
    scale = np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0)
    return mean.astype(np.float32), scale.astype(np.float32)


def prior_logits(labels: np.ndarray[tuple[int, int, int], np.dtype[np.int8]]) -> Floats:
    """Logits (P,) that say the frequencies of the labels (n, K, 3): where the network's head starts from."""
    horizons = labels.shape[1]
    logits = np.zeros((horizons, GROUP), np.float32)
    for k in range(horizons):
        frequencies = class_frequencies(labels[:, k, 0], DIRECTIONS)
        logits[k, :DIRECTIONS] = np.log(frequencies)
        for head in (1, 2):
            fall = class_frequencies(labels[:, k, head], 2)[1]
            logits[k, BID_FALLS + head - 1] = np.log(fall / (1 - fall))
    return logits.reshape(-1)


def class_frequencies(labels: np.ndarray[tuple[int], np.dtype[np.int8]], classes: int) -> Floats:
    """Share of each class among the known labels, never 0: one of each is added (Laplace).

    Raises:
        EmptyDataError: no label is known.
    """
    known = labels[labels >= 0]
    if len(known) == 0:
        raise EmptyDataError("no label is known in the train part; ingest a longer stretch of data")
    counts = np.bincount(known, minlength=classes) + 1.0
    shares: Floats = (counts / counts.sum()).astype(np.float32)
    return shares


def write_plan(folder: Path, plan: Plan) -> None:
    """Write ``plan.json``, whole or not at all."""
    with replacing(folder / PLAN_FILE) as draft:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1))


def read_plan(folder: Path) -> Plan:
    """The plan of a run's folder.

    Raises:
        ModelError: there is none, or it is not one of ours.
    """
    path = folder / PLAN_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        raise ModelError(f"{path} is not there: no such run was started here; `keel train` starts one") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ModelError(f"{path} is not a plan: {error}; train again") from error


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
