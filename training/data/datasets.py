"""Reading a dataset: ``dataset.parquet`` with features and labels, ``dataset.json`` with what it is.

Rows are in the order of events within their segment. Two neighbouring rows belong to one *run* when source and segment
are the same: a network's state is carried within a run and never across.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from market.errors import EmptyDataError, InputError, MarketDataError
from market.labels import HORIZON_NAMES

DATASET_FILE = "dataset.parquet"
CARD_FILE = "dataset.json"

Run = tuple[int, int]  # rows [start, stop)


class LabelRule(msgspec.Struct, frozen=True, kw_only=True):
    """The thresholds the labels were made with."""

    move_threshold_ticks: float = 0.0
    depth_fall: float = 0.2
    depth_levels: int = 5


class DatasetCard(msgspec.Struct, frozen=True, kw_only=True):
    """``dataset.json``: identity, lineage and label rule of a dataset; further keys are left alone."""

    dataset_id: str
    instrument: str
    feature_set: str
    rows: int
    sources: tuple[str, ...]
    first_ns: int
    last_ns: int
    horizons_ns: tuple[int, ...]
    dataset_revision: str
    lake_versions: dict[str, int]
    labels: LabelRule = LabelRule()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset in memory: ``n`` rows, ``F`` inputs, ``K`` horizons.

    ``labels`` is (n, K, 3): direction (0 down, 1 none, 2 up), bid falls, ask falls (0 or 1); -1 is unknown.
    """

    card: DatasetCard
    inputs: tuple[str, ...]
    features: NDArray[np.float32]  # (n, F) raw
    labels: NDArray[np.int8]
    recv_ns: NDArray[np.int64]
    mid2: NDArray[np.int64]
    starts: NDArray[np.int64]  # first row of every run

    def __len__(self) -> int:
        return len(self.recv_ns)

    @property
    def horizons(self) -> int:
        return int(self.labels.shape[1])

    def runs(self, mask: NDArray[np.bool_]) -> list[Run]:
        """Longest stretches of neighbouring rows within one run for which ``mask`` (n,) holds, in order."""
        turns = np.zeros(len(self), bool)
        turns[self.starts] = True
        turns[1:] |= mask[1:] != mask[:-1]
        edges = [int(i) for i in np.flatnonzero(turns)] + [len(self)]
        return [(a, b) for a, b in pairwise(edges) if mask[a]]

    def before(self, start: int, rows: int) -> int:
        """Up to ``rows`` rows earlier than ``start``, not leaving its run: where to begin warming a state up."""
        run_start = int(self.starts[np.searchsorted(self.starts, start, side="right") - 1])
        return max(run_start, start - rows)


def load(folder: Path) -> Dataset:
    """Read ``folder`` (one dataset).

    Raises:
        InputError: there is no such dataset.
        MarketDataError: a column is missing or holds values that are not finite.
        EmptyDataError: no rows.
    """
    card = read_card(folder)
    try:
        table = pq.read_table(folder / DATASET_FILE)
    except FileNotFoundError:
        raise InputError(f"{folder / DATASET_FILE} is not there; run featurize again") from None
    except pa.ArrowInvalid as error:
        raise MarketDataError(f"{folder / DATASET_FILE} is not readable: {error}; run featurize again") from error
    if table.num_rows == 0:
        raise EmptyDataError(f"dataset {card.dataset_id} has no rows; ingest more data and featurize again")
    return from_table(card, table)


def read_card(folder: Path) -> DatasetCard:
    """``dataset.json`` of a dataset's folder.

    Raises:
        InputError: missing or not of its form.
    """
    path = folder / CARD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=DatasetCard)
    except FileNotFoundError:
        raise InputError(f"no dataset at {folder}; `keel featurize` makes one and prints its id") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is not a dataset card: {error}; run featurize again") from error


def from_table(card: DatasetCard, table: pa.Table) -> Dataset:
    """A dataset of an Arrow table with the columns of ``dataset.parquet``."""
    from market.features import catalog

    inputs = catalog.names()
    label_columns = [f"{head}_{name}" for name in HORIZON_NAMES for head in ("dir", "bidfall", "askfall")]
    missing = {*inputs, *label_columns, "source", "segment", "recv_ns", "mid2"} - set(table.column_names)
    if missing:
        raise MarketDataError(
            f"dataset {card.dataset_id} lacks the columns {', '.join(sorted(missing))}; featurize again"
        )
    features = np.empty((table.num_rows, len(inputs)), np.float32)
    for i, name in enumerate(inputs):
        features[:, i] = table[name].to_numpy()
    if not np.isfinite(features).all():
        bad = [inputs[i] for i in np.flatnonzero(~np.isfinite(features).all(axis=0))]
        raise MarketDataError(f"dataset {card.dataset_id} has values that are not finite in {', '.join(bad)}")
    labels = np.stack([table[name].to_numpy().astype(np.int8) for name in label_columns], axis=1)
    return Dataset(
        card=card,
        inputs=inputs,
        features=features,
        labels=labels.reshape(table.num_rows, len(HORIZON_NAMES), 3),
        recv_ns=table["recv_ns"].to_numpy().astype(np.int64),
        mid2=table["mid2"].to_numpy().astype(np.int64),
        starts=_run_starts(table),
    )


def _run_starts(table: pa.Table) -> NDArray[np.int64]:
    source = table["source"].combine_chunks().dictionary_encode()
    codes = np.asarray(source.indices)
    segment = table["segment"].to_numpy()
    changes = (np.diff(segment) != 0) | (np.diff(codes) != 0)
    starts: NDArray[np.int64] = np.concatenate([[0], np.flatnonzero(changes) + 1]).astype(np.int64)
    return starts
