"""The ONNX graph of one network step, written node by node.

Written by hand and not traced, so that it is small (each node costs ONNX Runtime about 0.2 us), has a free batch axis,
and uses only operators of opset 17, which older runtimes inside inference servers also load. Normalisation, clipping,
temperature, softmax and sigmoid are inside: raw features in, probabilities out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.models.gru import DIRECTIONS, GROUP, Network, head_divisors

OPSET = 17
IR_VERSION = 8
BATCH = "B"


def step_model(network: Network) -> Any:
    """``features (B, F)``, ``state (B, H)`` -> ``probs (B, P)``, ``state_out (B, H)``: a checked ONNX ModelProto."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width])

    graph = helper.make_graph(
        _normalise() + _recur() + _decide(),
        "gru_step",
        [value("features", network.inputs), value("state", network.hidden)],
        [value("probs", network.outputs), value("state_out", network.hidden)],
        initializer=_constants(network),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="quotekeel"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _constants(network: Network) -> list[Any]:
    from onnx import numpy_helper

    t, norm, hidden = network.tensors, network.normalisation, network.hidden
    divisor = head_divisors(network.temperature)
    arrays = {
        "mean": norm.mean,
        "scale": norm.scale,
        "clip_low": np.float32(-norm.clip),
        "clip_high": np.float32(norm.clip),
        # MatMul wants the weights the other way round
        "w_ih": t["gru.w_ih"].T,
        "w_hh": t["gru.w_hh"].T,
        "b_ih": t["gru.b_ih"],
        "b_hh": t["gru.b_hh"],
        # dividing the logits is dividing the head, and costs no node
        "head_w": (t["head.w"] / divisor[:, None]).T,
        "head_b": t["head.b"] / divisor,
        "gate_split": np.array([2 * hidden, hidden], np.int64),
        "half_split": np.array([hidden, hidden], np.int64),
        "group_split": np.array([DIRECTIONS, GROUP - DIRECTIONS], np.int64),
        "group_shape": np.array([-1, network.outputs // GROUP, GROUP], np.int64),
        "flat_shape": np.array([-1, network.outputs], np.int64),
    }
    return [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items()]


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    from onnx import helper

    targets = outputs.split()
    return helper.make_node(op, inputs.split(), targets, name=f"{op.lower()}_{targets[0]}", **attributes)


def _normalise() -> list[Any]:
    return [
        _node("Sub", "features mean", "centred"),
        _node("Mul", "centred scale", "scaled"),
        _node("Clip", "scaled clip_low clip_high", "x"),
    ]


def _recur() -> list[Any]:
    """r, z = sigmoid(...), n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), h' = n + z * (h - n)."""
    return [
        _node("Gemm", "x w_ih b_ih", "gi"),
        _node("Gemm", "state w_hh b_hh", "gh"),
        _node("Split", "gi gate_split", "gi_rz gi_n", axis=1),
        _node("Split", "gh gate_split", "gh_rz gh_n", axis=1),
        _node("Add", "gi_rz gh_rz", "rz_logit"),
        _node("Sigmoid", "rz_logit", "rz"),
        _node("Split", "rz half_split", "r z", axis=1),
        _node("Mul", "r gh_n", "gated"),
        _node("Add", "gi_n gated", "n_logit"),
        _node("Tanh", "n_logit", "n"),
        _node("Sub", "state n", "moved"),
        _node("Mul", "z moved", "kept"),
        _node("Add", "n kept", "state_out"),
    ]


def _decide() -> list[Any]:
    return [
        _node("Gemm", "state_out head_w head_b", "logits"),
        _node("Reshape", "logits group_shape", "grouped"),
        _node("Split", "grouped group_split", "direction_logit depth_logit", axis=2),
        _node("Softmax", "direction_logit", "direction", axis=2),
        _node("Sigmoid", "depth_logit", "depth"),
        _node("Concat", "direction depth", "by_horizon", axis=2),
        _node("Reshape", "by_horizon flat_shape", "probs"),
    ]
