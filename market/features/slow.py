"""Slow features as model inputs: the catalog's formula applied to mark price records, and the last known values.

A record counts from the time it was received (``recv_ns``), not from the time it refers to. Before the first one, and
for venues that send none, the slow features are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from market.features.catalog import N_SLOW, slow_values

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]


def slow_vector(funding_rate: float, mark_e8: int, index_e8: int) -> Floats:
    """(N_SLOW,) of one mark price record: ``funding_rate`` a fraction, prices times 1e8 (0 where unknown)."""
    return np.array(slow_values(funding_rate=funding_rate, mark_e8=mark_e8, index_e8=index_e8), dtype=np.float32)


def slow_vectors(funding_rate: ArrayLike, mark_e8: ArrayLike, index_e8: ArrayLike) -> Floats:
    """(n, N_SLOW) of ``n`` records. One call of the formula each: there is about one record per second."""
    columns = (np.asarray(funding_rate).tolist(), np.asarray(mark_e8).tolist(), np.asarray(index_e8).tolist())
    out = np.zeros((len(columns[0]), N_SLOW), dtype=np.float32)
    for i, record in enumerate(zip(*columns, strict=True)):
        out[i] = slow_vector(*record)
    return out


def last_known(known_ns: Int64s, values: Floats, at_ns: Int64s) -> Floats:
    """(m, N_SLOW): for each time in ``at_ns`` (m,) the last of ``values`` (n, N_SLOW) known by then, else 0.

    ``known_ns`` (n,) must not decrease. A value known at exactly the requested nanosecond counts as known.
    """
    padded = np.concatenate([np.zeros((1, N_SLOW), dtype=np.float32), values])
    known: Floats = padded[np.searchsorted(known_ns, at_ns, side="right")]
    return known
