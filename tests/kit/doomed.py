"""A ``keel`` verb that dies at a chosen change of its folder: kill -9 or Ctrl-C, at the same change every time.

Importing the libraries is most of a verb's time, so verbs are forked from a server that has imported them; what runs
then is the whole command, ``pipelines.cli.main`` with its words, in a process and a session of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kit.forked import assert_preloaded, server

_LAKE_WRITES = ("append", "replace", "delete", "compact")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a verb ended. ``changes``: how many changes of its folder it came to, the one it died at included."""

    code: int
    out: str
    err: str
    changes: int
    session: int

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def left_running(self) -> list[str]:
        """Processes of the verb's session that outlived it."""
        left = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            try:
                if os.getsid(process.pid) == self.session and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.info["cmdline"] or [str(process.pid)]))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return left


def keel(home: Path, *words: str, at: int = 0, by: signal.Signals = signal.SIGKILL, **variables: str) -> Ended:
    """Run a verb; at its ``at``-th change (0: never) it is sent ``by``."""
    said = home.parent / "said"
    said.mkdir(exist_ok=True)
    context = server()
    child = context.Process(target=_verb, args=(str(home), words, at, int(by), str(said), variables))
    child.start()
    child.join()
    return Ended(
        code=int(child.exitcode),
        out=(said / "out").read_text(),
        err=(said / "err").read_text(),
        changes=len((said / "changes").read_bytes()),
        session=int(child.pid),
    )


def _verb(home: str, words: Sequence[str], at: int, by: int, said: str, variables: dict[str, str]) -> None:
    os.setsid()
    assert_preloaded()
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    for name in [name for name in os.environ if name.startswith("KEEL_") and name != "KEEL_TRITON_HOME"]:
        del os.environ[name]
    os.environ.update({"KEEL_HOME": home, "KEEL_AUTHOR": "grace", **variables})
    warnings.simplefilter("ignore")  # as the command line has it; the server was started by pytest
    _watch(home, at, by, os.open(f"{said}/changes", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    from pipelines.cli import main

    sys.argv = ["keel", *words]
    main.main()


def _watch(home: str, at: int, by: int, count: int) -> None:
    """Count every change that lasts, right before it (and right after a commit), and die at the ``at``-th."""
    seen = 0

    def change() -> None:
        nonlocal seen
        seen += 1
        os.write(count, b".")
        if seen == at:
            os.kill(os.getpid(), by)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if _lasts(event, arguments, home):
            change()

    _around_commits(change)
    sys.addaudithook(watch)


def _lasts(event: str, arguments: tuple[Any, ...], home: str) -> bool:
    if event == "open":
        path, mode, flags = arguments
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
        return writes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(home)
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"):
        return isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(home)
    return False


def _around_commits(change: Callable[[], None]) -> None:
    """Commits happen inside Rust and SQLite, where no audit event tells of them."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from market.lake.lake import Lake

    for name in _LAKE_WRITES:
        setattr(Lake, name, _between(getattr(Lake, name), change))
    event.listen(Engine, "commit", lambda _connection: change())


def _between(write: Callable[..., Any], change: Callable[[], None]) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        change()
        answer = write(*arguments, **named)
        change()
        return answer

    return watched
