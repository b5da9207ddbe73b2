"""One network compared with rules, a linear model, boosted trees and the champion, all on the same test rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import EmptyDataError
from serving.manifest import MODEL_FILE
from serving.runtimes.onnx import OnnxStep
from training.data.datasets import Dataset, Run
from training.data.splits import Part, Split
from training.evaluation import baselines, scores
from training.evaluation.baselines import Rows
from training.evaluation.calibration import fit_temperature
from training.evaluation.scores import Difference, Score
from training.models.family import stream
from training.models.heads import Floats, Network
from training.models.registry import family_of

NETWORK = "network"  # of whichever family
CHAMPION = "champion"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """``most_rows`` bounds what linear model and trees learn from; ``warm_rows`` run before each test stretch."""

    most_rows: int = 12_000
    warm_rows: int = 500
    block_ns: int = 5 * NS_PER_S
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One model: its scores by head and horizon, its mean log-loss, and the network's loss less its own."""

    model: str
    log_loss: float
    scores: tuple[Score, ...]
    network_less_this: Difference | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All models on the same test rows. ``ece`` is the mean over heads, before and after temperature scaling.

    ``refusals``: why the gate refused it; empty if it passed, None if the gate was not run.
    """

    rows: int
    first_ns: int
    last_ns: int
    temperature: tuple[float, ...]
    ece_before: float
    ece: float
    models: tuple[Judged, ...]
    refusals: tuple[str, ...] | None = None

    def of(self, model: str) -> Judged:
        """The entry of one model."""
        return next(judged for judged in self.models if judged.model == model)

    def against(self, model: str) -> Difference:
        """The network's loss less another model's."""
        found = self.of(model).network_less_this
        if found is None:
            raise ValueError(f"{model} is the network itself")
        return found


def evaluate(
    data: Dataset, split: Split, network: Network, config: Comparison, *, champion: Path | None = None
) -> tuple[Evaluation, Network]:
    """Calibrate on the valid rows, score on the test rows; returns the calibrated network too.

    ``champion``: bundle of the model in service, run as it is served.

    Raises:
        EmptyDataError: the test part has no row with a known label.
    """
    temperature = fit_temperature(*_valid(data, split, network, config))
    calibrated = replace(network, temperature=temperature)
    rows, truth = _rows(data, split, "test")
    if not (truth >= 0).any():
        raise EmptyDataError(f"dataset {data.card.dataset_id}: no test row has a known label; ingest a longer stretch")
    answers = {NETWORK: _streamed(data, split, calibrated, config)}
    train_features, train_labels = data.features[split.mask("train", data.recv_ns)], _rows(data, split, "train")[1]
    answers |= _baselines(Rows(features=train_features, labels=train_labels, names=data.inputs), data, rows, config)
    if champion is not None:
        answers[CHAMPION] = _as_served(data, split, champion, config)
    uncalibrated = _streamed(data, split, network, config)
    evaluation = Evaluation(
        rows=len(rows),
        first_ns=int(data.recv_ns[rows[0]]),
        last_ns=int(data.recv_ns[rows[-1]]),
        temperature=temperature,
        ece_before=_mean_ece(scores.score(uncalibrated, truth)),
        ece=_mean_ece(scores.score(answers[NETWORK], truth)),
        models=_judge(answers, truth, data.recv_ns[rows], config),
    )
    return evaluation, calibrated


def through_gate(found: Evaluation, max_ece: float) -> Evaluation:
    """``found`` with the gate's verdict: better than the prior beyond chance, and calibrated within ``max_ece``.

    Losing to a baseline or to the champion is reported but not refused: a test in service decides which model quotes.
    """
    refusals, prior = [], found.against("prior")
    if not prior.better:
        interval = f"{prior.mean:+.4f}, 95 % {prior.low:+.4f} to {prior.high:+.4f}"
        refusals.append(f"not better than the prior beyond chance ({interval})")
    if not found.ece <= max_ece:
        refusals.append(f"calibration error {found.ece:.3f} above {max_ece:.3f}")
    return replace(found, refusals=tuple(refusals))


def _rows(data: Dataset, split: Split, part: Part) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    rows = np.flatnonzero(split.mask(part, data.recv_ns))
    return rows, data.labels[rows]


def _valid(data: Dataset, split: Split, network: Network, config: Comparison) -> tuple[Floats, NDArray[np.int8]]:
    model = family_of(network).thaw(network)
    stretches = _stretches(data, split, "valid", config)
    logits = [stream(model, network.temperature, data.features[a:b])[0][keep:] for a, b, keep in stretches]
    return np.concatenate(logits), _rows(data, split, "valid")[1]


def _streamed(data: Dataset, split: Split, network: Network, config: Comparison) -> Floats:
    model = family_of(network).thaw(network)
    stretches = _stretches(data, split, "test", config)
    probs = [stream(model, network.temperature, data.features[a:b])[1][keep:] for a, b, keep in stretches]
    return np.concatenate(probs)


def _as_served(data: Dataset, split: Split, bundle: Path, config: Comparison) -> Floats:
    step = OnnxStep((bundle / MODEL_FILE).read_bytes())
    stretches = _stretches(data, split, "test", config)
    return np.concatenate([step.sequence(data.features[a:b])[0][keep:] for a, b, keep in stretches])


def _stretches(data: Dataset, split: Split, part: Part, config: Comparison) -> list[tuple[int, int, int]]:
    """``(from, to, rows to skip)`` of each run of a part, begun early enough for the state to be warm."""
    found: list[tuple[int, int, int]] = []
    runs: list[Run] = data.runs(split.mask(part, data.recv_ns))
    for start, stop in runs:
        warm = data.before(start, config.warm_rows)
        found.append((warm, stop, start - warm))
    return found


def _baselines(train: Rows, data: Dataset, rows: NDArray[np.int64], config: Comparison) -> dict[str, Floats]:
    features = data.features[rows]
    fewer = train.thinned(config.most_rows)
    return {
        "prior": baselines.prior(train, features),
        "imbalance rule": baselines.imbalance_rule(train, features),
        "last move rule": baselines.last_move_rule(train, features),
        "logistic regression": baselines.logistic(fewer, features, seed=config.seed),
        "LightGBM": baselines.boosted_trees(fewer, features, seed=config.seed),
    }


def _judge(
    answers: dict[str, Floats], truth: NDArray[np.int8], recv_ns: NDArray[np.int64], config: Comparison
) -> tuple[Judged, ...]:
    losses = {name: scores.row_losses(probs, truth) for name, probs in answers.items()}
    mine = losses[NETWORK]

    def against(name: str) -> Difference | None:
        if name == NETWORK:
            return None
        return scores.difference(mine, losses[name], recv_ns, block_ns=config.block_ns, seed=config.seed)

    return tuple(
        Judged(
            model=name,
            log_loss=scores.mean_loss(losses[name]),
            scores=scores.score(probs, truth),
            network_less_this=against(name),
        )
        for name, probs in answers.items()
    )


def _mean_ece(found: tuple[Score, ...]) -> float:
    return float(np.mean([each.ece for each in found]))
