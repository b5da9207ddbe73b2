"""Cases: a session of good and damaged frames, the same for the same seed and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from bench.fuzz.mutate import damaged
from bench.fuzz.oracle import Judge
from bench.fuzz.seeds import Seed

_WINDOW = 60  # frames of a session; those of a short seed repeat
_OPENING = 6  # of which those that start a recording: subscriptions, snapshots
_LAND_EVERY = 8


@dataclass
class Tally:
    """``frames`` are damaged ones; good ones between them are not counted. ``outcomes`` by word, of both."""

    frames: int = 0
    good: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


def session(seed: Seed, rng: Random, pool: Sequence[bytes]) -> list[tuple[bytes, bool]]:
    """Frames and whether each is damaged. Some good ones are lost, doubled or swapped."""
    start = rng.randrange(max(1, len(seed.frames) - _WINDOW))
    good = [*seed.frames[:_OPENING], *seed.frames[max(start, _OPENING) : max(start, _OPENING) + _WINDOW]]
    good *= max(1, _WINDOW // len(good))
    sent: list[tuple[bytes, bool]] = []
    for frame in good:
        fate = rng.random()
        if fate < 0.55:
            others = seed.frames if rng.random() < 0.9 else pool
            sent.append((damaged(frame, rng, others), True))
        if fate > 0.5:
            sent.append((frame, False))
        if 0.97 < fate < 0.985:
            sent.append((frame, False))
        elif fate > 0.985 and len(sent) > 1:
            sent[-1], sent[-2] = sent[-2], sent[-1]
    return sent


def run(seed: Seed, number: int, chance: str, pool: Sequence[bytes], at: Callable[[int], None]) -> Tally:
    """Feed one case; ``at`` is called before each frame. Raises what the frame raised."""
    tally = Tally()
    judge = Judge(seed)
    for i, (payload, bad) in enumerate(session(seed, Random(f"{chance}/{seed.name}/{number}"), pool)):  # noqa: S311
        at(i)
        judge.feed(payload)
        tally.frames += bad
        tally.good += not bad
    if number % _LAND_EVERY == 0:
        judge.landed()
    tally.outcomes = judge.outcomes
    return tally
