"""Temperature scaling: one divisor a head, fitted on rows the network did not train on.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 9.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from market import heads
from training.models.heads import Floats

_RANGE = (0.2, 5.0)


def fit_temperature(logits_NP: Floats, labels: NDArray[np.int8]) -> tuple[float, ...]:
    """``[direction, bid, ask]`` per horizon that minimise the log-loss of ``labels`` (n, K, 3); 1 without a label."""
    from scipy.optimize import minimize_scalar

    temperatures = []
    for k in range(labels.shape[1]):
        for head in range(len(heads.HEADS)):
            known = labels[:, k, head] >= 0
            if not known.any():
                temperatures.append(1.0)
                continue
            logits = _class_logits(logits_NP[known], k, head)
            truth = labels[known, k, head]
            bounds = (float(np.log(_RANGE[0])), float(np.log(_RANGE[1])))
            found = minimize_scalar(lambda log_t, z=logits, y=truth: _loss(z / np.exp(log_t), y), bounds=bounds)
            temperatures.append(float(np.exp(found.x)))
    return tuple(temperatures)


def _class_logits(logits_NP: Floats, k: int, head: int) -> NDArray[np.float64]:
    mine = logits_NP[:, heads.columns(k, head)].astype(np.float64)
    return mine if head == 0 else np.hstack([np.zeros_like(mine), mine])


def _loss(logits: NDArray[np.float64], truth: NDArray[np.int8]) -> float:
    from scipy.special import logsumexp

    return float((logsumexp(logits, axis=1) - logits[np.arange(len(truth)), truth]).mean())
