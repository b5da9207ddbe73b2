"""How many examples a property is tried with: a few in ``make test``, fifty times as many in ``make soak``."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # hypothesis' own, from which the profile of a soak run (tests/conftest.py) differs


def examples(few: int) -> int:
    """``few`` where no profile asks for more; ``--hypothesis-profile=soak`` does."""
    return few * settings.default.max_examples // _USUAL
