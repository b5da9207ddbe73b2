"""An MLflow store with nothing in it: made once a run and copied, since MLflow's migrations take seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training.registry import tracking


def empty_registry(uri: str) -> Any:
    """A client of a new store at ``uri``, ``sqlite:///<path>``."""
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty())
    return tracking.client(uri)


@cache
def _empty() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        tracking.client(f"sqlite:///{path}")
        return path.read_bytes()
