"""The multilayer perceptron's part of the ONNX step."""

from __future__ import annotations

from training.models.heads import Network
from training.models.step_graph import Body, node


def body(network: Network) -> Body:
    """h = tanh(W2 tanh(W1 x + b1) + b2); the state is passed on."""
    t = network.tensors
    return Body(
        nodes=[
            node("Gemm", "x w1 b1", "first_logit"),
            node("Tanh", "first_logit", "first"),
            node("Gemm", "first w2 b2", "second_logit"),
            node("Tanh", "second_logit", "second"),
            node("Identity", "state", "state_out"),
        ],
        features="second",
        # Gemm wants the weights the other way round
        weights={"w1": t["mlp.w1"].T, "b1": t["mlp.b1"], "w2": t["mlp.w2"].T, "b2": t["mlp.b2"]},
        shapes={},
    )
