"""What Triton's Python backend runs: copied as ``model.py`` next to ``model.onnx`` and ``manifest.json``.

It lives in the server's own environment (numpy and onnxruntime, nothing of this project), so it imports nothing from
here. It is stateless: the carried state comes with the request and returns with the response.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """One version of one model: features (B, F), state (B, H) -> probs (B, P), state_out (B, H), all float32."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ONNX model of this version; a file that is not the manifest's fails the load."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = json.loads((folder / "manifest.json").read_bytes())
        model = (folder / "model.onnx").read_bytes()
        seen, expected = hashlib.sha256(model).hexdigest(), manifest["files"]["model.onnx"]
        if seen != expected:
            raise pb_utils.TritonModelException(
                f"model.onnx has sha256 {seen[:16]}, the manifest says {expected[:16]}; deploy the version again"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one run of the network."""
        features = [pb_utils.get_input_tensor_by_name(request, "features").as_numpy() for request in requests]
        states = [pb_utils.get_input_tensor_by_name(request, "state").as_numpy() for request in requests]
        probs, states_out = self._session.run(
            ["probs", "state_out"], {"features": np.concatenate(features), "state": np.concatenate(states)}
        )
        ends = np.cumsum([len(rows) for rows in features])
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor("probs", np.ascontiguousarray(probs[end - len(rows) : end])),
                    pb_utils.Tensor("state_out", np.ascontiguousarray(states_out[end - len(rows) : end])),
                ]
            )
            for rows, end in zip(features, ends, strict=True)
        ]
