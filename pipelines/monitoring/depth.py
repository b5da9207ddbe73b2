"""Depth near the touch at each decision, from the ticks that the session landed: what the liquidity heads spoke of."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from market import history
from market.clock import BATCH_NS
from market.lake.lake import Lake

Ints = NDArray[np.int64]

UNKNOWN_DEPTH = -1


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


def near(lake: Lake, instrument: str, rows: Decisions) -> tuple[Ints, Ints]:
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
