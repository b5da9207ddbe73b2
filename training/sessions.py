"""Running an exported step model with ONNX Runtime, one row after the other as it will be served."""

from __future__ import annotations

import time

import numpy as np

from training.models.gru import Floats


class OnnxStep:
    """One step model on one thread, its buffers bound once so that a row costs no allocation."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        widths = {node.name: node.shape[1] for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        self.inputs: int = widths["features"]
        self.hidden: int = widths["state"]
        self.outputs: int = widths["probs"]
        self._features, self._probs = np.zeros((1, self.inputs), np.float32), np.zeros((1, self.outputs), np.float32)
        self._states = [np.zeros((1, self.hidden), np.float32) for _ in range(2)]
        # two bindings take turns, each writing the state the other one reads
        self._bindings = [self._bind(source, 1 - source) for source in range(2)]

    def sequence(self, features_TF: Floats, state: Floats | None = None) -> tuple[Floats, Floats]:
        """Probabilities (T, P) and states (T, H) of consecutive rows, from ``state`` (H,) or from zero."""
        probs = np.empty((len(features_TF), self.outputs), np.float32)
        states = np.empty((len(features_TF), self.hidden), np.float32)
        self._states[0][0] = 0.0 if state is None else state
        for t in range(len(features_TF)):
            turn = t & 1
            self._features[0] = features_TF[t]
            self._session.run_with_iobinding(self._bindings[turn])
            probs[t] = self._probs[0]
            states[t] = self._states[1 - turn][0]
        return probs, states

    def batch(self, features_BF: Floats, state_BH: Floats) -> tuple[Floats, Floats]:
        """One step of ``B`` independent lanes: probabilities (B, P) and new states (B, H)."""
        probs, states = self._session.run(["probs", "state_out"], {"features": features_BF, "state": state_BH})
        return probs, states

    def measure_us(self, steps: int = 2000) -> float:
        """Median time of one step in microseconds, after a warm-up."""
        times = np.empty(steps, np.int64)
        for _ in range(100):
            self._session.run_with_iobinding(self._bindings[0])
        for i in range(steps):
            began = time.perf_counter_ns()
            self._session.run_with_iobinding(self._bindings[i & 1])
            times[i] = time.perf_counter_ns() - began
        return round(float(np.median(times)) / 1000, 2)

    def _bind(self, source: int, target: int) -> object:
        binding = self._session.io_binding()
        for name, array in (("features", self._features), ("state", self._states[source])):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in (("probs", self._probs), ("state_out", self._states[target])):
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding
