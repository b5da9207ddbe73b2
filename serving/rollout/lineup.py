"""The line-up of a session: which version is in which arm, and which arm is active in each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.rollout.assignment import assign, canary_acts
from serving.rollout.roles import Canary, Roles

Phase = Literal["alone", "shadow", "switchback", "canary", "window"]


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """``versions`` by arm; all of them are stepped on every row. ``test`` names the test of a challenger.

    ``alone``: one version. ``shadow``: the second arm is never active. ``switchback``: the second arm is the challenger
    and takes turns. ``canary``: it is active in the canary's share of the blocks. In both it is active from block
    ``acts_from`` on: until then a challenger is a shadow, and a block is finished by the version that began it.
    ``window``: the canary has become champion and is active; the second arm is the version that was active before it.
    """

    versions: tuple[int, ...]
    phase: Phase = "alone"
    acts_from: int = 0
    canary: Canary | None = None
    test: int = 0

    def arm(self, seed: int, instrument: str, block: int) -> int:
        """The arm that is active in a block."""
        if block < self.acts_from:
            return 0
        if self.phase == "switchback":
            return assign(seed, instrument, block)
        if self.phase == "canary" and self.canary is not None:
            return int(canary_acts(seed, instrument, block, self.canary.share))
        return 0

    def same_play(self, other: Lineup) -> bool:
        """Whether the two differ in nothing but ``acts_from``."""
        mine = (self.versions, self.phase, self.canary, self.test)
        return mine == (other.versions, other.phase, other.canary, other.test)


NONE_LOST = (0, 0)


def wanted(roles: Roles, *, lost: tuple[int, int] = NONE_LOST) -> Lineup | None:
    """The line-up a session should serve under these roles; None while there is no champion. ``lost``: the version, and
    the trial or the test, that a guardrail has ended; the version active before it is active again, whatever the roles
    still say."""
    canary = roles.canary
    if canary is not None and (canary.version, canary.trial) == lost:
        return Lineup(versions=(canary.against,))
    if not roles.champion:
        return None
    if canary is not None and canary.promoted and roles.champion == canary.version:
        return Lineup(versions=(canary.version, canary.against), phase="window", canary=canary)
    if canary is not None and not canary.promoted and roles.champion == canary.against:
        return Lineup(versions=(canary.against, canary.version), phase="canary", canary=canary)
    tested = (roles.challenger, roles.test)
    if roles.challenger and roles.challenger != roles.champion and tested != lost:
        return Lineup(versions=(roles.champion, roles.challenger), phase="switchback", test=roles.test)
    return Lineup(versions=(roles.champion,))
