"""Whether a retraining may begin: one at a time an instrument, and not again before the last one's cool-down is over.

A lasting drift is detected repeatedly, and several drifts may come at once. What is recorded here, once a
retraining begins, turns such a storm into one retraining and then, while the drift lasts, into one a cool-down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from market.clock import NS_PER_S
from market.errors import ServiceError
from market.files import replacing
from pipelines.workspace import Workspace

LOCK_SECONDS = 10.0


class Begun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest retraining of an instrument: what asked for it, and when it began."""

    trigger: str
    began_ns: int


@dataclass(frozen=True, kw_only=True)
class Admission:
    """``why`` is a sentence where the answer is no."""

    admitted: bool
    why: str


def admission(workspace: Workspace, instrument: str, cool_down_seconds: float) -> Admission:
    """Whether a new retraining could begin now; nothing is written.

    Raises:
        ServiceError: the record is damaged.
    """
    last = _read(_path(workspace, instrument))
    if last is None:
        return Admission(admitted=True, why="")
    since = (workspace.clock.now_ns() - last.began_ns) / NS_PER_S
    if since >= cool_down_seconds:
        return Admission(admitted=True, why="")
    why = (
        f"{instrument} was retrained {since:,.0f} s ago ({last.trigger}); the next one may begin after "
        f"{cool_down_seconds - since:,.0f} s more"
    )
    return Admission(admitted=False, why=why)


def admit(workspace: Workspace, instrument: str, trigger: str, *, cool_down_seconds: float) -> Admission:
    """Begin a retraining, if it may. The same ``trigger`` is admitted again: it resumes where it was interrupted.

    Raises:
        ServiceError: the record is damaged.
    """
    path = _path(workspace, instrument)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
        last = _read(path)
        if last is not None and last.trigger == trigger:
            return Admission(admitted=True, why="")
        answer = admission(workspace, instrument, cool_down_seconds)
        if answer.admitted:
            begun = Begun(trigger=trigger, began_ns=workspace.clock.now_ns())
            with replacing(path) as draft:
                draft.write_bytes(msgspec.json.encode(begun))
    return answer


def _path(workspace: Workspace, instrument: str) -> Path:
    return workspace.retrainings / f"{instrument}.json"


def _read(path: Path) -> Begun | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Begun)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ServiceError(f"{path} is damaged ({error}); remove it to let the next retraining begin") from None
