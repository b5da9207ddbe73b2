"""Labelled training steps per CPU-second: whole sequences against the same network on windows."""

from __future__ import annotations

import time
from typing import Any

import torch

from market.features import catalog
from market.heads import horizons_in
from market.labels import N_OUTPUTS
from serving.families import DEFAULT
from training.fitting.loop import one_thread
from training.fitting.objective import task_losses, weighted
from training.fitting.optimizer import AdamW
from training.models.family import StreamingNetwork, Widths
from training.models.heads import Normalisation
from training.models.registry import find

WINDOW = 100
LANES = 32
HORIZONS = horizons_in(N_OUTPUTS)


def run() -> dict[str, Any]:
    with one_thread():
        sequences = _sequences()
        windows = _windows()
    return {
        "title": "Training",
        "rows": [
            {
                "what": f"labelled steps, {DEFAULT.upper()}-64 on whole sequences, a loss at every step",
                "value": sequences,
                "unit": "steps a cpu-second",
                "peer": f"the same network on windows of {WINDOW}, one loss a window",
                "peer_value": windows,
                "ratio": sequences / windows,
                "goal": ">= 200 k, 30x",
            }
        ],
        "notes": ["Forward, backward and AdamW in fp32 on one thread; random inputs of the catalog's width."],
    }


def _network() -> tuple[StreamingNetwork, AdamW]:
    widths = Widths(inputs=catalog.N_INPUTS, hidden=64, outputs=N_OUTPUTS)
    model = find(DEFAULT).build(widths, Normalisation.identity(catalog.N_INPUTS))
    return model, AdamW(model, 0.01)


def _sequences() -> float:
    model, optimizer = _network()
    x_BTF = torch.randn(LANES, 64, catalog.N_INPUTS)
    labels = torch.randint(0, 2, (LANES, 64, HORIZONS, 3))

    def step() -> int:
        logits, _ = model(x_BTF, model.start(LANES))
        weighted(*task_losses(logits, labels)).backward()
        optimizer.update(1e-3)
        return LANES * 64

    return _rate(step)


def _windows() -> float:
    model, optimizer = _network()
    x_BTF = torch.randn(LANES, WINDOW, catalog.N_INPUTS)
    labels = torch.randint(0, 2, (LANES, 1, HORIZONS, 3))

    def step() -> int:
        logits, _ = model(x_BTF, model.start(LANES))
        weighted(*task_losses(logits[:, -1:], labels)).backward()
        optimizer.update(1e-3)
        return LANES

    return _rate(step)


def _rate(step: Any, seconds: float = 4.0) -> float:
    step()
    steps, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        steps += step()
    return steps / (time.process_time() - began)
