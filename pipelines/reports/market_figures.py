"""Figures read from the lake for a report: quarantine, latencies, a stretch of quotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.clock import NS_PER_S
from market.errors import KeelError
from market.features import catalog, meaning
from market.lake.lake import Lake
from pipelines.workspace import Workspace
from serving.records import R_PULL_ASK, R_PULL_BID, R_SHRINK, R_WIDEN

STRETCH_NS = 15 * NS_PER_S
_MOST_POINTS = 1500
_BINS_A_DECADE = 24
_MOVED = R_WIDEN | R_SHRINK | R_PULL_BID | R_PULL_ASK


def quarantine(workspace: Workspace, *, most: int = 12) -> list[dict[str, Any]]:
    """Entries by source, batch, stage and reason with their number, the most frequent first."""
    rows = Lake(workspace.lake).read("quarantine", columns=["source", "batch", "stage", "reason", "detail"]).to_pylist()
    counts = Counter((r["source"], r["batch"], r["stage"], r["reason"]) for r in rows)
    example = {(r["source"], r["batch"], r["stage"], r["reason"]): r["detail"] for r in rows}
    return [
        {
            "source": s,
            "batch": b,
            "stage": stage,
            "reason": reason,
            "entries": n,
            "detail": example[s, b, stage, reason],
        }
        for (s, b, stage, reason), n in counts.most_common(most)
    ]


# -- latencies --------------------------------------------------------------------------------------------------------


def latency(workspace: Workspace, instrument: str, sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Histograms by name; each ``edges_us``, ``counts``, ``samples``, ``p50_us``, ``p99_us``, ``p999_us``."""
    found: dict[str, Any] = {}
    lake = Lake(workspace.lake)
    by_models: dict[int, list[str]] = {}
    for result in sessions:
        by_models.setdefault(len(result.get("versions", (0,))), []).append(str(result["session"]))
    for models, names in sorted(by_models.items()):
        rows = lake.read("predictions", instrument=instrument, columns=["step_ns"], where={"session": names})
        times = rows["step_ns"].to_numpy()
        if (times > 0).any():
            found[f"hot path, {'one model' if models == 1 else 'two models'}"] = histogram(times[times > 0])
    hot = bool(found)
    triton = _triton_times(workspace, instrument)
    if isinstance(triton, str):
        found["triton_absent"] = triton
    else:
        found["Triton, one step over gRPC"] = histogram(triton)
    if not hot:
        found["hot_path_absent"] = "no session of this run measured its steps"
    return found


def histogram(times_ns: NDArray[np.int64]) -> dict[str, Any]:
    """Counts of times in logarithmic bins, and percentiles of the times themselves."""
    micro = np.maximum(times_ns, 1) / 1000
    low, high = np.floor(np.log10(micro.min()) * 4) / 4, np.ceil(np.log10(micro.max()) * 4) / 4
    edges = np.logspace(low, high, max(int((high - low) * _BINS_A_DECADE), 1) + 1)
    counts, _ = np.histogram(np.clip(micro, edges[0], edges[-1]), bins=edges)
    p50, p99, p999 = np.percentile(micro, (50, 99, 99.9))
    return {
        "edges_us": [round(float(e), 5) for e in edges],
        "counts": counts.tolist(),
        "samples": len(micro),
        "p50_us": round(float(p50), 3),
        "p99_us": round(float(p99), 3),
        "p999_us": round(float(p999), 3),
    }


def _triton_times(workspace: Workspace, instrument: str) -> NDArray[np.int64] | str:
    """Round trips of the champion's golden vectors in ns, measured now, or why there are none."""
    from pipelines.deployment.placement import golden_over_grpc
    from pipelines.in_service import roles_of
    from serving.bundle import load_bundle
    from serving.triton.client import TritonClient

    if workspace.triton_grpc is None:
        return "no Triton was at hand when the report was written (KEEL_TRITON_GRPC)"
    version = roles_of(workspace, instrument).champion
    if not version:
        return f"{instrument} has no champion in service"
    folder = workspace.models / instrument / str(version)
    try:
        bundle = load_bundle(folder, now_ns=workspace.clock.now_ns(), feature_set=meaning.feature_set())
        with TritonClient(workspace.triton_grpc) as client:
            times = [t for _ in range(2) for t in golden_over_grpc(client, bundle)[1]]
    except KeelError as error:
        return str(error)
    return np.array(times, dtype=np.int64)


# -- quotes -----------------------------------------------------------------------------------------------------------


