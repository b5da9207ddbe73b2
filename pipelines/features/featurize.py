"""Accepted ticks to features, labels, Feast and a versioned dataset.

In order: the rows of every source, computed by the compiled kernel over runs of accepted batches; their features and
labels in the lake; slow features joined point-in-time by Feast; the warm rows as ``datasets/<id>/dataset.parquet``,
where the id is the hash of the file; its revision in DVC; and last ``dataset.json``, without which there is no dataset.
Each step replaces or finds what it would make, so an interrupted stage can simply be rerun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from market import history
from market.books.levels import NEAR_LEVELS
from market.clock import BATCH_NS, NS_PER_S
from market.errors import EmptyDataError, LakeError, SettingsError
from market.features import catalog, meaning, slow
from market.files import drafting, replacing
from market.history import Batches, History
from market.instruments import Instrument
from market.labels import HORIZONS_NS, UNKNOWN, LabelConfig, Labels, labels
from market.lake.lake import Lake
from pipelines.features import dataset_versions
from pipelines.features.store import FeatureStore, SlowRecords
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked

DATASET_FILE = "dataset.parquet"
CARD_FILE = "dataset.json"
_TABLES = ("ticks", "slow", "features", "labels")

Int64s = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class FeaturizeConfig(StageConfig):
    """What the dataset is cut from and how its labels are made.

    ``sources`` empty means all of the instrument; ``start_ns <= recv_ns < end_ns`` bounds its rows, and no label looks
    beyond ``end_ns``. ``last_seconds`` instead of ``start_ns``: only the newest so many before ``end_ns``, or before
    the end of the newest accepted minute; sources that end before are not computed. ``threshold_half_ticks``: a mid
    move must be larger; ``depth_fall_percent``: a fall is at least this much.
    """

    instrument: str = "sim-usdm.BTCUSDT"
    sources: tuple[str, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    last_seconds: float | None = None
    threshold_half_ticks: int = 0
    depth_fall_percent: int = 20

    def __post_init__(self) -> None:
        if self.last_seconds is not None and (self.last_seconds <= 0 or self.start_ns is not None):
            raise SettingsError(
                f"expected last_seconds above 0 and no start_ns beside it, saw {self.last_seconds} and {self.start_ns}"
            )

    @property
    def labels(self) -> LabelConfig:
        return LabelConfig(threshold_half_ticks=self.threshold_half_ticks, depth_fall_percent=self.depth_fall_percent)


@dataclass(frozen=True, kw_only=True)
class FeaturizeResult:
    """The dataset, and what did not go into it.

    ``rows`` are warm rows in the dataset, ``computed`` all rows of its sources; ``repeated`` rows were left out because
    another source already covers their time; ``notes`` are sentences worth reading.
    """

    dataset_id: str
    dataset_revision: str
    path: str
    instrument: str
    feature_set: str
    rows: int
    computed: int
    repeated: int
    segments: int
    sources: tuple[str, ...]
    first_ns: int
    last_ns: int
    slow_records: int
    lake_versions: dict[str, int]
    notes: tuple[str, ...]

    def line(self) -> str:
        seconds = (self.last_ns - self.first_ns) / 1e9
        said = (
            f"dataset {self.dataset_id}: {self.rows:,} warm rows of {self.computed:,} in {self.segments} segments over "
            f"{seconds:,.0f} s, {catalog.N_INPUTS} features, {self.slow_records} slow records joined by Feast, "
            f"DVC revision {self.dataset_revision[:12]}"
        )
        return "; ".join((said, *self.notes))


@dataclass(frozen=True, kw_only=True)
class Computed:
    """One source: its rows and labels, and whether the lake had to be changed for them."""

    source: str
    rows: History
    labels: Labels
    note: str


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Rows [start, stop) of a source that go into the dataset together."""

    of: Computed
    start: int
    stop: int


