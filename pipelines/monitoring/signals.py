"""What monitoring watches: inputs of a model, its words, and how right they were, in the reference and in service.

Every signal has a value a row, so that a window of any signal is a distribution and one bootstrap serves them all. Of
quality these are: the log-loss of the direction and of each liquidity head, and the overconfidence of the direction
(probability of the likeliest one, less 1 where it happened), whose mean is 0 while the model is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from market import history
from market.clock import BATCH_NS, NS_PER_S
from market.errors import EmptyDataError
from market.features import catalog
from market.heads import ASK_FALLS, BID_FALLS, DOWN, NONE, UP, by_horizon, column, columns
from market.labels import HORIZON_NAMES, UNKNOWN, LabelConfig, labels
from market.lake.lake import Lake
from pipelines.monitoring.drift import Floats, Ints, Sample
from serving.manifest import MODEL_FILE
from training.data.datasets import Dataset

WATCHED = HORIZON_NAMES.index("500ms")  # the horizon whose word the quoting policy acts on
WORDS = tuple(
    f"{what}_{HORIZON_NAMES[WATCHED]}" for what in ("p_up_less_down", "p_no_move", "p_bid_falls", "p_ask_falls")
)
LOSS = "log_loss"  # of the direction
OVERCONFIDENCE = f"overconfidence_{HORIZON_NAMES[WATCHED]}"
BID_LOSS, ASK_LOSS = "bid_falls_loss", "ask_falls_loss"
QUALITY = (LOSS, OVERCONFIDENCE, BID_LOSS, ASK_LOSS)
NAMES = (*catalog.names(), *WORDS, *QUALITY)

Real = NDArray[np.floating[Any]]

UNKNOWN_DEPTH = -1

_LEAST = 1e-6  # probabilities are taken as at least this, so that one confident mistake is not infinite
_WHOLE_NUMBERS = ("frame", "seq", "recv_ns", "exch_ns", "mid2", "step_ns")
_PREDICTED = ("session", *_WHOLE_NUMBERS, "version0", "probs0", "features")


@dataclass(frozen=True, kw_only=True)
class Served:
    """Decisions in service: ``probs`` (n, P), ``features`` (n, F), ``session`` (n,) names, the rest (n,) as in the
    lake's predictions. ``mid2`` is 0 where the book was not usable."""

    session: NDArray[np.str_]
    frame: Ints
    seq: Ints
    recv_ns: Ints
    exch_ns: Ints
    mid2: Ints
    step_ns: Ints
    version: int
    probs: Floats
    features: Floats

    def only(self, keep: NDArray[Any]) -> Served:
        """The rows that ``keep`` selects."""
        columns = {name: getattr(self, name)[keep] for name in ("session", *_WHOLE_NUMBERS, "probs", "features")}
        return Served(version=self.version, **columns)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Signals of ``n`` rows, and what they were made of: ``probs`` (n, P), ``truth`` (n, H, 3)."""

    sample: Sample
    probs: Real
    truth: NDArray[np.int8]


def recorded(lake: Lake, instrument: str, *, sessions: Sequence[str], last_ns: int) -> Served:
    """What the champion of the newest session decided on, in ``sessions`` or in all of its sessions in the last
    ``last_ns``, without the first seconds of each session, while its windows were filling.

    Raises:
        EmptyDataError: no predictions, or none after the windows were full.
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
    found = Served(
        session=rows["session"].to_numpy(zero_copy_only=False).astype(np.str_),
        **{name: rows[name].to_numpy().astype(np.int64) for name in _WHOLE_NUMBERS},
        version=version,
        probs=matrix(rows["probs0"]),
        features=matrix(rows["features"]),
    )
    return _warmed_up(found)


def usable(rows: Served) -> Served:
    """Without moments of no book.

    Raises:
        EmptyDataError: there was none with one.
    """
    if not (rows.mid2 > 0).any():
        raise EmptyDataError(
            f"expected decisions on a usable book, saw {len(rows.mid2):,} without; see what the feed sent"
        )
    return rows.only(rows.mid2 > 0)


