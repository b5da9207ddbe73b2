"""ONNX Runtime in this process: an exported step model, called once or along consecutive rows as it will be served.

Triton's Python backend makes a session of its own (:mod:`serving.triton.backend_model`): it lives in an environment
without this package, and what it would share is the four lines that open a session.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import numpy as np

from market.errors import ManifestError
from serving.runtimes.protocol import Floats


class OnnxStep:
    """One step model on one thread; as a function it is a :data:`serving.runtimes.protocol.Step`.

    Raises:
        ManifestError: ONNX Runtime cannot read ``model``.
    """

    def __init__(self, model: bytes) -> None:
        self._session = _session(model)

    def __call__(self, features: Floats, state: Floats) -> tuple[Floats, Floats]:
        """One step of ``B`` independent lanes: probabilities (B, P) and new states (B, S)."""
        probs, state_out = self._session.run(["probs", "state_out"], {"features": features, "state": state})
        return probs, state_out

    def sequence(self, features_TF: Floats, state: Floats | None = None) -> tuple[Floats, Floats]:
        """Probabilities (T, P) and states (T, S) of consecutive rows, from ``state`` (S,) or from zero."""
        lane = self._lane
        probs = np.empty((len(features_TF), lane.probs.shape[1]), np.float32)
        states = np.empty((len(features_TF), lane.states[0].shape[1]), np.float32)
        lane.states[0][0] = 0.0 if state is None else state
        for t in range(len(features_TF)):
            turn = t & 1
            lane.features[0] = features_TF[t]
            self._session.run_with_iobinding(lane.bindings[turn])
            probs[t] = lane.probs[0]
            states[t] = lane.states[1 - turn][0]
        return probs, states

    def measure_us(self, steps: int = 2000) -> float:
        """Median time of one step in microseconds, after a warm-up."""
        bindings = self._lane.bindings
        times = np.empty(steps, np.int64)
        for _ in range(100):
            self._session.run_with_iobinding(bindings[0])
        for i in range(steps):
            began = time.perf_counter_ns()
            self._session.run_with_iobinding(bindings[i & 1])
            times[i] = time.perf_counter_ns() - began
        return round(float(np.median(times)) / 1000, 2)

    @cached_property
    def _lane(self) -> _Lane:
        return _Lane(self._session)


class _Lane:
    """Buffers of one lane, bound once so that a row costs no allocation. Two bindings take turns, each writing the
    state that the other one reads."""

    def __init__(self, session: Any) -> None:
        self._session = session
        widths = {node.name: node.shape[1] for node in (*session.get_inputs(), *session.get_outputs())}
        self.features, self.probs = (np.zeros((1, widths[name]), np.float32) for name in ("features", "probs"))
        self.states = [np.zeros((1, widths["state"]), np.float32) for _ in range(2)]
        self.bindings = [self._bind(source, 1 - source) for source in range(2)]

    def _bind(self, source: int, target: int) -> object:
        binding = self._session.io_binding()
        for name, array in (("features", self.features), ("state", self.states[source])):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in (("probs", self.probs), ("state_out", self.states[target])):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding


def _session(model: bytes) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (
        refusals.Fail,
        refusals.InvalidArgument,
        refusals.InvalidGraph,
        refusals.InvalidProtobuf,
        refusals.NotImplemented,
        refusals.RuntimeException,
    ) as error:
        raise ManifestError(
            f"ONNX Runtime cannot read the step model: {error}; fetch the version again (keel deploy), or export the "
            "run again"
        ) from None
