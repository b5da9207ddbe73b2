"""Features and labels of what is new in the lake, and the newest of them online; no dataset.

What a schedule runs all day: only sources whose accepted minutes changed since their rows were made are computed. What
rows were made of is committed with them. For training, :mod:`pipelines.features.featurize` cuts a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

from market import history
from market.features import catalog
from market.lake.lake import Lake
from pipelines.features.featurize import FeaturizeConfig, land, made_of, require_accepted, slow_records
from pipelines.features.store import FeatureStore
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked


@dataclass(frozen=True, kw_only=True)
class RefreshConfig(StageConfig):
    """``threshold_half_ticks`` and ``depth_fall_percent`` as in featurize: the labels are those of a dataset."""

    instrument: str = "sim-usdm.BTCUSDT"
    threshold_half_ticks: int = 0
    depth_fall_percent: int = 20


@dataclass(frozen=True, kw_only=True)
class RefreshResult:
    """``sources`` were computed, ``unchanged`` of them were not; ``rows`` are those of ``sources``."""

    instrument: str
    sources: tuple[str, ...]
    unchanged: int
    rows: int
    notes: tuple[str, ...]

    def line(self) -> str:
        said = (
            f"{self.instrument}: {self.rows:,} rows of {len(self.sources)} sources were made, {self.unchanged} sources "
            "are as they were"
        )
        return "; ".join((said, *self.notes))


def refresh(config: RefreshConfig, *, workspace: Workspace) -> RefreshResult:
    """Compute what is new and publish the newest.

    Raises:
        EmptyDataError: no ticks, or none validated.
        BookError: accepted ticks hold an event the book refuses.
        LakeError: something cannot be written.
        ServiceError: Feast's servers are unavailable.
    """
    labels = FeaturizeConfig(**vars(config)).labels
    lake = Lake(workspace.lake)
    instrument = lake.instrument(config.instrument)
    found = history.batches(lake, instrument.key)
    require_accepted(instrument.key, (), found)
    accepted = [entry for entry in found if entry.accepted]
    stale = [each for each in accepted if lake.position("labels", each.source) != made_of(each, labels)]
    made = []
    with tracked(workspace.progress, "refresh", sum(len(entry.accepted) for entry in stale)) as progress:
        for entry in stale:
            rows = history.compute(lake, instrument.key, entry, advance=progress.advance)
            made.append(land(lake, instrument, entry, rows, labels))
    newest = max(accepted, key=lambda entry: entry.accepted[-1]).source
    columns = ["recv_ns", *catalog.tick_names()]
    ticks = lake.read("features", instrument=instrument.key, columns=columns, where={"source": newest})
    if ticks.num_rows:  # also when nothing was computed: an earlier run may have been interrupted before this
        slow = slow_records(lake, instrument.key)
        FeatureStore(workspace).publish(instrument.key, slow=slow, ticks=ticks.sort_by("recv_ns"))
    return RefreshResult(
        instrument=instrument.key,
        sources=tuple(each.source for each in made),
        unchanged=len(accepted) - len(stale),
        rows=sum(len(each.rows) for each in made),
        notes=tuple(each.note for each in made if each.note),
    )
