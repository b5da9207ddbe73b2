"""What asks an MLflow server does not import Feast, which would add seconds and a pod's token to it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from training.registry.registry import tracking
tracking.mlflow()
from mlflow.tracking.request_header.registry import resolve_request_headers
assert "X-MLflow-Client-Version" in resolve_request_headers()
print(sorted({"feast", "torch"} & set(sys.modules)))
"""


def test_a_request_to_mlflow_needs_no_feast() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
