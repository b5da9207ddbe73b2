"""Training and serving must see the same features: what a session recorded live against the batch on the same events.

Both run the same compiled step, so the difference must be zero bits; one bit is a defect, not a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market.errors import FeatureSetError
from market.features import catalog, meaning
from market.lake.lake import Lake
from pipelines.monitoring import recompute
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked


@dataclass(frozen=True, kw_only=True)
class SkewConfig(StageConfig):
    """Which serving session."""

    session: str


@dataclass(frozen=True, kw_only=True)
class SkewResult:
    """``rows`` decisions were compared; ``equal`` means: not one bit of a tick feature differs, no row is missing on
    either side, and every slow feature is the one last known.

    ``unanswered``: rows of the batch without a decision; ``unknown``: decisions on rows that the batch does not have.
    """

    session: str
    instrument: str
    rows: int
    unequal_rows: int
    largest_difference: float
    worst_feature: str
    unequal_slow_rows: int
    unanswered: int
    unknown: int
    equal: bool

    def line(self) -> str:
        if self.equal:
            return f"{self.session}: live and batch features of {self.rows:,} decisions are equal to the bit"
        return (
            f"{self.session}: of {self.rows:,} decisions {self.unequal_rows:,} differ from the batch (largest "
            f"{self.largest_difference:.3g} in {self.worst_feature or 'none'}), {self.unequal_slow_rows:,} have other "
            f"slow features than were known, {self.unknown:,} have no row in the batch, {self.unanswered:,} rows have "
            "no decision"
        )


def skew(config: SkewConfig, *, workspace: Workspace) -> SkewResult:
    """Compare; finding a difference is a result, not an error.

    Raises:
        InputError: no predictions of such a session.
        FeatureSetError: the session ran with other features than this code computes.
    """
    lake = Lake(workspace.lake)
    record = recompute.served(lake, config.session)
    if record.feature_set != meaning.feature_set():
        raise FeatureSetError(
            f"session {config.session} ran with feature set {record.feature_set}, this code computes "
            f"{meaning.feature_set()}; compare with the code that served it"
        )
    with tracked(workspace.progress, "skew", None):
        rows = recompute.rows_again(lake, record)
        at = recompute.places(record, rows)
    return _compare(record, rows.features, at, recompute.slow_as_it_was(lake, record))


def _compare(
    record: recompute.Served,
    batch: recompute.Floats,
    at: recompute.Int64s,
    slow_fits: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> SkewResult:
    usable = record.usable
    both = usable & (at != recompute.NOWHERE)
    live, again = record.features[both, : catalog.N_TICK], batch[at[both]]
    bits = np.ascontiguousarray(live).view(np.uint32) != np.ascontiguousarray(again).view(np.uint32)
    gap = np.where(bits, np.abs(live.astype(np.float64) - again), 0.0)
    worst = np.unravel_index(int(gap.argmax()), gap.shape)[1] if bits.any() else None
    unknown = int((usable & ~both).sum())
    unanswered = len(batch) - len(np.unique(at[both]))
    unequal, unequal_slow = int(bits.any(axis=1).sum()), int((usable & ~slow_fits).sum())
    return SkewResult(
        session=record.session,
        instrument=record.instrument,
        rows=int(both.sum()),
        unequal_rows=unequal,
        largest_difference=float(gap.max(initial=0.0)),
        worst_feature="" if worst is None else catalog.tick_names()[int(worst)],
        unequal_slow_rows=unequal_slow,
        unanswered=unanswered,
        unknown=unknown,
        equal=not (unequal or unequal_slow or unanswered or unknown) and bool(both.any()),
    )