def featurize(config: FeaturizeConfig, *, workspace: Workspace) -> FeaturizeResult:
    """Compute, register, cut and version; see the module.

    Raises:
        EmptyDataError: no ticks, none validated, or no warm row.
        BookError: accepted ticks hold an event the book refuses.
        MarketDataError: Feast's join gave other rows than were asked for.
        LakeError: something cannot be written.
    """
    lake = Lake(workspace.lake)
    instrument = lake.instrument(config.instrument)
    found = history.batches(lake, instrument.key, config.sources)
    require_accepted(config.instrument, config.sources, found)
    if config.last_seconds is not None:
        config = _begun(config, config.last_seconds, found)
        found = [entry for entry in found if not entry.accepted or _end_ns(entry) > (config.start_ns or 0)]
    computed = _compute_all(lake, instrument, found, config, workspace)
    stretches, repeated = _without_repetition(computed, config)
    if not stretches:
        raise EmptyDataError(_why_no_rows(config, computed))
    records = slow_records(lake, instrument.key)
    with tracked(workspace.progress, "feast", None):
        table = _dataset_table(config, stretches, records, FeatureStore(workspace))
    with tracked(workspace.progress, "dataset", None):
        card = _put(workspace, config, table, lake)
    return FeaturizeResult(
        dataset_id=card["dataset_id"],
        dataset_revision=card["dataset_revision"],
        path=str(workspace.datasets / card["dataset_id"]),
        instrument=instrument.key,
        feature_set=card["feature_set"],
        rows=card["rows"],
        computed=sum(len(each.rows) for each in computed),
        repeated=repeated,
        segments=card["segments"],
        sources=tuple(card["sources"]),
        first_ns=card["first_ns"],
        last_ns=card["last_ns"],
        slow_records=len(records),
        lake_versions=card["lake_versions"],
        notes=_notes(found, computed, repeated),
    )


def _begun(config: FeaturizeConfig, last_seconds: float, found: Sequence[Batches]) -> FeaturizeConfig:
    """The same with a ``start_ns`` in place of ``last_seconds``."""
    end = config.end_ns or max(_end_ns(entry) for entry in found if entry.accepted)
    return replace(config, last_seconds=None, start_ns=end - round(last_seconds * NS_PER_S))


def _end_ns(entry: Batches) -> int:
    return (entry.accepted[-1] + 1) * BATCH_NS


# -- rows into the lake -------------------------------------------------------------------------------------------


def _compute_all(
    lake: Lake, instrument: Instrument, found: Sequence[Batches], config: FeaturizeConfig, workspace: Workspace
) -> list[Computed]:
    todo = [entry for entry in found if entry.accepted]
    with tracked(workspace.progress, "featurize", sum(len(entry.accepted) for entry in todo)) as progress:
        computed = []
        for entry in todo:
            rows = history.compute(lake, instrument.key, entry, advance=progress.advance)
            computed.append(land(lake, instrument, entry, rows, config.labels))
    return computed


def made_of(entry: Batches, config: LabelConfig) -> int:
    """What features and labels of a source follow from, as a number of 63 bits: its minutes, the rules of both."""
    rule = {"feature_set": meaning.feature_set(), "labels": _label_rule(config), "horizons": config.horizons_ns}
    said = msgspec.json.encode([rule, entry.accepted, entry.refused, entry.unjudged])
    return int.from_bytes(hashlib.sha256(said).digest()[:8]) >> 1


def land(lake: Lake, instrument: Instrument, entry: Batches, rows: History, config: LabelConfig) -> Computed:
    """Make the lake hold exactly these features and labels of a source; rows that it does hold are left alone.

    What they were made of is committed with the labels, which come last.
    """
    source = entry.source
    made = labels(rows.recv_ns, rows.mid2, rows.bid_depth, rows.ask_depth, rows.segment, config)
    note = _feature_set_note(lake, instrument.key, source)
    where = {"venue": instrument.venue, "instrument": instrument.symbol, "source": source}
    _land(lake, "features", history.feature_rows(rows, instrument, source), where, None)
    _land(lake, "labels", history.label_rows(rows, made, instrument, source), where, made_of(entry, config))
    return Computed(source=source, rows=rows, labels=made, note=note)


