"""One line a session: what it says of itself, and that it says nothing any more."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from market.clock import NS_PER_S, ManualClock
from pipelines.stack.status import StatusConfig, status
from pipelines.workspace import Workspace
from serving.session.heartbeat import Alive, alive_path, write_alive

KEY = "sim-usdm.BTCUSDT"
NOW_NS = 1_800_000_000 * NS_PER_S


def test_a_session_has_a_line_and_one_that_is_silent_is_said_to_be(tmp_path: Path) -> None:
    workspace = Workspace(home=tmp_path, clock=ManualClock(NOW_NS))
    assert "no session follows" in status(StatusConfig(), workspace=workspace).line()
    alive = Alive(
        instrument=KEY,
        session="live-x",
        pid=os.getpid(),
        written_ns=NOW_NS - NS_PER_S,
        doing="quoting",
        versions=(1, 2),
        phase="canary",
        canary_share=0.3,
        quotes=1234,
        stance="safe",
        step_p50_ns=4_200,
    )
    write_alive(alive_path(tmp_path / "sessions", KEY), alive)
    found = status(StatusConfig(), workspace=workspace)
    (session,) = found.sessions
    assert (session.fresh, session.versions, session.phase) == (True, (1, 2), "canary")
    assert "quoting 1 and 2 (canary 30%, SAFE STATE), 1,234 quotes" in found.line()

    late = replace(workspace, clock=ManualClock(NOW_NS + 60 * NS_PER_S))
    assert "NOT ALIVE" in status(StatusConfig(), workspace=late).line()
    alive_path(tmp_path / "sessions", KEY).write_text("{}")
    assert status(StatusConfig(), workspace=workspace).sessions == ()