def quotes(workspace: Workspace, instrument: str, session: str) -> dict[str, Any]:
    """A stretch of a session in which the model moved the quotes and, where there were any, fills happened.

    Times are seconds, prices ticks from the first mid; None where there was no quote.
    """
    lake = Lake(workspace.lake)
    where = {"session": session}
    rows = lake.read("predictions", instrument=instrument, columns=["recv_ns", "mid2"], where=where)
    columns = ["recv_ns", "bid_price", "ask_price", "bid_size", "ask_size", "reasons"]
    quoted = lake.read("quotes", instrument=instrument, columns=columns, where=where)
    if not rows.num_rows or not quoted.num_rows:
        return {"absent": "no quote was made in this run"}
    filled = lake.read("outcomes", instrument=instrument, columns=["fill_ns", "price", "side"], where=where)
    time = np.maximum.accumulate(rows["recv_ns"].to_numpy())
    quote = {name: quoted[name].to_numpy() for name in columns}
    fills = {name: filled[name].to_numpy() for name in ("fill_ns", "price", "side")}
    start = _liveliest(time, quote, fills["fill_ns"])
    return _stretch(session, start, (time, rows["mid2"].to_numpy()), quote, fills)


def _liveliest(time: NDArray[np.int64], quote: Mapping[str, Any], fill_ns: NDArray[np.int64]) -> int:
    """Start of the stretch with both moved and unmoved quotes and with fills; nothing is quoted before the warm-up."""
    first = min(time[0] + catalog.WARM_NS, time[-1])
    starts = np.arange(first, max(time[-1] - STRETCH_NS, first) + 1, STRETCH_NS // 4)
    moved = (quote["reasons"] & _MOVED) != 0

    def score(start: int) -> float:
        here = (quote["recv_ns"] >= start) & (quote["recv_ns"] < start + STRETCH_NS)
        share = float(moved[here].mean()) if here.any() else 0.0
        caught = int(((fill_ns >= start) & (fill_ns < start + STRETCH_NS)).sum())
        return min(caught, 6) + 6 * (1 - abs(2 * share - 1)) + 0.001 * min(int(here.sum()), 1000)

    return int(max(starts, key=lambda s: score(int(s))))


def _stretch(
    session: str,
    start: int,
    path: tuple[NDArray[np.int64], NDArray[np.int64]],
    quote: Mapping[str, Any],
    fills: Mapping[str, Any],
) -> dict[str, Any]:
    time, mid2 = path
    inside = np.flatnonzero((time >= start) & (time < start + STRETCH_NS))
    inside = inside[:: -(-len(inside) // _MOST_POINTS)]
    base = mid2[inside[0]] / 2
    at = np.searchsorted(quote["recv_ns"], time[inside], side="right") - 1

    def side(name: str) -> list[float | None]:
        shown = (at >= 0) & (quote[f"{name}_size"][at] > 0)
        return [float(p - base) if s else None for p, s in zip(quote[f"{name}_price"][at], shown, strict=True)]

    caught = (fills["fill_ns"] >= start) & (fills["fill_ns"] < start + STRETCH_NS)
    seconds = (time[inside] - start) / NS_PER_S
    widened = (at >= 0) & ((quote["reasons"][at] & _MOVED) != 0)
    here = (quote["recv_ns"] >= start) & (quote["recv_ns"] < start + STRETCH_NS)
    return {
        "session": session,
        "start_ns": start,
        "seconds": [round(float(s), 3) for s in seconds],
        "mid": [float(m / 2 - base) for m in mid2[inside]],
        "bid": side("bid"),
        "ask": side("ask"),
        "widened": _spans(seconds, widened),
        "quotes": int(here.sum()),
        "moved": int(((quote["reasons"][here] & _MOVED) != 0).sum()),
        "fills": [
            {"seconds": float((t - start) / NS_PER_S), "price": float(p - base), "side": int(s)}
            for t, p, s in zip(fills["fill_ns"][caught], fills["price"][caught], fills["side"][caught], strict=True)
        ],
    }


def _spans(seconds: NDArray[np.float64], on: NDArray[np.bool_]) -> list[list[float]]:
    """``[from, to]`` of the stretches in which ``on`` holds."""
    if not len(on):
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], on, [False])).astype(np.int8)))
    last = len(seconds) - 1
    return [[float(seconds[a]), float(seconds[min(b, last)])] for a, b in edges.reshape(-1, 2)]