def _land(lake: Lake, table: str, content: pa.Table, where: dict[str, str], mark: int | None) -> None:
    source = where["source"]
    held = lake.read(table, instrument=f"{where['venue']}.{where['instrument']}", where={"source": source})
    if not _same_rows(held, content) or (mark is not None and lake.position(table, source) != mark):
        lake.replace(table, content, where, source=source, position=mark)


def _same_rows(held: pa.Table, content: pa.Table) -> bool:
    """Whether both hold the same rows; the lake gives them sorted by frame, which is not always the order of events."""
    if held.num_rows != content.num_rows:
        return False
    order: Any = [(name, "ascending") for name in ("frame", "recv_ns", "seq") if name in content.column_names]
    return bool(held.sort_by(order).equals(content.select(held.column_names).sort_by(order)))


def _feature_set_note(lake: Lake, instrument: str, source: str) -> str:
    held = lake.read("features", instrument=instrument, columns=["feature_set"], where={"source": source})
    others = {str(value) for value in held["feature_set"].unique().to_pylist()} - {meaning.feature_set()}
    if not others:
        return ""
    return f"features of {source} were of feature set {', '.join(sorted(others))} and were computed anew"


def slow_records(lake: Lake, instrument: str) -> SlowRecords:
    """All slow features of ``instrument`` that the lake holds, in the order they became known.

    Of records with one receive time the last one counts.
    """
    names = ["recv_ns", "exch_ns", "funding_rate", "mark_e8", "index_e8"]
    rows = lake.read("slow", instrument=instrument, columns=names)
    known, exch, *inputs = (rows[name].to_numpy() for name in names)
    order = np.argsort(known, kind="stable")
    order = order[np.diff(known[order], append=np.iinfo(np.int64).max) != 0]
    return SlowRecords(
        known_ns=known[order], exch_ns=exch[order], values=slow.slow_vectors(*(column[order] for column in inputs))
    )


# -- the dataset --------------------------------------------------------------------------------------------------


def _without_repetition(computed: Sequence[Computed], config: FeaturizeConfig) -> tuple[list[_Stretch], int]:
    """Segments in the order of time, cut to what no earlier one covers: an instrument's market happened once."""
    segments = [_Stretch(of=each, start=a, stop=b) for each in computed for a, b in _segments(each.rows)]
    segments.sort(key=lambda s: (int(s.of.rows.recv_ns[s.start]), s.of.source))
    kept: list[_Stretch] = []
    repeated, covered, by = 0, -1, ""
    for segment in segments:
        recv_ns = segment.of.rows.recv_ns[segment.start : segment.stop]
        skip = 0
        if by and segment.of.source != by:
            later = np.flatnonzero(recv_ns > covered)
            skip = int(later[0]) if len(later) else len(recv_ns)
            repeated += skip
        start = segment.start + skip
        if start == segment.stop:
            continue
        kept.append(_Stretch(of=segment.of, start=start, stop=segment.stop))
        if int(recv_ns.max()) > covered:
            covered, by = int(recv_ns.max()), segment.of.source
    return [stretch for stretch in kept if _chosen(stretch, config).any()], repeated


def _segments(rows: History) -> list[tuple[int, int]]:
    if not len(rows):
        return []
    edges = [0, *(np.flatnonzero(np.diff(rows.segment)) + 1).tolist(), len(rows)]
    return list(pairwise(edges))


def _chosen(stretch: _Stretch, config: FeaturizeConfig) -> NDArray[np.bool_]:
    """(stop - start,) which rows are warm and within the bounds."""
    rows = stretch.of.rows
    recv_ns = rows.recv_ns[stretch.start : stretch.stop]
    chosen = rows.warm[stretch.start : stretch.stop].copy()
    if config.start_ns is not None:
        chosen &= recv_ns >= config.start_ns
    if config.end_ns is not None:
        chosen &= recv_ns < config.end_ns
    return chosen


def _dataset_table(
    config: FeaturizeConfig, stretches: Sequence[_Stretch], records: SlowRecords, store: FeatureStore
) -> pa.Table:
    """The dataset's rows: keys, features in catalog order, labels."""
    table = pa.concat_tables([_stretch_table(config, stretch) for stretch in stretches])
    store.publish(config.instrument, slow=records, ticks=table)
    joined = store.join_slow(config.instrument, table["recv_ns"].to_numpy(), records.known_ns)
    if len(joined) != table.num_rows:
        raise AssertionError("one row of slow features for each row")
    at = table.column_names.index(catalog.tick_names()[-1]) + 1
    for i, name in enumerate(catalog.slow_names()):
        table = table.add_column(at + i, pa.field(name, pa.float32()), pa.array(joined[:, i]))
    # part of the file, and so of the dataset's id: rows mean what this says
    labelled = {
        "feature_set": meaning.feature_set(),
        "labels": msgspec.json.encode(_label_rule(config.labels)).decode(),
    }
    return table.combine_chunks().replace_schema_metadata(labelled)


def _stretch_table(config: FeaturizeConfig, stretch: _Stretch) -> pa.Table:
    rows = stretch.of.rows
    pick = stretch.start + np.flatnonzero(_chosen(stretch, config))
    text = pa.string()
    columns: dict[str, Any] = {
        "instrument": pa.repeat(pa.scalar(config.instrument, text), len(pick)),
        "source": pa.repeat(pa.scalar(stretch.of.source, text), len(pick)),
    }
    for name in ("segment", "frame", "seq", "recv_ns", "exch_ns", "mid2", "bid_depth", "ask_depth"):
        columns[name] = getattr(rows, name)[pick]
    for i, name in enumerate(catalog.tick_names()):
        columns[name] = rows.features[pick, i]
    for name, values in history.label_columns(_known_by(config, stretch.of)).items():
        columns[name] = values[pick]
    return pa.table(columns)


def _known_by(config: FeaturizeConfig, computed: Computed) -> Labels:
    """Labels, unknown where they would look at or beyond the end of the dataset's time."""
    if config.end_ns is None:
        return computed.labels
    beyond = computed.rows.recv_ns[:, np.newaxis] + np.array(HORIZONS_NS) >= config.end_ns
    heads = (computed.labels.direction, computed.labels.bid_fall, computed.labels.ask_fall)
    direction, bid_fall, ask_fall = (np.where(beyond, np.int8(UNKNOWN), head) for head in heads)
    return Labels(direction=direction, bid_fall=bid_fall, ask_fall=ask_fall)


def _put(workspace: Workspace, config: FeaturizeConfig, table: pa.Table, lake: Lake) -> dict[str, Any]:
    """Place the file under its hash, version it, write its card. An existing one is kept."""
    dataset_id = _place(workspace.datasets, table)
    folder = workspace.datasets / dataset_id
    card = folder / CARD_FILE
    if card.exists():
        return dict(msgspec.json.decode(card.read_bytes()))
    content = _card(config, table, lake)
    content["dataset_id"] = dataset_id
    content["dataset_revision"] = dataset_versions.commit(workspace.datasets, folder / DATASET_FILE)
    content["created_ns"] = workspace.clock.now_ns()
    with replacing(card) as draft:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2))
    return content


