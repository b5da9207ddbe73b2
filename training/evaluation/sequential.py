"""An always-valid test on a stream of block differences: look after every block, stop whenever you like.

The confidence sequence is the asymptotic one of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central
limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024 (``ville.AsymptoticCS``). It assumes
uncorrelated differences. Blocks of a market are not, so two things are added, both checked by simulation in
``tests/unit/training/test_sequential_test_keeps_its_level.py``:

* the radius is multiplied by the square root of (1 + r) / (1 - r), the long-run variance of a first-order
  autoregression over its variance (prewhitening, Andrews and Monahan, Econometrica 60(4), 1992); ``r`` is estimated
  from the differences seen so far, with Kendall's bias correction (Biometrika 41, 1954) and :data:`SAFE_ERRORS`
  standard errors on the safe side (with one, the simulation of ``bench/ab.py`` found equal arms significantly different
  in 6.6 % of the runs at an ``alpha`` of 5 %);
* there is no decision before :data:`MIN_EFFECTIVE` effectively independent differences are in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_EFFECTIVE = 12
SAFE_ERRORS = 1.5
_MAX_AUTOCORRELATION = 0.97
_FIRST_ESTIMATE = 4  # differences before an autocorrelation is estimated at all


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Estimate and confidence sequence of a mean after each difference: ``estimate``, ``lower``, ``upper`` (looks,).

    ``decided_at`` is the first look (from 1) at which zero was excluded, 0 when it never was; ``sign`` the side.
    """

    estimate: Floats
    lower: Floats
    upper: Floats
    decided_at: int
    sign: int

    def __len__(self) -> int:
        return len(self.estimate)


def sequence(differences: Floats, *, alpha: float, plan: int) -> Sequence:
    """Follow ``differences`` (looks,) in the order they came. ``plan`` is the number at which the interval should be
    tightest; any number is valid."""
    if len(differences) == 0:
        nothing = np.empty(0)
        return Sequence(estimate=nothing, lower=nothing, upper=nothing, decided_at=0, sign=0)
    from ville import AsymptoticCS

    plain = AsymptoticCS(alpha=alpha, t_opt=plan, min_samples=2).fit(differences)
    estimate = np.asarray(plain.estimate_, dtype=np.float64)
    inflation = _inflation(np.asarray(differences, dtype=np.float64))
    with np.errstate(invalid="ignore"):
        radius = (np.asarray(plain.upper_) - estimate) * np.sqrt(inflation)
    effective = np.arange(1, len(differences) + 1) / inflation
    radius = np.where((effective < MIN_EFFECTIVE) | np.isnan(radius), np.inf, radius)
    lower, upper = estimate - radius, estimate + radius
    outside = (lower > 0) | (upper < 0)
    first = int(np.argmax(outside)) if outside.any() else -1
    sign = 0 if first < 0 else int(np.sign(estimate[first]))
    return Sequence(estimate=estimate, lower=lower, upper=upper, decided_at=first + 1, sign=sign)


def _inflation(seen: Floats) -> Floats:
    """(looks,) long-run variance over variance of what was seen by each look; infinite while nothing can be said."""
    n = np.arange(1, len(seen) + 1)
    x = seen - seen[0]  # about a value known at the first look, so that a look depends on nothing later
    total, squares = np.cumsum(x), np.cumsum(x * x)
    products = np.cumsum(np.r_[0.0, x[1:] * x[:-1]])
    mean = total / n
    spread = squares - n * mean**2
    lagged = products - mean * ((total - x[0]) + (total - x)) + (n - 1) * mean**2
    constant = spread <= 1e-12 * np.maximum(squares, np.finfo(float).tiny)
    raw = lagged / np.where(constant, 1.0, spread)
    corrected = raw + (1 + 3 * raw) / n
    safe = corrected + SAFE_ERRORS * np.sqrt(np.maximum(1 - corrected**2, 0.0) / n)
    r = np.clip(safe, 0.0, _MAX_AUTOCORRELATION)
    return np.where(n < _FIRST_ESTIMATE, np.inf, np.where(constant, 1.0, (1 + r) / (1 - r)))
