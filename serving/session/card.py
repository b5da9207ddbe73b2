"""What a session writes down about itself: ``<session>.json``, replaced as a whole.

Which versions were served from which decision on, with which configuration, and the result once there is one. Cards
written by earlier code lack the later fields; what is not known stays None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from market.errors import InputError
from market.files import replacing
from serving.quoting.policy import PolicyConfig
from serving.rollout.lineup import Phase
from serving.session.session import Scene


class SceneCard(msgspec.Struct, frozen=True, kw_only=True):
    """A line-up and the number of the first decision made under it; of a canary also its trial, step and share."""

    from_n: int
    versions: tuple[int, ...]
    phase: Phase
    acts_from: int = 0
    test: int = 0
    trial: int | UnsetType = UNSET
    step: int | UnsetType = UNSET
    share: float | UnsetType = UNSET

    @classmethod
    def of(cls, scene: Scene) -> SceneCard:
        lineup, canary = scene.lineup, scene.lineup.canary
        return cls(
            from_n=scene.from_n,
            versions=lineup.versions,
            phase=lineup.phase,
            acts_from=lineup.acts_from,
            test=lineup.test,
            trial=canary.trial if canary else UNSET,
            step=canary.step if canary else UNSET,
            share=canary.share if canary else UNSET,
        )


class SessionCard(msgspec.Struct, frozen=True, kw_only=True):
    """``config``: the settings it was served with; ``scenes`` None: not written down; ``result`` None: not over yet."""

    config: dict[str, Any]
    scenes: tuple[SceneCard, ...] | None = None
    result: dict[str, Any] | None = None

    @property
    def block_seconds(self) -> float:
        return float(self.config["block_seconds"])

    @property
    def policy(self) -> PolicyConfig | None:
        """The quoting policy; None where it was not written down."""
        return PolicyConfig(**self.config["policy"]) if "policy" in self.config else None


def write_card(folder: Path, session: str, card: SessionCard) -> None:
    """Put the card of a session into the folder of sessions."""
    with replacing(_path(folder, session)) as draft:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))


def read_card(folder: Path, session: str) -> SessionCard | None:
    """The card of a session; None where none was written.

    Raises:
        InputError: it cannot be read.
    """
    path = _path(folder, session)
    try:
        return msgspec.json.decode(path.read_bytes(), type=SessionCard)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InputError(f"expected the card of a session in {path}, saw: {error}; remove the file") from None


def _path(folder: Path, session: str) -> Path:
    return folder / f"{session}.json"
