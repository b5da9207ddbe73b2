"""A model in service, without the servers: a dataset, a bundle, and sessions written into a real lake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kit.planted import INSTRUMENT, START_NS, Planted, write_dataset
from market.clock import NS_PER_S, ManualClock
from market.features import meaning
from market.heads import columns
from market.instruments import find
from market.lake.lake import Lake
from market.lake.rows import rows_of
from pipelines.governance import audit
from pipelines.workspace import Workspace
from serving.manifest import MODEL_FILE
from serving.rollout.assignment import assign, block_of
from serving.runtimes.onnx import OnnxStep
from training.data import datasets

LATER_NS = START_NS + 86_400 * NS_PER_S
DATASET = "d0"


@dataclass(frozen=True, kw_only=True)
class Session:
    """``louder`` scales the inputs; ``skill`` of each arm: how much of the truth its probabilities know."""

    name: str = "live-20231115T000000Z-0001"
    rows: int = 4000
    seed: int = 50
    louder: float = 1.0
    start_ns: int = LATER_NS
    skill: tuple[float, float] | None = None
    block_ns: int = 10 * NS_PER_S
    test: int | None = None  # the name of its test; None: nothing says who played
    versions: tuple[int, int] = (1, 2)
    bookless_every: int = 0  # at each so-manieth moment the book was not usable; 0: it always was


def open_workspace(home: Path, write_bundle: Callable[..., Path], *, rows: int = 8000) -> Workspace:
    """A workspace with dataset ``d0``, and versions 1 and 2, trained on it, in ``models``."""
    workspace = Workspace(home=home, clock=ManualClock(LATER_NS + 600 * NS_PER_S), author="grace")
    write_dataset(workspace.datasets / DATASET, Planted(rows=rows))
    for version in (1, 2):
        folder = workspace.models / INSTRUMENT / str(version)
        write_bundle(folder, seed=version, registry_version=version, dataset_id=DATASET)
    return workspace


def approved(workspace: Workspace, instrument: str, version: int) -> None:
    """A second person's approval on record, as serving asks for it; there is no registry."""
    what = {"model_name": f"keel-{instrument}", "version": version, "decision": "approve", "name": "grace"}
    what |= {"reason": "proven in a test", "author": "ada"}
    audit.append(audit.path_of(workspace), clock=workspace.clock, kind="approval", what=what)


def serve(workspace: Workspace, session: Session, folder: Path) -> None:
    """Write a session's predictions: the bundle's words or, with ``skill``, two arms that know some of the truth."""
    write_dataset(folder, Planted(rows=session.rows, segments=1, seed=session.seed))
    data = datasets.load(folder)
    recv_ns = data.recv_ns - data.recv_ns[0] + session.start_ns
    features = data.features * np.float32(session.louder)
    if session.skill is None:
        step = OnnxStep((workspace.models / INSTRUMENT / "1" / MODEL_FILE).read_bytes())
        said = [step.sequence(features)[0], np.full((len(data), 20), np.nan, np.float32)]
        arm = np.zeros(len(data), np.int32)
    else:
        said = [knowing(data.labels[:, :, 0], skill, session.seed + i) for i, skill in enumerate(session.skill)]
        arm = np.array([assign(7, INSTRUMENT, block_of(int(t), session.block_ns)) for t in recv_ns], np.int32)
    n = np.arange(1, len(data) + 1)
    mid2 = data.mid2.copy()
    if session.bookless_every:
        for column, nothing in ((mid2, 0), (features, np.nan), (said[0], np.nan)):
            column[:: session.bookless_every] = nothing
    columns = {
        "session": session.name,
        "n": n,
        "prediction_id": [f"p-{session.name}.{i}" for i in n],
        "frame": n,
        "seq": n,
        "recv_ns": recv_ns,
        "exch_ns": recv_ns,
        "mid2": mid2,
        "arm": arm,
        "version0": session.versions[0],
        "version1": 0 if session.skill is None else session.versions[1],
        "probs0": said[0],
        "probs1": said[1],
        "features": features,
        "feature_set": meaning.feature_set(),
        "step_ns": np.random.default_rng(1).integers(900, 6000, len(data)),
    }
    Lake(workspace.lake).append("predictions", rows_of("predictions", find(INSTRUMENT), columns))
    written = workspace.home / "sessions" / f"{session.name}.json"
    written.parent.mkdir(exist_ok=True)
    card: dict[str, object] = {"config": {"block_seconds": session.block_ns / NS_PER_S}}
    if session.test is not None:
        turns = {"from_n": 1, "versions": list(session.versions), "phase": "switchback", "acts_from": 0}
        card["scenes"] = [{**turns, "test": session.test}]
    written.write_text(json.dumps(card))


def knowing(truth: np.ndarray, skill: float, seed: int) -> np.ndarray:
    """Probabilities (n, 20) whose direction leans to the truth by ``skill``; 0 knows nothing."""
    rng = np.random.default_rng(seed)
    n, horizons = truth.shape
    probs = np.full((n, 5 * horizons), 0.3, np.float32)
    for k in range(horizons):
        logits = rng.normal(scale=0.3, size=(n, 3)) + np.array([0.0, 1.0, 0.0])
        known = truth[:, k] >= 0
        logits[known, truth[known, k]] += skill
        odds = np.exp(logits)
        probs[:, columns(k, 0)] = odds / odds.sum(axis=1, keepdims=True)
    return probs


def fill(workspace: Workspace, session: Session, *, edge: tuple[float, float], every_ns: int = NS_PER_S) -> None:
    """Write quotes of a session, one a fill, and the fills: ``edge`` is what each arm's fills are worth after a second,
    half ticks on average. The mid at the decision was two half ticks from the price, that at the fill one."""
    rng = np.random.default_rng(session.seed)
    times = np.arange(session.start_ns + 11 * NS_PER_S, session.start_ns + session.rows * 24_000_000, every_ns)
    block = times // session.block_ns
    arm = np.array([assign(7, INSTRUMENT, int(b)) for b in block])
    worth = np.round(rng.normal(np.where(arm == 0, *edge), 4.0)).astype(np.int64)
    side = rng.choice([-1, 1], len(times))
    price = np.full(len(times), 300_000)
    ids = [f"q-{session.name}.{i}" for i in range(len(times))]
    quotes = {
        "session": session.name,
        "n": np.arange(len(times)),
        "quote_id": ids,
        "prediction_id": ids,
        "recv_ns": times - 1,
        "version": arm + 1,
        "arm": arm,
        "bid_price": price,
        "ask_price": price,
        "bid_size": 4,
        "ask_size": 6,
        "reasons": 1,
        "mid2": 2 * price + 2 * side,
    }
    Lake(workspace.lake).append("quotes", rows_of("quotes", find(INSTRUMENT), quotes))
    columns = {
        "session": session.name,
        "quote_id": ids,
        "order_id": [str(i) for i in range(len(times))],
        "side": side,
        "price": price,
        "size": rng.integers(1, 4, len(times)),
        "fill_ns": times,
        "mid2_fill": 2 * price + side,
        "mid2_100ms": 2 * price + side,
        "mid2_1s": 2 * price + side * worth,
        "version": arm + 1,
        "arm": arm,
        "block": block,
    }
    Lake(workspace.lake).append("outcomes", rows_of("outcomes", find(INSTRUMENT), columns))
