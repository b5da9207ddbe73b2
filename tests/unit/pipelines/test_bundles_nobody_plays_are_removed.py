"""Retention: what nobody plays stays for its time after the last decision about it, and then leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from market.clock import NS_PER_S, ManualClock
from pipelines.governance import audit
from pipelines.in_service import state_path
from pipelines.promotion.promote import retire
from pipelines.workspace import Workspace
from serving.rollout.roles import Roles, write_roles

KEY = "sim-usdm.BTCUSDT"
NOW_NS = 1_800_000_000 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S


def test_a_bundle_leaves_once_nobody_has_decided_about_it_for_its_retention(
    tmp_path: Path, write_seeded_bundle: Callable[..., Path]
) -> None:
    workspace = Workspace(home=tmp_path, clock=ManualClock(NOW_NS))
    long_ago = (NOW_NS - 100 * HOUR_NS) / NS_PER_S
    for version in range(1, 6):
        folder = write_seeded_bundle(workspace.models / KEY / str(version), registry_version=version, hidden=8)
        os.utime(folder, (long_ago, long_ago))
    os.utime(workspace.models / KEY / "5", (NOW_NS / NS_PER_S - 60,) * 2)
    write_roles(state_path(workspace), KEY, Roles(champion=4, previous=3))
    what = {"model_name": f"keel-{KEY}", "version": 3, "old": 2}
    decided = ManualClock(NOW_NS - 2 * HOUR_NS)
    audit.append(audit.path_of(workspace), clock=decided, kind="promotion", what=what)

    assert retire(workspace, KEY, 24.0) == (1,), "2 was champion two hours ago, 3 and 4 play, 5 was just fetched"
    assert retire(workspace, KEY, 24.0) == ()
    later = replace(workspace, clock=ManualClock(NOW_NS + 23 * HOUR_NS))
    assert retire(later, KEY, 24.0) == (2,)
    assert sorted(path.name for path in (workspace.models / KEY).iterdir()) == ["3", "4", "5"]
    assert retire(workspace, "binance-usdm.BTCUSDT", 0.0) == ()