def current(lake: Lake, instrument: str, rows: Served, config: LabelConfig) -> Watched:
    """The watched signals while serving, a segment a session. ``config``: how the labels were made that the model
    learned, and so what came true. What depth did is told by the ticks the session landed; where they are not in the
    lake, the liquidity heads have no truth."""
    _, session = np.unique(rows.session, return_inverse=True)
    segment = np.cumsum(np.diff(session, prepend=session[:1]) != 0).astype(np.int64)
    bid, ask = near_depth(lake, instrument, rows)
    found = labels(rows.recv_ns, rows.mid2, bid, ask, segment, config)
    bid_fall, ask_fall = found.bid_fall, found.ask_fall
    known = (bid != UNKNOWN_DEPTH).astype(np.int64)
    if not known.all():
        # what was known and is not any more falls from 1 to 0
        lost = labels(rows.recv_ns, rows.mid2, known, known, segment, config).bid_fall != 0
        lost |= known[:, None] == 0
        bid_fall, ask_fall = (np.where(lost, np.int8(UNKNOWN), fall) for fall in (bid_fall, ask_fall))
    truth = np.stack([found.direction, bid_fall, ask_fall], axis=2)
    truth[~np.isfinite(rows.probs).all(axis=1)] = UNKNOWN  # nothing was said, so nothing was right or wrong
    sample = watched(rows.features, rows.probs, truth, rows.recv_ns, segment)
    return Watched(sample=sample, probs=rows.probs, truth=truth)


def reference(data: Dataset, bundle: Path, judged_from_ns: int) -> Watched:
    """The watched signals over a dataset, the model of ``bundle`` run over it row by row.

    Quality counts from ``judged_from_ns`` on only: on rows it was trained on a model looks better than it is.
    """
    from serving.runtimes.onnx import OnnxStep

    step = OnnxStep((bundle / MODEL_FILE).read_bytes())
    edges = [*data.starts.tolist(), len(data)]
    probs = np.concatenate([step.sequence(data.features[a:b])[0] for a, b in pairwise(edges)])
    truth = np.where((data.recv_ns >= judged_from_ns)[:, None, None], data.labels, UNKNOWN).astype(np.int8)
    segment = np.zeros(len(data), dtype=np.int64)
    segment[data.starts] = 1
    sample = watched(data.features, probs, truth, data.recv_ns, np.cumsum(segment))
    return Watched(sample=sample, probs=probs, truth=truth)


def direction_loss(probs: Real, truth: NDArray[np.int8]) -> Floats:
    """(n,) mean over horizons of -log of the probability given to what happened; not-a-number where nothing is known.

    ``probs`` (n, P), ``truth`` (n, H) with UNKNOWN where the horizon was not reached.
    """
    n, horizons = truth.shape
    loss = np.full((n, horizons), np.nan)
    for k in range(horizons):
        known = truth[:, k] != UNKNOWN
        said = probs[known, column(k, DOWN) + truth[known, k].astype(np.int64)]
        loss[known, k] = -np.log(np.maximum(said, _LEAST))
    return _mean_of_known(loss)


def fall_loss(probs: Real, truth: NDArray[np.int8], head: int) -> Floats:
    """As :func:`direction_loss`, of a liquidity head: ``head`` 1 the bid's, 2 the ask's."""
    said = np.asarray(by_horizon(probs)[..., BID_FALLS + head - 1], dtype=np.float64)
    given = np.where(truth == 1, said, 1.0 - said)
    return _mean_of_known(np.where(truth == UNKNOWN, np.nan, -np.log(np.maximum(given, _LEAST))))


