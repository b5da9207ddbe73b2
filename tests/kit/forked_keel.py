"""The ``keel`` command without its imports: forked from a server that has imported them.

It is a process of its own with the whole command in it, its words, variables, output, signals and exit code. Only the
seconds in which Python reads libraries are shared. What starts Ray, and what is about the start itself, takes a new
interpreter (:func:`ring.run_keel` with ``fresh``).
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from kit.forked import assert_preloaded, server

ROOT = Path(__file__).resolve().parents[2]


class Keel:
    """A running verb, with the methods of :class:`subprocess.Popen` that tests use. Errors go into ``out``, too, where
    ``together``."""

    def __init__(self, *words: str, environment: Mapping[str, str], together: bool = False) -> None:
        self.args = ["keel", *words]
        self._folder = Path(tempfile.mkdtemp(prefix="keel-said-"))
        self._said: tuple[str, str] | None = None
        said = (str(self._folder / "out"), str(self._folder / ("out" if together else "err")))
        self._process = server().Process(target=_verb, args=(tuple(words), dict(environment), said))
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return int(code)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said, once it has ended."""
        self.wait(timeout)
        if self._said is None:
            files = (self._folder / "out", self._folder / "err")  # of one killed at once: not there
            out, err = (file.read_text() if file.exists() else "" for file in files)
            self._said = (out, err)
            shutil.rmtree(self._folder)
        return self._said


def run(*words: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    verb = Keel(*words, environment=environment)
    out, err = verb.communicate()
    return subprocess.CompletedProcess(verb.args, verb.wait(), out, err)


def _verb(words: Sequence[str], environment: dict[str, str], said: tuple[str, str]) -> None:
    for number, path in zip((1, 2), said, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    warnings.simplefilter("ignore")  # as the command line has it; the server was started by pytest
    assert_preloaded()
    from pipelines.cli import main

    sys.argv = ["keel", *words]
    try:
        main.main()
    finally:
        atexit._run_exitfuncs()  # a forked process would leave them out
