"""What a monitor run that found a drift leaves behind, without the run."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.charts import drift_picture
from pipelines.workspace import Workspace

EVENT = "drift-0123456789ab"
_PLACES = ("monitor_id", "path", "evidently", "picture")


@cache
def _picture(found: str) -> bytes:
    """The picture of these figures, drawn once: matplotlib takes longer than all else here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drift.png"
        drift_picture(json.loads(found), path=path)
        return path.read_bytes()


def found_drift(workspace: Workspace, event: str = EVENT, monitor: str = "monitor-1", **changes: Any) -> dict[str, Any]:
    """Write ``monitor.json`` and its picture; ``changes`` are laid over the figures."""
    folder = workspace.reports / monitor
    folder.mkdir(parents=True)
    windows = [
        {"start_ns": i * 10**10, "end_ns": (i + 1) * 10**10, "strength": 0.1 * i, "violated": i > 3, "log_loss": 1.0}
        for i in range(8)
    ]
    found = {
        "monitor_id": monitor,
        "event_id": event,
        "instrument": "sim-usdm.BTCUSDT",
        "dataset_id": "d0",
        "sessions": ["live-1"],
        "model_version": 1,
        "run_id": "run1",
        "drifted": bool(event),
        "windows": 8,
        "violated": 4,
        "window_seconds": 10.0,
        "since_ns": 1_700_000_000_000_000_000,
        "until_ns": 1_700_000_080_000_000_000,
        "share": 0.7,
        "strength": 0.9,
        "strength_threshold": 0.2,
        "top": [{"name": "vol_1s", "effect": 1.9, "threshold": 0.4, "direction": "higher"}],
        "loss_reference": 0.71,
        "loss_now": 0.93,
        "path": str(folder / "monitor.json"),
        "evidently": str(folder / "evidently.html"),
        "picture": str(folder / "drift.png"),
        "windows_judged": windows,
        "signals": [{"name": "vol_1s", "judged": True, "ratios": [0.5, 0.4, 0.6, 0.9, 2.0, 3.0, 4.0, 4.5]}],
        **changes,
    }
    Path(found["picture"]).write_bytes(_picture(json.dumps({**found, **dict.fromkeys(_PLACES, "")})))
    (folder / "monitor.json").write_text(json.dumps(found))
    return found
