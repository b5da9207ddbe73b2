"""Whether an instrument is quoted as usual or in the safe state: wider and smaller, from the book alone.

A program (after a drift that no one acknowledged in time) or a person enters the safe state; only a person leaves it.
:mod:`pipelines.quoting.safe_state` controls who may write here. Running sessions read this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from market.errors import ServiceError
from market.files import replacing

STANCE_FILE = "stance.json"

Mode = Literal["normal", "safe"]


class Stance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an instrument is quoted since ``since_ns``, by whose order and why."""

    mode: Mode = "normal"
    since_ns: int = 0
    by: str = ""
    reason: str = ""


NORMAL = Stance()


def read_stances(path: Path) -> dict[str, Stance]:
    """Stances by instrument key; an instrument that is not there is quoted as usual.

    Raises:
        ServiceError: the file is damaged. A quoting session must treat that as the safe state.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Stance])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise ServiceError(
            f"{path} is damaged ({error}); restore it. Without it every instrument is quoted as usual: put those that "
            "should not be into the safe state again (keel safe)"
        ) from None


def write_stance(path: Path, instrument: str, stance: Stance) -> None:
    """Replace one instrument's stance; readers see the old file or the new one. One writer at a time: call under
    :func:`serving.rollout.roles.changing`."""
    text = msgspec.json.encode({**read_stances(path), instrument: stance})
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.format(text, indent=2))
