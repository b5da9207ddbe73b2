"""Bundles that nobody plays any more leave ``models/`` once their time of retention has passed.

Triton is told by every change of roles already: it serves what plays a role and nothing else. The champion before is
kept loaded as ``previous`` for as long as no other takes its place. A bundle that is wanted again (a trace, a new
approval) is fetched from the registry.
"""

from __future__ import annotations

import shutil

from market.clock import NS_PER_S
from pipelines.deployment import inference_server
from pipelines.governance import audit
from pipelines.workspace import Workspace
from training.registry.registry import model_name

_HOUR_NS = 3_600 * NS_PER_S


def retire(workspace: Workspace, instrument: str, retention_hours: float) -> tuple[int, ...]:
    """Remove bundles of versions without a role of which nobody has decided anything, and that were not fetched, within
    the retention; the versions. Call under :func:`serving.rollout.roles.changing`."""
    folder = workspace.models / instrument
    playing = inference_server.roles_of(workspace, instrument).versions()
    last = _last_named(workspace, model_name(instrument))
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.name.isdigit() or int(path.name) in playing:
            continue
        since_ns = max(last.get(int(path.name), 0), path.stat().st_mtime_ns)
        if workspace.clock.now_ns() - since_ns >= retention_hours * _HOUR_NS:
            shutil.rmtree(path)
            removed.append(int(path.name))
    return tuple(removed)


def _last_named(workspace: Workspace, model: str) -> dict[int, int]:
    """When each version was last decided about."""
    last: dict[int, int] = {}
    for entry in audit.read(audit.path_of(workspace)):
        if entry.what.get("model_name") == model:
            for name in ("version", "old"):
                last[int(entry.what.get(name) or 0)] = entry.time_ns
    return last
