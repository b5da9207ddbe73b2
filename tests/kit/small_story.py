"""What a run of the ring leaves behind, without the run: a story whose monitor, compare and audit parts are real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from kit.in_service import LATER_NS, Session, fill, knowing, open_workspace, serve
from kit.planted import INSTRUMENT, START_NS, Planted, write_dataset
from market.clock import NS_PER_S
from market.instruments import find
from market.lake.lake import Lake
from market.lake.rows import rows_of
from pipelines.alerting.notify import NotifyConfig, notify
from pipelines.experiments.compare import CompareConfig, compare
from pipelines.governance import audit
from pipelines.monitoring.monitor import MonitorConfig, monitor
from pipelines.workspace import Workspace
from serving.records import R_BASE, R_WIDEN
from training.data import datasets
from training.evaluation import evaluate, scores

CALM, LOUD = "live-20231115T220000Z-0001", "live-20231115T221000Z-0002"
TEST = Session(name="live-20231115T223000Z-0003", rows=18_000, skill=(0.25, 0.55), start_ns=LATER_NS + 900 * NS_PER_S)


def live_through(home: Path, write_bundle: Callable[..., Path]) -> Workspace:
    """A workspace with the whole story of a simulated run in it."""
    workspace = open_workspace(home, write_bundle)
    entries: list[dict[str, Any]] = []

    def tell(stage: str, line: str, seconds: float, result: dict[str, Any]) -> None:
        started = entries[-1]["started_ns"] + int(entries[-1]["seconds"] * 1e9) + 10**8 if entries else START_NS
        entry = {"stage": stage, "line": line, "seconds": seconds, "started_ns": started, "result": result}
        entries.append(entry)

    for stage, line, seconds, result in _before(workspace):
        tell(stage, line, seconds, result)
    serve(workspace, Session(name=CALM), home / "calm")
    serve(workspace, Session(name=LOUD, seed=51, louder=1.6, start_ns=LATER_NS + 300 * NS_PER_S), home / "loud")
    tell("serve", "quoted while the market was as before", 4.1, _served(CALM, 1))
    rule = {
        "instrument": INSTRUMENT,
        "window_seconds": 10.0,
        "k": 3,
        "n": 4,
        "window_alarm": 0.05,
        "min_strength": 0.08,
        "bootstrap": 200,
    }
    calm = monitor(MonitorConfig(**rule, sessions=(CALM,)), workspace=workspace)  # type: ignore[arg-type]
    tell("monitor", calm.line(), 9.3, dataclasses.asdict(calm))
    tell("market", "the simulated exchange switches to its volatile regime", 0.0, {"regime": "volatile"})
    tell("serve", "quoted while the market changed", 4.4, _served(LOUD, 1))
    loud = monitor(MonitorConfig(**rule, sessions=(CALM, LOUD)), workspace=workspace)  # type: ignore[arg-type]
    tell("monitor", loud.line(), 2.2, dataclasses.asdict(loud))
    mailed = notify(NotifyConfig(), workspace=workspace)
    tell("notify", mailed.line(), 0.2, dataclasses.asdict(mailed))
    tell("retrain", "challenger version 2", 41.0, {"run_id": "run2", "version": 2, "instrument": INSTRUMENT})
    write_evaluation(workspace, "run2", skill=0.9, champion=True)
    serve(workspace, TEST, home / "test")
    fill(workspace, TEST, edge=(1.0, 1.4))
    _quote(workspace, TEST)
    tell("serve", "champion and challenger in alternating blocks", 12.0, _served(TEST.name, 1, 2))
    verdict = compare(CompareConfig(instrument=INSTRUMENT, sessions=(TEST.name,)), workspace=workspace)
    tell("compare", verdict.line(), 0.9, dataclasses.asdict(verdict))
    for version, reason in ((1, "first model of this instrument"), (2, "better calibrated in the new regime")):
        what = {"model_name": f"keel-{INSTRUMENT}", "version": version, "decision": "approve"}
        what |= {"name": "ada", "reason": reason, "author": "grace"}
        audit.append(audit.path_of(workspace), clock=workspace.clock, kind="approval", what=what)
    tell("promote", "version 2 is champion", 3.0, {"version": 2, "watched": {"requests": 812, "failed": 0}})
    tell("trace", "traced", 1.1, traced(TEST.name))
    (home / "story.json").write_bytes(orjson.dumps({"kind": "simulated", "entries": entries}))
    return workspace


def _before(workspace: Workspace) -> list[tuple[str, str, float, dict[str, Any]]]:
    write_evaluation(workspace, "run1", skill=0.7, champion=False)
    landed = {
        "source": "live-20231114T221320Z-0000",
        "instrument": INSTRUMENT,
        "frames": 31_402,
        "events": 91_377,
        "trades": 9_120,
        "gaps": 1,
        "resyncs": 1,
        "crossed": 0,
        "clock_back": 0,
        "quarantined": {"not_json": 1},
        "first_ns": START_NS,
        "last_ns": START_NS + 900 * NS_PER_S,
    }
    bad = {
        "source": landed["source"],
        "batch": [28_333_337, -1],
        "frame": [-1, 411],
        "recv_ns": np.array([START_NS, START_NS + 1]),
        "stage": ["validate", "parse"],
        "reason": ["trade_outside_book", "not_json"],
        "detail": ["worst trade 2,000 bp from the book, at most 100 bp allowed", "byte 17: unexpected end <script>"],
        "payload": [b"", b"{"],
    }
    Lake(workspace.lake).append("quarantine", rows_of("quarantine", find(INSTRUMENT), bad))
    judged = {"judged": 16, "passed": 15, "reasons": {"trade_outside_book": 1}}
    deployed = {
        "model_name": f"keel-{INSTRUMENT}",
        "version": 1,
        "triton_gap": 3e-7,
        "hotpath_gap": 8e-7,
        "triton_p50_us": 412.0,
        "triton_p99_us": 903.0,
    }
    return [
        ("ingest", "900 s landed", 11.2, {"landed": [landed]}),
        ("validate", "16 minutes judged, 15 passed, 1 quarantined", 2.8, judged),
        ("featurize", "dataset d0", 8.0, {"dataset_id": "d0", "instrument": INSTRUMENT}),
        ("train", "run run1", 44.0, {"run_id": "run1"}),
        ("evaluate", "gate passed", 12.0, {"run_id": "run1"}),
        ("register", "version 1", 6.0, {"run_id": "run1", "version": 1}),
        ("deploy", "in service", 5.0, deployed),
    ]


def write_evaluation(workspace: Workspace, run: str, *, skill: float, champion: bool) -> None:
    """Scores of made-up answers on real labels, written as the evaluate stage writes them."""
    folder = workspace.runs / run
    write_dataset(folder / "rows", Planted(rows=3000, segments=1, seed=9))
    data = datasets.load(folder / "rows")
    able = {"network": skill, "LightGBM": skill + 0.05, "logistic regression": 0.5, "imbalance rule": 0.3, "prior": 0.0}
    able |= {"last move rule": 0.1} | ({"champion": 0.4} if champion else {})
    answers = {name: knowing(data.labels[:, :, 0], s, i) for i, (name, s) in enumerate(able.items())}
    losses = {name: scores.row_losses(probs, data.labels) for name, probs in answers.items()}

    def against(name: str) -> scores.Difference | None:
        if name == "network":
            return None
        return scores.difference(losses["network"], losses[name], data.recv_ns, block_ns=5 * NS_PER_S, seed=0)

    judged = tuple(
        evaluate.Judged(
            model=name,
            log_loss=scores.mean_loss(losses[name]),
            scores=scores.score(probs, data.labels),
            network_less_this=against(name),
        )
        for name, probs in answers.items()
    )
    found = evaluate.Evaluation(
        rows=len(data),
        first_ns=int(data.recv_ns[0]),
        last_ns=int(data.recv_ns[-1]),
        temperature=(1.0,) * 12,
        ece_before=0.041,
        ece=0.022,
        models=judged,
    )
    (folder / "evaluation.json").write_bytes(msgspec.json.encode(found))


def _served(session: str, *versions: int) -> dict[str, Any]:
    return {
        "session": session,
        "instrument": INSTRUMENT,
        "versions": list(versions),
        "orders_sent": True,
        "first_ns": LATER_NS,
        "last_ns": LATER_NS + 100 * NS_PER_S,
        "frames": 4_100,
        "decisions": 4_000,
        "quotes": 700,
        "fills": 12,
    }


def _quote(workspace: Workspace, session: Session) -> None:
    """A quote on every 10th decision, widened now and then."""
    lake = Lake(workspace.lake)
    rows = lake.read("predictions", where={"session": session.name}, columns=["n", "recv_ns", "mid2", "arm"])
    n, mid = rows["n"].to_numpy()[::10], rows["mid2"].to_numpy()[::10] // 2
    wide = (np.arange(len(n)) // 40) % 3 == 0
    columns = {
        "session": session.name,
        "n": n,
        "quote_id": [f"q-{session.name}.{i}" for i in n],
        "prediction_id": [f"p-{session.name}.{i}" for i in n],
        "recv_ns": rows["recv_ns"].to_numpy()[::10],
        "version": 1,
        "arm": rows["arm"].to_numpy()[::10],
        "bid_price": mid - 1 - 2 * wide,
        "ask_price": mid + 1 + 2 * wide,
        "bid_size": np.where(np.arange(len(n)) % 97 < 6, 0, 5),
        "ask_size": 5,
        "reasons": np.where(wide, R_BASE | R_WIDEN, R_BASE),
        "mid2": 2 * mid,
    }
    lake.append("quotes", rows_of("quotes", find(INSTRUMENT), columns))


def traced(session: str) -> dict[str, Any]:
    """A trace as the trace stage answers it."""
    heads = {"down": 0.71, "none": 0.2, "up": 0.09, "bid_falls": 0.63, "ask_falls": 0.12}
    return {
        "quote_id": f"q-{session}.4011",
        "quote": {
            "session": session,
            "time": "2023-11-15 22:31:12.000000123Z",
            "bid": {"price": "29999.8", "size": "0.003"},
            "ask": None,
            "mid": "30000.05",
            "reasons": ["base", "widen"],
        },
        "prediction": {
            "prediction_id": f"p-{session}.4011",
            "feature_set": "0123456789abcdef",
            "probabilities": {"50ms": heads, "100ms": heads, "500ms": heads, "1s": heads},
            "features": {"spread": 1.0},
        },
        "model": {
            "name": f"keel-{INSTRUMENT}",
            "version": 2,
            "run_id": "run2",
            "author": "grace",
            "code": "b2fbf43",
            "created": "2023-11-15 22:00:00Z",
            "approved_by": "ada",
            "approval_reason": "better calibrated in the new regime",
            "manifest_sha256": "9" * 64,
        },
        "dataset": {"dataset_id": "d0", "rows": 8000, "dataset_revision": "0" * 32, "lake_versions": {"ticks": 3}},
        "event": {"frame": 4011, "found_in": "ticks", "batch": 28_333_340, "events": [{}]},
        "raw": {
            "source": session,
            "first_frame": 3800,
            "decisive": {"frame": 4011, "payload": '{"stream":"btcusdt@bookTicker","data":{"u":4011,"b":"29999.8"}}'},
            "frames": 212,
            "window_s": 60.0,
        },
        "recomputed": {"says": "features equal to the bit, probabilities within 1.2e-07"},
        "reproduced": True,
        "outcomes": [{"side": "bought", "size": "0.003", "price": "29999.8", "time": "2023-11-15 22:31:13Z"}],
    }
