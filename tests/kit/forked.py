"""Processes of their own that start in a moment: forked from a server that has imported the libraries.

A process that is killed, limited or of another account must be a real one; that it imports everything again proves
nothing. The server is one for all tests of a run, multiprocessing's own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def server() -> Any:
    """The multiprocessing context of the server, which runs now if it did not."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kit.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # libraries count their threads on import: one is plenty
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), prepend=os.pathsep)
        forkserver.ensure_running()
    return context


def assert_preloaded() -> None:
    """Called in a forked process: a server that could not import what it should would only be slow."""
    assert "kit.preloaded" in sys.modules, "the server could not import tests/kit/preloaded.py; import it to see why"


class Forked:
    """``target(*arguments)``, a function of a module, in a process that has begun with it when this returns."""

    def __init__(self, target: Callable[..., object], *arguments: object) -> None:
        context = server()
        self._answers, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(theirs, target, arguments), daemon=True)
        self.process.start()
        theirs.close()
        assert self._answers.recv() == "ready"

    def answer(self) -> Any:
        """What the function returned.

        Raises:
            EOFError: it returned nothing, since it raised or was killed.
        """
        answer = self._answers.recv()
        self.process.join()
        return answer

    def ended(self) -> int:
        """Its exit code, once it has ended; minus the signal that ended it."""
        self.process.join()
        return int(self.process.exitcode)

    def kill(self) -> bool:
        """Whether it was killed before it was done."""
        self.process.kill()
        return self.ended() == -signal.SIGKILL


def _run(answers: Any, target: Callable[..., object], arguments: tuple[object, ...]) -> None:
    assert_preloaded()
    answers.send("ready")
    answers.send(target(*arguments))
