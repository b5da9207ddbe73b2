"""The ONNX graph of one network step, written node by node: normalisation, a family's body, the heads.

Written by hand and not traced, so that it is small (each node costs ONNX Runtime about 0.2 us), has a free batch axis,
and uses only operators of opset 17, which older runtimes inside inference servers also load. Normalisation, clipping,
temperature, softmax and sigmoid are inside: raw features in, probabilities out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from market.heads import DIRECTIONS, GROUP, divisors, horizons_in
from training.models.heads import Floats, Network

OPSET = 17
IR_VERSION = 8
BATCH = "B"


@dataclass(frozen=True, kw_only=True)
class Body:
    """A family's part, in ONNX nodes: from ``x`` (B, F) and ``state`` (B, S) to ``state_out`` (B, S) and the output
    named ``features`` (B, H), which the heads read. ``weights`` and ``shapes`` are its constants."""

    nodes: list[Any]
    features: str
    weights: dict[str, Floats]
    shapes: dict[str, Any]


def step_graph(network: Network, body: Body, state: int) -> Any:
    """``features (B, F)``, ``state (B, S)`` -> ``probs (B, P)``, ``state_out (B, S)``: a checked ONNX ModelProto."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width])

    graph = helper.make_graph(
        [*_normalise(), *body.nodes, *_decide(body.features)],
        f"{network.family}_step",
        [value("features", network.inputs), value("state", state)],
        [value("probs", network.outputs), value("state_out", state)],
        initializer=_constants(network, body),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="quotekeel"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """One node; names of inputs and outputs with spaces between them."""
    from onnx import helper

    targets = outputs.split()
    return helper.make_node(op, inputs.split(), targets, name=f"{op.lower()}_{targets[0]}", **attributes)


def _constants(network: Network, body: Body) -> list[Any]:
    from onnx import numpy_helper

    t, norm = network.tensors, network.normalisation
    divisor = divisors(network.temperature)
    arrays = {
        "mean": norm.mean,
        "scale": norm.scale,
        "clip_low": np.float32(-norm.clip),
        "clip_high": np.float32(norm.clip),
        **body.weights,
        # dividing the logits is dividing the head, and costs no node
        "head_w": (t["head.w"] / divisor[:, None]).T,
        "head_b": t["head.b"] / divisor,
        **body.shapes,
        "group_split": np.array([DIRECTIONS, GROUP - DIRECTIONS], np.int64),
        "group_shape": np.array([-1, horizons_in(network.outputs), GROUP], np.int64),
        "flat_shape": np.array([-1, network.outputs], np.int64),
    }
    return [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()]


def _normalise() -> list[Any]:
    return [
        node("Sub", "features mean", "centred"),
        node("Mul", "centred scale", "scaled"),
        node("Clip", "scaled clip_low clip_high", "x"),
    ]


def _decide(features: str) -> list[Any]:
    return [
        node("Gemm", f"{features} head_w head_b", "logits"),
        node("Reshape", "logits group_shape", "grouped"),
        node("Split", "grouped group_split", "direction_logit depth_logit", axis=2),
        node("Softmax", "direction_logit", "direction", axis=2),
        node("Sigmoid", "depth_logit", "depth"),
        node("Concat", "direction depth", "by_horizon", axis=2),
        node("Reshape", "by_horizon flat_shape", "probs"),
    ]
