"""Slow features for a session: what is known when it begins, and what it learned for the next session.

The feature store's online side holds the newest value. The lake holds all of them, and says what was known at a moment:
along a recording, or alongside a simulated exchange whose clock began again, the newest value is from the future.
"""

from __future__ import annotations

import numpy as np

from market.features import slow
from market.features.catalog import N_SLOW
from market.instruments import Instrument
from market.lake.lake import Lake
from market.venues.protocol import Slow
from pipelines.features.store import FeatureStore, Floats
from pipelines.workspace import Workspace

_COLUMNS = ("recv_ns", "exch_ns", "funding_rate", "mark_e8", "index_e8")


class SlowSource:
    """Slow features of one instrument; none of its calls belongs into a loop."""

    def __init__(self, workspace: Workspace, instrument: Instrument, lake: Lake) -> None:
        self._instrument = instrument.key
        self._store = FeatureStore(workspace)
        rows = lake.read("slow", instrument=instrument.key, columns=_COLUMNS)
        columns = {name: rows[name].to_numpy() for name in _COLUMNS}
        order = np.argsort(columns["recv_ns"], kind="stable")
        self._known_ns, self._exch_ns, *rest = (columns[name][order] for name in _COLUMNS)
        self._values = slow.slow_vectors(*rest)

    def known_at(self, recv_ns: int) -> Floats:
        """(N_SLOW,) as known at ``recv_ns``: from the feature store when its newest value was known by then, else the
        lake's last before; 0 where nothing was known."""
        known = int(np.searchsorted(self._known_ns, recv_ns, side="right"))
        if known == 0:
            return np.zeros(N_SLOW, np.float32)
        value: Floats = self._values[known - 1]
        if known < len(self._known_ns):
            return value
        self._push(int(self._known_ns[-1]), int(self._exch_ns[-1]), value)
        return self._store.read_slow(self._instrument)

    def landed_at(self, recv_ns: int) -> Floats:
        """(N_SLOW,) as the lake knows them to have been at ``recv_ns``, without asking the feature store; 0 where
        nothing was known."""
        known = int(np.searchsorted(self._known_ns, recv_ns, side="right"))
        return self._values[known - 1] if known else np.zeros(N_SLOW, np.float32)

    def learned(self, record: Slow) -> None:
        """Make a session's last record the newest one, unless something newer is known."""
        if len(self._known_ns) == 0 or record.recv_ns > self._known_ns[-1]:
            value = slow.slow_vector(record.funding_rate, record.mark_e8, record.index_e8)
            self._push(record.recv_ns, record.exch_ns, value)

    def _push(self, known_ns: int, exch_ns: int, value: Floats) -> None:
        self._store.push_slow(self._instrument, known_ns=known_ns, exch_ns=exch_ns, values=value)
