"""What monitoring watches: inputs of a model, its words, and how right they were, in the reference and in service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import EmptyDataError
from market.features import catalog
from market.labels import HORIZON_NAMES, UNKNOWN, LabelConfig, labels
from market.lake import Lake
from pipelines.drift import Floats, Ints, Sample
from serving.manifest import MODEL_FILE
from training.datasets import Dataset

WATCHED = HORIZON_NAMES.index("500ms")  # the horizon whose word the quoting policy acts on
GROUP = 5  # outputs a horizon, laid out as serving.manifest.Heads says
WORDS = tuple(
    f"{what}_{HORIZON_NAMES[WATCHED]}" for what in ("p_up_less_down", "p_no_move", "p_bid_falls", "p_ask_falls")
)
LOSS = "log_loss"
NAMES = (*catalog.names(), *WORDS, LOSS)

Real = NDArray[np.floating[Any]]

_LEAST = 1e-6  # probabilities are taken as at least this, so that one confident mistake is not infinite
_PREDICTED = ("session", "recv_ns", "mid2", "version0", "probs0", "features")


@dataclass(frozen=True, kw_only=True)
class Served:
    """Rows a model has spoken about in service: ``probs`` (n, P), ``features`` (n, F), ``session`` (n,) their names."""

    session: NDArray[np.str_]
    recv_ns: Ints
    mid2: Ints
    version: int
    probs: Floats
    features: Floats


def served(lake: Lake, instrument: str, *, sessions: Sequence[str], last_ns: int) -> Served:
    """What the champion of the newest session said, in ``sessions`` or in all of its sessions in the last ``last_ns``.

    Raises:
        EmptyDataError: no predictions.
    """
    where: dict[str, int | list[str]] = {"session": list(sessions)} if sessions else {}
    known = lake.read("predictions", instrument=instrument, columns=["session", "recv_ns", "version0"], where=where)
    if not known.num_rows:
        chosen = f" in {', '.join(sessions)}" if sessions else ""
        raise EmptyDataError(f"no predictions of {instrument}{chosen} in the lake; run keel serve first")
    times = known["recv_ns"].to_numpy()
    newest = int(np.argmax(times))
    version = int(known["version0"][newest].as_py())
    since = None if sessions else int(times[newest]) - last_ns
    where["version0"] = version
    rows = lake.read("predictions", instrument=instrument, columns=_PREDICTED, where=where, start_ns=since)
    return _settled(
        Served(
            session=rows["session"].to_numpy(zero_copy_only=False).astype(np.str_),
            recv_ns=rows["recv_ns"].to_numpy().astype(np.int64),
            mid2=rows["mid2"].to_numpy().astype(np.int64),
            version=version,
            probs=matrix(rows["probs0"]),
            features=matrix(rows["features"]),
        )
    )


def current_sample(rows: Served, move_threshold_ticks: float) -> Sample:
    """The watched signals while serving, a segment a session."""
    _, segment = np.unique(rows.session, return_inverse=True)
    turns = np.cumsum(np.concatenate(([0], (np.diff(segment) != 0).astype(np.int64)))) if len(segment) else segment
    nothing = np.zeros(len(rows.recv_ns), dtype=np.int64)
    config = LabelConfig(threshold_half_ticks=round(2 * move_threshold_ticks))
    truth = labels(rows.recv_ns, rows.mid2, nothing, nothing, turns, config).direction
    return _sample(rows.features, rows.probs, truth, rows.recv_ns, turns)


def reference_sample(data: Dataset, bundle: Path, judged_from_ns: int) -> Sample:
    """The watched signals over a dataset, the model of ``bundle`` run over it row by row.

    Log-loss counts from ``judged_from_ns`` on only: on rows it was trained on a model looks better than it is.
    """
    from training.sessions import OnnxStep

    step = OnnxStep((bundle / MODEL_FILE).read_bytes())
    edges = [*data.starts.tolist(), len(data)]
    probs = np.concatenate([step.sequence(data.features[a:b])[0] for a, b in pairwise(edges)])
    truth = np.where((data.recv_ns >= judged_from_ns)[:, None], data.labels[:, :, 0], UNKNOWN).astype(np.int8)
    segment = np.zeros(len(data), dtype=np.int64)
    segment[data.starts] = 1
    return _sample(data.features, probs, truth, data.recv_ns, np.cumsum(segment))


def direction_loss(probs: Real, truth: NDArray[np.int8]) -> Floats:
    """(n,) mean over horizons of -log of the probability given to what happened; not-a-number where nothing is known.

    ``probs`` (n, P), ``truth`` (n, H) with UNKNOWN where the horizon was not reached.
    """
    n, horizons = truth.shape
    loss = np.full((n, horizons), np.nan)
    for k in range(horizons):
        known = truth[:, k] != UNKNOWN
        said = probs[known, GROUP * k + truth[known, k].astype(np.int64)]
        loss[known, k] = -np.log(np.maximum(said, _LEAST))
    count = np.isfinite(loss).sum(axis=1)
    total = np.where(np.isfinite(loss), loss, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sample(features: Real, probs: Real, truth: NDArray[np.int8], recv_ns: Ints, segment: Ints) -> Sample:
    at = GROUP * WATCHED
    words = np.stack([probs[:, at + 2] - probs[:, at], probs[:, at + 1], probs[:, at + 3], probs[:, at + 4]], axis=1)
    loss = direction_loss(probs, truth)
    values = np.concatenate([features, words, loss[:, None]], axis=1).astype(np.float64)
    return Sample(names=NAMES, values=values, recv_ns=recv_ns, segment=segment)


def _settled(rows: Served) -> Served:
    """Without the first seconds of each session, while its windows were filling, and without moments of no book."""
    keep = np.zeros(len(rows.recv_ns), dtype=np.bool_)
    for session in np.unique(rows.session):
        here = rows.session == session
        keep |= here & (rows.recv_ns >= rows.recv_ns[here].min() + catalog.WARM_NS) & (rows.mid2 > 0)
    if not keep.any():
        raise EmptyDataError(
            f"expected more than {catalog.WARM_NS / NS_PER_S:g} s of serving, saw less; the feature windows were still "
            "filling. Serve for longer"
        )
    order = np.flatnonzero(keep)
    return Served(
        session=rows.session[order],
        recv_ns=rows.recv_ns[order],
        mid2=rows.mid2[order],
        version=rows.version,
        probs=rows.probs[order],
        features=rows.features[order],
    )


def matrix(column: Any) -> Floats:
    """A list column of equal lengths as (n, width)."""
    n = len(column)
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: Floats = flat.reshape(n, -1) if n else np.empty((0, 0))
    return matrix
