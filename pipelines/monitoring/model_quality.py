"""How right a model was, in figures a person knows: log-loss, Brier score, calibration error, hits of the liquidity
heads, and what its quotes' fills earned. The verdict looks at the same through :mod:`pipelines.monitoring.signals`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from market.labels import HORIZON_NAMES
from market.lake.lake import Lake
from pipelines.monitoring.signals import WATCHED, Watched
from serving.outcomes import COLUMNS, UNKNOWN, from_columns


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One head at the watched horizon, on ``rows`` whose truth is known.

    ``hits``: of what happened, the share that was called (the likeliest class); ``came_true``: of what was called, the
    share that happened. Of a liquidity head both are of falls, of the direction of moves up and down; None where there
    was nothing to divide by.
    """

    head: str
    rows: int
    log_loss: float
    brier: float
    calibration_error: float
    hits: float | None
    came_true: float | None


@dataclass(frozen=True, kw_only=True)
class Fills:
    """Fills of the sessions in half ticks, means over lots; realised after 1 s. None without a known later mid."""

    fills: int
    lots: int
    effective: float | None
    realised: float | None
    adverse: float | None


def quality(watched: Watched) -> tuple[Quality, ...]:
    """Each head with a known truth, at the horizon that quoting acts on."""
    from training.evaluation.scores import score

    found = []
    for each in score(np.asarray(watched.probs, np.float64), watched.truth):
        if each.horizon != HORIZON_NAMES[WATCHED]:
            continue
        counts = np.array(each.confusion)
        calm = 1 if each.head == "direction" else 0  # the class that is no event
        events = [i for i in range(len(counts)) if i != calm]
        right = float(sum(counts[i, i] for i in events))
        found.append(
            Quality(
                head=each.head,
                rows=each.rows,
                log_loss=each.log_loss,
                brier=each.brier,
                calibration_error=each.ece,
                hits=_share(right, float(counts[events].sum())),
                came_true=_share(right, float(counts[:, events].sum())),
            )
        )
    return tuple(found)


def fills(lake: Lake, instrument: str, sessions: Sequence[str], *, start_ns: int, end_ns: int) -> Fills:
    """What the fills of ``sessions`` within a time earned."""
    where = {"session": list(sessions)}
    rows = lake.read("outcomes", instrument=instrument, columns=COLUMNS, where=where, start_ns=start_ns, end_ns=end_ns)
    found = from_columns({name: rows[name].to_pylist() for name in COLUMNS})
    known = (found.mid2_fill != UNKNOWN) & (found.mid2_1s != UNKNOWN)
    lots = found.size[known]

    def mean(values: Any) -> float | None:
        return float(np.average(values[known], weights=lots)) if lots.sum() else None

    return Fills(
        fills=len(found),
        lots=int(found.size.sum()),
        effective=mean(found.effective),
        realised=mean(found.realised_1s),
        adverse=mean(found.adverse_1s),
    )


def figures(reference: Watched, current: Watched, earned: Fills) -> dict[str, Any]:
    """For ``monitor.json``."""
    return {
        "reference": [asdict(each) for each in quality(reference)],
        "now": [asdict(each) for each in quality(current)],
        "fills": asdict(earned),
    }


def _share(some: float, of: float) -> float | None:
    return some / of if of else None
