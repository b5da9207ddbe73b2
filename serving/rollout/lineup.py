"""Who speaks and who acts in a session, from one step to the next: which version in which arm, and whose block it
is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.rollout.assignment import assign, canary_acts
from serving.rollout.roles import Canary, Roles

Phase = Literal["alone", "shadow", "switchback", "canary", "window"]


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """``versions`` by arm; all of them are stepped on every row. ``test`` names the test of a challenger.

    ``alone``: one version. ``shadow``: the second arm never acts. ``switchback``: it is the challenger and takes turns.
    ``canary``: it acts in the canary's share of the blocks. In both it acts from block ``acts_from`` on: until then a
    challenger is a shadow, and the rest of a block belongs to whoever began it.
    ``window``: the canary has become champion and acts; the second arm is who acted before it.
    """

    versions: tuple[int, ...]
    phase: Phase = "alone"
    acts_from: int = 0
    canary: Canary | None = None
    test: int = 0

    def arm(self, seed: int, instrument: str, block: int) -> int:
        """The arm that acts in a block."""
        if block < self.acts_from:
            return 0
        if self.phase == "switchback":
            return assign(seed, instrument, block)
        if self.phase == "canary" and self.canary is not None:
            return int(canary_acts(seed, instrument, block, self.canary.share))
        return 0

    def same_play(self, other: Lineup) -> bool:
        """Whether nothing but the block of a switchback's beginning differs."""
        mine = (self.versions, self.phase, self.canary, self.test)
        return mine == (other.versions, other.phase, other.canary, other.test)


NONE_LOST = (0, 0)


def wanted(roles: Roles, *, lost: tuple[int, int] = NONE_LOST) -> Lineup | None:
    """What a session should play under these roles; None while nobody is champion. ``lost``: the version, and the trial
    or the test, that a guardrail has ended; who acted before it acts again, whatever the roles still say."""
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
