"""An INT8 candidate of the exported step model, kept only when it costs no accuracy and saves time.

Weights are quantised to symmetric INT8 (ONNX Runtime's dynamic quantisation of the matrix products). Whether that pays
is measured, not assumed: on a small recurrent step the conversions often cost more than the narrower products save.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.runtimes.onnx import OnnxStep
from training.evaluation.scores import mean_loss, row_losses
from training.models.heads import Floats


@dataclass(frozen=True, kw_only=True)
class AccuracyGate:
    """``max_loss`` is how much mean log-loss (nats) may rise, ``max_gap`` how far a probability may move,
    ``max_state_gap`` how far the hidden state (numbers between -1 and 1); ``least_saving`` is the share
    of the step's time that must be saved, more than two measurements of one model differ.
    """

    max_loss: float = 0.002
    max_gap: float = 0.05
    max_state_gap: float = 0.1
    least_saving: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The measurements, and why the candidate was kept or not. ``model`` is empty when it was not."""

    kept: bool
    why: str
    loss_change: float
    largest_gap: float
    step_us: float
    fp32_step_us: float
    model: bytes = b""


def int8_candidate(model: bytes, features_TF: Floats, labels: NDArray[np.int8], gate: AccuracyGate) -> Candidate:
    """Quantise ``model`` and compare the result with it on consecutive rows (T, F) with labels (T, K, 3)."""
    quantised = _quantised(model)
    before, after = OnnxStep(model), OnnxStep(quantised)
    (probs, state), (small, small_state) = before.sequence(features_TF), after.sequence(features_TF)
    change = mean_loss(row_losses(small, labels)) - mean_loss(row_losses(probs, labels))
    gap, state_gap = float(np.abs(small - probs).max()), float(np.abs(small_state - state).max())
    fp32_us, int8_us = before.measure_us(), after.measure_us()
    why = _verdict(change, (gap, state_gap), (fp32_us, int8_us), gate)
    kept = why.startswith("kept")
    return Candidate(
        kept=kept,
        why=why,
        loss_change=change,
        largest_gap=gap,
        step_us=int8_us,
        fp32_step_us=fp32_us,
        model=quantised if kept else b"",
    )


def _verdict(change: float, gaps: tuple[float, float], times: tuple[float, float], gate: AccuracyGate) -> str:
    (gap, state_gap), (fp32_us, int8_us) = gaps, times
    if not change <= gate.max_loss:  # also where it is not a number: nothing was shown
        return f"not kept: log-loss rises by {change:.4f}, at most {gate.max_loss:.4f} is allowed"
    if gap > gate.max_gap:
        return f"not kept: a probability moves by {gap:.3f}, at most {gate.max_gap:.3f} is allowed"
    if state_gap > gate.max_state_gap:
        return f"not kept: the hidden state moves by {state_gap:.3f}, at most {gate.max_state_gap:.3f} is allowed"
    if int8_us > fp32_us * (1 - gate.least_saving):
        return f"not kept: a step takes {int8_us:.1f} us, {fp32_us:.1f} us in fp32"
    return f"kept: a step takes {int8_us:.1f} us instead of {fp32_us:.1f} us, log-loss changes by {change:+.4f}"


def _quantised(model: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="keel-int8-") as folder:
        given, source, target = (Path(folder) / f"{name}.onnx" for name in ("given", "fp32", "int8"))
        given.write_bytes(model)
        quant_pre_process(given, source, skip_symbolic_shape=True)
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "MatMulConstBOnly": True},
        )
        return target.read_bytes()