def _place(datasets: Path, table: pa.Table) -> str:
    """Write the rows to ``<id>/dataset.parquet`` and return the id: the first 16 hex digits of the file's sha256."""
    try:
        with drafting(datasets / "draft") as draft:
            pq.write_table(table, draft / DATASET_FILE, compression="zstd", compression_level=3, row_group_size=131_072)
            with (draft / DATASET_FILE).open("rb") as file:
                dataset_id = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            if not (datasets / dataset_id / DATASET_FILE).exists():
                draft.replace(datasets / dataset_id)
    except OSError as error:
        raise LakeError(
            f"the dataset cannot be written under {datasets}: {error.strerror or error}; make room and run again"
        ) from error
    return dataset_id


def _card(config: FeaturizeConfig, table: pa.Table, lake: Lake) -> dict[str, Any]:
    recv_ns = table["recv_ns"].to_numpy()
    source = np.asarray(table["source"].combine_chunks().dictionary_encode().indices)
    turns = (np.diff(table["segment"].to_numpy()) != 0) | (np.diff(source) != 0)
    return {
        "instrument": config.instrument,
        "feature_set": meaning.feature_set(),
        "rows": table.num_rows,
        "sources": list(dict.fromkeys(table["source"].to_pylist())),
        "segments": 1 + int(turns.sum()),
        "first_ns": int(recv_ns.min()),
        "last_ns": int(recv_ns.max()),
        "horizons_ns": list(config.labels.horizons_ns),
        "labels": _label_rule(config.labels),
        "lake_versions": {name: version for name in _TABLES if (version := lake.version(name)) is not None},
        "start_ns": config.start_ns,
        "end_ns": config.end_ns,
    }


def _label_rule(config: LabelConfig) -> dict[str, float]:
    return {
        "move_threshold_ticks": config.threshold_half_ticks / 2,
        "depth_fall": config.depth_fall_percent / 100,
        "depth_levels": NEAR_LEVELS,
    }


# -- what is said -------------------------------------------------------------------------------------------------


def require_accepted(instrument: str, sources: Sequence[str], found: Sequence[Batches]) -> None:
    """Raises EmptyDataError where validation has let nothing pass."""
    if any(entry.accepted for entry in found):
        return
    what = instrument + (f", sources {', '.join(sources)}" if sources else "")
    if not found:
        raise EmptyDataError(f"expected ticks of {what} in the lake, saw none; `keel ingest` lands some")
    if any(entry.unjudged for entry in found):
        raise EmptyDataError(f"the ticks of {what} were not judged yet; `keel validate` judges them")
    raise EmptyDataError(
        f"validation refused every batch of {what}; the reasons are in the lake's quarantine. Ingest other data"
    )


def _why_no_rows(config: FeaturizeConfig, computed: Sequence[Computed]) -> str:
    rows = sum(len(each.rows) for each in computed)
    warm = sum(int(each.rows.warm.sum()) for each in computed)
    if not rows:
        return (
            f"the ticks of {config.instrument} never gave a usable book (no snapshot, or crossed throughout), so there "
            "is not one row; ingest a recording with a snapshot"
        )
    if not warm:
        return (
            f"none of the {rows:,} rows of {config.instrument} is warm: windows need {catalog.WARM_NS / 1e9:.0f} s "
            "without a hole or a resynchronisation; ingest a longer stretch"
        )
    return (
        f"none of the {warm:,} warm rows of {config.instrument} lies within start_ns={config.start_ns} and "
        f"end_ns={config.end_ns}; choose other bounds"
    )


def _notes(found: Sequence[Batches], computed: Sequence[Computed], repeated: int) -> tuple[str, ...]:
    notes = [each.note for each in computed if each.note]
    refused = sum(len(entry.refused) for entry in found)
    unjudged = sum(len(entry.unjudged) for entry in found)
    if refused:
        notes.append(f"{refused} refused batches left out")
    if unjudged:
        notes.append(f"{unjudged} batches left out that nobody judged yet (keel validate)")
    if repeated:
        notes.append(f"{repeated:,} rows left out that another source covers already")
    return tuple(notes)
