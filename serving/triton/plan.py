"""A TensorRT plan of a bundle's ONNX step, built by ``trtexec`` on the machine whose GPU will run it.

A plan runs on the kind of GPU and the release of TensorRT it was built with, and nowhere else; so it is built when a
version is deployed and is no part of a bundle. The golden vectors that are replayed through Triton afterwards hold it
to the same numbers, which the ten bits of TF32 would miss.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from market.errors import ServiceError, SettingsError
from serving.manifest import Manifest

BUILDER: Final = "trtexec"
_ELSEWHERE: Final = "/usr/src/tensorrt/bin"  # where NVIDIA's packages and containers put it, off the PATH
_USUAL_BATCH: Final = 16  # rows that the kernels are chosen for
_BUILD_S: Final = 1800.0
_OUTPUT_TAIL: Final = 2000  # characters of a failed build


def build_plan(model: Path, manifest: Manifest, plan: Path, *, most_rows: int) -> None:
    """Write the plan of ``model`` (ONNX) to ``plan``, for batches of 1 to ``most_rows``.

    Raises:
        SettingsError: no builder is installed.
        ServiceError: it did not build the plan.
    """
    builder = shutil.which(BUILDER) or shutil.which(BUILDER, path=_ELSEWHERE)
    if builder is None:
        raise SettingsError(
            f"expected {BUILDER} on the PATH (or in {_ELSEWHERE}) to build a TensorRT plan of {model}, saw none. "
            "Install TensorRT on the machine with Triton's GPU and deploy there, or deploy with --platform onnxruntime"
        )
    shapes = {
        f"--{name}Shapes": _shapes(manifest, rows)
        for name, rows in (("min", 1), ("opt", min(_USUAL_BATCH, most_rows)), ("max", most_rows))
    }
    words = [f"{option}={shape}" for option, shape in shapes.items()]
    command = [builder, f"--onnx={model}", f"--saveEngine={plan}", *words, "--noTF32", "--skipInference"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_S)
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"{builder} took longer than {_BUILD_S:g} s for {model}; look at the GPU and try again"
        ) from None
    if done.returncode or not plan.is_file():
        output = (done.stdout + done.stderr).strip()[-_OUTPUT_TAIL:]
        raise ServiceError(
            f"{builder} ended with {done.returncode} and no plan of {model} was written; its last output: {output}"
        )


def _shapes(manifest: Manifest, rows: int) -> str:
    network = manifest.network
    return f"features:{rows}x{len(network.inputs)},state:{rows}x{network.state}"
