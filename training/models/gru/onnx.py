"""The GRU's part of the ONNX step."""

from __future__ import annotations

import numpy as np

from training.models.heads import Network
from training.models.step_graph import Body, node


def body(network: Network) -> Body:
    """r, z = sigmoid(...), n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), h' = n + z * (h - n)."""
    t, hidden = network.tensors, network.hidden
    return Body(
        nodes=[
            node("Gemm", "x w_ih b_ih", "gi"),
            node("Gemm", "state w_hh b_hh", "gh"),
            node("Split", "gi gate_split", "gi_rz gi_n", axis=1),
            node("Split", "gh gate_split", "gh_rz gh_n", axis=1),
            node("Add", "gi_rz gh_rz", "rz_logit"),
            node("Sigmoid", "rz_logit", "rz"),
            node("Split", "rz half_split", "r z", axis=1),
            node("Mul", "r gh_n", "gated"),
            node("Add", "gi_n gated", "n_logit"),
            node("Tanh", "n_logit", "n"),
            node("Sub", "state n", "moved"),
            node("Mul", "z moved", "kept"),
            node("Add", "n kept", "state_out"),
        ],
        features="state_out",
        # Gemm wants the weights the other way round
        weights={"w_ih": t["gru.w_ih"].T, "w_hh": t["gru.w_hh"].T, "b_ih": t["gru.b_ih"], "b_hh": t["gru.b_hh"]},
        shapes={
            "gate_split": np.array([2 * hidden, hidden], np.int64),
            "half_split": np.array([hidden, hidden], np.int64),
        },
    )
