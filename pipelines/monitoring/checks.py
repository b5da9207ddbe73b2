"""Latency and integrity of what was served, beside the question of drift: named checks, each with value and limits.

A failing check is an alert of its own and says nothing about the market: it neither makes a drift nor hides one, and no
model is retrained for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import SettingsError
from market.events import F_CLOCK_BACK, F_LAST, F_RESYNC
from market.feeds import notices
from pipelines.settings import StageConfig

if TYPE_CHECKING:
    from market.lake.lake import Lake
    from pipelines.monitoring.drift import Ints
    from pipelines.monitoring.signals import Served

Verdict = Literal["pass", "warn", "fail", "unknown"]

MINUTE_NS = 60 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class CheckLimits(StageConfig):
    """``(warn, fail)`` of each check: a value above the first is a warning, above the second a failure.

    ``step_p99``: p99 of the hot path's own time from an event taken to its decision (us). ``feed_silence``: the longest
    time without a decision inside a session (s). ``no_book`` and ``no_word``: share of decisions without a
    usable book; with one, but without features or without a model's word. ``gaps``: holes in the feed an hour.
    ``quarantined``: share of frames that could not be read. ``refused_minutes``: minutes that validation refused.
    ``clock_jump``: how far the offset of receive to exchange time moved between two minutes (ms). ``clock_back``: share
    of frames whose receive time went back.
    """

    step_p99: tuple[float, float] = (200.0, 2_000.0)
    feed_silence: tuple[float, float] = (5.0, 30.0)
    no_book: tuple[float, float] = (0.01, 0.05)
    no_word: tuple[float, float] = (0.001, 0.01)
    gaps: tuple[float, float] = (2.0, 12.0)
    quarantined: tuple[float, float] = (0.0, 0.001)
    refused_minutes: tuple[float, float] = (0.0, 2.0)
    clock_jump: tuple[float, float] = (50.0, 250.0)
    clock_back: tuple[float, float] = (0.0, 0.01)

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            warn, fail = getattr(self, name)
            if not 0 <= warn <= fail:
                raise SettingsError(f"expected 0 <= warn <= fail for {name}, saw {warn} and {fail}")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. ``value`` None and ``verdict`` unknown: there is nothing it could be measured on."""

    name: str
    verdict: Verdict
    value: float | None
    unit: str
    warn: float
    fail: float
    says: str

    def words(self) -> str:
        if self.value is None:
            return f"{self.name} unknown ({self.says})"
        limit = self.fail if self.verdict == "fail" else self.warn
        return f"{self.name} {self.value:.4g}{self.unit and ' ' + self.unit} (limit {limit:g}): {self.says}"


@dataclass(frozen=True, kw_only=True)
class Landed:
    """What the lake holds of the frames behind the decisions: counts over one period of some sessions."""

    frames: int
    gaps: int
    clock_back: int
    unreadable: int
    refused_minutes: int
    seconds: float


def check(rows: Served, landed: Landed, limits: CheckLimits) -> tuple[Check, ...]:
    """All checks over the decisions of a period; ``rows`` are all of them, those without a book too."""

    def judged(name: str, value: float | None, unit: str, says: str) -> Check:
        warn, fail = getattr(limits, name)
        verdict: Verdict = (
            "unknown" if value is None else "fail" if value > fail else "warn" if value > warn else "pass"
        )
        return Check(name=name, verdict=verdict, value=value, unit=unit, warn=warn, fail=fail, says=says)

    return (*_of_decisions(rows, judged), *_of_frames(landed, judged))


Judge = Callable[[str, "float | None", str, str], Check]


def _of_decisions(rows: Served, judged: Judge) -> tuple[Check, ...]:
    times = rows.step_ns[rows.step_ns > 0]
    p99_us = float(np.percentile(times, 99)) / 1e3 if len(times) else None
    silence, jump = _silence_s(rows), _jump_ms(rows)
    usable = rows.mid2 > 0
    wordless = usable & ~(np.isfinite(rows.features).all(axis=1) & np.isfinite(rows.probs).all(axis=1))
    n = len(usable)
    return (
        judged(
            "step_p99",
            p99_us,
            "us",
            f"p99 of {len(times):,} steps, from event taken to decision written, is {p99_us or 0.0:.2f} us",
        ),
        judged("feed_silence", silence, "s", "longest time between two decisions of a session"),
        judged(
            "no_book", _share(int((~usable).sum()), n), "", f"{int((~usable).sum()):,} of {n:,} without a usable book"
        ),
        judged(
            "no_word",
            _share(int(wordless.sum()), int(usable.sum())),
            "",
            f"{int(wordless.sum()):,} of {int(usable.sum()):,} with a book, but not-a-number inputs or no prediction",
        ),
        judged(
            "clock_jump", jump, "ms", "largest change of the offset of receive to exchange time between two minutes"
        ),
    )


