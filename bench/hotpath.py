"""The hot path: the network's step, and the whole loop over two processes, against ONNX Runtime on the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import market
from bench.quoter import prefer_core
from market.bus.atomics import monotonic_ns
from market.bus.shm import ShmRing, pop, push
from market.compiled import compiled
from market.events import EVENT, F_LAST
from market.features import catalog, kernels, meaning
from market.labels import HORIZONS_NS, N_OUTPUTS
from serving.families import DEFAULT
from serving.hotpath import network
from serving.hotpath.families import registry
from serving.manifest import MODEL_FILE, Heads
from serving.records import DECISION, R_NO_BOOK, R_WARM_UP

HIDDEN = 64
STEPS = 50_000
_GIVE_UP_NS = 5_000_000_000
_network_step = registry.step


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = seeded_bundle(Path(folder) / "bundle", market.instrument().key)
        ours = _compiled_step(bundle)
        bound, called = _onnx_steps(bundle / MODEL_FILE)
        loop, priority = _loop(bundle)
    frames = "one frame in shared memory to its decision in shared memory, two processes"
    rows = [
        _row("network step, p50", ours, 50, "ONNX Runtime, io_binding", bound),
        _row("network step, p50", ours, 50, "ONNX Runtime, run(dict)", called),
        _row("network step, p99", ours, 99, "ONNX Runtime, io_binding", bound),
        {**_row(f"{frames}, p50", loop["all"], 50), "goal": "<= 2.5 us with real-time priority"},
        {**_row(f"{frames}, p99", loop["all"], 99), "goal": "<= 5 us with real-time priority"},
        _row("the same, trades and tickers only (1 or 2 events a frame), p50", loop["small"], 50),
        _row("the same, trades and tickers only, p99", loop["small"], 99),
        _row("inside the loop, last event taken to decision made, p50", loop["inside"], 50),
        _row("inside the loop, last event taken to decision made, p99", loop["inside"], 99),
    ]
    return {
        "title": f"Hot path ({DEFAULT.upper()}-{HIDDEN}, {catalog.N_INPUTS} inputs)",
        "rows": rows,
        "notes": _notes(loop, priority),
    }


def _notes(loop: dict[str, Any], priority: str) -> list[str]:
    depth = loop["events"]
    return [
        f"Loop: {len(loop['all']):,} warm frames of the simulated exchange, volatile, {depth:.1f} events a frame; the "
        "next frame is sent when the decision on the last has come back, so caches are warm.",
        f"Writer and hot path on a core each where there are two; scheduling: {priority}.",
        "ONNX Runtime: one thread, state fed back, inputs and outputs bound once for io_binding.",
    ]


def _row(what: str, ns: Any, percentile: int, peer: str | None = None, peer_ns: Any = None) -> dict[str, Any]:
    value = float(np.percentile(ns, percentile)) / 1e3
    row: dict[str, Any] = {"what": what, "value": round(value, 3), "unit": "us"}
    if peer is not None:
        other = float(np.percentile(peer_ns, percentile)) / 1e3
        row |= {"peer": peer, "peer_value": other, "ratio": other / value, "goal": "beat it"}
    return row


def seeded_bundle(folder: Path, key: str) -> Path:
    """An untrained network for the instrument of ``key``. Imports torch."""
    from training.export.bundle import Card, write_bundle
    from training.models.family import Widths
    from training.models.heads import Normalisation
    from training.models.registry import find

    features = kernels.compute(market.events()[:20_000]).features
    rows = np.hstack([features, np.zeros((len(features), catalog.N_SLOW), np.float32)])
    norm = Normalisation(mean=rows.mean(axis=0), scale=1 / (rows.std(axis=0) + 1), clip=5.0)
    card = Card(
        model_name="keel-bench",
        run_id="bench",
        instrument=key,
        feature_set=meaning.feature_set(),
        dataset_id="bench",
        dataset_revision="0" * 32,
        author="bench",
        created_ns=0,
        expires_ns=2**62,
        inputs=catalog.names(),
        heads=Heads(horizons_ns=HORIZONS_NS, move_threshold_ticks=0.0, depth_fall=0.2, depth_levels=5),
    )
    widths = Widths(inputs=catalog.N_INPUTS, hidden=HIDDEN, outputs=N_OUTPUTS)
    seeded = find(DEFAULT).seeded(widths, seed=1, normalisation=norm)
    write_bundle(seeded, card, rows[-256:], folder)
    return folder


def _inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(256, catalog.N_INPUTS)).astype(np.float32)


@compiled
def _time_steps(network: Any, memory: Any, rows: Any, probs: Any, out: Any) -> None:
    layout, weights = network
    for i in range(len(out)):
        began = monotonic_ns()
        _network_step(layout, weights, memory, rows[i % len(rows)], probs)
        out[i] = monotonic_ns() - began


def _compiled_step(bundle: Path) -> np.ndarray:
    model = network.load(bundle)
    memory, rows, probs = model.memory(), _inputs(), np.zeros(N_OUTPUTS, np.float32)
    out = np.zeros(STEPS, np.int64)
    for _ in range(2):
        _time_steps((model.packed.layout, model.packed.weights), memory, rows, probs, out)
    return out


def _onnx_steps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds of each stateful step with io_binding and with run(dict)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    rows, steps = _inputs(), STEPS // 5
    x, probs = rows[:1].copy(), np.zeros((1, N_OUTPUTS), np.float32)
    states = [np.zeros((1, HIDDEN), np.float32), np.zeros((1, HIDDEN), np.float32)]
    turns = [_binding(session, x, probs, states), _binding(session, x, probs, states[::-1])]
    bound = np.zeros(steps, np.int64)
    for i in range(steps):
        x[:] = rows[i % len(rows)]
        began = time.perf_counter_ns()
        session.run_with_iobinding(turns[i % 2])
        bound[i] = time.perf_counter_ns() - began
    called, state = np.zeros(steps, np.int64), states[0]
    for i in range(steps):
        x[:] = rows[i % len(rows)]
        began = time.perf_counter_ns()
        _, state = session.run(["probs", "state_out"], {"features": x, "state": state})
        called[i] = time.perf_counter_ns() - began
    return bound[100:], called[100:]


def _binding(session: Any, x: Any, probs: Any, states: Any) -> Any:
    """One of two bindings that alternate, so that the state of one step is the input of the next."""
    binding = session.io_binding()
    for name, array in {"features": x, "state": states[0]}.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in {"probs": probs, "state_out": states[1]}.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    return binding


@compiled
def _ping(rings: Any, cursor: Any, events: Any, base: int, itemsize: int, results: Any) -> int:
    """Send frame by frame, each when the decision on the previous one has come; returns how many decisions came."""
    decision, address, out = results
    n = 0
    began = monotonic_ns()
    for i in range(len(events)):
        push(rings[0], base + i * itemsize)
        if events[i].flags & F_LAST == 0:
            continue
        last = monotonic_ns()
        while not pop(rings[1], cursor, address):
            if monotonic_ns() - last > _GIVE_UP_NS:
                return n
        out[n, 0] = monotonic_ns() - began
        out[n, 1] = decision[0].reasons
        out[n, 2] = decision[0].step_ns
        out[n, 3] = i
        n += 1
        began = monotonic_ns()
    return n


def _loop(bundle: Path) -> tuple[dict[str, Any], str]:
    events = _answered(market.events())
    name = f"bench-{os.getpid()}"
    with (
        ShmRing.create(f"{name}-in", EVENT, 1 << 15) as ring_in,
        ShmRing.create(f"{name}-out", DECISION, 1 << 12) as ring_out,
    ):
        reader = ring_out.subscribe()
        decision, out = np.zeros(1, DECISION), np.zeros((len(events) + 1, 4), np.int64)
        results = (decision, int(decision.ctypes.data), out)
        rings = (ring_in.address, ring_out.address)
        _ping(rings, reader.cursor, events[:0], int(events.ctypes.data), events.itemsize, results)  # compiled
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.quoter", name, str(bundle)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None
            priority = child.stdout.readline().strip()
            prefer_core(0)
            n = _ping(rings, reader.cursor, events, int(events.ctypes.data), events.itemsize, results)
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
            ring_in.stop()
            child.wait(60)
    return _sorted_out(out[:n], events), priority


def _answered(events: np.ndarray) -> np.ndarray:
    """Events from the first snapshot on: from there every frame has a decision."""
    first = int(np.flatnonzero(events["kind"] == 10)[0])
    return np.ascontiguousarray(events[first:])


def _sorted_out(out: np.ndarray, events: np.ndarray) -> dict[str, Any]:
    size = np.diff(out[:, 3], prepend=-1)
    warm = (out[:, 1] & (R_NO_BOOK | R_WARM_UP)) == 0
    assert warm.sum() > 1000, f"only {warm.sum()} of {len(events)} events were decided on"
    return {
        "all": out[warm, 0],
        "small": out[warm & (size <= 2), 0],
        "inside": out[warm, 2],
        "events": float(size[warm].mean()),
    }
