"""What a serving session recorded, beside what the same events give when they are computed again from the lake."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market import history
from market.clock import BATCH_NS
from market.errors import InputError
from market.features import slow
from market.features.catalog import N_INPUTS, N_TICK
from market.history import History
from market.labels import N_OUTPUTS
from market.lake.lake import Lake
from pipelines.workspace import Workspace
from serving.manifest import MODEL_FILE
from serving.runtimes.onnx import OnnxStep
from serving.runtimes.protocol import Step
from training.registry import registry

Floats = NDArray[np.float32]
Int64s = NDArray[np.int64]

NOWHERE = -1
TOLERANCE = 1e-5  # of probabilities, as on the golden vectors


@dataclass(frozen=True, kw_only=True)
class Served:
    """``n`` decisions of one session in order.

    ``number``, ``frame``, ``seq``, ``recv_ns``, ``mid2``, ``arm``: (n,). ``versions`` (n, 2), ``probs`` (n, 2,
    N_OUTPUTS), ``features`` (n, N_INPUTS). ``mid2`` is 0 where the book was not usable: nothing was predicted there.
    """

    session: str
    instrument: str
    feature_set: str
    number: Int64s
    frame: Int64s
    seq: Int64s
    recv_ns: Int64s
    mid2: Int64s
    arm: Int64s
    versions: Int64s
    probs: Floats
    features: Floats

    def __len__(self) -> int:
        return len(self.number)

    @property
    def usable(self) -> NDArray[np.bool_]:
        return self.mid2 > 0


def served(lake: Lake, session: str) -> Served:
    """The decisions of ``session``.

    Raises:
        InputError: there are none; the sentence names sessions that have some.
    """
    rows = lake.read("predictions", where={"session": session})
    if not rows.num_rows:
        raise InputError(f"no predictions of session {session!r} in the lake; {_known_sessions(lake)}")
    whole = {name: rows[name].to_numpy() for name in ("n", "frame", "seq", "recv_ns", "mid2", "arm")}
    return Served(
        session=session,
        instrument=f"{rows['venue'][0].as_py()}.{rows['instrument'][0].as_py()}",
        feature_set=rows["feature_set"][-1].as_py(),
        number=whole.pop("n"),
        **{name: values.astype(np.int64) for name, values in whole.items()},
        versions=np.stack([rows["version0"].to_numpy(), rows["version1"].to_numpy()], axis=1),
        probs=np.stack([_matrix(rows["probs0"], N_OUTPUTS), _matrix(rows["probs1"], N_OUTPUTS)], axis=1),
        features=_matrix(rows["features"], N_INPUTS),
    )


def rows_again(lake: Lake, record: Served, *, all_of_it: bool = True) -> History:
    """Rows of all events that the session's feed gave, refused minutes included.

    Without ``all_of_it`` only until shortly after the last decision of ``record``.

    Raises:
        BookError: the book refuses an event that it took when it was live.
    """
    # a frame that gave no row may have opened the next minute before a clock that ran back
    until = None if all_of_it else int(record.recv_ns.max()) // BATCH_NS + 1
    return history.replay(history.stretches_as_fed(lake, record.instrument, record.session, until_batch=until))


def places(record: Served, rows: History) -> Int64s:
    """(n,) which of ``rows`` each decision was made on; NOWHERE where there is none."""
    of_row = {key: i for i, key in enumerate(zip(rows.frame.tolist(), rows.seq.tolist(), strict=True))}
    keys = zip(record.frame.tolist(), record.seq.tolist(), strict=True)
    return np.array([of_row.get(key, NOWHERE) for key in keys], dtype=np.int64)


def slow_as_it_was(lake: Lake, record: Served) -> NDArray[np.bool_]:
    """(n,) whether the slow features of each decision are those last known when it was made.

    Two records with one receive time may have come in either order. Before the session's own first record it may show
    what was known before the session, or 0.
    """
    known, values = _slow_of(lake, record.instrument, record.session)
    # a receive clock that goes back does not make a value unknown again
    now = np.maximum.accumulate(record.recv_ns)
    shown = record.features[:, N_TICK:]
    fits = np.zeros(len(record), dtype=np.bool_)
    for at in (now, now - 1):
        fits |= (slow.last_known(known, values, at) == shown).all(axis=1)
    early = now < known[0] if len(known) else np.ones(len(record), dtype=np.bool_)
    before = slow.last_known(*_slow_of(lake, record.instrument, None), now)
    fits |= early & (before == shown).all(axis=1)
    return fits


@dataclass(frozen=True, kw_only=True)
class Again:
    """One decision computed anew.

    ``features_equal``: its tick features to the bit and its slow ones as last known. ``largest_gap``: of its
    probabilities, NaN where no model spoke, then or now. ``rows``: how many rows the network was stepped through.
    """

    features_equal: bool
    largest_gap: float
    rows: int
    says: str

    @property
    def reproduced(self) -> bool:
        return self.features_equal and not self.largest_gap > TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        gap = None if math.isnan(self.largest_gap) else self.largest_gap
        return {"features_equal": self.features_equal, "largest_gap": gap, "rows": self.rows, "says": self.says}


def again(workspace: Workspace, lake: Lake, session: str, number: int) -> Again:
    """Decision ``number`` of ``session`` anew: events through the kernel, recorded inputs through the ONNX model.

    Raises:
        InputError: there is no such decision.
        ModelError, TamperedError, ServiceError: the bundle that decided cannot be had.
    """
    record = until(served(lake, session), number)
    rows = rows_again(lake, record, all_of_it=False)
    at = places(record, rows)
    if at[-1] == NOWHERE or not record.usable[-1]:
        same = at[-1] == NOWHERE and not record.usable[-1]
        says = "the book was not usable, and is not when built anew" if same else "the book was usable only one time"
        return Again(features_equal=same, largest_gap=math.nan, rows=0, says=says)
    same_bits = record.features[-1, :N_TICK].tobytes() == rows.features[at[-1]].tobytes()
    equal = same_bits and bool(slow_as_it_was(lake, record)[-1])
    arm = int(record.arm[-1])
    version = int(record.versions[-1, arm])
    spoke = bool(np.isfinite(record.probs[-1, arm]).all())
    if not spoke:
        # windows were still filling: no network is stepped then
        equal = equal and (version == 0 or not rows.warm[at[-1]])
        return Again(features_equal=equal, largest_gap=math.nan, rows=0, says=_said(equal, math.nan))
    network = bundle_of(workspace, record.instrument, version)
    probs, stepped = network_again(network, record, rows, at, arm)
    gap = float(np.abs(probs - record.probs[-1, arm]).max())
    return Again(features_equal=equal, largest_gap=gap, rows=stepped, says=_said(equal, gap))


def until(record: Served, number: int) -> Served:
    """The decisions up to and with ``number``.

    Raises:
        InputError: there is no such decision.
    """
    last = int(np.searchsorted(record.number, number, side="right"))
    if last == 0 or record.number[last - 1] != number:
        raise InputError(f"session {record.session} has no decision {number}; its last is {record.number[-1]}")
    cut = {f.name: getattr(record, f.name)[:last] for f in fields(record) if f.type != "str"}
    return replace(record, **cut)


@dataclass(frozen=True, kw_only=True)
class Stepper:
    """One step of a model, and the width of the state it carries."""

    step: Step
    state: int


def bundle_of(workspace: Workspace, instrument: str, version: int) -> Stepper:
    """The ONNX model of a registered version, its files checked; an expired one too, since this is about the past."""
    name = registry.model_name(instrument)
    folder = workspace.models / instrument / str(version)
    registry.Registry(workspace.tracking).fetch_bundle(name, version, folder)
    manifest = registry.read_manifest(folder)
    registry.check_files(folder, manifest)
    return Stepper(step=OnnxStep((folder / MODEL_FILE).read_bytes()), state=manifest.network.state)


def network_again(network: Stepper, record: Served, rows: History, at: Int64s, arm: int) -> tuple[Floats, int]:
    """Probabilities (N_OUTPUTS,) of the last decision, from the recorded inputs, and through how many steps.

    As the hot path does: it steps on warm rows only, and from zero where the version was put in or windows began anew.
    A version that goes from one arm to the other takes its state along.
    """
    version = record.versions[-1, arm]
    without = np.flatnonzero((record.versions != version).all(axis=1))
    first = int(without[-1]) + 1 if len(without) else 0
    segment = np.where(at == NOWHERE, NOWHERE, rows.segment[at])
    state = np.zeros((1, network.state), dtype=np.float32)
    probs = np.zeros((1, N_OUTPUTS), dtype=np.float32)
    stepped, of = 0, NOWHERE
    warm = record.usable & (at != NOWHERE)
    warm[warm] = rows.warm[at[warm]]
    for i in np.flatnonzero(warm[first:]) + first:
        if segment[i] != of:
            state, of, stepped = np.zeros_like(state), segment[i], 0
        probs, state = network.step(record.features[i : i + 1], state)
        stepped += 1
    return probs[0], stepped


def _said(equal: bool, gap: float) -> str:
    features = "features equal to the bit" if equal else "features differ"
    return features if math.isnan(gap) else f"{features}, probabilities within {gap:.1e}"


def _slow_of(lake: Lake, instrument: str, source: str | None) -> tuple[Int64s, Floats]:
    where = {"source": source} if source else None
    names = ["recv_ns", "funding_rate", "mark_e8", "index_e8"]
    rows = lake.read("slow", instrument=instrument, columns=names, where=where)
    known, *inputs = (rows[name].to_numpy() for name in names)
    order = np.argsort(known, kind="stable")
    return known[order], slow.slow_vectors(*(column[order] for column in inputs))


def _matrix(column: Any, width: int) -> Floats:
    """(n, width) of a column of lists."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, width)


def _known_sessions(lake: Lake) -> str:
    sessions = lake.read("predictions", columns=["session"])["session"].unique().to_pylist()
    return f"sessions with predictions are {', '.join(sorted(map(str, sessions)))}" if sessions else "serve first"