def _of_frames(landed: Landed, judged: Judge) -> tuple[Check, ...]:
    frames = landed.frames + landed.unreadable
    hours = landed.seconds / 3600
    return (
        judged(
            "gaps", landed.gaps / max(hours, 1.0) if frames else None, "an hour", f"{landed.gaps} holes in the feed"
        ),
        judged(
            "quarantined",
            _share(landed.unreadable, frames),
            "",
            f"{landed.unreadable:,} of {frames:,} frames could not be read",
        ),
        judged(
            "refused_minutes",
            float(landed.refused_minutes) if frames else None,
            "",
            f"{landed.refused_minutes} minutes refused by validation",
        ),
        judged(
            "clock_back",
            _share(landed.clock_back, frames),
            "",
            f"{landed.clock_back:,} of {frames:,} frames with a receive time that went back",
        ),
    )


def _share(some: int, of: int) -> float | None:
    return some / of if of else None


def _silence_s(rows: Served) -> float | None:
    """Longest step of time between neighbouring decisions of one session."""
    longest = [np.diff(rows.recv_ns[rows.session == s]).max(initial=0) for s in np.unique(rows.session)]
    return float(max(longest)) / NS_PER_S if longest else None


def _jump_ms(rows: Served) -> float | None:
    """The offset of a minute is the median over its rows: single late frames do not move it."""
    timed = rows.exch_ns > 0
    jumps: list[float] = []
    for session in np.unique(rows.session[timed]):
        here = timed & (rows.session == session)
        offset, minute = rows.recv_ns[here] - rows.exch_ns[here], rows.recv_ns[here] // MINUTE_NS
        medians = [float(np.median(offset[minute == m])) for m in np.unique(minute)]
        jumps.append(float(np.abs(np.diff(medians)).max(initial=0.0)))
    return max(jumps) / NS_PER_MS if jumps else None


def landed(lake: Lake, instrument: str, sessions: Sequence[str], recv_ns: Ints) -> Landed:
    """What happened to the frames of ``sessions`` within the time of ``recv_ns`` (n,), n > 0.

    Minutes that validation moved to quarantine are counted, and their frames are no longer among the readable ones. A
    notice of ours is no unreadable frame: it stands for a hole, which is counted where the book resumes.
    """
    from market.clock import BATCH_NS

    first, last = int(recv_ns.min()), int(recv_ns.max())
    where: dict[str, list[str]] = {"source": list(sessions)}
    span = list(range(first // BATCH_NS, last // BATCH_NS + 1))
    names = ["source", "frame", "flags", "recv_ns"]
    ticks = lake.read("ticks", instrument=instrument, columns=names, where={**where, "batch": span})
    times = ticks["recv_ns"].to_numpy()
    ticks = ticks.filter((times >= first) & (times <= last))
    flags = ticks["flags"].to_numpy()
    resumed = flags & (F_RESYNC | F_LAST) == F_RESYNC | F_LAST
    back = ticks.filter(flags & F_CLOCK_BACK != 0).group_by(["source", "frame"]).aggregate([])
    held = lake.read("quarantine", instrument=instrument, columns=["stage", "reason", "batch", "recv_ns"], where=where)
    stage, batch = held["stage"].to_numpy(zero_copy_only=False), held["batch"].to_numpy()
    ours = np.isin(held["reason"].to_numpy(zero_copy_only=False), notices.REASONS)
    within = (held["recv_ns"].to_numpy() >= first) & (held["recv_ns"].to_numpy() <= last)
    minutes = (batch >= first // BATCH_NS) & (batch <= last // BATCH_NS)
    return Landed(
        frames=ticks.group_by(["source", "frame"]).aggregate([]).num_rows,
        gaps=int(resumed.sum()),
        clock_back=back.num_rows,
        unreadable=int(((stage == "parse") & ~ours & within).sum()),
        refused_minutes=int(((stage == "validate") & minutes).sum()),
        seconds=(last - first) / NS_PER_S,
    )