def overconfidence(probs: Real, truth: NDArray[np.int8]) -> Floats:
    """(n,) probability of the likeliest direction, less 1 where it happened; not-a-number where that is unknown.

    ``probs`` (n, 3) of one horizon, ``truth`` (n,). The mean over rows is the calibration in the large of the likeliest
    class; cut by confidence it is the expected calibration error (Naeini, Cooper, Hauskrecht, AAAI 2015).
    """
    gap = np.asarray(probs.max(axis=1), dtype=np.float64) - (probs.argmax(axis=1) == truth)
    return np.where(truth == UNKNOWN, np.nan, gap)


def watched(features: Real, probs: Real, truth: NDArray[np.int8], recv_ns: Ints, segment: Ints) -> Sample:
    """All signals of ``n`` rows: ``features`` (n, F), ``probs`` (n, P), ``truth`` (n, H, 3) as datasets hold labels."""
    down, none, up, bid, ask = (probs[:, column(WATCHED, each)] for each in (DOWN, NONE, UP, BID_FALLS, ASK_FALLS))
    words = [up - down, none, bid, ask]
    quality = [
        direction_loss(probs, truth[:, :, 0]),
        overconfidence(probs[:, columns(WATCHED, 0)], truth[:, WATCHED, 0]),
        fall_loss(probs, truth[:, :, 1], 1),
        fall_loss(probs, truth[:, :, 2], 2),
    ]
    values = np.concatenate([features, np.stack([*words, *quality], axis=1)], axis=1).astype(np.float64)
    return Sample(names=NAMES, values=values, recv_ns=recv_ns, segment=segment)


def _mean_of_known(values: Floats) -> Floats:
    """(n,) mean over columns of what is known."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _warmed_up(rows: Served) -> Served:
    keep = np.zeros(len(rows.recv_ns), dtype=np.bool_)
    for session in np.unique(rows.session):
        here = rows.session == session
        keep |= here & (rows.recv_ns >= rows.recv_ns[here].min() + catalog.WARM_NS)
    if not keep.any():
        raise EmptyDataError(
            f"expected more than {catalog.WARM_NS / NS_PER_S:g} s of serving, saw less; the feature windows were still "
            "filling. Serve for longer"
        )
    return rows.only(keep)


def matrix(column: Any) -> Floats:
    """A list column of equal lengths as (n, width)."""
    n = len(column)
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: Floats = flat.reshape(n, -1) if n else np.empty((0, 0))
    return matrix


class Decisions(Protocol):
    """Decisions (n,) of some sessions, by the frame and the venue's number that they were made on."""

    @property
    def session(self) -> NDArray[np.str_]: ...

    @property
    def frame(self) -> Ints: ...

    @property
    def seq(self) -> Ints: ...

    @property
    def recv_ns(self) -> Ints: ...


def near_depth(lake: Lake, instrument: str, rows: Decisions) -> tuple[Ints, Ints]:
    """Bid and ask depth (n,) in lots, as :class:`market.features.kernels.Rows` has it; UNKNOWN_DEPTH without ticks.

    A minute begins with the whole book, so that the minutes of the decisions are all that is read.
    """
    found = np.full((2, len(rows.recv_ns)), UNKNOWN_DEPTH, dtype=np.int64)
    for session in np.unique(rows.session):
        here = np.flatnonzero(rows.session == session)
        minutes = rows.recv_ns[here] // BATCH_NS
        # a minute holds what came before its last frame's clock ran back
        around = {"from_batch": int(minutes.min()) - 1, "until_batch": int(minutes.max()) + 1}
        again = history.replay(history.stretches_as_fed(lake, instrument, str(session), **around))
        of = {key: i for i, key in enumerate(zip(again.frame.tolist(), again.seq.tolist(), strict=True))}
        keys = zip(rows.frame[here].tolist(), rows.seq[here].tolist(), strict=True)
        at = np.array([of.get(key, -1) for key in keys], dtype=np.int64)
        known = at >= 0
        for side, depth in enumerate((again.bid_depth, again.ask_depth)):
            found[side, here[known]] = depth[at[known]]
    return found[0], found[1]
