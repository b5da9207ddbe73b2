"""Processes beside a session that quotes: what takes memory, imports or processor time is not done where quotes are
made."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.workspace import Workspace

COMPACTED = ("raw", "ticks", "predictions", "quotes", "outcomes")  # a session commits these often
_AGAIN_S = 1.0
_NICE = 10  # merging has half an hour, a quote has not

log = logging.getLogger("keel.serve")


class Standby:
    """A process that stands by while a canary is on trial: ``keel rollback`` moves what the session must not touch,
    and has imported what it needs before it is needed. For a challenger, whose test may take days, it is started when
    it is needed. Called at every look."""

    def __init__(self, workspace: Workspace, instrument: str) -> None:
        self._workspace = workspace
        self._instrument = instrument
        self._child: subprocess.Popen[bytes] | None = None
        self._due = 0.0
        self._wanted = False

    def __call__(self, on_trial: bool, broken: bool) -> None:
        """``on_trial``: the roles have a canary; ``broken``: the session has stepped back from it or a challenger."""
        self._wanted = broken
        if self._child is not None and (code := self._child.poll()) is not None:
            if code:
                log.warning("keel rollback, which stood by, ended with exit code %d", code)
            self._child, self._due = None, time.monotonic() + _AGAIN_S
        if (on_trial or broken) and self._child is None and time.monotonic() >= self._due:
            asked = ("rollback", "--instrument", self._instrument, "--set", "standby=true")
            self._child = _keel(asked, self._environment())

    def close(self) -> None:
        """Wait for a rollback that is to be completed; else nobody has to stand by any more."""
        if self._child is not None:
            if not self._wanted:
                self._child.terminate()
            self._child.wait()

    def _environment(self) -> dict[str, str]:
        workspace = self._workspace
        named = {"KEEL_HOME": str(workspace.home), "KEEL_TRACKING_URI": workspace.tracking}
        if workspace.triton_grpc is not None:
            named["KEEL_TRITON_GRPC"] = str(workspace.triton_grpc)
        return named


class Compactor:
    """Merges the small files of sessions that are over while the next one quotes: ``keel lake compact``, which may hold
    hundreds of megabytes.

    A merge that failed or was killed has changed nothing, and has said why where this process says things; quotes go
    on, and the next merge takes what it left.
    """

    def __init__(self, lake: Path | str) -> None:
        self._lake = lake
        self._child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Begin, unless the last time goes on still."""
        if self._child is not None and self._child.poll() is None:
            return
        self.wait()
        self._child = _keel(("lake", "compact", *COMPACTED, "--lake", str(self._lake), "--json"), {})
        os.setpriority(os.PRIO_PROCESS, self._child.pid, _NICE)

    def wait(self) -> None:
        """Until what was begun has ended."""
        if self._child is not None and (code := self._child.wait()):
            log.warning("keel lake compact ended with exit code %d; the next one takes what it left", code)
        self._child = None

    def __enter__(self) -> Compactor:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()


def _keel(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """``keel`` with these words, in a session of its own: what a terminal tells this process to end does not end it."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
