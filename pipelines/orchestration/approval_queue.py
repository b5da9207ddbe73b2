"""Whose turn it is: of the runs that ask about one instrument one is at work, one waits, and others are let go.

A question to a person stands for days. Runs about other instruments must not wait for it, and the same question must
not be asked twice. Whoever waits looks at everything when its turn comes, so a third run would ask nothing that the
second one does not. A scheduler calls this; who is still running is its knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from filelock import FileLock, Timeout

from market.errors import ServiceError
from market.files import replacing
from pipelines.workspace import Workspace

LOCK_SECONDS = 10.0

Turn = Literal["go", "wait", "leave"]


class Turns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs of one instrument by their ids; empty: nobody."""

    working: str = ""
    waiting: str = ""


def take_turn(workspace: Workspace, instrument: str, run: str, *, is_running: Callable[[str], bool]) -> Turn:
    """What a run has to do now; asked again and again by whoever waits. A run that has ended, however it did, has given
    up its place.

    Raises:
        ServiceError: the record is damaged, or another process held it for too long.
    """
    path = workspace.turns / f"{instrument}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
            before = _read(path)
            answer, after = _answer(before, run, is_running)
            if after != before:
                with replacing(path) as draft:
                    draft.write_bytes(msgspec.json.encode(after))
            return answer
    except Timeout:
        raise ServiceError(f"another process has held {path} for more than {LOCK_SECONDS:g} s; try again") from None


def _answer(turns: Turns, run: str, is_running: Callable[[str], bool]) -> tuple[Turn, Turns]:
    working, waiting = (
        each if each == run or (each and is_running(each)) else "" for each in (turns.working, turns.waiting)
    )
    if working == run or (not working and waiting in ("", run)):
        return "go", Turns(working=run, waiting="" if waiting == run else waiting)
    if working and waiting in ("", run):
        return "wait", Turns(working=working, waiting=run)
    return "leave", Turns(working=working, waiting=waiting)


def _read(path: Path) -> Turns:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Turns)
    except FileNotFoundError:
        return Turns()
    except msgspec.DecodeError as error:
        raise ServiceError(f"{path} is damaged ({error}); remove it to let the next run begin") from None
