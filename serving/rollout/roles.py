"""Which version has which role: pinned versions in one small file.

``serving.json`` records what is loaded and which version has which role; it is replaced as a whole. The registry's
aliases record what was decided; this file records what is being served. Nothing is ever served as "the latest".
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from market.errors import ModelError, ServiceError
from market.files import replacing

STATE_FILE = "serving.json"
Role = Literal["champion", "challenger", "previous"]


MoveKind = Literal["promotion", "rollback", "automatic rollback"]


class Move(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of champion in progress: the next command completes it. ``old`` 0: there was no champion."""

    new: int
    old: int
    kind: MoveKind


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version that is introduced in steps, and the version that was active before it.

    ``shares``: of the blocks it is active in, by step; past the last step it is champion and its watch window runs. A
    step begins when a session takes it up, and lasts ``step_seconds`` of market time, the window ``window_seconds``.
    ``trial`` identifies this attempt: the time it began, ns.
    """

    version: int
    against: int
    shares: tuple[float, ...]
    step_seconds: float
    window_seconds: float
    trial: int
    step: int = 0
    begun_ns: int = 0

    @property
    def promoted(self) -> bool:
        """Whether every step was completed."""
        return self.step >= len(self.shares)

    @property
    def share(self) -> float:
        """Share of the blocks in the current step."""
        return 1.0 if self.promoted else self.shares[self.step]

    @property
    def seconds(self) -> float:
        """How long the current step, or the window, lasts."""
        return self.window_seconds if self.promoted else self.step_seconds


class Roles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Versions by role for one instrument; 0 where a role is vacant. All of them are verified and loaded.

    ``test`` identifies the challenger's test: when it was deployed, ns. ``canary``: the version being introduced, and
    the watch window after it.
    """

    champion: int = 0
    challenger: int = 0
    previous: int = 0
    move: Move | None = None
    canary: Canary | None = None
    test: int = 0

    def with_challenger(self, version: int, now_ns: int) -> Roles:
        """These roles with ``version`` as challenger, in a new test unless it is in one already."""
        test = self.test if version == self.challenger else now_ns
        return msgspec.structs.replace(self, challenger=version, test=test)

    def without_challenger(self, version: int) -> Roles:
        """These roles once ``version`` is no longer challenger."""
        return self if version != self.challenger else msgspec.structs.replace(self, challenger=0, test=0)

    def versions(self) -> tuple[int, ...]:
        """Every version that has a role, or is about to, ascending."""
        moving = (self.move.new, self.move.old) if self.move else ()
        tried = (self.canary.version, self.canary.against) if self.canary else ()
        return tuple(sorted({v for v in (self.champion, self.challenger, self.previous, *moving, *tried) if v}))

    def version(self, role: Role, instrument: str) -> int:
        """The pinned version of a role.

        Raises:
            ModelError: the role is vacant.
        """
        found: int = getattr(self, role)
        if not found:
            how = {
                "champion": "promote an approved version (keel promote)",
                "challenger": "deploy one (keel deploy)",
                "previous": "there is one only after a second promotion",
            }
            raise ModelError(f"{instrument} has no {role} in service; {how[role]}")
        return found


State = dict[str, Roles]  # by instrument key


def read_state(path: Path) -> State:
    """What is in service; empty when nothing ever was.

    Raises:
        ServiceError: the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ServiceError(f"{path} is damaged ({error}); remove it and deploy the champion again") from None


def read_roles(path: Path, instrument: str) -> Roles:
    """The roles of one instrument; all 0 when it was never deployed."""
    return read_state(path).get(instrument, Roles())


def write_roles(path: Path, instrument: str, roles: Roles) -> None:
    """Replace one instrument's roles; readers see the old file or the new one. Call under :func:`changing`."""
    text = msgspec.json.encode({**read_state(path), instrument: roles})
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.format(text, indent=2))


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Serialise changes to what is served across processes. The lock ends with its process.

    Raises:
        ServiceError: another process is changing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"another deploy, promote or rollback is changing {path}; wait for it and run this again"
            ) from None
        yield
