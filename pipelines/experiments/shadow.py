"""What a challenger would have done while it was a shadow: it saw every event and predicted, and the champion quoted.

Both are compared on the same rows. Of latency only the sum is recorded (both networks are one step): what a row took
with the challenger alongside the champion, and what it took with the champion alone. Of the quotes a challenger would
have made, the model's part is reported, as the touch and inventory of a row are not recorded: the policy is given
both predictions, no inventory and a book of one tick (of two, where the mid lies on a price).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from market.files import replacing
from market.heads import DOWN, UP, class_probs, column
from market.labels import UNKNOWN
from pipelines.monitoring.drift import Floats, Ints
from pipelines.monitoring.signals import WATCHED, Real
from serving.quoting.policy import PolicyConfig, flat_quotes
from serving.records import R_PULL_ASK, R_PULL_BID
from training.evaluation.sequential import sequence

_PULLED = R_PULL_BID | R_PULL_ASK


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowRows:
    """Rows of one session on which both predicted. ``champion``, ``challenger`` (n, P), ``truth`` (n, H) directions.
    ``step_ns`` of these rows, ``alone_ns`` of rows with the champion alone; ``silent`` rows more on which the
    challenger alone had no prediction."""

    mid2: Ints
    champion: Real
    challenger: Real
    truth: NDArray[np.int8]
    step_ns: Ints
    alone_ns: Ints
    silent: int


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A shadow phase. Figures in pairs are of champion and challenger; None where there was nothing to measure.

    ``difference`` of log-losses (nats, challenger less champion) by block, with its always-valid interval. At the
    horizon the policy reads: ``calibration_error``; ``same_lean``, the share of rows on which both lean the same way
    (up more likely than down); ``correlation`` of up less down. ``quoted_otherwise``: of the rows those on which price,
    size or side would have differed, ``pulled_otherwise`` those on which one of them alone would have pulled a side.
    """

    rows: int
    blocks: int
    silent: int
    log_loss: tuple[float, float]
    difference: float
    lower: float | None
    upper: float | None
    says: Literal["better", "worse", "not told apart"]
    calibration_error: tuple[float, float] | None
    same_lean: float
    correlation: float | None
    quoted_otherwise: float | None
    pulled_otherwise: float | None
    step_us: tuple[float, float] | None
    alone_step_us: tuple[float, float] | None


def shadow(
    parts: Sequence[ShadowRows], words: tuple[Floats, Floats], policy: PolicyConfig | None, *, alpha: float, plan: int
) -> Shadow | None:
    """The report; None where no version was a shadow. ``words``: log-loss of champion and challenger (b,) a block."""
    parts = [part for part in parts if len(part.mid2)]
    if not parts or not len(words[0]):
        return None
    champion, challenger = (np.concatenate([getattr(p, n) for p in parts]) for n in ("champion", "challenger"))
    mid2 = np.concatenate([part.mid2 for part in parts])
    truth = np.concatenate([part.truth for part in parts])
    seen = sequence(words[1] - words[0], alpha=alpha, plan=plan)
    leans = [lean_of(champion), lean_of(challenger)]
    moves = all(lean.std() > 0 for lean in leans)
    otherwise = None if policy is None else _otherwise(champion, challenger, mid2, policy)
    return Shadow(
        rows=len(mid2),
        blocks=len(seen),
        silent=sum(part.silent for part in parts),
        log_loss=(float(words[0].mean()), float(words[1].mean())),
        difference=float(seen.estimate[-1]),
        lower=_finite(seen.lower[-1]),
        upper=_finite(seen.upper[-1]),
        says=_says(seen.decided_at, seen.sign),
        calibration_error=_calibration(champion, challenger, truth),
        same_lean=float(np.mean(np.sign(leans[0]) == np.sign(leans[1]))),
        correlation=float(np.corrcoef(leans[0], leans[1])[0, 1]) if moves else None,
        quoted_otherwise=otherwise[0] if otherwise else None,
        pulled_otherwise=otherwise[1] if otherwise else None,
        step_us=_percentiles_us(np.concatenate([part.step_ns for part in parts])),
        alone_step_us=_percentiles_us(np.concatenate([part.alone_ns for part in parts])),
    )


def draw(words: tuple[Floats, Floats], parts: Sequence[ShadowRows], path: Path) -> None:
    """The picture: log-loss of both by block, and how one leans against the other."""
    from pipelines.charts import shadow_picture

    leans = [np.concatenate([lean_of(getattr(p, name)) for p in parts]) for name in ("champion", "challenger")]
    with replacing(path) as draft:
        shadow_picture(words, (leans[0], leans[1]), path=draft)


def lean_of(probs: Real) -> Floats:
    """(n,) probability of up less that of down at the horizon the policy reads."""
    return np.asarray(probs[:, column(WATCHED, UP)] - probs[:, column(WATCHED, DOWN)], dtype=np.float64)


def _says(decided_at: int, sign: int) -> Literal["better", "worse", "not told apart"]:
    if not decided_at:
        return "not told apart"
    return "better" if sign < 0 else "worse"


def _calibration(champion: Real, challenger: Real, truth: NDArray[np.int8]) -> tuple[float, float] | None:
    """Expected calibration error of the direction at the watched horizon, as evaluation has it."""
    from training.evaluation.scores import expected_calibration_error, reliability

    labels = truth[:, WATCHED]
    known = labels != UNKNOWN
    if not known.any():
        return None

    def error(probs: Real) -> float:
        said = class_probs(np.asarray(probs, dtype=np.float64), WATCHED, 0)[known]
        return expected_calibration_error(reliability(said.max(axis=1), said.argmax(axis=1) == labels[known]))

    return error(champion), error(challenger)


def _otherwise(champion: Real, challenger: Real, mid2: Ints, policy: PolicyConfig) -> tuple[float, float]:
    (first, why), (second, why_not) = (flat_quotes(each, mid2, policy) for each in (champion, challenger))
    differ = (first != second).any(axis=1)
    pulls = (why & _PULLED) != (why_not & _PULLED)
    return float(differ.mean()), float(pulls.mean())


def _percentiles_us(times_ns: Ints) -> tuple[float, float] | None:
    measured = times_ns[times_ns > 0]
    if not len(measured):
        return None
    p50, p99 = np.percentile(measured, (50, 99)) / 1000
    return float(p50), float(p99)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
