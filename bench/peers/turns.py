"""A process that works when it is its turn: started once, then sent the name of one piece of work after another.

A piece of work is a function that gets a :class:`Stopwatch`, times the relevant part with it, and returns what a check
may need. Nothing but the standard library: this runs in every environment.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


class Stopwatch:
    """``with stopwatch: ...`` is timed in processor time of all threads, so that other load on the machine counts for
    little. None of the compared work waits for anything.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        self._began = time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.process_time() - self._began


Work = Callable[[Stopwatch], dict[str, Any]]


def serve(make: Callable[[], dict[str, Work]]) -> None:
    """Run the work named on stdin, one name per line, and print a line of JSON each; its own output goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    works = make()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        stopwatch = Stopwatch()
        said = works[line.strip()](stopwatch)
        print(json.dumps({**said, "seconds": stopwatch.seconds}), file=answers, flush=True)


class Worker:
    """``with Worker(python, module, arguments) as worker: worker.do("work")``."""

    def __init__(self, python: Path | str, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._module = module
        self._line()  # ready

    def do(self, work: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(work, file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with {self._process.wait()}; run it by hand to see why")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
